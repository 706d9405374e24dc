"""One HTTP/1.1 connection, the reading half: httptools parses, and what a client may make the server hold is bounded.

Bounds: the bytes and lines of a header, the bytes of a body, the bytes of all bodies together, the time to send header
and body, how slowly a body may come, the time to idle, and the number of connections. Time is checked by one sweep over
all connections each second (`Shared`), so that no request pays for a timer.

The application (through `exchange`) starts when the body is complete: no route can use half a tensor, and a slow
sender holds no task. It is cancelled when the client goes away. All of this is on the event loop.
"""

import asyncio
import os
import socket
import sys
import time
from collections import deque
from enum import Enum
from typing import Any

import httptools

from serving.protocols import jsonio
from serving.protocols.http import Headers
from serving.protocols.record import Watch
from serving.transport.admission import RETRY_AFTER_S, Admission
from serving.transport.begun import begin
from serving.transport.exchange import Admit, Exchange, head
from serving.transport.known import Known
from serving.transport.shared import Shared
from serving.transport.slices import SLICE_S

_RETRY_AFTER: Headers = [(b"retry-after", b"%d" % RETRY_AFTER_S)]
_MAX_PIPELINED = 16
_MAX_CHUNKS = 65_536  # of a chunked body
_SMALL_BODY = 64 * 1024  # of a refused request: below this the connection stays
_LINE_BYTES = 32  # what a line of a header counts besides its text, as in HTTP/2: it takes more than its bytes
_HEADER_END = b"\r\n\r\n"
_FEED_BYTES = 4096  # what the parser gets at once where a header may be: it may hold that much and not tell
_CHUNKS_BYTES = 1024  # and of a chunked body: up to 170 chunks
_MUCH_BYTES = 64 * 1024  # received at once: if many send as much, they take turns
_MAX_TURNED_AWAY = 1000  # connections that are told that there are too many; more are just closed
_GONE_S = 0.05  # after a client has closed its half, it is looked for once more
_TCP_CLOSE = 7  # Linux: the other end has said that it does not know this connection


