"""The gRPC listener: calls as they come over a socket, as bytes."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.protocols.grpc import Call, Method, StreamMethod
from serving.protocols.messages import oip as m
from serving.protocols.oip import metadata
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.status import Family, grpc_status
from serving.transport.grpc import GrpcListener, status
from serving.transport.limits import GrpcLimits
from tests import models
from tests.leftovers import Marker, without_collector
from tests.protocols.build import serving_engine
from tests.transport.raw import on_loop, until

Code = grpc.StatusCode


class Answerer:
    """A service whose one method does what a test sets it to."""

    service = "test.Service"
    family = Family.OIP

    def __init__(self) -> None:
        self.methods: dict[str, Method] = {"Ask": self.ask}
        self.streams: dict[str, StreamMethod] = {"Chat": self.chat}
        self.calls: list[Call] = []
        self.opened = asyncio.Event()
        self.opened.set()
        self.error: Exception | None = None
        self.cancelled = 0

    async def chat(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for data in requests:
            yield await self.ask(data, call)
        yield b"bye"

    async def ask(self, data: bytes, call: Call) -> bytes:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return data + b"!"


class Reader:
    """A service that makes something of what it is sent, and then fails."""

    service = "test.Service"
    family = Family.OIP

    def __init__(self, read: Callable[[], Marker]) -> None:
        self.methods: dict[str, Method] = {"Ask": self.ask}
        self.streams: dict[str, StreamMethod] = {"Chat": self.chat}
        self._read = read

    async def ask(self, data: bytes, call: Call) -> bytes:
        read = self._read()
        raise invalid(f"what a {read}")

    async def chat(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        async for data in requests:
            yield await self.ask(data, call)


class Caller:
    def __init__(self, listener: GrpcListener, port: int) -> None:
        self.listener = listener
        self.port = port
        self._channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}",
            options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
        )

    def chat(self, method: str = "/test.Service/Chat", **more: Any) -> Any:
        return self._channel.stream_stream(method, None, None)(**more)

    def start(self, data: bytes, method: str = "/test.Service/Ask", **more: Any) -> Any:
        return self._channel.unary_unary(method, None, None)(data, **more)

    async def ask(self, data: bytes, method: str = "/test.Service/Ask", **more: Any) -> bytes:
        answer: bytes = await self.start(data, method, **more)
        return answer

    async def refused(self, data: bytes, method: str = "/test.Service/Ask", **more: Any) -> tuple[Code, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(data, method, **more)
        return caught.value.code(), caught.value.details() or ""

    async def close(self) -> None:
        await self._channel.close(None)


@on_loop
async def test_a_unix_socket_with_or_without_a_port(tmp_path: Path) -> None:
    for name, port in (("a.sock", 0), ("b.sock", None)):
        listener = GrpcListener([Answerer()], GrpcLimits())
        bound = await listener.listen("127.0.0.1", port, tmp_path / name)
        assert bool(bound) is (port is not None)
        targets = [f"unix:{tmp_path}/{name}", *([f"127.0.0.1:{bound}"] if bound else [])]
        for target in targets:
            async with grpc.aio.insecure_channel(target) as channel:
                assert await channel.unary_unary("/test.Service/Ask", None, None)(b"hello") == b"hello!"
        await listener.stop(0.0)


@on_loop
async def test_a_socket_that_cannot_be_made(tmp_path: Path) -> None:
    listener = GrpcListener([Answerer()], GrpcLimits())
    with pytest.raises(OSError, match="nosuch"):
        await listener.listen("127.0.0.1", None, tmp_path / "nosuch/a.sock")
    await listener.stop(0.0)


@on_loop
async def test_a_listener_that_never_listened(tmp_path: Path) -> None:
    assert await GrpcListener([Answerer()], GrpcLimits()).stop(0.0)


@asynccontextmanager
async def listening(service: Any, **limits: Any) -> AsyncIterator[Caller]:
    listener = GrpcListener([service], GrpcLimits(**limits))
    caller = Caller(listener, await listener.listen("127.0.0.1", 0))
    try:
        yield caller
    finally:
        await caller.close()
        await listener.stop(0.0)


class TestCalls:
    @on_loop
    async def test_bytes_in_and_bytes_out(self) -> None:
        async with listening(Answerer()) as caller:
            assert await caller.ask(b"") == b"!"
            assert await caller.ask(b"\xff" * 10_000_000) == b"\xff" * 10_000_000 + b"!"  # beyond gRPC's own 4 MB

    @pytest.mark.parametrize("method", ["/test.Service/Other", "/test.Other/Ask", "/", "/a/b/c"])
    @on_loop
    async def test_unknown_methods(self, method: str) -> None:
        async with listening(Answerer()) as caller:
            assert (await caller.refused(b"", method))[0] is Code.UNIMPLEMENTED

    @on_loop
    async def test_messages_that_are_too_large(self) -> None:
        async with listening(Answerer(), max_message_bytes=1000) as caller:
            assert await caller.ask(bytes(1000))
            assert (await caller.refused(bytes(1001)))[0] is Code.RESOURCE_EXHAUSTED
            assert await caller.ask(b"next") == b"next!"

    @on_loop
    async def test_a_call_that_failed_is_freed_at_once(self) -> None:
        with without_collector() as watched:
            async with listening(Reader(watched.marker)) as caller:
                assert (await caller.refused(b""))[0] is Code.INVALID_ARGUMENT
                chat = caller.chat()
                await chat.write(b"")
                with pytest.raises(grpc.aio.AioRpcError, match="what a"):
                    await chat.read()
                await watched.freed()

    @on_loop
    async def test_a_method_knows_how_long_its_caller_waits(self) -> None:
        service = Answerer()
        async with listening(service) as caller:
            before = time.monotonic()
            await caller.ask(b"")
            await caller.ask(b"", timeout=100)
            without, deadline = service.calls
            assert without.deadline is None
            assert deadline.deadline is not None and before + 90 < deadline.deadline < time.monotonic() + 110

    @pytest.mark.parametrize(
        ("kind", "deadline", "code"),
        [
            (ErrorKind.EXPIRED, 10.0, Code.DEADLINE_EXCEEDED),
            (ErrorKind.EXPIRED, 10.1, Code.UNAVAILABLE),  # it was the request's own limit
            (ErrorKind.EXPIRED, None, Code.UNAVAILABLE),
            (ErrorKind.MODEL, 10.0, Code.INTERNAL),
        ],
    )
    def test_whoever_sees_a_calls_deadline_pass_says_the_same(
        self, kind: ErrorKind, deadline: float | None, code: Code
    ) -> None:
        assert status(ServingError(kind, "no"), Family.OIP, Call(deadline), now=10.0) is code

    @on_loop
    async def test_a_deadline_that_has_passed(self) -> None:
        service = Answerer()
        service.opened.clear()
        async with listening(service) as caller:
            assert (await caller.refused(b"", timeout=-1))[0] is Code.DEADLINE_EXCEEDED
            assert (await caller.refused(b"", timeout=0.1))[0] is Code.DEADLINE_EXCEEDED
            await until(lambda: service.cancelled == len(service.calls))

    @on_loop
    async def test_the_work_of_a_caller_that_gives_up_is_cancelled(self) -> None:
        service = Answerer()
        service.opened.clear()
        async with listening(service) as caller:
            call = caller.start(b"")
            await until(lambda: len(service.calls) == 1)
            call.cancel()
            await until(lambda: service.cancelled == 1)


class TestMetadata:
    """What follows an answer, or a refusal."""

    @pytest.mark.parametrize("sent", [(), (("x-serving-timing", "1"),), (("x-serving-timing", "0"),)])
    @on_loop
    async def test_who_asks_where_the_time_went_is_told(self, sent: tuple[tuple[str, str], ...]) -> None:
        class Timed(Answerer):
            async def ask(self, data: bytes, call: Call) -> bytes:
                assert call.timing is (sent == (("x-serving-timing", "1"),))
                return data if call.timed is None else call.timed(data, "decode;dur=1")

        async with listening(Timed()) as caller:
            call = caller.start(b"hello", metadata=(*sent, ("x-other", "1")))
            assert await call == b"hello"
            found = dict(await call.trailing_metadata())
            assert found.get("server-timing") == ("decode;dur=1" if sent and sent[0][1] == "1" else None)

    @on_loop
    async def test_streams_are_not_timed(self) -> None:
        async with listening(Answerer()) as caller:
            chat = caller.chat(metadata=(("x-serving-timing", "1"),))
            await chat.write(b"a")
            await chat.done_writing()
            assert [data async for data in chat] == [b"a!", b"bye"]

    @pytest.mark.parametrize(("after_s", "told"), [(None, None), (0.0123, "13")])
    @pytest.mark.parametrize("stream", [False, True])
    @on_loop
    async def test_a_refusal_says_when_to_try_again(
        self, stream: bool, after_s: float | None, told: str | None
    ) -> None:
        service = Answerer()
        service.error = ServingError(ErrorKind.QUEUE_FULL, "full", after_s)
        async with listening(service) as caller:
            if stream:
                call = caller.chat()
                await call.write(b"a")
                await call.done_writing()
            else:
                call = caller.start(b"a")
            assert await call.code() is Code.UNAVAILABLE and await call.details() == "full"
            assert dict(await call.trailing_metadata()).get("grpc-retry-pushback-ms") == told


class TestStreams:
    @on_loop
    async def test_each_request_has_its_answer_until_the_client_ends(self) -> None:
        async with listening(Answerer()) as caller:
            call = caller.chat()
            for text in (b"a", b"b"):
                await call.write(text)
                assert await call.read() == text + b"!"
            await call.done_writing()
            assert await call.read() == b"bye"
            assert await call.read() is grpc.aio.EOF and await call.code() is Code.OK

    @on_loop
    async def test_an_error_ends_it_with_a_status(self) -> None:
        service = Answerer()
        async with listening(service) as caller:
            call = caller.chat()
            service.error = invalid("no")
            await call.write(b"a")
            assert await call.code() is Code.INVALID_ARGUMENT and await call.details() == "no"

    @on_loop
    async def test_what_is_under_way_is_cancelled_with_it(self) -> None:
        service = Answerer()
        async with listening(service) as caller:
            service.opened.clear()
            call = caller.chat()
            await call.write(b"a")
            await until(lambda: service.calls)
            call.cancel()
            await until(lambda: service.cancelled)

    @on_loop
    async def test_an_idle_one_does_not_hold_up_a_stop(self) -> None:
        async with listening(Answerer()) as caller:
            call = caller.chat()
            await call.write(b"a")
            assert await call.read() == b"a!"
            assert await caller.listener.stop(60.0)  # it would take that long otherwise
            assert await call.read() == b"bye" and await call.code() is Code.OK


class TestErrors:
    @pytest.mark.parametrize("kind", ErrorKind)
    @on_loop
    async def test_every_kind_has_its_code(self, kind: ErrorKind) -> None:
        service = Answerer()
        service.error = ServingError(kind, "what is wrong")
        async with listening(service) as caller:
            assert await caller.refused(b"") == (grpc_status(kind, Family.OIP), "what is wrong")

    @pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000, "\U0001f600" * 100_000, "line\n" * 50_000, "\x00%"])
    @on_loop
    async def test_a_message_of_any_text_arrives(self, text: str) -> None:
        """It travels in a header, percent-encoded: a client takes 8 KB of it all in all."""
        service = Answerer()
        service.error = invalid(text)
        async with listening(service) as caller:
            for _ in range(20):  # the more a client's limit is exceeded, the more of such answers it drops
                code, details = await caller.refused(b"")
                assert code is Code.INVALID_ARGUMENT
                assert text.startswith(details.removesuffix("...")) and details

    @on_loop
    async def test_what_nobody_foresaw_is_told_to_the_log_and_not_to_the_client(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = Answerer()
        service.error = KeyError("the secret")
        async with listening(service) as caller:
            code, details = await caller.refused(b"")
        assert code is Code.INTERNAL and "secret" not in details and "KeyError" not in details
        assert "KeyError: 'the secret'" in caplog.text


class TestListening:
    @on_loop
    async def test_a_port_that_is_taken(self) -> None:
        async with listening(Answerer()) as caller:
            other = GrpcListener([Answerer()], GrpcLimits())
            with pytest.raises(OSError, match="in use"):
                await other.listen("127.0.0.1", caller.port)
            await other.stop(0.0)

    @on_loop
    async def test_a_port_that_another_program_has(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            listener = GrpcListener([Answerer()], GrpcLimits())
            with pytest.raises(OSError, match="in use"):
                await listener.listen("127.0.0.1", taken.getsockname()[1])
            await listener.stop(0.0)

    @on_loop
    async def test_a_host_that_is_not_of_this_machine(self) -> None:
        listener = GrpcListener([Answerer()], GrpcLimits())
        with pytest.raises(OSError):  # noqa: PT011  (the texts of systems differ)
            await listener.listen("192.0.2.1", 0)
        await listener.stop(0.0)


class TestStop:
    @on_loop
    async def test_what_was_begun_is_answered(self) -> None:
        service = Answerer()
        service.opened.clear()
        async with listening(service) as caller:
            call = asyncio.ensure_future(caller.ask(b"begun"))
            await until(lambda: len(service.calls) == 1)
            stopping = asyncio.create_task(caller.listener.stop(10.0))
            await asyncio.sleep(0.05)
            service.opened.set()
            assert await call == b"begun!"
            await stopping
            assert (await caller.refused(b""))[0] is Code.UNAVAILABLE

    @on_loop
    async def test_what_takes_too_long_is_cut_off(self) -> None:
        service = Answerer()
        service.opened.clear()
        async with listening(service) as caller:
            call = asyncio.ensure_future(caller.refused(b"begun"))
            await until(lambda: len(service.calls) == 1)
            await caller.listener.stop(0.1)
            assert (await call)[0] in (Code.UNAVAILABLE, Code.CANCELLED)
            await until(lambda: service.cancelled == 1)


class TestOpenInference:
    """The real service with a real model."""

    @asynccontextmanager
    async def serving(self, tmp_path: Path) -> AsyncIterator[Caller]:
        models.save(models.identity(), tmp_path / "copy" / "2" / "model.onnx")
        async with (
            serving_engine(tmp_path) as (engine, control),
            listening(OipGrpc(engine, control, metadata.ServerIdentity("s", "0"))) as caller,
        ):
            yield caller

    @on_loop
    async def test_from_the_socket_to_the_model_and_back(self, tmp_path: Path) -> None:
        request = m.ModelInferRequest(model_name="copy", raw_input_contents=[bytes(range(16))])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        async with self.serving(tmp_path) as caller:
            answer = await caller.ask(request.SerializeToString(), "/inference.GRPCInferenceService/ModelInfer")
            assert m.ModelInferResponse.FromString(answer).raw_output_contents == [bytes(range(16))]

    @pytest.mark.parametrize(
        "method", ["ModelInfer", "ModelReady", "ModelMetadata", "RepositoryIndex", "RepositoryModelLoad"]
    )
    @on_loop
    async def test_broken_bytes(self, method: str, tmp_path: Path) -> None:
        async with self.serving(tmp_path) as caller:
            code, details = await caller.refused(b"\xff\xff", f"/inference.GRPCInferenceService/{method}")
            assert code is Code.INVALID_ARGUMENT and "is not a valid inference." in details

    @pytest.mark.parametrize(
        ("name", "version", "code", "text"),
        [
            ("no", "", Code.NOT_FOUND, "Request for unknown model: 'no' is not found"),
            ("copy", "1", Code.NOT_FOUND, "Request for unknown model: 'copy' version 1 is not found"),
            ("copy", "x", Code.INVALID_ARGUMENT, "failed to get model version"),
            ("../copy", "", Code.NOT_FOUND, "Request for unknown model"),
            ("ü" * 5000, "", Code.NOT_FOUND, "Request for unknown model"),
        ],
    )
    @on_loop
    async def test_refusals(self, name: str, version: str, code: Code, text: str, tmp_path: Path) -> None:
        infer = m.ModelInferRequest(model_name=name, model_version=version)
        metadata = m.ModelMetadataRequest(name=name, version=version)
        async with self.serving(tmp_path) as caller:
            for method, request in (("ModelInfer", infer), ("ModelMetadata", metadata)):
                refused = await caller.refused(request.SerializeToString(), f"/inference.GRPCInferenceService/{method}")
                assert refused[0] is code and text in refused[1]
