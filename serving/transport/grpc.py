"""The gRPC listener: `grpc.aio` with generic handlers, so that messages are parsed by codecs and nowhere else."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio

from serving.core.errors import ErrorKind, ServingError
from serving.protocols import compression
from serving.protocols.asks import TIMING, asks_for_timing
from serving.protocols.grpc import Call, Method, Service, StreamMethod, retry_metadata
from serving.protocols.record import REQUEST_ID, Record, Watch
from serving.protocols.status import Family, grpc_status
from serving.transport.access.grpc import GrpcDoor, checked, checked_stream, refusing
from serving.transport.admission import Admission
from serving.transport.limits import GrpcLimits
from serving.transport.tls import Tls

log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

_LINGER_S = 0.5  # the listener closes when no call came for this long
_MAX_LINGER_S = 5.0  # or after this, for clients that go on and on
_FLUSH_S = 1.0
# Calls that run models, and count as requests under way. A stream is one of them.
_RUNS = frozenset(("ModelInfer", "ModelStreamInfer", "Predict", "Classify", "Regress", "MultiInference"))
_COMPRESSED = frozenset((b"\x1f", b"\x78"))  # what messages begin with that may be: gzip, deflate
_TOLD = frozenset((TIMING, REQUEST_ID))  # metadata that calls are looked through for
_MAX_DETAILS = 2000  # bytes of a status message: it travels in a header, each byte that is not ASCII as three


class _OfClients(logging.Filter):
    """Keeps out what grpc.aio says, with a trace each time, when a client is gone before its answer."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("ExecuteBatchError")


_QUIET = _OfClients()


class GrpcListener:
    def __init__(
        self,
        services: Sequence[Service],
        limits: GrpcLimits,
        admission: Admission | None = None,
        watch: Watch | None = None,
        door: GrpcDoor | None = None,
        tls: Tls | None = None,
    ) -> None:
        """
        Args:
            admission: what the listeners of the server have in common; None: this one is alone, and takes all.
            watch: says which calls are noted; None: those that say an id.
            door: says who may call what; None: everybody.
            tls: of the port; None: connections are plain, as those on a Unix socket always are.
        """
        self._tls = tls
        self._calls = _Calls(admission or Admission(), limits, watch or Watch())
        logging.getLogger("grpc._cython.cygrpc").addFilter(_QUIET)
        self._server = grpc.aio.server(options=limits.options, maximum_concurrent_rpcs=limits.max_open_calls)
        self._server.add_generic_rpc_handlers((_Methods(services, self._calls, door),))

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
        if self._tls is not None:
            return self._server.add_secure_port(address, self._tls.credentials())
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

    def __init__(self, admission: Admission, limits: GrpcLimits, watch: Watch) -> None:
        self.admission = admission
        self.watch = watch
        self.max_metadata_bytes = limits.max_metadata_bytes
        self.max_decompressed_bytes = min(limits.max_decompressed_bytes, limits.max_message_bytes)
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

    def __init__(self, source: AsyncIterator[bytes], calls: _Calls, record: Record | None) -> None:
        self._source = source
        self._messages: AsyncIterator[bytes] | None = None  # what is never read must not be begun
        self._record = record
        self._calls = calls
        self._next: asyncio.Future[bytes] | None = None
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if self._messages is None:
            self._messages = aiter(self._source)
        self._next = asyncio.ensure_future(anext(self._messages))
        try:
            data = await self._next
            if self._record is not None:
                self._record.received_bytes += len(data)
            return await _inflated(data, self._calls) if data[:1] in _COMPRESSED else data
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


async def _inflated(data: bytes, calls: _Calls) -> bytes:
    """A message that begins as compressed ones do, as it was before. gRPC does not say which ones are.

    No message of protobuf begins as gzip does. One may begin as deflate does, but not go on and end like it.

    Raises:
        ServingError: INVALID, if it is broken; TOO_MANY, if there is more of it than there may be, which comes to the
            status that gRPC has for large messages.
    """
    gzip = data[:2] == b"\x1f\x8b"
    if not gzip and (data[:1] != b"\x78" or int.from_bytes(data[:2]) % 31):
        return data
    encoding, limit = b"gzip" if gzip else b"deflate", calls.max_decompressed_bytes
    try:
        if compression.is_heavy_to_decompress(encoding, data):
            return await asyncio.to_thread(compression.decompress, encoding, data, limit)
        return compression.decompress(encoding, data, limit)
    except compression.TooLargeError:
        calls.admission.refused("grpc", "decompressed")
        raise ServingError(
            ErrorKind.TOO_MANY,
            f"the message is larger than {limit} bytes when it is decompressed. "
            "Use --grpc-max-decompressed-size to increase the limit.",
        ) from None
    except ServingError:
        if gzip:
            raise
        return data


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
    """All methods by their paths. Whether a call says an id, or wants to know where its time goes, is seen here, where
    its metadata are at hand: for a handler it would be work to ask."""

    def __init__(self, services: Sequence[Service], calls: _Calls, door: GrpcDoor | None) -> None:
        self._calls = calls
        self._door = door
        self._services = {service.service: service for service in services}
        self._plain: dict[str, Any] = {}
        self._told: dict[str, Any] = {}
        for service in services:
            family = service.family
            for name, method in service.methods.items():
                path = f"/{service.service}/{name}"
                self._plain[path] = _unary(method, path, family, calls)
                self._told[path] = _unary(method, path, family, calls, told=True)
            for name, stream in service.streams.items():
                path = f"/{service.service}/{name}"
                self._plain[path] = _stream(stream, path, family, calls)
                self._told[path] = _stream(stream, path, family, calls, told=True)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        size, told = 0, False
        for key, value in handler_call_details.invocation_metadata or ():
            size += len(key) + len(value)
            told = told or key in _TOLD
        if size > self._calls.max_metadata_bytes:  # gRPC overlooks what comes in several frames
            return self._refused_metadata(size, handler_call_details.method)
        if self._door is not None:
            guarded = self._guarded(self._door, handler_call_details)
            if guarded is not None:
                return guarded
        return (self._told if told else self._plain).get(handler_call_details.method)

    def _refused_metadata(self, size: int, path: str) -> Any:
        self._calls.admission.refused("grpc", "header")
        why = f"metadata size exceeds what is allowed ({size} vs. {self._calls.max_metadata_bytes} bytes)"
        return _stream(refusing(ServingError(ErrorKind.TOO_MANY, why)), path, Family.OIP, self._calls)

    def _guarded(self, door: GrpcDoor, about: grpc.HandlerCallDetails) -> Any:
        """A handler for this call alone, if it is refused, which needs no message of it, or if its messages have to
        pass too; None: it is like all others."""
        path, metadata = about.method, about.invocation_metadata or ()
        told = any(key in _TOLD for key, _ in metadata)
        name, _, method = path.removeprefix("/").partition("/")
        service = self._services.get(name)
        family = Family.OIP if service is None else service.family
        try:
            check = door(path, metadata)
        except ServingError as error:
            return _stream(refusing(error), path, family, self._calls, told)
        if check is None or service is None:
            return None
        if method in service.methods:
            return _unary(checked(service.methods[method], check), path, family, self._calls, told)
        return _stream(checked_stream(service.streams[method], check), path, family, self._calls, told)


