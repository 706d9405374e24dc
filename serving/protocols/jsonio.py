"""JSON for tensors: a fast parser for the usual text, a careful one for what the fast one cannot read. Pure.

orjson refuses bare NaN and Infinity and writes them as null, keeps the last of several equal keys, and is ten times as
fast as the standard library, which can do all of it. So text goes to the careful parser only after the fast one has
refused it, or where a key stands more often in the text than in what was read.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ServingError, invalid

# What the fast parser and writer do in about a millisecond.
_HEAVY_TEXT = 256 * 1024  # bytes
_HEAVY_ELEMENTS = 32 * 1024
_CAREFUL = 8  # how many times slower the careful parser is
LIGHT_TEXT = _HEAVY_TEXT // _CAREFUL  # bytes that are never heavy to read

MAX_DEPTH = 100  # of a tensor's lists
_TOO_DEEP = f"JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})"


class Wording(NamedTuple):
    """What a protocol family says of text that cannot be read."""

    unreadable: str  # stands before the parser's message
    bytes_travel_as: str  # where bytes that are no text belong


OIP = Wording("failed to parse the request JSON buffer: ", "binary tensor data")


def parse(body: bytes | memoryview, wording: Wording = OIP) -> Any:
    """Reads JSON; bare NaN, Infinity, Inf and their negatives are numbers.

    Raises:
        ServingError: INVALID, with the parser's position.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        failure: Exception = error
    text = bytes(body)
    if b"NaN" in text or b"Inf" in text:
        try:
            return _parse_carefully(text)
        except (ValueError, RecursionError) as error:
            failure = error
    raise _unreadable(failure, wording)


_NOT_IN_STRINGS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|Inf(?!inity)', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_NO_LONE_SURROGATE = re.compile(rb"\\[^u]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def _parse_carefully(body: bytes, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Raises: ValueError, RecursionError."""
    text = body.decode()
    if text.count("Inf") != text.count("Infinity"):
        text = _NOT_IN_STRINGS.sub(lambda found: "Infinity" if found[0] == "Inf" else found[0], text)
    if _SURROGATE.search(body) and _SURROGATE.search(_NO_LONE_SURROGATE.sub(b"", body)):
        raise ValueError("lone surrogate in a string")  # which the standard library would let pass
    return json.loads(text, parse_float=_finite, object_pairs_hook=pairs_hook)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"number out of range: {text[:40]}")
    return value


def _unreadable(failure: Exception, wording: Wording) -> ServingError:
    text = str(failure)
    if isinstance(failure, RecursionError) or "depth limit" in text or "Recursion limit" in text:
        return invalid(_TOO_DEEP)
    if isinstance(failure, UnicodeDecodeError) or "surrogate" in text:
        text = f"a string is not valid Unicode ({text}); bytes that are not text travel as {wording.bytes_travel_as}"
    return invalid(wording.unreadable + text)


def is_heavy_to_read(text: bytes) -> bool:
    """Would reading this keep the event loop for more than about a millisecond?"""
    if len(text) <= LIGHT_TEXT:
        return False
    return len(text) > _HEAVY_TEXT or holds(text, b"NaN", b"N") or holds(text, b"Inf", b"I")


def may_hold_bools(text: bytes) -> bool:
    """False where no true or false is in the text, which saves looking at each element."""
    return holds(text, b"true", b"u") or holds(text, b"false", b"l")


def refuse_duplicates(body: bytes, held: Mapping[str, int]) -> None:
    """Refuses an object that holds a key twice, of which the parsers keep the last one silently.

    Args:
        body: text that `parse` could read.
        held: for each key that names a tensor, how many objects of the parsed value hold it.

    Raises:
        ServingError: INVALID, naming the key.
    """
    as_often = all(_count(body, b'"%b"' % key.encode(), b'"') == times for key, times in held.items())
    if as_often and not _may_hide(body, held):
        return  # the text has no key that the value does not have

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            seen = set()
            for key, _ in pairs:
                if key in seen and key in held:
                    raise invalid(f"input '{key}' already exists in request")
                seen.add(key)
        return value

    try:
        _parse_carefully(body, unique)
    except RecursionError:
        raise invalid(_TOO_DEEP) from None


def _may_hide(body: bytes, keys: Iterable[str]) -> bool:
    """Could a key be spelled with escapes, and so be missed by a search for its plain form?"""
    if b"\\" not in body:
        return False
    text = "".join(keys)
    if "/" in text and b"\\/" in body:
        return True
    return re.search(rb"\\u00[2-7]" if text.isascii() else rb"\\u", body) is not None


def holds(text: bytes, word: bytes, letter: bytes) -> bool:
    """`word in text`, faster where `letter`, the first such one of the word, is rare in texts."""
    return _count(text, word, letter) > 0


def _count(text: bytes, word: bytes, letter: bytes) -> int:
    """How often `word` is in `text`. Fast where `letter`, the first such one of the word, is rare: systems look for one
    byte fifty times as fast as Python looks for several."""
    if len(text) < 2048:
        return text.count(word)
    lead = word.index(letter)
    found, at = 0, -1
    for _ in range(64):
        at = text.find(letter, at + 1)
        if at < 0:
            return found
        found += at >= lead and text.startswith(word, at - lead)
    return found + text.count(word, at + 1)


