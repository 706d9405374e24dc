"""JSON for tensors: a fast parser for the usual text, a careful one for what the fast one cannot read or write.

orjson refuses bare NaN and Infinity and writes them as null; the standard library does both as protocols of this field
have it, at a tenth of the speed. So text goes to the careful parser only after the fast one has refused it.
"""

import json
import math
from array import array
from itertools import chain
from typing import Any

import numpy as np
import orjson

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ServingError, invalid

# array.array converts a list as fast as numpy does, and strictly: no text, no null, no float for an integer, nothing
# out of range. numpy would read "3" as 3 and null as NaN.
_TYPECODES = {
    dtypes.UINT8: "B", dtypes.UINT16: "H", dtypes.UINT32: "I", dtypes.UINT64: "Q",
    dtypes.INT8: "b", dtypes.INT16: "h", dtypes.INT32: "i", dtypes.INT64: "q",
    dtypes.FP32: "f", dtypes.FP64: "d",
}  # fmt: skip


def parse(body: bytes | memoryview) -> Any:
    """Reads JSON; bare NaN, Infinity and -Infinity are numbers.

    Raises:
        ServingError: INVALID, with the parser's position.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = bytes(body)
        if b"NaN" not in text and b"Infinity" not in text:
            raise _unreadable(error) from None
    try:
        value = json.loads(text.decode(), parse_float=_float)
        orjson.dumps(value)  # refuses what else the careful parser is more lenient about: lone surrogates, for one
    except RecursionError:
        raise invalid("failed to parse the request JSON buffer: it is nested too deeply") from None
    except (ValueError, TypeError) as error:  # not JSON, not UTF-8, not Unicode
        raise _unreadable(error) from None
    return value


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"number out of range: {text[:40]}")
    return value


def _unreadable(error: Exception) -> ServingError:
    return invalid(f"failed to parse the request JSON buffer: {error}")


def dump(value: Any) -> bytes:
    """Writes JSON without spaces; numpy arrays become lists, NaN and Infinity are bare."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" not in text:  # how orjson writes a number that is not finite
        return text
    return json.dumps(value, default=np.ndarray.tolist, separators=(",", ":"), ensure_ascii=False).encode()


def to_array(name: str, dtype: DType, shape: tuple[int, ...], data: Any, may_hold_bools: bool) -> np.ndarray:
    """A JSON list, nested or flat, as an array of `shape`; only the number and order of elements count.

    Args:
        may_hold_bools: False promises that no true or false is in the text, which saves looking at each element.

    Raises:
        ServingError: INVALID, naming the input, what was expected and what came.
    """
    flat = _flatten(name, data)
    size = math.prod(shape)
    if len(flat) != size:
        raise invalid(
            f"Unable to parse 'data': Shape does not match true shape of 'data' field: input '{name}' has shape "
            f"{list(shape)} ({size} elements), got {len(flat)}"
        )
    if dtype is dtypes.BYTES:
        return _strings(name, flat).reshape(shape)
    if dtype is dtypes.BOOL:
        if not set(map(type, flat)) <= {bool}:
            raise _wrong_element(name, dtype, next(e for e in flat if type(e) is not bool))
        return np.array(flat, dtype=np.bool_).reshape(shape)
    typecode = _TYPECODES.get(dtype)
    if typecode is None:
        raise invalid(
            f"receiving {dtype.name} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    if may_hold_bools and bool in set(map(type, flat)):
        raise _wrong_element(name, dtype, next(e for e in flat if type(e) is bool))
    try:
        return (
            np.frombuffer(array(typecode, flat), dtype.numpy).reshape(shape) if flat else np.empty(shape, dtype.numpy)
        )
    except (TypeError, OverflowError):
        raise _wrong_element(name, dtype, _first_wrong(typecode, flat)) from None


def _flatten(name: str, data: Any) -> list[Any]:
    if type(data) is not list:
        raise invalid(
            f"Unable to parse 'data': attempt to access JSON non-array as array: input '{name}' got {describe(data)}"
        )
    while data and type(data[0]) is list:
        if set(map(type, data)) != {list}:
            raise invalid(f"Unable to parse 'data': input '{name}' mixes lists and values on one level")
        data = list(chain.from_iterable(data))
    return data  # type: ignore[no-any-return]


def _strings(name: str, flat: list[Any]) -> np.ndarray:
    result = np.empty(len(flat), dtype=object)
    for i, element in enumerate(flat):
        if type(element) is not str:
            raise _wrong_element(name, dtypes.BYTES, element)
        try:
            result[i] = element.encode()
        except UnicodeEncodeError:
            raise invalid(f"Unable to parse 'data': input '{name}' element {i} is not valid Unicode") from None
    return result


def _first_wrong(typecode: str, flat: list[Any]) -> Any:
    for element in flat:
        try:
            array(typecode, (element,))
        except (TypeError, OverflowError):
            return element
    return None


def _wrong_element(name: str, dtype: DType, element: Any) -> ServingError:
    return invalid(f"Unable to parse 'data': input '{name}' expects {dtype.name} elements, got {describe(element)}")


def describe(value: Any) -> str:
    """What kind of JSON value this is, and the value if it is short: for messages. Safe for values of any size."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean (true)" if value else "a boolean (false)"
    if isinstance(value, int):
        return f"the integer {value}" if abs(value) < 10**40 else "an integer of more than 40 digits"
    if isinstance(value, float):
        return f"the number {value!r}"
    if isinstance(value, str):
        return f"the string {value[:40]!r}{'...' if len(value) > 40 else ''}"
    return "an array" if isinstance(value, list) else "an object"
