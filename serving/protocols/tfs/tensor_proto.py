"""TensorFlow's TensorProto and arrays. Pure; `name` is the input or output, for messages.

Elements come as raw bytes or in a field for their type; they leave in the field for their type, as TensorFlow Serving
sends them. Raw bytes, floats and doubles are views coming in and go out as they lie in memory.
"""

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import invalid
from serving.protocols import messages as m
from serving.protocols import wire

Buffer = bytes | memoryview

MAX_DIMENSIONS = 32
MAX_REPEATED_BYTES = 64 * 1024 * 1024  # a few bytes on the wire may not ask for more memory than this

# The field that holds the elements of a type, and the type of its values.
_FIELDS: dict[DType, tuple[str, Any]] = {
    dtypes.BOOL: ("bool_val", np.bool_),
    dtypes.UINT8: ("int_val", np.int32), dtypes.UINT16: ("int_val", np.int32),
    dtypes.INT8: ("int_val", np.int32), dtypes.INT16: ("int_val", np.int32), dtypes.INT32: ("int_val", np.int32),
    dtypes.INT64: ("int64_val", np.int64),
    dtypes.UINT32: ("uint32_val", np.uint32), dtypes.UINT64: ("uint64_val", np.uint64),
    dtypes.FP16: ("half_val", np.int32), dtypes.BF16: ("half_val", np.int32),
    dtypes.FP32: ("float_val", np.float32), dtypes.FP64: ("double_val", np.float64),
    dtypes.BYTES: ("string_val", object),
}  # fmt: skip

_NUMBERS = {name: field.number for name, field in m.tf.TensorProto.DESCRIPTOR.fields_by_name.items()}
CONTENT = _NUMBERS["tensor_content"]
_PACKED = {dtypes.FP32: _NUMBERS["float_val"], dtypes.FP64: _NUMBERS["double_val"]}
LARGE_FIELDS = frozenset((CONTENT, *_PACKED.values()))  # those that `split` takes out

_BY_NUMBER = {int(m.tf.DataType[dtype.tensorflow]): dtype for dtype in dtypes.ALL}
_TYPE_NAMES = {int(kind): kind.name for kind in m.tf.DataType}


def type_name(dtype: DType) -> str:
    """What TensorFlow calls a type in its messages, such as `float`."""
    return dtype.tensorflow.removeprefix("DT_").lower()


def split(data: memoryview) -> tuple[Any, dict[int, memoryview]]:
    """A TensorProto without its large fields, and these by number, for `decode`.

    Raises:
        wire.UnusualError: only the message class can read it.
    """
    large, rest = wire.split(data, LARGE_FIELDS)
    if len(large) > 1:  # parts of one list, perhaps
        raise wire.UnusualError
    try:
        return m.tf.TensorProto.FromString(rest), dict(large)
    except DecodeError:
        raise wire.UnusualError from None


def decode(name: str, tensor: Any, large: dict[int, memoryview] | None = None) -> np.ndarray:
    """The array of a TensorProto; a view of its raw bytes.

    Args:
        large: its large fields, if `split` has taken them out.

    Raises:
        ServingError: INVALID, naming the tensor.
    """
    dtype = _BY_NUMBER.get(tensor.dtype)
    if dtype is None:
        raise _unparsable(name, f"{_TYPE_NAMES.get(tensor.dtype, tensor.dtype)} is not supported")
    shape = _shape(name, tensor.tensor_shape)
    size = prod(shape)
    content: Buffer = large.get(CONTENT, b"") if large else tensor.tensor_content
    if len(content):
        return _from_content(name, dtype, shape, size, content)
    packed = large.get(_PACKED.get(dtype, 0)) if large else None
    values = _values(name, dtype, tensor) if packed is None else _unpacked(name, dtype, packed)
    return _filled(name, dtype, shape, size, values)


def _shape(name: str, proto: Any) -> tuple[int, ...]:
    shape = tuple([dim.size for dim in proto.dim])
    if proto.unknown_rank or any(size < 0 for size in shape):
        raise _unparsable(name, f"its shape is not known: {list(shape)}")
    if len(shape) > MAX_DIMENSIONS:
        raise _unparsable(name, f"it has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are possible")
    if prod(max(size, 1) for size in shape) >= 2**60:  # also where a zero hides the others
        raise _unparsable(name, f"no tensor can have the shape {list(shape)}")
    return shape


