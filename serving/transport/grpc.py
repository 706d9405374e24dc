"""The gRPC listener: `grpc.aio` with generic handlers, so that messages are parsed by codecs and nowhere else."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio

from serving.core.errors import ErrorKind, ServingError
from serving.protocols.asks import TIMING, asks_for_timing
from serving.protocols.grpc import Call, Method, Service, StreamMethod, retry_metadata
from serving.protocols.status import Family, grpc_status

log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

INT32_MAX = 2**31 - 1
_LINGER_S = 0.5  # the listener closes when no call came for this long
_MAX_LINGER_S = 5.0  # or after this, for clients that go on and on
_FLUSH_S = 1.0
_MAX_DETAILS = 2000  # bytes of a status message: it travels in a header, each byte that is not ASCII as three


@dataclass(frozen=True)
class GrpcLimits:
    max_message_bytes: int = INT32_MAX
    max_concurrent_streams: int = 1000  # per connection
    max_metadata_bytes: int = 16 * 1024


class GrpcListener:
    def __init__(self, services: Sequence[Service], limits: GrpcLimits) -> None:
        self._calls = _Calls()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", INT32_MAX),
                ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
                ("grpc.max_metadata_size", limits.max_metadata_bytes),
                ("grpc.so_reuseport", 0),  # a port that is taken is an error, not half of the traffic
            ]
        )
        self._server.add_generic_rpc_handlers((_Methods(services, self._calls),))

    async def listen(self, host: str, port: int | None, path: Path | None = None) -> int:
        """Binds and accepts; returns the port, which the system chose if `port` is 0.

        Args:
            port: None: there is none, and 0 is returned.
            path: a Unix socket to accept on too.

        Raises:
            OSError: the port is taken, or the host is not one of this machine; or the socket cannot be made.
        """
        bound = 0
        try:
            if path is not None and not self._server.add_insecure_port(f"unix:{path}"):
                raise OSError(f"cannot listen on the socket '{path}'")
            if port is not None:
                bound = self._bind(host, port)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        await self._server.start()
        return bound

    def _bind(self, host: str, port: int) -> int:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        _try_to_bind(host, port)  # gRPC itself would log a failure in its own way, and not say why
        return self._server.add_insecure_port(address)

    async def stop(self, limit_s: float) -> bool:
        """Refuses new calls and waits for those under way, at most `limit_s`; then cancels them.

        gRPC itself would answer calls that have arrived, and that no handler has taken yet, with CANCELLED, which
        clients do not retry. So calls are refused with UNAVAILABLE first, until for a while nobody has sent any.

        Returns:
            True if everything was answered within `limit_s`.
        """
        calls = self._calls
        calls.refuse()
        started = time.monotonic()
        while time.monotonic() < started + limit_s:
            quiet_since = max(started, min(calls.last, started + _MAX_LINGER_S))
            if not calls.under_way and time.monotonic() > quiet_since + _LINGER_S:
                break
            await asyncio.sleep(0.01)
        clean = not calls.under_way
        await self._server.stop(_FLUSH_S if clean else 0.0)
        return clean


class _Calls:
    """The calls of one listener."""

    def __init__(self) -> None:
        self.under_way = 0
        self.last = 0.0  # when one was there, in monotonic seconds; known from the time on when they are refused
        self.streams: set[_Requests] = set()
        self.refused = False

    def refuse(self) -> None:
        """Takes no more calls, and no more requests of the streams that are open."""
        self.refused = True
        for reader in self.streams:
            reader.end()

    async def turn_away(self, context: Context) -> None:
        """Raises: grpc.aio.AbortError."""
        self.last = time.monotonic()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Server exiting")

    def end(self) -> None:
        self.under_way -= 1
        if self.refused:
            self.last = time.monotonic()


class _Requests:
    """The requests of one stream, until the client or the server ends them."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = aiter(source)
        self._next: asyncio.Future[bytes] | None = None
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        self._next = asyncio.ensure_future(anext(self._source))
        try:
            return await self._next
        except asyncio.CancelledError:
            if self._ended:
                raise StopAsyncIteration from None
            raise
        finally:
            self._next = None  # or what ends the stream would hold it, and all that it has brought

    def end(self) -> None:
        self._ended = True
        if self._next is not None:
            self._next.cancel()


