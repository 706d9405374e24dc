"""Directory trees and what is found in them."""

import os
import time
from pathlib import Path

import pytest

from serving.core.artifact import MANIFEST
from serving.repository.disk.layout import Fingerprint, FoundModel, Kind, LayoutError, kind_of, scan


def tree(root: Path, *paths: str) -> Path:
    """Makes files, and directories where a path ends in a slash."""
    for path in paths:
        target = root / path
        if path.endswith("/"):
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path)
    return root


def summary(models: dict[str, FoundModel]) -> dict[str, list[int]]:
    assert all(model.name == name for name, model in models.items())
    assert all(version.number == n for model in models.values() for n, version in model.versions.items())
    return {name: list(model.versions) for name, model in models.items()}


# The three kinds of paths


def test_a_repository(tmp_path: Path) -> None:
    tree(tmp_path, "a/1/model.onnx", "a/2/model.onnx", "a/model.yaml", "b/10/model.onnx")
    models = scan(tmp_path)
    assert summary(models) == {"a": [1, 2], "b": [10]}
    assert models["a"].spec_file == tmp_path / "a/model.yaml"
    assert models["b"].spec_file is None
    assert models["a"].path == tmp_path / "a"
    assert models["a"].versions[2].path == tmp_path / "a/2"


def test_a_models_directory(tmp_path: Path) -> None:
    tree(tmp_path, "digits/1/model.onnx", "digits/3/model.onnx", "digits/model.yaml")
    models = scan(tmp_path / "digits")
    assert summary(models) == {"digits": [1, 3]}
    assert models["digits"].spec_file == tmp_path / "digits/model.yaml"
    assert summary(scan(tmp_path / "digits", "other")) == {"other": [1, 3]}


def test_a_directory_that_is_itself_a_version(tmp_path: Path) -> None:
    tree(tmp_path, "digits/model.onnx", "digits/model.yaml", "digits/golden.npz")
    models = scan(tmp_path / "digits")
    assert summary(models) == {"digits": [1]}
    assert models["digits"].spec_file == tmp_path / "digits/model.yaml"
    assert models["digits"].versions[1].path == tmp_path / "digits"
    assert summary(scan(tmp_path / "digits", "other")) == {"other": [1]}


def test_a_saved_model_that_is_itself_a_version(tmp_path: Path) -> None:
    tree(tmp_path, "half/saved_model.pb", "half/variables/variables.index", "half/assets/", "half/2/notes")
    assert kind_of(tmp_path / "half") is Kind.VERSION
    models = scan(tmp_path / "half")
    assert summary(models) == {"half": [1]}
    assert models["half"].versions[1].path == tmp_path / "half"
    assert summary(scan(tmp_path / "half", "other")) == {"other": [1]}


@pytest.mark.parametrize(
    "artifact", ["saved_model.pb", "model.savedmodel/saved_model.pb", "identity.yaml", "model.onnx", "net.onnx"]
)
def test_whatever_the_artifact(tmp_path: Path, artifact: str) -> None:
    tree(tmp_path, f"repo/m/00000123/{artifact}")
    assert summary(scan(tmp_path / "repo")) == {"m": [123]}
    assert summary(scan(tmp_path / "repo/m")) == {"m": [123]}
    assert kind_of(tmp_path / "repo") is Kind.REPOSITORY
    assert kind_of(tmp_path / "repo/m") is Kind.MODEL
    assert kind_of(tmp_path / "repo/m/00000123") is Kind.VERSION


def test_one_file(tmp_path: Path) -> None:
    tree(tmp_path, "net-v2.onnx", "model.yaml", "other.onnx")
    models = scan(tmp_path / "net-v2.onnx")
    assert summary(models) == {"net-v2": [1]}
    assert models["net-v2"].spec_file is None  # a stray model.yaml beside it may belong to anything
    assert models["net-v2"].versions[1].path == tmp_path / "net-v2.onnx"
    assert summary(scan(tmp_path / "net-v2.onnx", "other")) == {"other": [1]}


