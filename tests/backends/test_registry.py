"""Which file of a version directory is its artifact, and who reads it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.backends import registry
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE
from tests import models


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["model.onnx"], ("onnx", "model.onnx")),
        (["net.onnx"], ("onnx", "net.onnx")),
        (["model.onnx", "other.onnx"], ("onnx", "model.onnx")),
        (["model.onnx", "model.onnx.data", "golden.npz", "MANIFEST.json"], ("onnx", "model.onnx")),
        (["net.onnx", ".half-written.onnx"], ("onnx", "net.onnx")),
        (["a.onnx", "b.onnx"], None),
        (["model.onnx/model.onnx", "model.onnx/weights"], ("onnx", "model.onnx/model.onnx")),
        (["saved_model.pb", "variables/variables.index"], ("tensorflow", ".")),
        (["model.savedmodel/saved_model.pb"], ("tensorflow", "model.savedmodel")),
        (["model.savedmodel/weights.bin"], None),
        (["saved_model.pb", "model.onnx"], ("onnx", "model.onnx")),
        (["identity.yaml"], ("identity", "identity.yaml")),
        (["weights.bin"], None),
        ([], None),
    ],
)
def test_find_artifact(tmp_path: Path, files: list[str], found: tuple[str, str] | None) -> None:
    touch(tmp_path, *files)
    assert registry.find_artifact(tmp_path) == (None if found is None else (found[0], tmp_path / found[1]))


def test_of_several_artifacts_one_may_be_meant(tmp_path: Path) -> None:
    touch(tmp_path, "saved_model.pb", "model.onnx", "identity.yaml")
    assert registry.find_artifact(tmp_path, "tensorflow") == ("tensorflow", tmp_path)
    assert registry.find_artifact(tmp_path, "identity") == ("identity", tmp_path / "identity.yaml")


@pytest.mark.parametrize(
    ("file", "backend", "found"),
    [
        ("b.onnx", None, ("onnx", "b.onnx")),
        ("net", "onnx", ("onnx", "net")),
        ("c.onnx", None, ("onnx", "c.onnx/model.onnx")),
        ("d", None, ("tensorflow", "d")),
        ("d", "tensorflow", ("tensorflow", "d")),
        ("e.yaml", None, ("identity", "e.yaml")),
        ("e.yaml", "onnx", None),
        ("b.onnx", "tensorflow", None),
        ("nosuch.onnx", None, None),
    ],
)
def test_an_artifact_of_another_name(
    tmp_path: Path, file: str, backend: str | None, found: tuple[str, str] | None
) -> None:
    touch(tmp_path, "model.onnx", "b.onnx", "net", "c.onnx/model.onnx", "d/saved_model.pb", "e.yaml")
    expected = None if found is None else (found[0], tmp_path / found[1])
    assert registry.find_artifact(tmp_path, backend, file) == expected


def test_the_artifact_that_the_settings_name(tmp_path: Path) -> None:
    for name, factor in (("model.onnx", 2), ("three.onnx", 3)):
        models.save(models.scale(factor), tmp_path / name)
    x = {"x": np.ones((1, 4), np.float32)}
    assert registry.load(tmp_path, ModelSpec(file="three.onnx")).run(x, ["y"])["y"][0, 0] == 3
    with pytest.raises(LoadError) as error:
        registry.load(tmp_path, ModelSpec(file="four.onnx"))
    assert str(error.value) == f"no model in '{tmp_path.name}' (looked for four.onnx)"


def test_a_directory_is_no_artifact_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    assert registry.find_artifact(tmp_path) is None


def test_loads_a_version_directory_or_a_file(tmp_path: Path) -> None:
    file = models.save(models.scale(2), tmp_path / "1/model.onnx")
    for path in (file, file.parent):
        assert list(registry.load(path, ModelSpec()).signatures[DEFAULT_SIGNATURE].inputs) == ["x"]


@pytest.mark.parametrize("backend", ["onnx", "tensorflow", None])
def test_a_directory_without_an_artifact(tmp_path: Path, backend: str | None) -> None:
    with pytest.raises(LoadError) as error:
        registry.load(tmp_path / "7", ModelSpec.model_validate({"backend": backend}))
    assert str(error.value) == f"no model in '7' (looked for {registry.KNOWN_ARTIFACTS})"


@pytest.mark.parametrize("backend", ["onnx", None])
def test_the_backend_may_be_named(tmp_path: Path, backend: str | None) -> None:
    file = models.save(models.scale(2), tmp_path / "model.onnx")
    registry.load(file, ModelSpec.model_validate({"backend": backend}))


@pytest.mark.parametrize("backend", ["tensorflow", "identity"])
def test_a_backend_that_does_not_read_the_artifact_is_refused(tmp_path: Path, backend: str) -> None:
    models.save(models.scale(2), tmp_path / "model.onnx")
    with pytest.raises(LoadError, match=rf"ask for the backend '{backend}', but 'model\.onnx' is for 'onnx'"):
        registry.load(tmp_path, ModelSpec.model_validate({"backend": backend}))


def test_a_backend_is_named_where_there_are_two_artifacts(tmp_path: Path) -> None:
    models.save(models.scale(2), tmp_path / "model.onnx")
    (tmp_path / "identity.yaml").write_text("tensors: [{input: a, output: b, datatype: BYTES}]")
    for backend, platform in {None: "onnxruntime_onnx", "onnx": "onnxruntime_onnx", "identity": "identity"}.items():
        assert registry.load(tmp_path, ModelSpec.model_validate({"backend": backend})).platform == platform


def test_a_runtime_is_imported_only_for_its_models(tmp_path: Path) -> None:
    """In a process of its own, as other tests have imported everything."""
    (tmp_path / "identity.yaml").write_text("tensors: [{input: a, output: b, datatype: BYTES}]")
    code = (
        "import sys; from pathlib import Path; from serving.backends import registry; "
        "from serving.core.spec import ModelSpec; "
        f"print(registry.load(Path({str(tmp_path)!r}), ModelSpec()).platform, "
        "sys.modules.keys() & {'onnxruntime', 'tensorflow', 'onnx'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "identity set()"


@pytest.mark.parametrize(
    ("backend", "file", "told"),
    [
        ("onnx", "model.onnx", "ONNX Runtime is not installed: pip install 'serving[cpu]' (or"),
        ("tensorflow", "saved_model.pb", "TensorFlow is not installed: pip install 'serving[tensorflow]'"),
    ],
)
def test_a_runtime_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, file: str, told: str
) -> None:
    touch(tmp_path, file)
    monkeypatch.delitem(sys.modules, f"serving.backends.{backend}", raising=False)
    for name in ("onnxruntime", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LoadError) as error:
        registry.load(tmp_path, ModelSpec())
    assert str(error.value).startswith(told)
