"""Tensors of the Open Inference Protocol: raw bytes, shapes and datatype names, as REST and gRPC share them."""

from math import prod
from typing import Any

import numpy as np

from serving.core import dtypes, strings
from serving.core.dtypes import DType
from serving.core.errors import invalid
from serving.core.types import InferRequest, InferResponse
from serving.protocols.jsonio import describe

MAX_INT64 = 2**63 - 1
MAX_DIMENSIONS = 32

_COPY_BELOW = 8 * 1024  # bytes: a view takes a microsecond to make


def datatype(name: str, text: Any) -> DType:
    found = dtypes.BY_NAME.get(text) if isinstance(text, str) else None
    if found is None:
        raise invalid(
            f"invalid datatype for input {name}: expected one of {', '.join(dtypes.BY_NAME)}, got {describe(text)}"
        )
    return found


def check_shape(name: str, model: str, shape: tuple[int, ...]) -> None:
    """Refuses shapes that no tensor can have, also where a zero among the dimensions hides the others.

    Raises:
        ServingError: INVALID, naming the input.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise invalid(f"the shape of input '{name}' has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are possible")
    size = 1
    for d in shape:
        if d < 0:
            raise invalid(
                f"unexpected shape for input '{name}' for model '{model}': dimensions must be >= 0, got {list(shape)}"
            )
        size *= max(d, 1)
    if size * 8 > MAX_INT64:
        raise invalid(
            f"the shape of input '{name}' causes total element count to exceed maximum size of {MAX_INT64}, "
            f"got {list(shape)}"
        )


def add_input(request: InferRequest, name: str, array: np.ndarray) -> None:
    if name in request.inputs:
        raise invalid(f"input '{name}' already exists in request")
    request.inputs[name] = array


def from_raw(name: str, model: str, dtype: DType, shape: tuple[int, ...], data: bytes | memoryview) -> np.ndarray:
    """A tensor as a view of its raw bytes: little endian, row major; BYTES as `core.strings` has them.

    Raises:
        ServingError: INVALID, if the bytes are not exactly the tensor's.
    """
    size = prod(shape)
    if dtype is dtypes.BYTES:
        try:
            elements = strings.unpack(data)
        except ValueError as error:
            what, _, why = str(error).partition(", ")
            raise invalid(f"{what} for inference input '{name}', {why}") from None
        if len(elements) > size:
            raise invalid(
                f"unexpected number of string elements {len(elements)} for inference input '{name}', expecting {size}"
            )
        if len(elements) < size:
            raise invalid(f"expected {size} string elements for inference input '{name}', got {len(elements)}")
        return elements.reshape(shape)
    if len(data) != size * dtype.itemsize:
        raise invalid(
            f"input byte size mismatch for input '{name}' for model '{model}'. "
            f"Expected {size * dtype.itemsize}, got {len(data)}"
        )
    if not size:
        return np.empty(shape, dtype.numpy)
    return np.frombuffer(data, dtype.numpy).reshape(shape)


def raw_view(array: np.ndarray) -> bytes | memoryview:
    """The bytes of an output, little endian and row major: a view of it where a copy would cost more."""
    if array.dtype == object:
        return strings.pack(array)
    if array.nbytes < _COPY_BELOW:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def to_raw(array: np.ndarray) -> bytes:
    """The same as bytes of its own."""
    return bytes(raw_view(array))


def tensor_head(name: str, array: np.ndarray) -> dict[str, Any]:
    """Name, datatype and shape of a tensor, as requests carry them."""
    return {"name": name, "datatype": dtypes.BY_NUMPY[array.dtype].name, "shape": list(array.shape)}


def output_dtype(response: InferResponse, name: str) -> DType:
    return response.signature.outputs[name].dtype