def test_a_relative_path_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "digits/1/model.onnx")
    monkeypatch.chdir(tmp_path / "digits")
    assert summary(scan(Path())) == {"digits": [1]}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("repo", Kind.REPOSITORY),
        ("repo/m", Kind.MODEL),
        ("repo/m/1", Kind.VERSION),
        ("repo/m/1/model.onnx", Kind.FILE),
        ("empty", Kind.REPOSITORY),
    ],
)
def test_a_path_shows_what_it_is(tmp_path: Path, path: str, kind: Kind) -> None:
    tree(tmp_path, "repo/m/1/model.onnx", "repo/m/model.yaml", "empty/")
    assert kind_of(tmp_path / path) is kind


@pytest.mark.parametrize(
    ("kind", "stray", "expected"),
    [
        (Kind.REPOSITORY, "at-the-top.onnx", {"m": [3]}),
        (Kind.REPOSITORY, "2024/1/model.onnx", {"2024": [1], "m": [3]}),
        (Kind.MODEL, "at-the-top.onnx", {"root": []}),
        (Kind.VERSION, "2024/1/model.onnx", {"root": [1]}),
    ],
)
def test_what_a_path_was_found_to_be_it_stays(
    tmp_path: Path, kind: Kind, stray: str, expected: dict[str, list[int]]
) -> None:
    root = tree(tmp_path / "root", "m/3/model.onnx", stray)
    assert summary(scan(root, kind=kind)) == expected


# Names


def test_versions_are_whole_numbers_above_zero(tmp_path: Path) -> None:
    strange = ("0", "9223372036854775808", "9" * 100, "-1", "1.5", "v2", "2a", "٣", "²", " 4", "one", ".5", "_6")
    tree(tmp_path, "m/7/model.onnx", *(f"m/{name}/model.onnx" for name in strange))
    assert summary(scan(tmp_path)) == {"m": [7]}


def test_versions_are_ordered_as_numbers(tmp_path: Path) -> None:
    tree(tmp_path, *(f"m/{number}/model.onnx" for number in (10, 9, 1, 20250101123059, 2**63 - 1)))
    assert summary(scan(tmp_path)) == {"m": [1, 9, 10, 20250101123059, 2**63 - 1]}


def test_leading_zeros_are_no_part_of_the_number_and_the_plain_spelling_wins(tmp_path: Path) -> None:
    tree(tmp_path, "m/003/model.onnx", "m/04/model.onnx", "m/4/model.onnx", "m/0004/model.onnx")
    versions = scan(tmp_path)["m"].versions
    assert {number: version.path.name for number, version in versions.items()} == {3: "003", 4: "4"}


def test_odd_model_names_are_fine_and_hidden_ones_are_not_models(tmp_path: Path) -> None:
    odd = ["a b", "Zürich 模型", "a.b-c_d", "x" * 200, "quo'te", "100%"]
    tree(tmp_path, *(f"{name}/1/model.onnx" for name in (*odd, ".git", "_cache", ".tmp-ab")))
    assert summary(scan(tmp_path)) == {name: [1] for name in odd}


def test_a_name_that_is_no_text_is_no_model(tmp_path: Path) -> None:
    """No answer could carry it, so one such directory would break the list of all models."""
    tree(tmp_path, "good/1/model.onnx")
    (tmp_path / os.fsdecode(b"bad\xff") / "1").mkdir(parents=True)
    assert list(scan(tmp_path)) == ["good"]


# What lies about


def test_files_among_models_and_versions_do_not_matter(tmp_path: Path) -> None:
    tree(tmp_path, "README.md", "7", "m/1/model.onnx", "m/2", "m/notes.txt", "m/labels/en.txt")
    assert summary(scan(tmp_path)) == {"m": [1]}


