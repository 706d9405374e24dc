"""Tensors as nested lists of JSON, the way TensorFlow Serving has them. Pure.

Values are converted a list at a time. What that refuses, `json_faults` looks at again, to say what is wrong.
"""

from base64 import b64decode, b64encode
from itertools import chain
from typing import Any

import numpy as np

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import TensorSpec
from serving.protocols import jsonio
from serving.protocols.tfs.tensor_proto import MAX_DIMENSIONS, type_name


def travels(dtype: DType) -> bool:
    """Do elements of this type travel in this protocol's JSON?"""
    return jsonio.travels(dtype) and dtype is not dtypes.UINT16


def to_array(value: Any, dtype: DType, bools: bool) -> np.ndarray | None:
    """A value or nested lists of values as an array; None if they are no tensor of this type.

    Args:
        bools: False promises that no true or false is in the text, which saves looking at each element.
    """
    found = _flatten(value)
    if found is None:
        return None
    flat, shape = found
    if not flat:
        return np.empty(shape, dtype.numpy)
    if not travels(dtype):
        return None
    try:
        return jsonio.elements(dtype, flat, bools, from_base64).reshape(shape)
    except jsonio.WrongElementError:
        return None


def with_all_axes(tensor: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Adds the axes that empty lists cannot show: `[]` for a tensor of shape `[-1, 4]` has no rows of 4."""
    if tensor.size or spec.shape is None or tensor.ndim >= len(spec.shape):
        return tensor
    return tensor.reshape(tensor.shape + tuple(max(size, 0) for size in spec.shape[tensor.ndim :]))


def _flatten(value: Any) -> tuple[list[Any], tuple[int, ...]] | None:
    """The values of nested lists and their shape; None if they are ragged. Values may still be of any type."""
    if type(value) is not list:
        return [value], ()
    shape = [len(value)]
    while value and type(value[0]) is list:
        if len(shape) == MAX_DIMENSIONS or set(map(type, value)) != {list}:
            return None
        sizes = set(map(len, value))
        if len(sizes) != 1:
            return None
        shape += sizes
        value = list(chain.from_iterable(value))
    return value, tuple(shape)


def is_base64(value: Any) -> bool:
    """Whether a JSON value is `{"b64": "…"}`."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def from_base64(value: Any) -> bytes | None:
    """The bytes that a `{"b64": "…"}` stands for; None if it is none, or cannot be decoded.

    Padding may be missing, white space may be there.
    """
    if not is_base64(value):
        return None
    text = "".join(value["b64"].split())
    if "=" not in text:
        text += "=" * (-len(text) % 4)
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return None


def to_json(name: str, dtype: DType, tensor: np.ndarray) -> Any:
    """What `jsonio.dump` writes as the nested lists of an output. Strings whose name ends in `_bytes` go as base64.

    Raises:
        ServingError: UNSUPPORTED for a type without a JSON form, INVALID for strings that are not UTF-8.
    """
    if dtype is dtypes.BYTES:
        return _strings_to_json(name, tensor)
    if not travels(dtype):
        raise ServingError(
            ErrorKind.UNSUPPORTED,
            f"Failed to write JSON value for tensor type: {type_name(dtype)}: output '{name}' needs gRPC",
        )
    # orjson knows numpy's int64 and not its twin, the long long of C, which ONNX Runtime gives.
    return np.ascontiguousarray(tensor) if tensor.ndim else tensor.astype(dtype.numpy)[()]


def _strings_to_json(name: str, tensor: np.ndarray) -> Any:
    as_json = np.empty(tensor.shape, object)
    flat = as_json.reshape(-1)
    for i, element in enumerate(tensor.flat):
        flat[i] = {"b64": b64encode(element).decode()} if name.endswith("_bytes") else text_of(name, element)
    return as_json.tolist()


def text_of(name: str, element: bytes) -> str:
    """Raises: ServingError: INVALID: not UTF-8."""
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise invalid(
            f"output '{name}' holds bytes that are not UTF-8, which JSON cannot carry; an output whose name ends in "
            "_bytes goes as base64, and gRPC carries any bytes"
        ) from None
