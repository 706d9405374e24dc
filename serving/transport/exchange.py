"""One HTTP request and its answer: the ASGI side of a connection."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from serving.protocols import jsonio
from serving.protocols.http import JSON, Handler, Headers, HttpReply, retry_headers
from serving.protocols.record import Record, Watch
from serving.protocols.status import Family, http_status
from serving.transport.admission import Admission

log = logging.getLogger(__name__)

App = Callable[[Any, Any, Any], Awaitable[None]]


@runtime_checkable
class Handles(Protocol):
    """An application that can be asked in another way: by the header alone, and then with one body after the other."""

    def handler(self, method: str, target: bytes, headers: Headers) -> Handler | None:
        """What answers requests with this header; None: only the application itself does. It is called outside of any
        task; see `begun`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that no application gives: an error, and the headers besides its content type."""

    status: int
    message: str
    headers: Headers


Admit = Callable[[str, bytes, Headers], Refusal | None]  # method, target, headers with names in lower case

_STATUS_LINE = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}
_JOIN_BELOW = 64 * 1024  # a body below this is copied behind its header, to be one write
_JOIN_HERE_BELOW = 4 * 1024 * 1024
_PIECE_BYTES = 64  # what a piece of a body takes besides its bytes, while it is an object of its own
_MANY_PIECES = 1000  # from here on they are joined
_BODYLESS = frozenset((204, 304))
_ALWAYS = ("/serving/", "/v2/repository/")  # what operators send: a server that is too busy needs them most


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


def split(target: bytes) -> tuple[str, bytes, bytes] | None:
    """The path, decoded and as it came, and the query; None: the target is no path."""
    if not target.startswith(b"/"):  # absolute form, as proxies send it
        try:
            parts = urlsplit(target)
        except ValueError:
            return None
        target = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
        if not target.startswith(b"/"):
            return None
    path, _, query = target.partition(b"?")
    return unquote(path.decode("latin-1")) if b"%" in path else path.decode("latin-1"), path, query


def _counts(scope: dict[str, Any] | None) -> bool:
    """Is it one of those that may be too many? What only reads is answered always: probes and scrapes have to see
    how busy the server is. None: it is an inference."""
    return scope is None or (scope["method"] == "POST" and not scope["path"].startswith(_ALWAYS))


async def _whole(chunks: list[bytes]) -> bytes:
    """The chunks of a body as one. A large body is joined in a thread, for joining releases the interpreter."""
    if len(chunks) == 1:
        return chunks[0]
    if sum(map(len, chunks)) < _JOIN_HERE_BELOW:
        return b"".join(chunks)
    return await asyncio.to_thread(b"".join, chunks)


class Wire(Protocol):
    """The connection, as an exchange sees it."""

    transport: asyncio.Transport
    peer: Any
    closed: bool

    @property
    def admission(self) -> Admission:
        """Of all listeners together."""

    @property
    def watch(self) -> Watch:
        """Says which requests are noted."""

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
        "_joined",
        "_start",
        "_started",
        "_streaming",
        "chunks",
        "handler",
        "headers",
        "http_version",
        "keep_alive",
        "method",
        "named",
        "record",
        "refusal",
        "size",
        "target",
    )

    def __init__(self, connection: Wire) -> None:
        self._connection = connection
        self.target = b""
        self.headers: Headers = []
        self.chunks: list[bytes] = []  # of the body
        self.size = 0  # of what is held for it, in bytes
        self.method = ""
        self.http_version = "1.1"
        self.keep_alive = True
        self.handler: Handler | None = None  # the application's, if the header was known
        self.refusal: Refusal | None = None  # the application is not asked
        self.named = False  # it says an id of its own
        self.record: Record | None = None  # what is noted of it, if anything is
        self._joined = 0  # of the chunks are many pieces in one
        self._start: tuple[int, Headers] | None = None  # status and headers, as the application gave them
        self._started = False  # the header is written
        self._streaming = False  # chunked
        self._done = False

    def add(self, piece: bytes) -> int:
        """Takes a piece of the body; how many bytes more are held for it. Many small ones are joined: each is an object
        with a size of its own."""
        self.chunks.append(piece)
        if len(self.chunks) - self._joined < _MANY_PIECES:
            return len(piece) + _PIECE_BYTES
        self.chunks[self._joined :] = [b"".join(self.chunks[self._joined :])]
        self._joined += 1
        return len(piece) - _PIECE_BYTES * (_MANY_PIECES - 2)

    async def run(self, app: App) -> None:
        connection = self._connection
        watch = connection.watch
        if watch.on or self.named:
            parts = split(self.target)
            received_bytes = sum(map(len, self.chunks))
            path = b"" if parts is None else parts[1]
            self.record = watch.http(self.method, path, self.headers, connection.peer, received_bytes)
        entered = False
        try:
            scope = self._scope() if self.handler is None else None
            if self.refusal is not None:
                await self._answer_text(
                    self.refusal.status, jsonio.dump({"error": self.refusal.message}), self.refusal.headers
                )
            elif scope is None and self.handler is None:
                await self._answer_text(400, b'{"error":"the request target is not a path"}')
            elif (counts := _counts(scope)) and (error := connection.admission.enter("http")) is not None:
                await self._answer_text(
                    http_status(error.kind, Family.OWN), jsonio.dump({"error": error.message}), retry_headers(error)
                )
            else:
                entered = counts
                if self.handler is not None:
                    await self._answer(await self.handler(self.chunks.pop()))
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
        finally:
            if entered:
                connection.admission.leave()
        if self.record is not None:
            watch.end(self.record)
        connection.answered(self)

    def _scope(self) -> dict[str, Any] | None:
        parts = split(self.target)
        if parts is None:
            return None
        path, raw_path, query = parts
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self.http_version,
            "method": self.method,
            "scheme": "http",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": self._connection.peer,
            "server": None,
        }

    @property
    def started(self) -> bool:
        """Some of the answer has been sent."""
        return self._started

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
        if self._connection.closed:
            return
        if message["type"] == "http.response.start":
            self._start = message["status"], message.get("headers", [])
            return
        await self._send(message.get("body", b""), message.get("more_body", False))

    async def _answer(self, reply: HttpReply) -> None:
        if not self._connection.closed:
            self._start = reply.status, reply.headers
            await self._send(reply.body, more=False)

    async def _send(self, body: bytes, more: bool) -> None:
        connection = self._connection
        if self.record is not None:
            self.record.sent_bytes += len(body)
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
        status, headers = start
        if self.record is not None:
            self.record.status = status
            headers = [*headers, *self.record.headers]
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

    async def _answer_text(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        await self._answer(HttpReply(status, body, [JSON, *headers]))
