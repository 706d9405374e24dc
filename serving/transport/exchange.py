"""One HTTP request and its answer: the ASGI side of a connection."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

log = logging.getLogger(__name__)

App = Callable[[Any, Any, Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_STATUS_LINE = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_JOIN_BELOW = 64 * 1024  # a body below this is copied behind its header, to be one write
_JOIN_HERE_BELOW = 4 * 1024 * 1024
_BODYLESS = frozenset((204, 304))


def head(
    status: int, headers: Headers, date_line: bytes, size: int | None, connection: bytes = b"", chunked: bool = False
) -> bytes:
    """The bytes of a response header.

    Args:
        size: of the body; None: it is chunked, or ends with the connection, or there is none (204, 304).
        connection: the value of that header; empty: left out.
    """
    parts = [_STATUS_LINE[status], date_line]
    for name, value in headers:
        if name != b"content-length":
            parts += (name, b": ", value, b"\r\n")
    if size is not None:
        parts.append(b"content-length: %d\r\n" % size)
    elif chunked:
        parts.append(b"transfer-encoding: chunked\r\n")
    parts.append(b"connection: %b\r\n\r\n" % connection if connection else b"\r\n")
    return b"".join(parts)


async def _whole(chunks: list[bytes | bytearray]) -> bytes:
    """The chunks of a body as one. A large body is joined in a thread, for joining releases the interpreter."""
    if len(chunks) == 1:
        return bytes(chunks[0])
    if sum(map(len, chunks)) < _JOIN_HERE_BELOW:
        return b"".join(chunks)
    return await asyncio.to_thread(b"".join, chunks)


class Wire(Protocol):
    """The connection, as an exchange sees it."""

    transport: asyncio.Transport
    peer: Any
    closed: bool

    @property
    def draining(self) -> bool:
        """No further request is taken on this connection."""

    @property
    def date_line(self) -> bytes: ...

    @property
    def congested(self) -> bool:
        """The client reads more slowly than the server writes."""

    async def writable(self) -> None:
        """Returns when the client has caught up."""

    def answered(self, request: "Exchange") -> None:
        """Called when the answer is written, or never will be."""


class Exchange:
    """Filled by the connection's parser, then run with the application once."""

    __slots__ = (
        "_connection",
        "_done",
        "_start",
        "_started",
        "_streaming",
        "chunks",
        "headers",
        "http_version",
        "keep_alive",
        "method",
        "target",
    )

    def __init__(self, connection: Wire) -> None:
        self._connection = connection
        self.target = b""
        self.headers: Headers = []
        self.chunks: list[bytes | bytearray] = []  # of the body
        self.method = ""
        self.http_version = "1.1"
        self.keep_alive = True
        self._start: dict[str, Any] | None = None  # the application's http.response.start
        self._started = False  # the header is written
        self._streaming = False  # chunked
        self._done = False

    def add(self, chunk: bytes, join: bool) -> None:
        """Takes a piece of the body; `join`: and makes one of all that there are."""
        if join:
            self.chunks = [bytearray().join(self.chunks)]
        if self.chunks and isinstance(self.chunks[0], bytearray):
            self.chunks[0] += chunk
        else:
            self.chunks.append(chunk)

    async def run(self, app: App) -> None:
        connection = self._connection
        try:
            scope = self._scope()
            if scope is None:
                await self._answer_text(400, b'{"error":"the request target is not a path"}')
            else:
                await app(scope, self.receive, self.send)
                if not self._done:
                    raise RuntimeError("the application ended without a complete answer")
        except asyncio.CancelledError:  # the client went away, or the server's time is up
            self.keep_alive = False
        except Exception:
            if not connection.closed:
                log.exception("%s %s failed", self.method, self.target.decode("latin-1"))
                self.keep_alive = False
                if not self._started:
                    await self._answer_text(500, b'{"error":"internal error; the server\'s log has the details"}')
        connection.answered(self)

    def _scope(self) -> dict[str, Any] | None:
        target = self.target
        if not target.startswith(b"/"):  # absolute form, as proxies send it
            try:
                parts = urlsplit(target)
            except ValueError:
                return None
            target = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
            if not target.startswith(b"/"):
                return None
        path, _, query = target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.http_version,
            "method": self.method,
            "scheme": "http",
            "path": unquote(path.decode("latin-1")) if b"%" in path else path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": self._connection.peer,
            "server": None,
        }

    async def receive(self) -> dict[str, Any]:
        """The whole body in one message; afterwards a disconnect, once the answer is complete.

        Nothing waits here for the client to go away: the task is cancelled then.
        """
        if self.chunks is not None:
            chunks, self.chunks = self.chunks, None  # type: ignore[assignment]
            return {"type": "http.request", "body": await _whole(chunks), "more_body": False}
        if not self._done:
            await asyncio.get_running_loop().create_future()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        connection = self._connection
        if connection.closed:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not self._started:
            self._write_first(body, more)
        else:
            self._write_more(body, more)
        if not more:
            self._done = True
        elif connection.congested:
            await connection.writable()

    def _write_first(self, body: bytes, more: bool) -> None:
        connection, start = self._connection, self._start
        if start is None:
            raise RuntimeError("the application sent a body before a status")
        status, headers = start["status"], start.get("headers", [])
        if connection.draining:
            self.keep_alive = False
        keeps = (
            b"" if self.keep_alive and self.http_version == "1.1" else b"keep-alive" if self.keep_alive else b"close"
        )
        size: int | None = len(body)
        if more:
            size = next((int(v) for k, v in headers if k.lower() == b"content-length"), None)
            if size is None and self.http_version == "1.0":  # knows no chunks: the body ends with the connection
                self.keep_alive, keeps = False, b"close"
            self._streaming = size is None and self.http_version != "1.0"
        elif status in _BODYLESS:
            size = None
        elif self.method == "HEAD":
            size = next((int(v) for k, v in headers if k.lower() == b"content-length"), size)
        top = head(status, headers, connection.date_line, size, keeps, self._streaming)
        self._started = True
        if self.method == "HEAD" or status in _BODYLESS:
            connection.transport.write(top)
        elif self._streaming:
            connection.transport.write(top)
            self._write_more(body, more)
        elif len(body) < _JOIN_BELOW:
            connection.transport.write(top + body)
        else:
            connection.transport.write(top)
            connection.transport.write(body)

    def _write_more(self, body: bytes, more: bool) -> None:
        if self.method == "HEAD":
            return
        if self._streaming:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = chunk if more else chunk + b"0\r\n\r\n"
        if body:
            self._connection.transport.write(body)

    async def _answer_text(self, status: int, body: bytes) -> None:
        await self.send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await self.send({"type": "http.response.body", "body": body})