def _from_content(name: str, dtype: DType, shape: tuple[int, ...], size: int, content: Buffer) -> np.ndarray:
    if dtype is dtypes.BYTES:
        return _strings(name, size, memoryview(content)).reshape(shape)
    if len(content) != size * dtype.itemsize:
        raise _unparsable(
            name, f"shape {list(shape)} takes {size * dtype.itemsize} bytes of {type_name(dtype)}, got {len(content)}"
        )
    return np.frombuffer(content, dtype.numpy).reshape(shape)


def _strings(name: str, size: int, content: memoryview) -> np.ndarray:
    """TensorFlow's raw form of strings: all lengths, then all bytes."""
    if size > len(content):  # each length takes a byte at least
        raise _unparsable(name, f"expected {size} strings in {len(content)} bytes")
    elements = np.empty(size, object)
    try:
        at, lengths = 0, []
        for _ in range(size):
            length, at = wire.read_varint(content, at)
            lengths.append(length)
    except wire.UnusualError:
        raise _unparsable(name, "its strings have no lengths") from None
    if sum(lengths) != len(content) - at:
        raise _unparsable(name, f"expected {sum(lengths)} bytes of strings, got {len(content) - at}")
    for i, length in enumerate(lengths):
        elements[i] = bytes(content[at : at + length])
        at += length
    return elements


def _unpacked(name: str, dtype: DType, packed: memoryview) -> np.ndarray:
    if len(packed) % dtype.itemsize:
        raise _unparsable(name, f"{len(packed)} bytes are no whole number of values")
    return np.frombuffer(packed, dtype.numpy)


def _values(name: str, dtype: DType, tensor: Any) -> np.ndarray:
    """The values in the field for the type, as they are: one dimension, perhaps fewer than the shape asks for."""
    field, kind = _FIELDS[dtype]
    listed = getattr(tensor, field)
    if dtype is dtypes.BYTES:
        strings = np.empty(len(listed), object)
        strings[:] = listed
        return strings
    values = np.fromiter(listed, kind, len(listed))
    if kind == dtype.numpy:
        return values
    bits = np.dtype(np.uint16) if field == "half_val" else dtype.numpy
    narrow = values.astype(bits)
    if not np.array_equal(narrow, values):
        raise _unparsable(name, f"{field} holds values that {type_name(dtype)} cannot")
    return narrow.view(dtype.numpy)


def _filled(name: str, dtype: DType, shape: tuple[int, ...], size: int, values: np.ndarray) -> np.ndarray:
    """As many elements as the shape asks for: the last value repeats; without any value, all are zero or empty."""
    if len(values) == size:
        return values.reshape(shape)
    if len(values) > size:
        raise _unparsable(name, f"shape {list(shape)} takes {size} values, got {len(values)}")
    if size * (dtype.itemsize or 8) > MAX_REPEATED_BYTES:
        raise _unparsable(name, f"shape {list(shape)} takes {size} values, got {len(values)}, too few to repeat")
    filled = np.empty(size, dtype.numpy)
    filled[: len(values)] = values
    filled[len(values) :] = values[-1] if len(values) else b"" if dtype is dtypes.BYTES else 0
    return filled.reshape(shape)


def _unparsable(name: str, why: str) -> Exception:
    return invalid(f"tensor parsing error: {name}: {why}")


def encode(array: np.ndarray, dtype: DType) -> list[Buffer]:
    """The bytes of a TensorProto, in parts; those of floats are a view of the array."""
    head = _head(dtype, array.shape)
    if dtype in _PACKED and array.size:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        return [head, wire.field(_PACKED[dtype], len(data)), data]
    field, _ = _FIELDS[dtype]
    flat = array.reshape(-1)
    values = flat.view(np.uint16) if field == "half_val" else flat
    return [head, m.tf.TensorProto(**{field: values.tolist()}).SerializeToString()]


@lru_cache(1024)
def _head(dtype: DType, shape: tuple[int, ...]) -> bytes:
    dims = m.tf.TensorShapeProto(dim=[m.tf.TensorShapeProto.Dim(size=size) for size in shape])
    data: bytes = m.tf.TensorProto(dtype=dtype.tensorflow, tensor_shape=dims).SerializeToString()
    return data


def message(array: np.ndarray, dtype: DType) -> Any:
    """A TensorProto."""
    return m.tf.TensorProto.FromString(b"".join(encode(array, dtype)))
