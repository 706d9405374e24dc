"""Which model is meant, and where its settings are."""

from pathlib import Path

import pytest

from serving.tuning.source import SourceError, find
from tests import models


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    for version in (1, 2, 10):
        models.save(models.scale(2), tmp_path / "m" / str(version) / "model.onnx")
    return tmp_path


def test_a_model(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("max_batch_size: 8\n")
    for path in (repo / "m", repo):
        found = find(path)
        assert (found.name, found.version.number, found.spec.max_batch_size) == ("m", 10, 8)
        assert found.file == repo / "m/model.yaml"
    assert find(repo / "m", 2).version.number == 2


def test_the_version_that_would_be_served(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("versions: [1, 2]\n")
    assert find(repo / "m").version.number == 2


def test_settings_that_are_not_there_yet(repo: Path) -> None:
    assert find(repo / "m").file == repo / "m/model.yaml"


def test_a_file_has_no_settings(repo: Path) -> None:
    found = find(repo / "m/2/model.onnx")
    assert found.name == "model" and found.file is None and "a model file has no model.yaml" in found.because


def test_settings_of_another_kind_are_not_replaced(repo: Path) -> None:
    (repo / "m/config.pbtxt").write_text('name: "m"\nmax_batch_size: 4\n')
    found = find(repo / "m")
    assert found.spec.max_batch_size == 4 and found.file is None and "config.pbtxt" in found.because


def test_what_cannot_be_tuned(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("max_batchsize: 8\n")
    with pytest.raises(SourceError, match="did you mean 'max_batch_size'"):
        find(repo / "m")
    with pytest.raises(SourceError, match="no such file or directory"):
        find(repo / "n")
    (repo / "m/model.yaml").unlink()
    with pytest.raises(SourceError, match="'m' has no version 3; there are 1, 2, 10"):
        find(repo / "m", 3)
    models.save(models.scale(2), repo / "n/1/model.onnx")
    with pytest.raises(SourceError, match=f"holds 2 models: name one of them, such as '{repo}/m'"):
        find(repo)
    (repo / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no model"):
        find(repo / "empty")
