"""Makes ONNX models with smaller weights, of float16 or int8. Blocking.

What comes of it takes and gives the same tensors as before, in the same data types. Whether its answers are still good
is for others to say.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.core.errors import LoadError

_ONE_FILE_BYTES = 1_500_000_000  # protobuf cannot hold 2 GB; what is larger has its weights beside it


def float16(source: Path, target: Path) -> None:
    """Writes `source` with weights and arithmetic in float16 to `target`.

    Raises:
        LoadError: the onnx package is missing, or the model cannot be converted.
    """
    onnx, converter = _needed("onnx", "onnxruntime.transformers.float16")
    with _told(source):
        converted = converter.convert_float_to_float16(str(source), keep_io_types=True)
        _save(onnx, converted, target)


def int8(source: Path, target: Path) -> None:
    """Writes `source` with the weights of matrix products as int8 to `target`. Rows stay apart.

    Raises:
        LoadError: the onnx package is missing, or the model cannot be converted.
    """
    onnx, rewriting = _needed("onnx", "serving.backends.int8")
    with _told(source):
        model = onnx.load(source)
        rewriting.convert(model)
        _save(onnx, model, target)


WAYS: Mapping[str, Callable[[Path, Path], None]] = {"fp16": float16, "int8": int8}


def versions() -> dict[str, str]:
    """Of the libraries that did it, for a manifest."""
    return {
        name: str(module.__version__)
        for name, module in zip(("onnx", "onnxruntime"), _needed("onnx", "onnxruntime"), strict=True)
    }


def _needed(*modules: str) -> list[Any]:
    from importlib import import_module

    try:
        return [import_module(name) for name in modules]
    except ImportError as error:
        raise LoadError(f"'{error.name}' is not installed: pip install 'serving[optimize]'") from error


def _save(onnx: Any, model: Any, target: Path) -> None:
    large = model.ByteSize() > _ONE_FILE_BYTES
    onnx.save(model, target, save_as_external_data=large, location=f"{target.name}.data" if large else None)


@contextmanager
def _told(source: Path) -> Any:
    """Errors of the libraries become ours, and their advice to those who call them is not printed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    except LoadError:
        raise
    except Exception as error:  # theirs share no base class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoadError(f"'{source}' cannot be converted: {reason}") from error
    finally:
        logging.disable(before)