def test_a_model_without_versions_is_known(tmp_path: Path) -> None:
    tree(tmp_path, "m/", "n/model.yaml")
    assert summary(scan(tmp_path)) == {"m": [], "n": []}


def test_a_version_without_a_model_is_found(tmp_path: Path) -> None:
    """It may still come; if it does not, the load says why."""
    tree(tmp_path, "m/1/", "m/2/weights.bin")
    assert summary(scan(tmp_path)) == {"m": [1, 2]}


def test_an_empty_directory_is_an_empty_repository(tmp_path: Path) -> None:
    assert scan(tmp_path) == {}


def test_links_are_followed(tmp_path: Path) -> None:
    """Volumes of orchestrators are made of links."""
    tree(tmp_path, "store/v1/model.onnx", "repo/m/")
    (tmp_path / "repo/m/1").symlink_to(tmp_path / "store/v1")
    (tmp_path / "repo/m/2").symlink_to(tmp_path / "nowhere")
    (tmp_path / "repo/alias").symlink_to(tmp_path / "repo/m")
    models = scan(tmp_path / "repo")
    assert summary(models) == {"alias": [1], "m": [1]}
    assert len(models["m"].versions[1].fingerprint) == 1


@pytest.mark.parametrize("target", ["nowhere", "link"], ids=["dangling", "looping"])
def test_a_link_that_leads_nowhere_hides_no_version(tmp_path: Path, target: str) -> None:
    """Some editors leave one beside the file that they have open."""
    tree(tmp_path, "m/1/model.onnx", "m/2/model.onnx")
    (tmp_path / "m/1/link").symlink_to(target)
    assert summary(scan(tmp_path)) == {"m": [1, 2]}


# What cannot be served


@pytest.mark.parametrize(
    ("path", "name", "told"),
    [
        ("nowhere", None, "no such file or directory: '{path}'"),
        ("net.pb", None, "'{path}' is not a model file: its name does not end in .onnx"),
        ("half/saved_model.pb", None, "'{path}' is one file of a SavedModel: name its directory, '{path.parent}'"),
        ("repo", "m", "'{path}' is a repository of models, so --model-name cannot name it"),
        ("x" * 300, None, "'{path}' cannot be read: File name too long"),
    ],
)
def test_one_line_for_the_operator(tmp_path: Path, path: str, name: str | None, told: str) -> None:
    tree(tmp_path, "net.pb", "repo/m/1/model.onnx", "half/saved_model.pb")
    with pytest.raises(LayoutError) as error:
        scan(tmp_path / path, name)
    assert str(error.value) == told.format(path=tmp_path / path)


def test_a_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(LayoutError, match="cannot be read: Permission denied"):
        scan(tmp_path)


@pytest.mark.parametrize("kind", Kind)
def test_a_path_that_was_something_and_cannot_be_read_any_more(tmp_path: Path, kind: Kind) -> None:
    """Whatever the file system says then is one line too."""
    with pytest.raises(LayoutError, match="cannot be read: File name too long"):
        scan(tmp_path / ("x" * 300), kind=kind)


# Fingerprints and age


def fingerprint(repo: Path) -> Fingerprint:
    return scan(repo)["m"].versions[1].fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda m: (m / "1/model.onnx").write_text("other"),
        lambda m: os.utime(m / "1/model.onnx", (1, 1)),
        lambda m: (m / "1/golden.npz").write_text("new"),
        lambda m: (m / "1/variables/data").unlink(),
        lambda m: (m / "1/variables/data").rename(m / "1/variables/moved"),
        lambda m: (m / "model.yaml").write_text("threads: 2"),
        lambda m: (m / "model.yaml").unlink(),
    ],
    ids=["content", "time", "another file", "a file less", "renamed", "model.yaml", "no model.yaml"],
)
def test_a_fingerprint_changes_with_any_file(tmp_path: Path, change: object) -> None:
    tree(tmp_path, "m/1/model.onnx", "m/1/variables/data", "m/model.yaml")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    change(tmp_path / "m")  # type: ignore[operator]
    assert fingerprint(tmp_path) != before


