"""Which backend reads which artifact; imports a backend when it is first needed."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from serving.backends.base import Backend, Session
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec

# What a version's directory may hold, as operators are told.
KNOWN_ARTIFACTS = "model.onnx, saved_model.pb, model.savedmodel/ or identity.yaml"


def _onnx(version_dir: Path) -> Path | None:
    """`model.onnx`, or the one `.onnx` file of any name."""
    if (model := version_dir / "model.onnx").is_file():
        return model
    others = [p for p in version_dir.glob("*.onnx") if p.is_file() and not p.name.startswith(".")]
    return others[0] if len(others) == 1 else None


def _saved_model(version_dir: Path) -> Path | None:
    """The directory that holds `saved_model.pb`: the version's, or `model.savedmodel` in it."""
    found = (path for path in (version_dir, version_dir / "model.savedmodel") if (path / "saved_model.pb").is_file())
    return next(found, None)


def _identity(version_dir: Path) -> Path | None:
    return path if (path := version_dir / "identity.yaml").is_file() else None


# By name, in the order in which they are asked: how each finds its artifact in a version's directory.
_FINDERS: dict[str, Callable[[Path], Path | None]] = {
    "onnx": _onnx,
    "tensorflow": _saved_model,
    "identity": _identity,
}


def find_artifact(version_dir: Path, backend: str | None = None) -> tuple[str, Path] | None:
    """The backend's name and the artifact of a version directory; None if it holds none that is known.

    Args:
        backend: the only one that is meant; None: the first that finds its artifact.
    """
    for name, find in _FINDERS.items():
        if backend in (None, name) and (artifact := find(version_dir)) is not None:
            return name, artifact
    return None


def load(version_dir: Path, spec: ModelSpec) -> Session:
    """Loads the artifact of a version directory, or a single `.onnx` file.

    Raises:
        LoadError: no artifact, no such backend, or the backend cannot serve it.
    """
    if version_dir.is_file():
        found: tuple[str, Path] | None = ("onnx", version_dir)
    else:
        found = find_artifact(version_dir, spec.backend) or find_artifact(version_dir)
    if found is None:
        raise LoadError(f"no model in '{version_dir.name}' (looked for {KNOWN_ARTIFACTS})")
    backend, artifact = found
    if spec.backend not in (None, backend):
        raise LoadError(f"model.yaml asks for the backend '{spec.backend}', but '{artifact.name}' is for '{backend}'")
    module = "accelerate" if backend == "tensorflow" and spec.accelerate else backend
    return cast(Backend, import_module(f"serving.backends.{module}")).load(artifact, spec)