def _short(text: str) -> str:
    return text.encode("utf-8", "replace")[:_MAX_DETAILS].decode("utf-8", "ignore")


def _try_to_bind(host: str, port: int) -> None:
    """Raises: OSError: with the system's reason."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None


class _Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """All methods by their paths. Whether a call wants to know where its time goes is seen here, where its metadata are
    at hand: for a handler it would be work to ask."""

    def __init__(self, services: Sequence[Service], calls: _Calls) -> None:
        self._plain: dict[str, Any] = {}
        self._timed: dict[str, Any] = {}
        for service in services:
            family = service.family
            for name, method in service.methods.items():
                self._plain[f"/{service.service}/{name}"] = _unary(method, family, calls)
                self._timed[f"/{service.service}/{name}"] = _unary(method, family, calls, timing=True)
            for name, stream in service.streams.items():
                self._plain[f"/{service.service}/{name}"] = _stream(stream, family, calls)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        for key, value in handler_call_details.invocation_metadata or ():
            if key == TIMING and asks_for_timing(value):
                path = handler_call_details.method
                return self._timed.get(path) or self._plain.get(path)
        return self._plain.get(handler_call_details.method)


def _unary(method: Method, family: Family, calls: _Calls, timing: bool = False) -> Any:
    async def call(data: bytes, context: Context) -> bytes:
        if calls.refused:
            await calls.turn_away(context)
        calls.under_way += 1
        about = _about(context)
        about.timing = timing
        try:
            answer = await method(data, about)
            if about.trailing:
                context.set_trailing_metadata(about.trailing)
            return answer
        except Exception as error:
            _fail(context, family, about, error)
            return b""
        finally:
            calls.end()

    return grpc.unary_unary_rpc_method_handler(call)


def _stream(method: StreamMethod, family: Family, calls: _Calls) -> Any:
    """For every kind of streaming: where the protocol has one message, the stream is of that one."""

    # A coroutine that writes, not a generator: when the call is cancelled, `method` is closed at once.
    async def call(requests: AsyncIterator[bytes], context: Context) -> None:
        if calls.refused:
            await calls.turn_away(context)
        calls.under_way += 1
        about = _about(context)
        reader = _Requests(requests)
        calls.streams.add(reader)
        answers: Any = method(reader, about)
        try:
            async with aclosing(answers) as messages:
                async for message in messages:
                    await context.write(message)
        except Exception as error:
            _fail(context, family, about, error)
        finally:
            calls.streams.discard(reader)
            calls.end()

    return grpc.stream_stream_rpc_method_handler(call)


def _about(context: Context) -> Call:
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    return Call(deadline, context.invocation_metadata)


def _fail(context: Context, family: Family, about: Call, error: Exception) -> None:
    """Gives the call the status of what went wrong. Not by `abort`: gRPC keeps what that raises, and the request with
    it, until the garbage collector comes."""
    if isinstance(error, ServingError):
        code, text = status(error, family, about, time.monotonic()), _short(error.message)
        retry = retry_metadata(error)
        if retry:
            context.set_trailing_metadata(retry)
    else:
        log.error("a gRPC call failed", exc_info=error)
        code, text = grpc.StatusCode.INTERNAL, "internal error; the server's log has the details"
    context.set_code(code)
    context.set_details(text)


def status(error: ServingError, family: Family, about: Call, now: float) -> grpc.StatusCode:
    """The family's, but where the call's own deadline has passed: that is what its client says then, if it is first."""
    if error.kind is ErrorKind.EXPIRED and about.deadline is not None and now >= about.deadline:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc_status(error.kind, family)
