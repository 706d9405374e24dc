"""HTTP in a replica: what the server's own listener does for its application, done for requests that Ray hands over.

Bodies are read whole and within the limit, and what goes wrong is answered. On the replica's loop.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from serving.protocols.http import HttpReply, json_reply
from serving.transport.exchange import Admit

log = logging.getLogger(__name__)

_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


class Front:
    """Plain ASGI around the application of the server.

    Args:
        metrics: the text of a scrape, of all replicas.
        metrics_paths: where it is.
        admit: says of a request's header whether it is refused; None: none is.
    """

    def __init__(
        self,
        app: Any,
        max_body_bytes: int,
        metrics: Callable[[], Awaitable[bytes]],
        metrics_paths: frozenset[str],
        admit: Admit | None = None,
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._metrics = metrics
        self._metrics_paths = metrics_paths
        self._admit = admit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def tell(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._answer(scope, receive, tell)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await _send(json_reply({"error": "internal error; the server's log has the details"}, 500), send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if self._admit is not None:
            refusal = self._admit(scope["method"], _target(scope), scope["headers"])
            if refusal is not None:
                reply = json_reply({"error": refusal.message}, refusal.status)
                reply.headers += refusal.headers
                await _send(reply, send)
                return
        if scope["method"] == "GET" and scope["path"] in self._metrics_paths:
            await _send(HttpReply(200, await self._metrics(), [(b"content-type", _TEXT)]), send)
            return
        body = await self._whole(receive)
        if body is None:  # the client has gone
            return
        if len(body) > self._max_body_bytes:
            text = f"the body is larger than the {self._max_body_bytes} bytes that http_max_input_size allows"
            await _send(json_reply({"error": text}, 400), send)
            return
        given = False

        async def whole() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, whole, send)

    async def _whole(self, receive: Any) -> bytes | None:
        """The body, or as much of it as tells that it is too large; None: it did not come."""
        parts, size = [], 0
        while size <= self._max_body_bytes:
            message = await receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body"):
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _target(scope: Any) -> bytes:
    """What the request line named: path and query, as they came."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return path + b"?" + query if query else path


async def _send(reply: HttpReply, send: Any) -> None:
    headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
