"""A ModelInferRequest taken apart without a message object: where its tensors are, its id, and all the rest. Pure.

Reads what every encoder of protobuf writes; anything else that protobuf allows is left to its own parser.
"""

from typing import NamedTuple

from serving.protocols.messages import oip
from serving.protocols.wire import LENGTH_DELIMITED, UnusualError, read_varint

_FIELDS = oip.ModelInferRequest.DESCRIPTOR.fields_by_name
_TAG = {name: field.number << 3 | LENGTH_DELIMITED for name, field in _FIELDS.items()}  # all of them are of this type
_RAW, _ID = _TAG["raw_input_contents"], _TAG["id"]
_OTHERS = frozenset(_TAG.values())


class Walked(NamedTuple):
    """`head`: all fields but the id and the raw contents, as they came. `raw`: where each of these begins and ends."""

    head: bytes
    id: str
    raw: list[tuple[int, int]]


def walk(data: bytes) -> Walked:
    """
    Raises:
        UnusualError: these bytes are for protobuf's parser, to read or to refuse.
    """
    at, end = 0, len(data)
    taken = 0  # of what is not in `head`, the last ended here
    heads: list[bytes] = []
    raw: list[tuple[int, int]] = []
    found: bytes | None = None
    try:
        while at < end:
            start = at
            tag, size = data[at], data[at + 1]
            at += 2
            if size > 0x7F:
                size, at = _size(data, at - 1)
            if tag == _RAW:
                raw.append((at, at + size))
            elif tag == _ID:
                if found is not None:
                    raise UnusualError
                found = data[at : at + size]
            elif tag in _OTHERS:
                at += size
                continue
            else:
                raise UnusualError
            if taken < start:
                heads.append(data[taken:start])
            at += size
            taken = at
    except IndexError:
        raise UnusualError from None
    if at != end:
        raise UnusualError
    if taken < end:
        heads.append(data[taken:])
    try:
        text = "" if found is None else found.decode()
    except UnicodeDecodeError:
        raise UnusualError from None
    return Walked(heads[0] if len(heads) == 1 else b"".join(heads), text, raw)


def _size(data: bytes, at: int) -> tuple[int, int]:
    size, end = read_varint(data, at)
    if not data[end - 1]:  # longer than it has to be
        raise UnusualError
    return size, end
