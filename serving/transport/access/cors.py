"""What pages from other origins may read: the answers to a browser's questions, and headers on all others (CORS).

An ASGI application around another. Cookies have no meaning here, so credentials are never allowed.
"""

from collections.abc import Sequence
from typing import Any

from serving.protocols.http import Headers
from serving.transport.exchange import App

_EXPOSED = b"inference-header-content-length, retry-after, retry-after-ms, server-timing, x-request-id"
_MAX_AGE = b"600"  # seconds
_ANY = "*"


class Cors:
    """
    Args:
        origins: such as `https://example.org`; `*`: any.
    """

    def __init__(self, app: App, origins: Sequence[str]) -> None:
        self._app = app
        self._any = _ANY in origins
        self._origins = {origin.encode("latin-1", "replace") for origin in origins}

    def is_preflight(self, method: str, headers: Headers) -> bool:
        """Whether it is a browser's question, of an origin that is allowed."""
        asked = any(name == b"access-control-request-method" for name, _ in headers)
        return method == "OPTIONS" and asked and self._allowed(headers) is not None

    def headers(self, headers: Headers) -> Headers:
        """For the answer to a request with `headers`."""
        allowed = self._allowed(headers)
        lines: Headers = [] if self._any else [(b"vary", b"origin")]
        if allowed is not None:
            lines += [(b"access-control-allow-origin", allowed), (b"access-control-expose-headers", _EXPOSED)]
        return lines

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        if self.is_preflight(scope["method"], headers):
            await send({"type": "http.response.start", "status": 204, "headers": self._permission(headers)})
            await send({"type": "http.response.body", "body": b""})
            return
        lines = self.headers(headers)

        async def send_with(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *lines]}
            await send(message)

        await self._app(scope, receive, send_with)

    def _permission(self, headers: Headers) -> Headers:
        wanted = next((value for name, value in headers if name == b"access-control-request-headers"), b"")
        lines = [
            *(line for line in self.headers(headers) if line[0] != b"access-control-expose-headers"),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-max-age", _MAX_AGE),
        ]
        return [*lines, (b"access-control-allow-headers", wanted)] if wanted else lines

    def _allowed(self, headers: Headers) -> bytes | None:
        """What is said to be allowed to the origin that asks."""
        origin = next((value for name, value in headers if name == b"origin"), None)
        if origin is None or not (self._any or origin in self._origins):
            return None
        return _ANY.encode() if self._any else origin
