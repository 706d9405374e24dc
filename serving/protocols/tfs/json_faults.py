"""What is wrong with JSON that is no tensor, in the words of TensorFlow Serving.

Slow and exact, for requests that are refused anyway: looks at one value after the other, in their order.
"""

import json
from collections.abc import Mapping
from typing import Any

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import TensorSpec
from serving.protocols import jsonio
from serving.protocols.tfs.json_tensors import from_base64, is_base64, travels
from serving.protocols.tfs.tensor_proto import MAX_DIMENSIONS, type_name

_MAX_TEXT = 200
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_KINDS: dict[type, str] = {str: "String", list: "Array", dict: "Object"}
_CODES = {ErrorKind.INVALID: "INVALID_ARGUMENT", ErrorKind.UNSUPPORTED: "UNIMPLEMENTED"}


def text(value: Any) -> str:
    """A JSON value for a message, cut if it is long. Looks at no more of it than it shows."""
    shown = ""
    for piece in _ENCODER.iterencode(value):
        shown += piece
        if len(shown) > _MAX_TEXT:
            return f"{shown[:_MAX_TEXT]}..."
    return shown


def kind(value: Any) -> str:
    """What TensorFlow Serving calls the type of a JSON value."""
    if value is None:
        return "Null"
    if type(value) is bool:
        return "True" if value else "False"
    return _KINDS.get(type(value), "Number")


def in_tensor(value: Any, dtype: DType) -> ServingError:
    """Why a value is no tensor of this type."""
    return _first(value, 0, _shape(value), dtype) or invalid(f"JSON Value: {text(value)} is no tensor")


def in_rows(rows: list[Any], spec: TensorSpec) -> ServingError:
    """Why rows of one input, which come as plain values, are no tensor."""
    sizes = _Sizes()
    for i, row in enumerate(rows):
        if type(row) is dict and not is_base64(row):
            return invalid(f"Expecting value/list but got object at item {i} of input list")
        if fault := sizes.add(spec.name, row, spec.dtype):
            return _wrapped(f"Failed to process element: {i} of 'instances' list. Error: ", fault)
    return invalid("'instances' is no tensor")


def in_objects(rows: list[Any], inputs: Mapping[str, TensorSpec]) -> ServingError:
    """Why rows, which come as objects with a member for each input, are no tensors."""
    sizes = _Sizes()
    keys = None
    for i, row in enumerate(rows):
        if type(row) is not dict or is_base64(row):
            return invalid(
                f"Expecting object but got {'list' if type(row) is list else 'value'} at item {i} of input list"
            )
        for name, value in row.items():
            fault = (
                sizes.add(name, value, inputs[name].dtype)
                if name in inputs
                else invalid(f"JSON object: does not have named input: {name}")
            )
            if fault:
                return _wrapped(f"Failed to process element: {i} key: {name} of 'instances' list. Error: ", fault)
        required = {name for name, spec in inputs.items() if not spec.optional}
        if not required <= row.keys() or row.keys() != (keys or row.keys()):
            return invalid(
                f"Failed to process element: {i} of 'instances' list. JSON object: {text(row)} keys must be equal to: "
                f"{','.join(sorted(keys or inputs))}"
            )
        keys = row.keys()
    return invalid("'instances' are no tensors")


class _Sizes:
    """What the first row of each input was like; all others have to be the same."""

    def __init__(self) -> None:
        self._shapes: dict[str, list[int]] = {}

    def add(self, name: str, value: Any, dtype: DType) -> ServingError | None:
        shape = _shape(value)
        fault = _first(value, 0, shape, dtype)
        if fault:
            return fault
        first = self._shapes.setdefault(name, shape)
        if shape == first:
            return None
        size, expected = _size(shape), _size(first)
        if size != expected:
            return invalid(f"Expecting tensor size: {expected} but got: {size}")
        return invalid(f"Expecting shape {_brackets(first)} but got: {_brackets(shape)}")


def _wrapped(prefix: str, fault: ServingError) -> ServingError:
    return ServingError(fault.kind, f"{prefix}{_CODES[fault.kind]}: {fault.message}")


def _shape(value: Any) -> list[int]:
    """As the first value on each level tells it."""
    shape = []
    while type(value) is list:
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _size(shape: list[int]) -> int:
    size = 1
    for d in shape:
        size *= d
    return size


def _brackets(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _first(value: Any, level: int, shape: list[int], dtype: DType) -> ServingError | None:
    """The first fault, depth first."""
    if len(shape) > MAX_DIMENSIONS:
        return invalid(f"Lists are nested {len(shape)} deep, a tensor has at most {MAX_DIMENSIONS} dimensions")
    if type(value) is not list:
        if level != len(shape):
            return invalid(
                f"JSON Value: {text(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        return _of_element(value, dtype)
    if level >= len(shape):
        return invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        return invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for element in value:
        if fault := _first(element, level + 1, shape, dtype):
            return fault
    return None


def _of_element(value: Any, dtype: DType) -> ServingError | None:
    if type(value) is dict:
        if dtype is not dtypes.BYTES:
            return _wrong_type(value, dtype)
        if not is_base64(value):
            return invalid(f"JSON Value: {text(value)} not formatted correctly for base64 data")
        return invalid("Unable to base64 decode") if from_base64(value) is None else None
    if not travels(dtype):
        return ServingError(
            ErrorKind.UNSUPPORTED, f"Conversion of JSON Value: {text(value)} to type: {type_name(dtype)}"
        )
    try:
        jsonio.elements(dtype, [value])
    except jsonio.WrongElementError:
        return _wrong_type(value, dtype)
    return None


def _wrong_type(value: Any, dtype: DType) -> ServingError:
    return invalid(f"JSON Value: {text(value)} Type: {kind(value)} is not of expected type: {type_name(dtype)}")
