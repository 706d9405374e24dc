"""Models are data, as far as that can be had: looks at a model's files before its runtime does, and refuses one that
would do more than compute. docs/model-safety.md says what this defends against, and what it does not.

Blocking; reads and changes nothing. Runs in the process of a trial first. `allow_unsafe_ops` is of this process and is
set by the operator alone. A model's own settings cannot set it, since they come with the model.
"""

from pathlib import Path

from serving.backends.safety import onnx_files, saved_model
from serving.core.errors import LoadError

allow_unsafe_ops = False

REMEDY = "only the server's operator can allow that, with --allow-unsafe-ops"
_SHOWN = 3  # findings that an error names


def check(backend: str, artifact: Path) -> None:
    """Refuses an artifact that is no mere data.

    Args:
        backend: the module that will read it.

    Raises:
        LoadError: names what it would do, and where; or the file is damaged.
    """
    if allow_unsafe_ops:
        return
    try:
        if backend == "serving.backends.onnx":
            found = onnx_files.problems(artifact)
        elif backend in ("serving.backends.tensorflow", "serving.backends.accelerate"):
            found = saved_model.problems(artifact)
        else:
            return
    except ValueError as error:
        if backend == "serving.backends.onnx":
            text = f"ONNX Runtime cannot load {artifact.name}: it cannot be read as an ONNX model"
        else:
            text = "TensorFlow cannot load it: saved_model.pb cannot be read as a SavedModel"
        raise LoadError(f"{text}: {error}") from None
    except OSError as error:
        raise LoadError(f"{artifact.name} cannot be read: {error.strerror}", retry=True) from None
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise LoadError(f"the model is not just data: {'; '.join(found[:_SHOWN])}{more}; {REMEDY}")
