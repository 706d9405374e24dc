"""Which file of a version directory is its artifact, and who reads it."""

from pathlib import Path

import pytest

from serving.backends import registry
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from tests import models


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("files", "artifact"),
    [
        (["model.onnx"], "model.onnx"),
        (["net.onnx"], "net.onnx"),
        (["model.onnx", "other.onnx"], "model.onnx"),
        (["model.onnx", "model.onnx.data", "golden.npz", "MANIFEST.json"], "model.onnx"),
        (["net.onnx", ".half-written.onnx"], "net.onnx"),
        (["a.onnx", "b.onnx"], None),
        (["weights.bin"], None),
        ([], None),
    ],
)
def test_find_artifact(tmp_path: Path, files: list[str], artifact: str | None) -> None:
    touch(tmp_path, *files)
    assert registry.find_artifact(tmp_path) == (None if artifact is None else ("onnx", tmp_path / artifact))


def test_a_directory_is_no_artifact_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    assert registry.find_artifact(tmp_path) is None


def test_loads_a_version_directory_or_a_file(tmp_path: Path) -> None:
    file = models.save(models.scale(2), tmp_path / "1/model.onnx")
    for path in (file, file.parent):
        assert list(registry.load(path, ModelSpec()).signature.inputs) == ["x"]


def test_a_directory_without_an_artifact(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"^no model\.onnx in '7'$"):
        registry.load(tmp_path / "7", ModelSpec())


@pytest.mark.parametrize("backend", ["onnx", None])
def test_the_backend_may_be_named(tmp_path: Path, backend: str | None) -> None:
    file = models.save(models.scale(2), tmp_path / "model.onnx")
    registry.load(file, ModelSpec.model_validate({"backend": backend}))


def test_a_backend_that_does_not_read_the_artifact_is_refused(tmp_path: Path) -> None:
    models.save(models.scale(2), tmp_path / "model.onnx")
    other = ModelSpec.model_construct(backend="tensorflow")  # type: ignore[arg-type]  # there is none yet
    with pytest.raises(LoadError, match=r"asks for the backend 'tensorflow', but 'model\.onnx' is for 'onnx'"):
        registry.load(tmp_path, other)
