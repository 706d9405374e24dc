"""The few parts of protobuf's wire format that let large fields pass without a message object in between.

A message class copies every `bytes` field and makes a Python object of every number. `split` takes large fields out as
views and leaves the rest to the message class; `field` and `varint` put fields together.
"""

from collections.abc import Collection, Sequence

LENGTH_DELIMITED = 2
_SIZES = {1: 8, 5: 4}  # of the wire types with a fixed size


class UnusualError(Exception):
    """Not a form that is read here: perhaps malformed, perhaps just rare. The message class knows."""


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, size: int) -> bytes:
    """What comes before `size` bytes of a length-delimited field."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(size)


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The value at `at`, and where it ends.

    Raises:
        UnusualError: there is none.
    """
    value = shift = 0
    try:
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise UnusualError
    except IndexError:
        raise UnusualError from None


def place(data: bytes, path: Sequence[int], begin: int = 0, end: int | None = None) -> tuple[int, int] | None:
    """Where a length-delimited field begins and ends, its number the last of `path`, the others those of the messages
    around it. None: there is none, or one of them comes several times, or the bytes are no message."""
    at, end = begin, len(data) if end is None else end
    found = None
    try:
        while at < end:
            tag, at = read_varint(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == LENGTH_DELIMITED:
                size, at = read_varint(data, at)
                if number == path[0]:
                    if found is not None:
                        return None
                    found = at, at + size
                at += size
            elif number == path[0] or kind not in (0, *_SIZES):
                return None
            else:
                at = read_varint(data, at)[1] if kind == 0 else at + _SIZES[kind]
    except UnusualError:
        return None
    if at != end or found is None:
        return None
    return found if len(path) == 1 else place(data, path[1:], *found)


def split(data: memoryview, wanted: Collection[int]) -> tuple[list[tuple[int, memoryview]], bytes]:
    """The length-delimited fields whose numbers are wanted, as views in their order, and the bytes of all others.

    Raises:
        UnusualError: a wanted field has another wire type, or the bytes are no message.
    """
    found: list[tuple[int, memoryview]] = []
    rest = []
    at, end = 0, len(data)
    while at < end:
        start = at
        tag, at = read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == LENGTH_DELIMITED:
            size, at = read_varint(data, at)
            begin, at = at, at + size
            if number in wanted and at <= end:
                found.append((number, data[begin:at]))
                continue
        elif number in wanted:
            raise UnusualError
        elif kind == 0:
            _, at = read_varint(data, at)
        elif kind in _SIZES:
            at += _SIZES[kind]
        else:
            raise UnusualError
        if at > end:
            raise UnusualError
        rest.append(data[start:at])
    return found, b"".join(rest)
