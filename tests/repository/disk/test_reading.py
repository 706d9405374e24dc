"""Where the settings of a model come from, and which count."""

from collections.abc import Set
from pathlib import Path

import pytest

from serving.core.spec import Latest, ModelSpec, SpecError
from serving.protocols.oip.pbtxt import READERS
from serving.repository.disk.layout import FoundModel, scan
from serving.repository.disk.reading import Read, Reading
from serving.repository.disk.survey import Source, survey


def found(tmp_path: Path, **files: str) -> FoundModel:
    """A model called `m` with these files beside its one version; a name's underscore is its dot."""
    (tmp_path / "m/1").mkdir(parents=True, exist_ok=True)
    (tmp_path / "m/1/model.onnx").touch()
    for name, text in files.items():
        (tmp_path / "m" / name.replace("_", ".")).write_text(text)
    return scan(tmp_path)["m"]


def test_no_file(tmp_path: Path) -> None:
    assert Reading().settings(found(tmp_path)) == Read(ModelSpec())
    defaults = ModelSpec(max_batch_size=7)
    assert Reading(defaults=defaults).settings(found(tmp_path)) == Read(defaults)


@pytest.mark.parametrize(
    "files",
    [
        {"model_yaml": "max_batch_size: 8\ninstances: 2"},
        {"config_pbtxt": "max_batch_size: 8 instance_group [{count: 2}]"},
    ],
)
def test_the_file_over_the_defaults_and_the_operator_over_both(tmp_path: Path, files: dict[str, str]) -> None:
    reading = Reading(
        READERS,
        defaults=ModelSpec(max_batch_size=7, threads=3, instances=5, versions="all"),
        wanted={"m": ModelSpec(instances=9, versions=Latest()), "other": ModelSpec(threads=9)},
    )
    read = reading.settings(found(tmp_path, **files))
    assert read == Read(ModelSpec(max_batch_size=8, threads=3, instances=9, versions=Latest()))


def test_of_two_files_ours_counts(tmp_path: Path) -> None:
    read = Reading(READERS).settings(found(tmp_path, model_yaml="instances: 2", config_pbtxt="nonsense"))
    assert read == Read(ModelSpec(instances=2), (f"{tmp_path}/m/config.pbtxt: not read, since there is a model.yaml",))


def test_a_form_that_nobody_reads(tmp_path: Path) -> None:
    read = Reading().settings(found(tmp_path, config_pbtxt="max_batch_size: 8"))
    assert read == Read(ModelSpec(), (f"{tmp_path}/m/config.pbtxt: nobody here can read it",))


@pytest.mark.parametrize("name", ["model.yaml", "config.pbtxt"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    found(tmp_path)
    (tmp_path / "m" / name).write_bytes(b"\xff\xfe")
    error = Reading(READERS).settings(scan(tmp_path)["m"])
    assert isinstance(error, SpecError) and str(error).startswith(f"{tmp_path}/m/{name}: cannot be read: ")


def test_what_the_model_may_be_called(tmp_path: Path) -> None:
    """As the server calls it, or as its directory is called, also behind a link."""
    (tmp_path / "net_v2/1").mkdir(parents=True)
    (tmp_path / "net_v2/1/model.onnx").touch()
    (tmp_path / "net_v2/config.pbtxt").touch()
    (tmp_path / "current").symlink_to("net_v2")
    asked: list[Set[str]] = []

    def reader(_text: str, _source: str, names: Set[str]) -> Read:
        asked.append(names)
        return Read(ModelSpec())

    Reading({"config.pbtxt": reader}).settings(scan(tmp_path / "current", "net")["net"])
    assert asked == [{"net", "current", "net_v2"}]


def test_a_survey_tells_warnings_and_errors_by_model(tmp_path: Path) -> None:
    """An error of a model that has no version would be told by nobody else."""
    found(tmp_path, config_pbtxt="response_cache { enable: true }")
    for name, version in (("python", "python/1"), ("ensemble", "ensemble")):
        (tmp_path / version).mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(f'backend: "{name}"')
    (finding,) = survey([Source(tmp_path)], {}, Reading(READERS))
    assert set(finding.warnings) == {"m", "ensemble"}
    assert "response_cache.enable" in finding.warnings["m"][0]
    assert "backend 'ensemble' is not supported" in finding.warnings["ensemble"][0]
    assert isinstance(finding.specs["python"], SpecError)