class Phase(Enum):
    """What a connection reads."""

    IDLE = "idle"  # nothing since the last request
    HEADER = "header"
    BODY = "body"


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
        self._body_length = 0  # as the header says
        self._held_bytes = 0  # of all requests that are here
        self._arriving = False
        self._unparsed = b""  # while as many requests wait as may, or others have their turn
        self._parsed = 0  # bytes of that
        self._paused = False  # for the same reason
        self._ended = False  # the client has closed its half
        self._unsent = 0
        self._unsent_since = 0.0
        self._continue_wanted = False
        self._fresh = b""  # what began with a request, while it is parsed
        self._reading: Exchange
        self._answering: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Exchange] = deque()  # pipelined behind the one that is being answered
        self._refusal: tuple[int, str, Headers] | None = None
        self._told = False  # of the refusal
        self._writable: asyncio.Future[None] | None = None  # while the client reads too slowly

    def __repr__(self) -> str:
        busy = "answering" if self._answering else "free"
        return f"<Connection {self.peer} {self._phase.value} {busy} pipelined={len(self._waiting)}>"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's does not derive from asyncio's
        self.peer = transport.get_extra_info("peername")
        self.shared.connections.add(self)
        count, limit = len(self.shared.connections), self._limits.max_connections
        if count > limit:
            self._reject(503, f"the server has its {limit} connections already", "connections")
            if count > limit + _MAX_TURNED_AWAY:
                transport.abort()  # type: ignore[attr-defined]
            else:
                self._refuse()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.shared.connections.discard(self)
        self._waiting.clear()
        self._unparsed = b""
        self._has_arrived()
        self._release(self._held_bytes)
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()  # nobody will read the answer
        self._parser = None

    def data_received(self, data: bytes) -> None:
        if self.idle and self._refusal is None and self._writable is None:  # a new request, to be answered at once
            known = self.shared.known.split(data)
            if known is not None and self._begin(*known):
                return
            self._fresh = data
        if self._refusal is not None:  # the client may still send; what it sends is dropped
            if len(data) >= _MUCH_BYTES:
                self._rest()
            return
        if self._unparsed:
            self._unparsed, self._parsed = self._unparsed[self._parsed :] + data, 0
        elif len(data) <= _FEED_BYTES:
            self._parse(data)
        else:
            self._unparsed = data
            if self._in_chunks and self.shared.rests:
                self._rest()
            else:
                self._parse_some()
                if len(data) >= _MUCH_BYTES and len(self.shared.arriving) > 1:
                    self._rest()
        self._fresh = b""
        self._look_at_bounds()

    def _begin(self, seen: Known, body: bytes) -> bool:
        """Answers a request whose header is known. False: there is no room for its body, so that it must be parsed."""
        shared, request = self.shared, Exchange(self)
        size = request.add(body)
        if shared.held_bytes + size > self._limits.max_bodies_bytes:
            return False
        request.method, request.target, request.headers = seen.method, seen.target, seen.headers
        request.handler = seen.handler
        if shared.admit is not None:
            request.refusal = shared.admit(seen.method, seen.target, seen.headers)
        request.size = size
        self._held_bytes += size
        shared.held_bytes += size
        self._answering = request
        self._task = begin(self._loop, request.run(shared.app))
        return True

    def _look_at_bounds(self) -> None:
        """Of what has been parsed."""
        if self._phase is Phase.BODY and not self._arriving and self._refusal is None:
            self._arriving = True
            self.shared.arriving[self] = None
        if self.shared.held_bytes > self._limits.max_bodies_bytes:
            self.shared.make_room()
        if self._refusal is not None:
            self._refuse()

    @property
    def _in_chunks(self) -> bool:
        return self._phase is Phase.BODY and not self._body_length

    def _parse_some(self) -> None:
        """Of what has come; reads no more until the rest is parsed. Stops where as many requests wait as may: each is
        many times the size of its bytes. And after a while: bytes may be tens of thousands of chunks or of requests."""
        data, view = self._unparsed, memoryview(self._unparsed)
        until = time.perf_counter() + SLICE_S
        while self._parsed < len(data) and self._refusal is None and not self._paused:
            at = self._parsed
            if self._in_chunks:
                size = _CHUNKS_BYTES
            elif self._phase is Phase.BODY:
                size = max(self._body_length - self._body_bytes, _FEED_BYTES)
            else:  # to the end of the header, so that the body comes in one piece
                end = data.find(_HEADER_END, at, at + _FEED_BYTES)
                size = _FEED_BYTES if end < 0 else end + len(_HEADER_END) - at
            self._parsed += size
            self._parse(view[at : at + size])
            if time.perf_counter() > until and self._parsed < len(data):
                self._rest()
        if self._parsed >= len(data) or self._refusal is not None:
            self._unparsed, self._parsed = b"", 0

    def _parse(self, data: bytes | memoryview) -> None:
        if self._phase is Phase.IDLE:
            self._enter(Phase.HEADER)
            self._header_bytes = 0
        self._pending_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_plainly(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._reject(400, f"not a valid HTTP request: {error}", "malformed")
        if self._phase is not Phase.IDLE and self._pending_bytes > self._limits.max_header_bytes + len(data):
            self._too_large_header()

    def _rest(self) -> None:
        """Others have their turn first."""
        if not self._paused:
            self._pause()
            self.shared.go_on_later(self)

    def _pause(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def go_on_reading(self) -> None:
        """Others have had their turn, or some of those that waited have been answered."""
        if not self._paused or self.transport.is_closing() or len(self._waiting) >= _MAX_PIPELINED:
            return
        self._paused = False
        if self._refusal is not None:
            self._unparsed = b""
        elif self._unparsed:
            self._parse_some()
            self._look_at_bounds()
        if not self._paused and not self.transport.is_closing():  # what was parsed may have ended it
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        """The client will send no more. It may still read, or be gone: only what is sent to it can tell."""
        if self.transport.get_extra_info("sslcontext") is not None:  # which has no half that could be closed
            return False
        if self._answering is None and not self._waiting:
            self.shared.leave(self)
            return True
        self._ended = True
        answering = self._answering
        if answering is not None and answering.http_version == "1.1" and not answering.started:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # clients read on; who is gone will be known
        self._loop.call_later(_GONE_S, self._abort_if_gone)
        return True

    def _abort_if_gone(self) -> None:
        """uvloop does not look at a socket any more that has ended, until something is written."""
        if sys.platform == "linux" and not self.closed and not self.transport.is_closing():
            with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as own:
                if own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:
                    self.transport.abort()

    def _parse_plainly(self, rest: bytes | memoryview) -> None:
        """Parses a request that asks for another protocol again, as if it did not: httptools would drop its body."""
        asked = self._reading
        if asked.method == "CONNECT":
            self._reject(400, "the request target is not a path", "malformed")
            return
        lines = [b"%b %b HTTP/%b" % (asked.method.encode(), asked.target, asked.http_version.encode())]
        lines += [b"%b: %b" % header for header in asked.headers if header[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(b"\r\n".join((*lines, b"", b"")) + rest)
        except httptools.HttpParserUpgrade as upgrade:  # the next one in line
            self._parse_plainly(rest[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._reject(400, f"not a valid HTTP request: {error}", "malformed")

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None
        self.answer_next()

    # httptools

    def on_message_begin(self) -> None:
        self._reading = Exchange(self)
        self._header_bytes = self._body_bytes = self._body_chunks = self._body_length = self._pending_bytes = 0
        if self._phase is not Phase.HEADER:
            self._enter(Phase.HEADER)

    def on_url(self, url: bytes) -> None:
        self._reading.target += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value) + _LINE_BYTES)
        if self._refusal is None and self._phase is Phase.HEADER:  # after the body: a trailer, which nobody asked for
            self._reading.headers.append((name.lower(), value.strip()))
            if len(self._reading.headers) > self._limits.max_headers:
                self._reject(431, f"the header has more than {self._limits.max_headers} lines", "header")

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
                self._body_length = int(value)
                self._check_body(self._body_length)
            elif name == b"x-request-id":
                request.named = True
            elif name == b"expect" and value.lower() == b"100-continue":
                continues = True
        if self.shared.admit is not None and self._refusal is None:
            self._ask_to_admit(request, self.shared.admit, small=not continues)
        if continues and self._refusal is None:
            self._continue_wanted = True
            self._say_continue()

    def _ask_to_admit(self, request: Exchange, admit: Admit, small: bool) -> None:
        """A refused request is answered in its turn if its body is small, which is dropped, and otherwise at once."""
        refusal = admit(request.method, request.target, request.headers)
        if refusal is None:
            return
        request.refusal = refusal
        for name, value in request.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and int(value) > _SMALL_BODY):
                small = False
        if not small:
            self._reject(refusal.status, refusal.message, headers=refusal.headers)

    def on_body(self, chunk: bytes) -> None:
        self._pending_bytes = 0
        self._body_bytes += len(chunk)
        self._check_body(self._body_bytes)
        if self._refusal is None and self._reading.refusal is None:
            size = self._reading.add(chunk)
            self._reading.size += size
            self._held_bytes += size
            self.shared.held_bytes += size

    def on_chunk_header(self) -> None:
        self._body_chunks += 1
        if self._body_chunks > _MAX_CHUNKS:
            self._reject(400, f"the body comes in more than {_MAX_CHUNKS} chunks", "malformed")

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        if self._arriving:
            self._has_arrived()
        if self.shared.held_bytes > self._limits.max_bodies_bytes:
            self.shared.make_room()
            if self.shared.held_bytes > self._limits.max_bodies_bytes:  # by those that are under way alone
                self.give_way()
        self._enter(Phase.IDLE)
        self._pending_bytes = 0
        self._continue_wanted = False
        if self._refusal is not None:
            return
        request, length = self._reading, self._body_length
        if self._fresh and length == self._body_bytes and request.keep_alive and request.http_version == "1.1":
            self.shared.known.learn(self._fresh, request.method, request.target, request.headers, length)
        self._waiting.append(self._reading)
        self.answer_next()
        if len(self._waiting) >= _MAX_PIPELINED:
            self._pause()

    def _say_continue(self) -> None:
        """Answers to earlier requests come first."""
        if self._continue_wanted and self._answering is None and not self._waiting:
            self._continue_wanted = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # Answering

    def answer_next(self) -> None:
        """One at a time, and none while the client does not read what was answered before."""
        if self._waiting and self._answering is None and not self.congested and not self.closed:
            if self._paused and len(self._waiting) == _MAX_PIPELINED:
                self._loop.call_soon(self.go_on_reading)
            self._answering = self._waiting.popleft()
            self._task = self._loop.create_task(self._answering.run(self.shared.app))

    def answered(self, request: Exchange) -> None:
        self._answering = self._task = None
        if self.closed:
            return
        if request.size:
            self._release(request.size)
        if self._phase is Phase.IDLE:
            self._since = self._loop.time()
        if not request.keep_alive:
            self._waiting.clear()
            self.transport.close()
        elif self._waiting:
            self.shared.answer_later(self)
        elif self._refusal is not None:
            self._refuse()
        elif self._ended:
            self.transport.close()
        else:
            self._say_continue()

    @property
    def admission(self) -> Admission:
        return self.shared.admission

    @property
    def watch(self) -> Watch:
        return self.shared.watch

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
        return at_rest and self._answering is None and not self._waiting and not self._unparsed

    def close_if_overdue(self, now: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:  # the client reads, if slowly
            self._unsent, self._unsent_since = unsent, now
            self._since = max(self._since, now) if self.idle else self._since
        elif unsent and now - self._unsent_since > self._limits.idle_timeout_s:
            self.shared.admission.refused("http", "slow")
            self.transport.abort()
            return
        if self._paused:  # what does not arrive is our doing
            self._since = now
        if self._ended:
            self._abort_if_gone()
        waited = now - self._since
        if self._refusal is not None:
            if self.idle and waited > self._limits.linger_s:
                self.transport.abort()
        elif self._phase is Phase.HEADER and waited > self._limits.header_timeout_s:
            self._too_slow(f"the header did not arrive within {self._limits.header_timeout_s:g} s")
        elif self._phase is Phase.BODY and waited > self._limits.body_timeout_s:
            self._too_slow(f"the body did not arrive within {self._limits.body_timeout_s:g} s")
        elif self._phase is Phase.BODY and self._body_bytes < self._least_body_bytes(waited):
            self._too_slow(f"the body comes at less than {self._limits.min_body_bytes_per_s} bytes per second")
        elif self.idle and waited > self._limits.idle_timeout_s:
            self.transport.abort()

    def _least_body_bytes(self, waited: float) -> float:
        return self._limits.min_body_bytes_per_s * (waited - self._limits.body_grace_s)

    def _too_slow(self, why: str) -> None:
        self._reject(408, why, "slow")
        self._refuse()

    def give_way(self) -> None:
        """Gives up the body that is arriving, for others have more of a right to the memory."""
        self._has_arrived()
        self._reject(503, "the server has no memory for more bodies of requests", "memory", _RETRY_AFTER)
        self._refuse()

    def _release(self, size: int) -> None:
        self._held_bytes -= size
        self.shared.held_bytes -= size

    def _has_arrived(self) -> None:
        self._arriving = False
        self.shared.arriving.pop(self, None)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since = self._loop.time()

    def _count_header(self, size: int) -> None:
        self._pending_bytes = 0
        self._header_bytes += size
        if self._header_bytes > self._limits.max_header_bytes:
            self._too_large_header()

    def _too_large_header(self) -> None:
        self._reject(431, f"the header is larger than {self._limits.max_header_bytes} bytes", "header")

    def _check_body(self, size: int) -> None:
        if size > self._limits.max_body_bytes:
            self._reject(
                400,
                f"request JSON size of {size} bytes exceeds the maximum allowed input size of "
                f"{self._limits.max_body_bytes} bytes. Use --http-max-input-size to increase the limit.",
                "body",
            )

    def _reject(self, status: int, why: str, reason: str | None = None, headers: Headers | None = None) -> None:
        """Notes the first thing that is wrong; `data_received` acts on it when the parser has returned.

        Args:
            reason: it is counted as; None: it has been counted.
        """
        if self._refusal is not None:
            return
        self._refusal = (status, why, headers or [])
        if reason is not None:
            self.shared.admission.refused("http", reason)
        if self._phase is not Phase.IDLE:  # what has come of this one is of no use
            reading = self._reading if self._phase is Phase.BODY else None
            if reading is not None:
                reading.chunks.clear()
                self._release(reading.size)
                reading.size = 0
            self._has_arrived()

    def _refuse(self) -> None:
        """Answers an error that no application sees, and closes. Requests that came before it are answered first.

        Only the sending half is closed at once: closing a socket that holds unread bytes makes the client's system
        throw the answer away. What else it sends is dropped until it closes too, or has used up its time.
        """
        assert self._refusal is not None
        status, why, headers = self._refusal
        if self._answering is None and not self._waiting and not self._told and not self.transport.is_closing():
            self._told = True
            self._since = self._loop.time()
            body = jsonio.dump({"error": why})
            lines = [(b"content-type", b"application/json"), *headers]
            self.transport.write(head(status, lines, self.shared.date_line, len(body), b"close") + body)
            if self.transport.can_write_eof():  # TLS has no half that could be closed: the client goes by the header
                self.transport.write_eof()