def dump(value: Any) -> bytes:
    """Writes JSON without spaces; numpy arrays become lists, NaN and Infinity are bare."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    if not holds(text, b"null", b"u"):  # how orjson writes a number that is not finite
        return text
    return orjson.dumps(_with_bare_numbers(value), option=orjson.OPT_SERIALIZE_NUMPY)


def _with_bare_numbers(value: Any) -> Any:
    """The same value, with text instead of what holds a number that is not finite."""
    if isinstance(value, float | np.floating):
        return value if math.isfinite(value) else orjson.Fragment(_NAMES[str(value)])
    if isinstance(value, np.ndarray):
        return value if value.dtype.kind != "f" or np.isfinite(value).all() else _bare(value)
    if isinstance(value, dict):
        return {key: _with_bare_numbers(v) for key, v in value.items()}
    if isinstance(value, list | tuple) and set(map(type, value)) != {str}:
        return [_with_bare_numbers(v) for v in value]
    return value


_NAMES = {"nan": b"NaN", "inf": b"Infinity", "-inf": b"-Infinity"}


def _bare(numbers: np.ndarray) -> orjson.Fragment:
    """In the text of numbers alone, the n-th null is the n-th that is not finite."""
    pieces = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY).split(b"null")
    names = [_NAMES[str(number)] for number in numbers[~np.isfinite(numbers)].tolist()]
    return orjson.Fragment(b"".join(chain.from_iterable(zip(pieces, [*names, b""], strict=True))))


def is_heavy_to_write(arrays: Iterable[np.ndarray]) -> bool:
    """Would writing these keep the event loop for more than about a millisecond?"""
    rest = _HEAVY_ELEMENTS
    for array_ in arrays:
        rest -= array_.size
        if rest >= 0 and array_.dtype == object:
            rest -= sum(map(len, array_.flat)) // 8  # a number is some ten characters
        if rest < 0:
            return True
    return False


# struct converts a list in a third of the time that numpy or array.array need, and strictly: no text, no null, no float
# for an integer, nothing out of range. numpy would read "3" as 3 and null as NaN. These are its native types.
_TYPECODES = {
    dtypes.UINT8: "B", dtypes.UINT16: "H", dtypes.UINT32: "I", dtypes.UINT64: "Q",
    dtypes.INT8: "b", dtypes.INT16: "h", dtypes.INT32: "i", dtypes.INT64: "q",
    dtypes.FP32: "f", dtypes.FP64: "d",
}  # fmt: skip


class WrongElementError(Exception):
    """An element that its tensor cannot hold; what to say of that differs between protocols."""

    def __init__(self, index: int, value: Any) -> None:
        super().__init__(index, value)
        self.index = index
        self.value = value


def travels(dtype: DType) -> bool:
    """Do elements of this type travel in JSON?"""
    return dtype in _TYPECODES or dtype is dtypes.BYTES or dtype is dtypes.BOOL


def elements(
    dtype: DType, flat: list[Any], bools: bool = True, bytes_of: Callable[[Any], bytes | None] | None = None
) -> np.ndarray:
    """Parsed JSON values as a tensor [len(flat)], strictly: nothing is taken for something else.

    Args:
        dtype: one that `travels`.
        bools: False promises that no true or false is among them, which saves looking at each.
        bytes_of: reads an element of a BYTES tensor that is not a string; None if it is nothing for one.

    Raises:
        WrongElementError: the first.
    """
    if dtype is dtypes.BYTES:
        return _strings(flat, bytes_of)
    if dtype is dtypes.BOOL:
        if not set(map(type, flat)) <= {bool}:
            raise _first(flat, lambda value: type(value) is not bool)
        return np.array(flat, dtype=np.bool_)
    if bools and bool in set(map(type, flat)):
        raise _first(flat, lambda value: type(value) is bool)
    typecode = _TYPECODES[dtype]
    try:
        return np.frombuffer(struct.pack(f"{len(flat)}{typecode}", *flat), dtype.numpy)
    except struct.error:
        at = _first_unfit(typecode, flat)
        raise WrongElementError(at, flat[at]) from None


def _strings(flat: list[Any], bytes_of: Callable[[Any], bytes | None] | None) -> np.ndarray:
    result = np.empty(len(flat), dtype=object)
    try:
        result[:] = list(map(str.encode, flat))
        return result
    except (TypeError, UnicodeEncodeError):
        pass  # slowly, then
    for i, element in enumerate(flat):
        try:
            value = element.encode() if type(element) is str else bytes_of(element) if bytes_of else None
        except UnicodeEncodeError:
            value = None
        if value is None:
            raise WrongElementError(i, element)
        result[i] = value
    return result


def _first(flat: list[Any], wrong: Callable[[Any], bool]) -> WrongElementError:
    return next(WrongElementError(i, value) for i, value in enumerate(flat) if wrong(value))


def _first_unfit(typecode: str, flat: list[Any]) -> int:
    """The index of the first element that cannot be converted, of a list that has one: by halves."""
    start, size = 0, len(flat)
    while size > 1:
        half = size // 2
        try:
            struct.pack(f"{half}{typecode}", *flat[start : start + half])
        except struct.error:
            size = half
        else:
            start, size = start + half, size - half
    return start


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
    if not travels(dtype):
        raise invalid(
            f"receiving {dtype.name} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    try:
        return elements(dtype, flat, may_hold_bools).reshape(shape)
    except WrongElementError as wrong:
        raise invalid(
            f"Unable to parse 'data': input '{name}' expects {dtype.name} elements, got {describe(wrong.value)}"
        ) from None


def _flatten(name: str, data: Any) -> list[Any]:
    if type(data) is not list:
        raise invalid(
            f"Unable to parse 'data': attempt to access JSON non-array as array: input '{name}' got {describe(data)}"
        )
    depth = 1
    while data and type(data[0]) is list:
        depth += 1
        if depth > MAX_DEPTH:
            raise invalid(_TOO_DEEP)
        if set(map(type, data)) != {list}:
            raise invalid(f"Unable to parse 'data': input '{name}' mixes lists and values on one level")
        data = list(chain.from_iterable(data))
    return data  # type: ignore[no-any-return]


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
