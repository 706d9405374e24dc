"""Which backend reads which artifact; imports a backend when it is first needed."""

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import cast

from serving.backends import safety, shapes
from serving.backends.base import Backend, Session
from serving.backends.recorded import Recorded
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec

# What a version's directory may hold, as operators are told.
KNOWN_ARTIFACTS = "model.onnx, saved_model.pb, model.savedmodel/ or identity.yaml"


def _onnx(version_dir: Path, file: str | None) -> Path | None:
    """`model.onnx`, or the one `.onnx` file of any name; in a directory of that name, with its weights beside it."""
    path = version_dir / (file or "model.onnx")
    if path.is_dir():
        path /= "model.onnx"
    if path.is_file():
        return path if path.suffix != ".yaml" else None
    if file is not None:
        return None
    others = [p for p in version_dir.glob("*.onnx") if p.is_file() and not p.name.startswith(".")]
    return others[0] if len(others) == 1 else None


def _saved_model(version_dir: Path, file: str | None) -> Path | None:
    """The directory that holds `saved_model.pb`: the version's, or `model.savedmodel` in it."""
    places = (version_dir / file,) if file else (version_dir, version_dir / "model.savedmodel")
    return next((path for path in places if (path / "saved_model.pb").is_file()), None)


def _identity(version_dir: Path, file: str | None) -> Path | None:
    path = version_dir / (file or "identity.yaml")
    return path if path.suffix == ".yaml" and path.is_file() else None


# By name, in the order in which they are asked: how each finds its artifact in a version's directory.
_FINDERS: dict[str, Callable[[Path, str | None], Path | None]] = {
    "onnx": _onnx,
    "tensorflow": _saved_model,
    "identity": _identity,
}


def find_artifact(version_dir: Path, backend: str | None = None, file: str | None = None) -> tuple[str, Path] | None:
    """The backend's name and the artifact of a version directory; None if it holds none that is known.

    Args:
        backend: the only one that is meant; None: the first that finds its artifact.
        file: the artifact's name; None: what it is called by default.
    """
    for name, find in _FINDERS.items():
        if backend in (None, name) and (artifact := find(version_dir, file)) is not None:
            return name, artifact
    return None


def module_for(version_dir: Path, spec: ModelSpec) -> tuple[str, Path]:
    """The module of the backend that reads a version directory, or a single `.onnx` file, and the artifact.

    Raises:
        LoadError: no artifact, or not one of the backend that `spec` asks for.
    """
    if version_dir.is_file():
        found: tuple[str, Path] | None = ("onnx", version_dir)
    else:
        found = find_artifact(version_dir, spec.backend, spec.file)
    if found is None and spec.backend == "identity" and spec.inputs and spec.outputs:
        found = ("identity", version_dir)  # its settings say all that there is to know
    if found is None and spec.file is None:
        found = find_artifact(version_dir)
    if found is None:
        raise LoadError(f"no model in '{version_dir.name}' (looked for {spec.file or KNOWN_ARTIFACTS})")
    backend, artifact = found
    if spec.backend not in (None, backend):
        raise LoadError(f"its settings ask for the backend '{spec.backend}', but '{artifact.name}' is for '{backend}'")
    module = "accelerate" if backend == "tensorflow" and spec.accelerate else backend
    return f"serving.backends.{module}", artifact


def load(version_dir: Path, spec: ModelSpec, scratch: Path | None = None, *, checked: bool = False) -> Session:
    """Loads the artifact of a version directory, or a single `.onnx` file.

    Args:
        checked: these files have been found to be mere data (see `safety`), in a trial for instance.
        scratch: a directory that outlives the loads of one version; what one of them left there, such as the result of
            a long conversion, serves the next. None: nothing is kept.

    Raises:
        LoadError: no artifact, no such backend, it is no mere data, the backend cannot serve it, or it is not what
            `spec` declares.
    """
    module, artifact = module_for(version_dir, spec)
    if not checked:
        safety.check(module, artifact)
    session = cast(Backend, import_module(module)).load(artifact, spec, scratch)
    try:
        return shapes.declared(session, spec)
    except LoadError:
        session.close()
        raise


def recorded(version_dir: Path, spec: ModelSpec) -> Iterator[Recorded]:
    """Requests that the artifact brings along for its warm-up. Only where its own runtime runs it.

    Raises:
        LoadError: they cannot be read.
    """
    module, artifact = module_for(version_dir, spec)
    read = getattr(import_module(module), "recorded", None)
    if read is not None:
        yield from read(artifact)


def has_gpu_runtime() -> bool:
    """Whether ONNX Runtime's build for NVIDIA GPUs is installed; not, whether there is such a device."""
    try:
        distribution("onnxruntime-gpu")
    except PackageNotFoundError:
        return False
    return True