@pytest.mark.parametrize("stray", ["m/2/model.onnx", "m/notes.txt", "n/1/model.onnx"])
def test_a_fingerprint_does_not_change_with_what_lies_beside(tmp_path: Path, stray: str) -> None:
    tree(tmp_path, "m/1/model.onnx")
    before = fingerprint(tmp_path)
    tree(tmp_path, stray)
    assert fingerprint(tmp_path) == before


def test_a_file_replaced_by_another_of_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    file = tree(tmp_path, "m/1/model.onnx") / "m/1/model.onnx"
    os.utime(file, (1, 1))
    before = fingerprint(tmp_path)
    other = tmp_path / "other"
    other.write_text("m/2/model.onnx")
    os.utime(other, (1, 1))
    other.rename(file)
    assert fingerprint(tmp_path) != before


def test_a_copy_that_keeps_times_is_as_young_as_it_is(tmp_path: Path) -> None:
    tree(tmp_path, "m/1/model.onnx")
    for path in (tmp_path / "m/1/model.onnx", tmp_path / "m/1"):
        os.utime(path, (1, 1))
    assert scan(tmp_path)["m"].versions[1].changed_at == pytest.approx(time.time(), abs=60)


def test_an_empty_version_directory_is_as_young_as_it_is(tmp_path: Path) -> None:
    """`mkdir 2` is the first half of `mkdir 2 && cp model.onnx 2`: not broken, only not complete."""
    tree(tmp_path, "m/1/")
    assert scan(tmp_path)["m"].versions[1].changed_at == pytest.approx(time.time(), abs=60)


def test_a_version_that_lost_a_file_is_as_young_as_that(tmp_path: Path) -> None:
    """`rm model.onnx` is the first half of `rm model.onnx && cp other model.onnx`."""
    tree(tmp_path, "m/1/model.onnx", "m/1/weights")
    for path in (tmp_path / "m/1").iterdir():
        os.utime(path, (1, 1))
    time.sleep(0.01)  # the clock of file systems is coarse
    before = scan(tmp_path)["m"].versions[1].changed_at
    (tmp_path / "m/1/weights").unlink()
    assert scan(tmp_path)["m"].versions[1].changed_at > before


@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_manifest_is_noticed(tmp_path: Path, has_manifest: bool) -> None:
    tree(tmp_path, "m/1/model.onnx", *([f"m/1/{MANIFEST}"] if has_manifest else []))
    assert scan(tmp_path)["m"].versions[1].has_manifest is has_manifest


def test_a_version_that_vanishes_while_it_is_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "m/1/model.onnx", "m/2/model.onnx")
    real = Path.stat

    def vanish(path: Path, **more: bool) -> os.stat_result:
        if path.parent.name == "2" and path.name == "model.onnx":
            raise FileNotFoundError(path)
        return real(path, **more)

    monkeypatch.setattr(Path, "stat", vanish)
    assert summary(scan(tmp_path)) == {"m": [1]}


# Settings


def test_settings_in_either_form(tmp_path: Path) -> None:
    tree(tmp_path, "a/1/model.onnx", "a/config.pbtxt", "b/1/model.onnx", "b/config.pbtxt", "b/model.yaml", "c/1/x")
    models = scan(tmp_path)
    found = {name: (model.spec_file, model.passed_over) for name, model in models.items()}
    assert found == {
        "a": (tmp_path / "a/config.pbtxt", None),
        "b": (tmp_path / "b/model.yaml", tmp_path / "b/config.pbtxt"),
        "c": (None, None),
    }
    before = models["a"].versions[1].fingerprint
    (tmp_path / "a/config.pbtxt").write_text("max_batch_size: 1")
    assert scan(tmp_path)["a"].versions[1].fingerprint != before
