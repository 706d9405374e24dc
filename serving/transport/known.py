"""Headers of requests that came before, byte by byte. On the event loop.

What a client sends is the same each time but for the body: path and header of its requests need not be parsed again,
nor what they ask for be worked out. Only requests that come whole, in one piece, are looked at like this.
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving.core.memo import Memo
from serving.protocols.http import Handler, Headers

MAX_BYTES = 2048  # of a header
MAX_BODY_BYTES = 64 * 1024  # of larger ones, parsing the header is the least part
_END = b"\r\n\r\n"

# A header with one of these is not the same next time, or asks for more than an answer.
_OWN = frozenset((b"x-request-id", b"traceparent", b"tracestate", b"expect", b"transfer-encoding"))

Find = Callable[[str, bytes, Headers], Handler | None]  # see `exchange.Handles`


@dataclass(frozen=True, slots=True)
class Known:
    """A request without its body, which has `length` bytes."""

    method: str
    target: bytes
    headers: Headers
    length: int
    handler: Handler


class Headings:
    """Of the connections of one listener.

    Args:
        find: gives the handlers; None: there are none, and nothing is kept.
    """

    def __init__(self, find: Find | None) -> None:
        self._find = find
        self._known: Memo[bytes, Known] = Memo()  # by the bytes of the header, its end included

    def split(self, data: bytes) -> tuple[Known, bytes] | None:
        """A request whose header is known, and its body, if `data` is one and no more."""
        end = _end(data)
        known = self._known.get(data[:end])
        return (known, data[end:]) if known is not None and len(data) == end + known.length else None

    def learn(self, data: bytes, method: str, target: bytes, headers: Headers, length: int) -> None:
        """Keeps the header of a request that came with a body of so many bytes, if that is all of `data`."""
        end = _end(data)
        if self._find is None or len(data) != end + length or not worth_knowing(method, headers, length):
            return
        handler = self._find(method, target, headers)
        if handler is not None:
            self._known.keep(data[:end], Known(method, target, headers, length, handler))


def _end(data: bytes) -> int:
    return data.find(_END, 0, MAX_BYTES) + len(_END)


def worth_knowing(method: str, headers: Headers, length: int) -> bool:
    """Whether requests with the same header may come again, and can be answered like this one."""
    return method == "POST" and 0 < length <= MAX_BODY_BYTES and not any(name in _OWN for name, _ in headers)
