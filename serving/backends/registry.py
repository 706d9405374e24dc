"""Which backend reads which artifact; imports a backend when it is first needed."""

from importlib import import_module
from pathlib import Path
from typing import cast

from serving.backends.base import Backend, Session
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec

_MODULES = {"onnx": "serving.backends.onnx"}


def find_artifact(version_dir: Path) -> tuple[str, Path] | None:
    """The backend's name and the artifact of a version directory; None if it holds none that is known.

    `model.onnx` is looked for first, then one `.onnx` file of any name.
    """
    if (model := version_dir / "model.onnx").is_file():
        return "onnx", model
    others = [p for p in version_dir.glob("*.onnx") if p.is_file() and not p.name.startswith(".")]
    if len(others) == 1:
        return "onnx", others[0]
    return None


def load(version_dir: Path, spec: ModelSpec) -> Session:
    """Loads the artifact of a version directory, or a single artifact file.

    Raises:
        LoadError: no artifact, no such backend, or the backend cannot serve it.
    """
    found = ("onnx", version_dir) if version_dir.is_file() else find_artifact(version_dir)
    if found is None:
        if (version_dir / "saved_model.pb").is_file():
            raise LoadError("a SavedModel: this server serves ONNX models only, so far")
        raise LoadError(f"no model.onnx in '{version_dir.name}'")
    backend, artifact = found
    if spec.backend not in (None, backend):
        raise LoadError(f"model.yaml asks for the backend '{spec.backend}', but '{artifact.name}' is for '{backend}'")
    module = cast(Backend, import_module(_MODULES[backend]))
    return module.load(artifact, spec)