def _unary(method: Method, path: str, family: Family, calls: _Calls, told: bool = False) -> Any:
    """`told`: the metadata hold something that we go by."""
    admission = calls.admission if path.rpartition("/")[2] in _RUNS else None
    watch = calls.watch

    async def call(data: bytes, context: Context) -> bytes:
        if calls.refused:
            await calls.turn_away(context)
        calls.under_way += 1
        about = _about(context)
        record = _begin(watch, path, context, about, len(data)) if told or watch.on else None
        admitted = False
        try:
            if admission is not None:
                if (refusal := admission.enter("grpc")) is not None:
                    raise refusal
                admitted = True
            if data[:1] in _COMPRESSED:
                data = await _inflated(data, calls)
            answer = await method(data, about)
            if about.trailing:
                context.set_trailing_metadata(about.trailing)
            if record is not None:
                record.status, record.sent_bytes = "OK", len(answer)
            return answer
        except Exception as error:
            code = _fail(context, family, about, error)
            if record is not None:
                record.status = code.name
            return b""
        finally:
            if record is not None:
                watch.end(record)
            if admitted:
                calls.admission.leave()
            calls.end()

    return grpc.unary_unary_rpc_method_handler(call)


def _stream(method: StreamMethod, path: str, family: Family, calls: _Calls, told: bool = False) -> Any:
    """For every kind of streaming: where the protocol has one message, the stream is of that one."""
    admission = calls.admission if path.rpartition("/")[2] in _RUNS else None
    watch = calls.watch

    # A coroutine that writes, not a generator: when the call is cancelled, `method` is closed at once.
    async def call(requests: AsyncIterator[bytes], context: Context) -> None:
        if calls.refused:
            await calls.turn_away(context)
        calls.under_way += 1
        about = _about(context)
        record = _begin(watch, path, context, about) if told or watch.on else None
        reader = _Requests(requests, calls, record)
        calls.streams.add(reader)
        admitted = False
        try:
            if admission is not None:
                if (refusal := admission.enter("grpc")) is not None:
                    raise refusal
                admitted = True
            answers: Any = method(reader, about)
            async with aclosing(answers) as messages:
                async for message in messages:
                    await context.write(message)
                    if record is not None:
                        record.sent_bytes += len(message)
            if about.trailing:
                context.set_trailing_metadata(about.trailing)
            if record is not None:
                record.status = "OK"
        except Exception as error:
            code = _fail(context, family, about, error)
            if record is not None:
                record.status = code.name
        finally:
            if record is not None:
                watch.end(record)
            calls.streams.discard(reader)
            if admitted:
                calls.admission.leave()
            calls.end()

    return grpc.stream_stream_rpc_method_handler(call)


def _about(context: Context) -> Call:
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    return Call(deadline, context.invocation_metadata)


def _begin(watch: Watch, path: str, context: Context, about: Call, received_bytes: int = 0) -> Record | None:
    """Reads what the metadata say."""
    metadata = context.invocation_metadata() or ()
    about.timing = any(key == TIMING and asks_for_timing(value) for key, value in metadata)
    record = watch.grpc(path, metadata, context.peer, received_bytes)
    if record is not None:
        about.trailing = record.metadata
    return record


def _fail(context: Context, family: Family, about: Call, error: Exception) -> grpc.StatusCode:
    """Gives the call the status of what went wrong. Not by `abort`: gRPC keeps what that raises, and the request with
    it, until the garbage collector comes."""
    if isinstance(error, ServingError):
        code, text = status(error, family, about, time.monotonic()), _short(error.message)
        about.trailing += retry_metadata(error)
    else:
        log.error("a gRPC call failed", exc_info=error)
        code, text = grpc.StatusCode.INTERNAL, "internal error; the server's log has the details"
    if about.trailing:
        context.set_trailing_metadata(about.trailing)
    context.set_code(code)
    context.set_details(text)
    return code


def status(error: ServingError, family: Family, about: Call, now: float) -> grpc.StatusCode:
    """The family's, but where the call's own deadline has passed: that is what its client says then, if it is first."""
    if error.kind is ErrorKind.EXPIRED and about.deadline is not None and now >= about.deadline:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc_status(error.kind, family)
