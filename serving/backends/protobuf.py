"""A few lines of protobuf's wire format, enough to look at parts of a model's file. Pure.

What is not looked at is skipped by its length, so weights are never read. Of the forms that runtimes read in different
ways, or that none of them writes, nothing is guessed: a file with one of them is refused. Otherwise it could show one
thing here and another to the runtime.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Bytes = bytes | mmap.mmap
Span = tuple[int, int]  # where the contents of a field start and end

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_KEY = 2**32  # runtimes drop the bits beyond


@contextmanager
def opened(path: Path) -> Iterator[Bytes]:
    """The contents of a file, of which only what is looked at gets into memory.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            yield b""  # cannot be mapped
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of bytes of the message in data[start:end]: number, start and end of each; the others are skipped.

    Raises:
        ValueError: it is no message.
    """
    at = start
    while at < end:
        key = data[at]
        at += 1
        if key > 0x7F:
            key, at = _varint(data, at - 1, end)
            if key >= _MAX_KEY:
                raise ValueError(f"no field of protobuf at byte {at}")
        kind = key & 7
        if key < 8:
            raise ValueError(f"no field of protobuf at byte {at}")
        if kind == _BYTES:
            if at >= end:
                raise ValueError(f"no number at byte {at}")
            length = data[at]
            at += 1
            if length > 0x7F:
                length, at = _varint(data, at - 1, end)
            stop = at + length
            if stop > end:
                raise ValueError(f"{length} bytes at byte {at} do not fit")
            yield key >> 3, at, stop
            at = stop
        elif kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no field of protobuf at byte {at}")
    if at != end:
        raise ValueError(f"a number that ends at byte {at} does not fit")


def parts(data: Bytes, span: Span, *path: int) -> Iterator[Span]:
    """The fields of bytes that lie at `path`, field numbers from the outside in; `parts(data, model, 7, 1)` are all
    fields 1 in all fields 7.

    Raises:
        ValueError: it is no message.
    """
    number, *rest = path
    for found, start, end in fields(data, *span):
        if found == number:
            if rest:
                yield from parts(data, (start, end), *rest)
            else:
                yield start, end


def numbers(data: Bytes, span: Span, wanted: int) -> Iterator[int]:
    """The values of a field of whole numbers, packed or not.

    Raises:
        ValueError: it is no message.
    """
    at, end = span
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == _BYTES:
            length, at = _varint(data, at, end)
            stop = min(at + length, end)
            while key >> 3 == wanted and at < stop:
                value, at = _varint(data, at, stop)
                yield value
            at = stop
        elif kind == _VARINT:
            value, at = _varint(data, at, end)
            if key >> 3 == wanted:
                yield value
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no field of protobuf at byte {at}")


def text(data: Bytes, start: int, end: int) -> str:
    return data[start:end].decode(errors="backslashreplace")


def last_text(data: Bytes, span: Span, number: int) -> str:
    """A field of text, which counts as protobuf has it: the last one; empty: there is none."""
    found = ""
    for start, end in parts(data, span, number):
        found = text(data, start, end)
    return found


def _varint(data: Bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"no number at byte {at}")
