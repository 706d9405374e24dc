"""What a client may ask for besides an answer, the same over all protocols, and what it hears of time. Pure.

It may want the answer in time, and to be told where the time went; a refused one is told when to come again.
"""

import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from serving.core.errors import ServingError, invalid
from serving.core.types import Timing

# Milliseconds; the second one is what Envoy tells the servers behind it.
_LIMITS = frozenset((b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"))
_MILLISECONDS = re.compile(rb"[0-9]{1,12}(?:\.[0-9]{1,9})?")

TIMING = "x-serving-timing"  # a header of requests, or metadata: 1 asks for SERVER_TIMING
SERVER_TIMING = "server-timing"
_TIMING = TIMING.encode()
_YES = frozenset(("1", "true"))


@dataclass(frozen=True, slots=True)
class Asks:
    """`deadline` is on the monotonic clock."""

    deadline: float | None = None
    timing: bool = False


NOTHING = Asks()


def may_ask(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """False: `of_headers` finds nothing in them, whenever it is asked."""
    return any(name == _TIMING or name in _LIMITS for name, _ in headers)


def of_headers(headers: Iterable[tuple[bytes, bytes]], by: float | None = None) -> Asks:
    """What the headers of an HTTP request ask for, which has just arrived.

    Args:
        headers: names in lower case.
        by: a deadline that holds anyway.

    Raises:
        ServingError: INVALID, naming the header.
    """
    limits_ms, timing = [], False
    for name, value in headers:
        if name in _LIMITS:
            limits_ms.append(_milliseconds(name, value))
        elif name == _TIMING:
            timing = asks_for_timing(value.decode("latin-1"))
    limit_ms = min(filter(None, limits_ms), default=None)
    if limit_ms is None:
        return Asks(by, timing) if timing or by is not None else NOTHING
    deadline = time.monotonic() + limit_ms / 1000
    return Asks(deadline if by is None else min(by, deadline), timing)


def asks_for_timing(value: str | bytes) -> bool:
    return value in _YES


def _milliseconds(name: bytes, value: bytes) -> float:
    if not _MILLISECONDS.fullmatch(value):
        raise invalid(
            f"invalid value for header '{name.decode()}', expected a number of milliseconds >= 0, "
            f"got '{value[:40].decode('latin-1')}'"
        )
    return float(value)


def server_timing(decode_s: float, timing: Timing, encode_s: float, total_s: float) -> str:
    """The value of a Server-Timing header: milliseconds, and the rows of the batch that the request ran in."""
    return (
        f"decode;dur={decode_s * 1e3:.3f}, queue;dur={timing.queue_s * 1e3:.3f}, "
        f"compute;dur={timing.compute_s * 1e3:.3f}, encode;dur={encode_s * 1e3:.3f}, "
        f'total;dur={total_s * 1e3:.3f}, batch;desc="{timing.rows} rows"'
    )


def retry_after_ms(error: ServingError) -> int | None:
    """When the client may try again, in whole milliseconds, at least one; None: nothing is known of that."""
    return None if error.retry_after_s is None else max(math.ceil(error.retry_after_s * 1000), 1)
