"""One HTTP/1.1 connection, the reading half: httptools parses, and what a client may make the server hold is bounded.

Bounds: the bytes of a header, the time to send header and body, the bytes of a body, the time to idle, and the number
of connections. Time is checked by one sweep over all connections each second, so that no request pays for a timer.

The application (through `exchange`) starts when the body is complete: no route can use half a tensor, and a slow
sender holds no task. It is cancelled when the client goes away. All of this is on the event loop.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from typing import Any

import httptools

from serving.transport.exchange import App, Exchange, head

_MAX_PIPELINED = 16
_MAX_CHUNKS = 65_536  # of a chunked body
_MANY_PIECES = 1000  # of a body: from here on they are joined, because each is an object with a size of its own


@dataclass(frozen=True)
class HttpLimits:
    max_body_bytes: int = 64 * 1024 * 1024
    max_header_bytes: int = 64 * 1024
    max_connections: int = 10_000
    header_timeout_s: float = 10.0  # from the first byte of a request to the end of its header
    body_timeout_s: float = 60.0  # from the end of the header to the end of the body
    idle_timeout_s: float = 75.0  # between requests
    linger_s: float = 2.0  # from a refusal to the end of the connection


class Phase(Enum):
    """What a connection reads."""

    IDLE = "idle"  # nothing since the last request
    HEADER = "header"
    BODY = "body"


class Shared:
    """What the connections of one listener have in common."""

    def __init__(self, app: App, limits: HttpLimits, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.limits = limits
        self.loop = loop
        self.connections: set[Connection] = set()
        self.draining = False
        self.date_line = _date_line()

    def sweep(self) -> None:
        """Called about once a second: closes connections that have used up their time."""
        self.date_line = _date_line()
        now = self.loop.time()
        for connection in list(self.connections):
            connection.close_if_overdue(now)


def _date_line() -> bytes:
    return b"date: %b\r\n" % formatdate(usegmt=True).encode()


class Connection(asyncio.Protocol):
    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._limits = shared.limits
        self._loop = shared.loop
        self._parser: Any = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport
        self.peer: Any = None
        self.closed = False
        self._phase = Phase.IDLE
        self._since = self._loop.time()  # when the phase began
        self._header_bytes = 0  # of lines that are complete
        self._pending_bytes = 0  # received since the parser last gave us a line or a chunk: it holds them
        self._body_bytes = 0
        self._body_chunks = 0
        self._unsent = 0
        self._continue_wanted = False
        self._reading: Exchange
        self._answering: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Exchange] = deque()  # pipelined behind the one that is being answered
        self._refusal: tuple[int, str] | None = None
        self._writable: asyncio.Future[None] | None = None  # while the client reads too slowly

    def __repr__(self) -> str:
        busy = "answering" if self._answering else "free"
        return f"<Connection {self.peer} {self._phase.value} {busy} pipelined={len(self._waiting)}>"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's does not derive from asyncio's
        self.peer = transport.get_extra_info("peername")
        self.shared.connections.add(self)
        if len(self.shared.connections) > self._limits.max_connections:
            self._refuse(503, f"the server has its {self._limits.max_connections} connections already")

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.shared.connections.discard(self)
        self._waiting.clear()
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()  # nobody will read the answer
        self._parser = None

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:  # the client may still send; what it sends is dropped
            return
        if self._phase is Phase.IDLE:
            self._enter(Phase.HEADER)
            self._header_bytes = 0
        self._pending_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_plainly(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._reject(400, f"not a valid HTTP request: {error}")
        if self._phase is not Phase.IDLE and self._pending_bytes > self._limits.max_header_bytes + len(data):
            self._too_large_header()
        if self._refusal is not None:
            self._refuse(*self._refusal)

    def _parse_plainly(self, rest: bytes) -> None:
        """Parses a request that asks for another protocol again, as if it did not: httptools would drop its body."""
        asked = self._reading
        if asked.method == "CONNECT":
            self._reject(400, "the request target is not a path")
            return
        lines = [b"%b %b HTTP/%b" % (asked.method.encode(), asked.target, asked.http_version.encode())]
        lines += [b"%b: %b" % header for header in asked.headers if header[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(b"\r\n".join((*lines, b"", b"")) + rest)
        except httptools.HttpParserUpgrade as upgrade:  # the next one in line
            self._parse_plainly(rest[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._reject(400, f"not a valid HTTP request: {error}")

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None
        self._answer_next()

    # httptools

    def on_message_begin(self) -> None:
        self._reading = Exchange(self)
        self._header_bytes = self._body_bytes = self._body_chunks = self._pending_bytes = 0
        if self._phase is not Phase.HEADER:
            self._enter(Phase.HEADER)

    def on_url(self, url: bytes) -> None:
        self._reading.target += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value))
        if self._refusal is None and self._phase is Phase.HEADER:  # after the body: a trailer, which nobody asked for
            self._reading.headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        request, parser = self._reading, self._parser
        request.method = parser.get_method().decode("ascii")
        request.http_version = parser.get_http_version()
        if parser.should_upgrade():  # see _parse_plainly
            return
        self._enter(Phase.BODY)
        request.keep_alive = parser.should_keep_alive()
        continues = False
        for name, value in request.headers:
            if name == b"content-length":
                self._check_body(int(value))
            elif name == b"expect" and value.lower() == b"100-continue":
                continues = True
        if continues and self._refusal is None:
            self._continue_wanted = True
            self._say_continue()

    def on_body(self, chunk: bytes) -> None:
        self._pending_bytes = 0
        self._body_bytes += len(chunk)
        self._check_body(self._body_bytes)
        if self._refusal is None:
            self._reading.add(chunk, join=len(self._reading.chunks) >= _MANY_PIECES)

    def on_chunk_header(self) -> None:
        self._body_chunks += 1
        if self._body_chunks > _MAX_CHUNKS:
            self._reject(400, f"the body comes in more than {_MAX_CHUNKS} chunks")

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        self._enter(Phase.IDLE)
        self._pending_bytes = 0
        self._continue_wanted = False
        if self._refusal is not None:
            return
        self._waiting.append(self._reading)
        self._answer_next()
        if len(self._waiting) == _MAX_PIPELINED:
            self.transport.pause_reading()

    def _say_continue(self) -> None:
        """Answers to earlier requests come first."""
        if self._continue_wanted and self._answering is None and not self._waiting:
            self._continue_wanted = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # Answering

    def _answer_next(self) -> None:
        """One at a time, and none while the client does not read what was answered before."""
        if self._waiting and self._answering is None and not self.congested and not self.closed:
            if len(self._waiting) == _MAX_PIPELINED:
                self.transport.resume_reading()
            self._answering = self._waiting.popleft()
            self._task = self._loop.create_task(self._answering.run(self.shared.app))

    def answered(self, request: Exchange) -> None:
        self._answering = self._task = None
        if self.closed:
            return
        if self._phase is Phase.IDLE:
            self._since = self._loop.time()
        if not request.keep_alive:
            self._waiting.clear()
            self.transport.close()
        elif self._waiting:
            self._answer_next()
        elif self._refusal is not None:
            self._refuse(*self._refusal)
        else:
            self._say_continue()

    @property
    def draining(self) -> bool:
        return self.shared.draining

    @property
    def date_line(self) -> bytes:
        return self.shared.date_line

    @property
    def congested(self) -> bool:
        return self._writable is not None

    async def writable(self) -> None:
        if self._writable is not None:
            await self._writable

    # Bounds

    def close(self) -> None:
        """Closes when what is written has been sent."""
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    @property
    def idle(self) -> bool:
        at_rest = self._phase is Phase.IDLE or self._refusal is not None
        return at_rest and self._answering is None and not self._waiting

    def close_if_overdue(self, now: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:  # the client reads, if slowly
            self._unsent, self._since = unsent, max(self._since, now) if self.idle else self._since
        waited = now - self._since
        if self._refusal is not None:
            if self.idle and waited > self._limits.linger_s:
                self.transport.abort()
        elif self._phase is Phase.HEADER and waited > self._limits.header_timeout_s:
            self._refuse(408, f"the header did not arrive within {self._limits.header_timeout_s:g} s")
        elif self._phase is Phase.BODY and waited > self._limits.body_timeout_s:
            self._refuse(408, f"the body did not arrive within {self._limits.body_timeout_s:g} s")
        elif self.idle and waited > self._limits.idle_timeout_s:
            self.transport.abort()  # also of a client that never read its answer

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since = self._loop.time()

    def _count_header(self, size: int) -> None:
        self._pending_bytes = 0
        self._header_bytes += size
        if self._header_bytes > self._limits.max_header_bytes:
            self._too_large_header()

    def _too_large_header(self) -> None:
        self._reject(431, f"the header is larger than {self._limits.max_header_bytes} bytes")

    def _check_body(self, size: int) -> None:
        if size > self._limits.max_body_bytes:
            self._reading.chunks.clear()
            self._reject(
                400,
                f"request JSON size of {size} bytes exceeds the maximum allowed input size of "
                f"{self._limits.max_body_bytes} bytes. Use --http-max-input-size to increase the limit.",
            )

    def _reject(self, status: int, why: str) -> None:
        """Notes the first thing that is wrong; `data_received` acts on it when the parser has returned."""
        if self._refusal is None:
            self._refusal = (status, why)

    def _refuse(self, status: int, why: str) -> None:
        """Answers an error that no application sees, and closes. Requests that came before it are answered first.

        Only the sending half is closed at once: closing a socket that holds unread bytes makes the client's system
        throw the answer away. What else it sends is dropped until it closes too, or has used up its time.
        """
        self._refusal = (status, why)
        if self._answering is None and not self._waiting and not self.transport.is_closing():
            self._since = self._loop.time()
            body = b'{"error":"%b"}' % why.replace('"', "'").encode()
            headers = [(b"content-type", b"application/json")]
            self.transport.write(head(status, headers, self.shared.date_line, len(body), b"close") + body)
            self.transport.write_eof()
