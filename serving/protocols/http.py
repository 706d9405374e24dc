"""An HTTP answer as codecs give it and listeners send it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from serving.core.errors import ServingError
from serving.protocols import jsonio
from serving.protocols.asks import SERVER_TIMING, retry_after_ms
from serving.protocols.status import Family, http_status
from serving.repository.catalog import Catalog

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")


@dataclass(slots=True)
class HttpReply:
    """Status, body, and the headers besides content-length."""

    status: int
    body: bytes
    headers: Headers = field(default_factory=lambda: [JSON])


Handler = Callable[[bytes], Awaitable[HttpReply]]  # answers a body, where all else that the request says is known


def json_reply(value: Any, status: int = 200) -> HttpReply:
    return HttpReply(status, jsonio.dump(value))


def error_reply(error: ServingError, family: Family) -> HttpReply:
    reply = json_reply({"error": error.message}, http_status(error.kind, family))
    reply.headers += retry_headers(error)
    return reply


def retry_headers(error: ServingError) -> Headers:
    """When to try again, if that is known: in whole seconds as HTTP has it, and in milliseconds."""
    wait_ms = retry_after_ms(error)
    if wait_ms is None:
        return []
    return [(b"retry-after", b"%d" % -(-wait_ms // 1000)), (b"retry-after-ms", b"%d" % wait_ms)]


def add_timing(reply: HttpReply, timing: str) -> HttpReply:
    """The same reply with its Server-Timing."""
    return HttpReply(reply.status, reply.body, [*reply.headers, (SERVER_TIMING.encode(), timing.encode())])


def route_key(catalog: Catalog, model: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What decides which version a request goes to, if the model has a sticky header and the request brings it.

    Args:
        headers: names in lower case.
    """
    name = catalog.sticky(model)
    if name is None:
        return None
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in headers if key == wanted), None)
