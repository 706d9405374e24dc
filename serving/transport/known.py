"""Headers of requests that came before, byte by byte. On the event loop.

What a client sends is the same each time but for the body: path and header of its requests need not be parsed again,
nor what they ask for be worked out. Only requests that come whole, in one piece, are looked at like this.
"""

from dataclasses import dataclass

from serving.core.memo import Memo
from serving.protocols.http import Handler, Headers

MAX_BYTES = 2048  # of a header
MAX_BODY_BYTES = 64 * 1024  # of larger ones, parsing the header is the least part

# A header with one of these is not the same next time, or asks for more than an answer.
_OWN = frozenset((b"x-request-id", b"traceparent", b"tracestate", b"expect", b"transfer-encoding"))


@dataclass(frozen=True, slots=True)
class Known:
    """A request without its body, which has `length` bytes."""

    method: str
    target: bytes
    headers: Headers
    length: int
    handler: Handler


Headings = Memo[bytes, Known]  # by the bytes of the header, its end included


def worth_knowing(method: str, headers: Headers, length: int) -> bool:
    """Whether requests with the same header may come again, and can be answered like this one."""
    return method == "POST" and 0 < length <= MAX_BODY_BYTES and not any(name in _OWN for name, _ in headers)
