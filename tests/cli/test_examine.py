"""What `serving check` finds, on real files and real models, those among them that go wrong for real."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.cli import check, examine
from serving.cli.examine import ModelReport, Report, VersionReport
from serving.cli.places import places
from serving.core.artifact import Golden, write_golden
from serving.repository.loads.memory import Free
from tests import models
from tests.e2e.faults import builders

PATIENCE_S = 60.0


def looked_at(*paths: Path | str, config: Path | None = None, limit_s: float = PATIENCE_S) -> Report:
    with places([str(path) for path in paths], config) as found:
        report = examine.examine(found.sources, found.reading, limit_s)
    report.problems[:0] = found.problems
    return report


def model(*paths: Path | str, limit_s: float = PATIENCE_S) -> ModelReport:
    """The only one."""
    report = looked_at(*paths, limit_s=limit_s)
    assert not report.problems
    (found,) = report.models
    return found


def version(*paths: Path | str) -> VersionReport:
    """The only one that would be served."""
    (found,) = model(*paths).versions
    return found


def settings(repo: Path, text: str, name: str = "m") -> Path:
    path = repo / name / "model.yaml"
    path.write_text(text)
    return path


# What would be served


def test_a_version_that_can_be_served(tmp_path: Path) -> None:
    builders.put(tmp_path, "m", 1)
    path = builders.put(tmp_path, "m", 2)
    found = model(tmp_path)
    (report,) = found.versions
    assert (found.name, found.path, found.settings, found.problems) == ("m", str(tmp_path / "m"), "", [])
    assert found.skipped == {1: "only the highest version is served"}
    assert (report.number, report.artifact, report.problems) == (2, str(path / "model.onnx"), [])
    assert report.runs_on == "onnxruntime_onnx on CPUExecutionProvider"
    (signature,) = report.signatures
    assert (signature.inputs, signature.outputs) == ("x FP32 [-1, 4]", "y FP32 [-1, 4]")
    assert signature.batching == "batches of up to 64 rows"
    assert (report.manifest, report.golden) == ("none", "none")
    assert report.load_s is not None and report.peak_bytes is not None and report.memory_bytes is not None


def test_one_file(tmp_path: Path) -> None:
    path = models.save(models.scale(3), tmp_path / "triple.onnx")
    report = version(path)
    assert (report.number, report.artifact, report.problems) == (1, str(path), [])


def test_rows_that_depend_on_each_other(tmp_path: Path) -> None:
    builders.put(tmp_path, "m", 1, models.centred())
    assert version(tmp_path).signatures[0].batching.startswith("one request at a time (rows run one by one give other")


def test_a_version_as_it_was_published(tmp_path: Path) -> None:
    builders.release(tmp_path, "m", models.scale(3), factor=3)
    report = version(tmp_path)
    assert report.manifest == "every hash matches"
    assert report.golden == "reproduced, within 1e-05 + 1e-05 x |expected|"


@pytest.mark.parametrize(
    ("text", "served", "why"),
    [
        ("versions: {latest: 2}", {2, 3}, {1: "only the 2 highest versions are served"}),
        ("versions: all", {1, 2, 3}, {}),
        ("versions: [2]", {2}, dict.fromkeys((1, 3), "not among the versions that are served, which are [2]")),
        ("version_labels: {stable: 1}", {1, 3}, {2: "only the highest version is served"}),
        ("traffic: {weights: {3: 95, 2: 5}, shadow: {to: 1}}", {1, 2, 3}, {}),
    ],
)
def test_which_versions(tmp_path: Path, text: str, served: set[int], why: dict[int, str]) -> None:
    for number in (1, 2, 3):
        builders.put(tmp_path, "m", number)
    settings(tmp_path, text)
    found = model(tmp_path)
    assert {report.number for report in found.versions} == served and found.skipped == why
    assert not found.problems


def test_labels_and_traffic(tmp_path: Path) -> None:
    builders.put(tmp_path, "m", 1)
    settings(tmp_path, "version_labels: {stable: 1}\ntraffic: {weights: {stable: 1}, sticky: x-user}\n")
    found = model(tmp_path)
    assert found.labels == {"stable": 1} and found.traffic == "stable 1, sticky by x-user"


def test_directories_that_are_no_versions(tmp_path: Path) -> None:
    builders.put(tmp_path, "m", 1)
    models.save(models.scale(2), tmp_path / "m/v2/model.onnx")
    (tmp_path / "m/assets").mkdir()
    assert model(tmp_path).ignored == ["v2"]


def test_settings_of_triton_and_what_is_not_done_of_them(tmp_path: Path) -> None:
    builders.put(tmp_path, "m", 1)
    (tmp_path / "m/config.pbtxt").write_text(
        'platform: "onnxruntime_onnx"\nmax_batch_size: 8\nresponse_cache { enable: true }'
    )
    found = model(tmp_path)
    assert found.settings == str(tmp_path / "m/config.pbtxt")
    assert found.versions[0].signatures[0].batching == "batches of up to 8 rows"
    assert any("response_cache" in warning for warning in found.warnings)


def test_models_of_several_paths(tmp_path: Path) -> None:
    builders.put(tmp_path / "one", "a", 1)
    builders.put(tmp_path / "two", "b", 1)
    assert [m.name for m in looked_at(tmp_path / "one", tmp_path / "two").models] == ["a", "b"]


def test_a_list_of_models_as_tensorflow_serving_has_it(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        builders.put(tmp_path / "repo", "m", number)
    config = tmp_path / "models.config"
    config.write_text(
        f"""model_config_list {{ config {{
            name: "other" base_path: "{tmp_path}/repo/m" model_platform: "tensorflow"
            model_version_policy {{ specific {{ versions: 1 versions: 3 }} }}
            version_labels {{ key: "stable" value: 3 }}
        }} }}"""
    )
    report = looked_at(config=config)
    (found,) = report.models
    assert (found.name, [v.number for v in found.versions]) == ("other", [1, 3])
    assert found.labels == {"stable": 3} and not list(report.all_problems())


def test_a_repository_elsewhere(tmp_path: Path) -> None:
    builders.put(tmp_path / "repo", "m", 1)
    builders.put(tmp_path / "repo", "m", 2)
    report = looked_at(f"file://{tmp_path}/repo")
    assert [v.number for m in report.models for v in m.versions] == [2]
    assert not list(report.all_problems())


# What is wrong


def test_all_models_are_looked_at(tmp_path: Path) -> None:
    builders.put(tmp_path, "good", 1)
    builders.put(tmp_path, "bad", 1).joinpath("model.onnx").write_bytes(b"no graph")
    builders.put(tmp_path, "mistaken", 1)
    path = settings(tmp_path, "max_batchsize: 3\n", "mistaken")
    report = looked_at(tmp_path, tmp_path / "nowhere")
    assert [m.name for m in report.models] == ["bad", "good", "mistaken"]
    wrong = [(p.where, p.what) for p in report.all_problems()]
    assert wrong[0] == (str(tmp_path / "nowhere"), f"no such file or directory: '{tmp_path}/nowhere'")
    assert wrong[1][0] == str(tmp_path / "bad/1/model.onnx")
    assert wrong[2] == (str(path), "unknown key 'max_batchsize'; did you mean 'max_batch_size'?")
    assert len(wrong) == 3


def test_a_model_with_wrong_settings_is_loaded_all_the_same(tmp_path: Path) -> None:
    builders.put(tmp_path, "m", 1).joinpath("model.onnx").write_bytes(b"no graph")
    settings(tmp_path, "max_batchsize: 3\n")
    found = model(tmp_path)
    assert len(found.problems) == len(found.versions[0].problems) == 1


def test_what_does_not_match_its_manifest(tmp_path: Path) -> None:
    path = builders.release(tmp_path, "m", models.scale(3), factor=3)
    (path / "model.onnx").write_bytes(b"damaged")
    (path / "golden.npz").unlink()
    problems = {p.where: p for p in version(tmp_path).problems}
    assert problems.keys() == {str(path / "model.onnx"), str(path / "golden.npz")}
    assert problems[str(path / "model.onnx")].what.startswith("it is not what MANIFEST.json says: SHA-256 is ")
    assert problems[str(path / "golden.npz")].what == "it is not what MANIFEST.json says: missing"
    assert all(p.fix == "publish the version again, as a whole and under a new number" for p in problems.values())


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    path = builders.release(tmp_path, "m", models.scale(3))
    (path / "MANIFEST.json").write_text("{}")
    (problem,) = version(tmp_path).problems
    assert problem.where == str(path / "MANIFEST.json") and problem.what == "schema: Field required"


def test_a_golden_sample_that_is_none(tmp_path: Path) -> None:
    path = builders.put(tmp_path, "m", 1)
    (path / "golden.npz").write_bytes(b"x")
    (problem,) = version(tmp_path).problems
    assert problem.where == str(path / "golden.npz") and problem.what.startswith("not a golden sample: ")
    assert problem.fix == "write it again, or remove it"


def _other_answers(repo: Path) -> Path:
    path = builders.put(repo, "m", 1)
    write_golden(path, Golden({"x": np.ones((3, 4), np.float32)}, {"y": np.full((3, 4), 7, np.float32)}))
    return path / "golden.npz"


def _no_graph(repo: Path) -> Path:
    path = builders.put(repo, "m", 1) / "model.onnx"
    path.write_bytes(b"no graph")
    return path


def _no_model(repo: Path) -> Path:
    path = repo / "m/1"
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("nothing")
    return path


def _other_backend(repo: Path) -> Path:
    builders.put(repo, "m", 1)
    return settings(repo, "backend: tensorflow\n")


def _other_inputs(repo: Path) -> Path:
    builders.put(repo, "m", 1)
    return settings(repo, "inputs: {z: FP32}\n")


def _no_class_labels(repo: Path) -> Path:
    builders.put(repo, "m", 1)
    return settings(repo, "class_labels: {y: labels.txt}\n")


def _crash(repo: Path) -> Path:
    return builders.put(repo, "m", 1, builders.dies()) / "model.onnx"


def _fails_on_its_sample(repo: Path) -> Path:
    path = builders.put(repo, "m", 1, builders.fails_above(3, 1.0))
    write_golden(path, Golden({"x": np.full((3, 4), 9, np.float32)}, {"y": np.full((3, 4), 9, np.float32)}))
    return path / "golden.npz"


@pytest.mark.parametrize(
    ("make", "says", "fix"),
    [
        (_no_graph, "ONNX Runtime cannot load model.onnx: ", "export the model again"),
        (_no_model, "no model in '1' (looked for ", "put a model there"),
        (_other_backend, "its settings ask for the backend 'tensorflow'", "correct 'backend', or leave it out"),
        (_other_inputs, "inputs: 'z' is not among those of the model", "correct the settings, or the model"),
        (_no_class_labels, "class_labels: cannot read 'labels.txt'", "correct the settings, or the model"),
        (_other_answers, "the model does not reproduce its golden sample: ", "publish the model again with a sample"),
        (_fails_on_its_sample, "the model fails on its golden sample: ", "publish the model again with a sample"),
        (_crash, "the process that tried to load it was ended by SIGFPE", "the runtime does not survive this model"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_each_failure_has_its_place_and_its_fix(
    tmp_path: Path, make: Callable[[Path], Path], says: str, fix: str
) -> None:
    where = make(tmp_path)
    (problem,) = version(tmp_path).problems
    assert problem.what.startswith(says) and problem.fix.startswith(fix) and problem.where == str(where)


def test_a_load_that_hangs(tmp_path: Path) -> None:
    path = builders.put(tmp_path, "m", 1, builders.hangs())
    (problem,) = model(tmp_path, limit_s=1.0).versions[0].problems
    assert problem.where == str(path / "model.onnx") and "did not finish within 1 s" in problem.what
    assert problem.fix.endswith("give it longer with --trial-limit-s")


def test_a_model_that_needs_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "free", lambda: Free(100_000_000, "in the container"))
    builders.put(tmp_path, "m", 1, builders.devours(1024))
    (problem,) = version(tmp_path).problems
    assert "memory" in problem.what and problem.fix.startswith("give the server more memory")


def test_models_that_fit_alone_and_not_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        builders.put(tmp_path, name, 1, models.mlp((2000, 2000)))
    alone = looked_at(tmp_path)
    monkeypatch.setattr(examine, "free", lambda: Free(alone.memory_bytes - 1, "in the container"))
    report = looked_at(tmp_path)
    (problem,) = report.all_problems()
    assert problem.what.startswith("all together they take ") and problem.what.endswith("are free in the container")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("versions: [1, 9]", "versions: version 9 is not there"),
        ("version_labels: {stable: 9}", "version_labels: 'stable' is for version 9, which is not there"),
        ("traffic: {weights: {canary: 1, 1: 1}}", "traffic: there is no label 'canary'"),
        ("traffic: {shadow: {to: 9}}", "traffic: version 9 is not there"),
    ],
)
def test_settings_that_point_nowhere(tmp_path: Path, text: str, says: str) -> None:
    builders.put(tmp_path, "m", 1)
    path = settings(tmp_path, text)
    (problem,) = model(tmp_path).problems
    assert (problem.where, problem.what) == (str(path), says)


def test_one_name_in_two_paths(tmp_path: Path) -> None:
    builders.put(tmp_path / "one", "m", 1)
    builders.put(tmp_path / "two", "m", 1)
    report = looked_at(tmp_path / "one", tmp_path / "two")
    (problem,) = report.problems
    assert problem.where == str(tmp_path / "two/m") and problem.what == f"model 'm' is in '{tmp_path}/one' as well"


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text("model_config_list {\n  config { name }\n}\n")
    (problem,) = looked_at(config=config).problems
    assert problem.where == f"{config}:2:17" and problem.what.endswith('Expected ":".')


def test_a_repository_elsewhere_that_is_not_there(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/nowhere"
    (problem,) = looked_at(url).problems
    assert problem.where == url and problem.fix.startswith("look at the address")


# How it is printed


def printed(capsys: pytest.CaptureFixture[str], *paths: Path | str, as_json: bool = False) -> tuple[int, str, str]:
    code = check.run([str(path) for path in paths], None, PATIENCE_S, as_json)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builders.release(tmp_path, "a", models.scale(3), factor=3)
    builders.put(tmp_path, "b", 7).joinpath("model.onnx").write_bytes(b"no graph")
    code, out, err = printed(capsys, tmp_path)
    lines = out.splitlines()
    assert (code, err, lines[0]) == (1, "", "good    a version 1: onnxruntime_onnx on CPUExecutionProvider")
    assert [line.split()[0] for line in lines[1:9]] == [
        "file", "parallel", "inputs", "outputs", "batching", "manifest", "golden", "memory",
    ]  # fmt: skip
    assert lines[9] == ""
    assert lines[10].startswith("wrong   b version 7: ONNX Runtime cannot load model.onnx")
    assert lines[11] == f"        at       {tmp_path}/b/7/model.onnx"
    assert lines[12].startswith("        fix      export the model again")
    assert lines[14].startswith("memory  1 version takes ") and lines[15] == "problems: 1"


@pytest.mark.parametrize("width", [80, 120])
def test_lines_are_broken_where_a_terminal_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")  # without colours, which would count as characters
    monkeypatch.setattr(check.sys.stdout, "isatty", lambda: True)
    builders.put(tmp_path, "m", 1, models.centred())
    monkeypatch.chdir(tmp_path)
    code, out, _ = printed(capsys, ".")
    assert code == 0 and all(len(line) <= width for line in out.splitlines())
    at = next(i for i, line in enumerate(out.splitlines()) if line.startswith("        batching "))
    assert out.splitlines()[at + 1].startswith(" " * 17 + out.splitlines()[at + 1].strip()[0])


def test_urls_stand_for_their_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builders.put(tmp_path / "repo", "m", 1).joinpath("model.onnx").write_bytes(b"no graph")
    for as_json in (False, True):
        code, out, _ = printed(capsys, f"file://{tmp_path}/repo", as_json=as_json)
        assert code == 1 and f"file://{tmp_path}/repo/m/1/model.onnx" in out
        assert "serving-check-" not in out


def test_names_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builders.put(tmp_path, "[bold]m[red]", 1)
    _, out, _ = printed(capsys, tmp_path)
    assert out.startswith("good    [bold]m[red] version 1: ")


def test_nothing_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys) == (
        1,
        "",
        "error: nothing to check: name a repository, a model directory or a model file\n",
    )
    code, out, err = printed(capsys, tmp_path, tmp_path / "nowhere")
    assert (code, out) == (1, "")
    assert [line.split(":")[1] for line in err.splitlines()] == [" nothing to serve", " no such file or directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_a_repository_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir(mode=0)
    (problem,) = looked_at(tmp_path / "repo").problems
    assert "cannot be read" in problem.what
