"""What a client of gRPC can make the server hold, and what it is told."""

import asyncio
import gzip
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from serving.transport.admission import Admission
from serving.transport.grpc import GrpcListener
from serving.transport.limits import GrpcLimits
from tests.e2e.plain import forget_peak, memory
from tests.transport.raw import on_loop, until
from tests.transport.test_grpc import Answerer, Caller, Code

MB = 1024 * 1024
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
GOAWAY = bytes.fromhex("070000000000")  # the type, no flags, and the stream of a frame


class Runs(Answerer):
    """With the names of calls that run models, besides one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.methods["ModelInfer"] = self.ask
        self.streams["ModelStreamInfer"] = self.chat


@asynccontextmanager
async def listening(service: Any, admission: Admission | None = None, **limits: Any) -> AsyncIterator[Caller]:
    listener = GrpcListener([service], GrpcLimits(**limits), admission)
    caller = Caller(listener, await listener.listen("127.0.0.1", 0))
    try:
        yield caller
    finally:
        await caller.close()
        await listener.stop(0.0)


class TestCompressed:
    @pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    @pytest.mark.parametrize("size", [0, 1, 1000, 5 * MB])
    @on_loop
    async def test_messages_arrive_as_they_were(self, algorithm: Any, size: int) -> None:
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        async with listening(Answerer()) as caller:
            assert await caller.ask(data, compression=algorithm) == data + b"!"
            chat = caller.chat(compression=algorithm)
            await chat.write(data)
            assert await chat.read() == data + b"!"
            chat.cancel()

    @pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    @on_loop
    async def test_bombs(self, algorithm: Any) -> None:
        refused: list[tuple[str, str]] = []
        admission = Admission(refused=lambda *what: refused.append(what))
        async with listening(Answerer(), admission, max_decompressed_bytes=2 * MB) as caller:
            assert len(await caller.ask(bytes(2 * MB), compression=algorithm)) == 2 * MB + 1
            code, text = await caller.refused(bytes(2 * MB + 1), compression=algorithm)
            assert code is Code.RESOURCE_EXHAUSTED and "larger than 2097152 bytes when it is decompressed" in text
            chat = caller.chat(compression=algorithm)
            await chat.write(bytes(3 * MB))
            assert await chat.code() is Code.RESOURCE_EXHAUSTED
            assert refused == [("grpc", "decompressed")] * 2
            assert (
                len(await caller.ask(bytes(3 * MB))) == 3 * MB + 1
            )  # of those that are not compressed, that is no limit

    @on_loop
    async def test_bombs_take_no_memory(self) -> None:
        """The message is made without gRPC's compression: ours is the one process that holds what it expands to."""
        bomb = gzip.compress(bytes(16 * MB), 1) * 16
        async with listening(Answerer(), max_decompressed_bytes=32 * MB) as caller:
            await caller.refused(bomb)
            before = memory(os.getpid())
            forget_peak(os.getpid())
            assert (await caller.refused(bomb))[0] is Code.RESOURCE_EXHAUSTED
            assert memory(os.getpid(), "VmHWM") - before < 64 * MB

    @on_loop
    async def test_broken_ones(self) -> None:
        async with listening(Answerer()) as caller:
            whole = gzip.compress(b"some message" * 100)
            for data in (whole[:-1], whole[:20], whole + b"more"):
                code, text = await caller.refused(data)
                assert code is Code.INVALID_ARGUMENT and "gzip" in text

    @pytest.mark.parametrize(
        "data",
        [
            b"\x1f",
            b"\x1fnot gzip",
            b"x",
            b"x\x9c",
            b"x\x9cnot deflate",
            zlib.compress(b"text")[:-1],
            b"x\x01" * 100_000,
        ],
        ids=lambda data: repr(data[:12]),
    )
    @on_loop
    async def test_what_only_begins_so_is_left_alone(self, data: bytes) -> None:
        async with listening(Answerer()) as caller:
            assert await caller.ask(data) == data + b"!"


class TestConcurrency:
    @on_loop
    async def test_runs_that_are_too_many(self) -> None:
        refused: list[tuple[str, str]] = []
        service, admission = Runs(), Admission(2, lambda *what: refused.append(what))
        service.opened.clear()
        async with listening(service, admission) as caller:
            first = caller.start(b"first", "/test.Service/ModelInfer")
            stream = _stream(caller)
            await stream.write(b"second")
            await until(lambda: len(service.calls) == 2)
            for start in (caller.start(b"", "/test.Service/ModelInfer"), _stream(caller)):
                assert await start.code() is Code.UNAVAILABLE
                assert "has its 2 requests under way already" in (await start.details())
                assert ("grpc-retry-pushback-ms", "1000") in tuple(await start.trailing_metadata())
            assert refused == [("grpc", "concurrency")] * 2
            other = caller.start(b"no run")
            await until(lambda: len(service.calls) == 3)
            service.opened.set()
            assert (await first, await other) == (b"first!", b"no run!")
            stream.cancel()
            await until(lambda: admission.under_way == 0)
            assert await caller.ask(b"next", "/test.Service/ModelInfer") == b"next!"

    @on_loop
    async def test_http_and_grpc_together(self) -> None:
        service, admission = Runs(), Admission(1)
        admission.enter("http")
        async with listening(service, admission) as caller:
            assert (await caller.refused(b"", "/test.Service/ModelInfer"))[0] is Code.UNAVAILABLE
            admission.leave()
            assert await caller.ask(b"", "/test.Service/ModelInfer") == b"!"

    @on_loop
    async def test_calls_whose_message_never_comes_are_bounded_too(self) -> None:
        async with listening(Runs(), max_open_calls=3) as caller:
            waiting = [caller.chat() for _ in range(3)]
            for chat in waiting:
                await chat.write(b"so far")
                assert await chat.read() == b"so far!"
            assert (await caller.refused(b""))[0] is Code.RESOURCE_EXHAUSTED
            waiting[0].cancel()
            while True:  # the server hears of it a little later
                try:
                    assert await caller.ask(b"") == b"!"
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)
            for chat in waiting:
                chat.cancel()


class TestConnections:
    @on_loop
    async def test_that_are_too_many_are_closed(self) -> None:
        async with listening(Answerer(), max_connections=2) as caller:
            assert await caller.ask(b"") == b"!"
            async with _another(caller) as second:
                assert await second(b"") == b"!"
                async with _another(caller) as third:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await third(b"", wait_for_ready=False)
                    assert caught.value.code() is Code.UNAVAILABLE
                assert await second(b"") == b"!"

    @on_loop
    async def test_that_say_nothing_are_closed(self) -> None:
        async with listening(Answerer(), handshake_timeout_s=0.2) as caller:
            for sent in (b"", PREFACE):
                reader, writer = await asyncio.open_connection("127.0.0.1", caller.port)
                writer.write(sent)
                await reader.read()  # until the server closes
                writer.close()

    @pytest.mark.parametrize("limits", [{"idle_timeout_s": 0.2}, {"max_age_s": 0.2}], ids=str)
    @on_loop
    async def test_that_are_idle_or_old_are_ended(self, limits: dict[str, Any]) -> None:
        async with listening(Answerer(), **limits) as caller:
            reader, writer = await asyncio.open_connection("127.0.0.1", caller.port)
            writer.write(PREFACE + SETTINGS)
            assert GOAWAY in await reader.read()
            writer.close()


class TestMetadata:
    @on_loop
    async def test_that_are_too_large(self) -> None:
        async with listening(Answerer(), max_metadata_bytes=8 * 1024) as caller:
            assert await caller.ask(b"", metadata=(("key", "v" * 7_000),)) == b"!"
            for size in (8_500, 12_000, 15_000):  # more, and gRPC's own client does not send it
                code, text = await caller.refused(b"", metadata=(("key", "v" * size),))
                assert code is Code.RESOURCE_EXHAUSTED and "metadata size exceeds" in text
            assert await caller.ask(b"next") == b"next!"


def _stream(caller: Caller) -> Any:
    return caller.chat(method="/test.Service/ModelStreamInfer")


@asynccontextmanager
async def _another(caller: Caller) -> AsyncIterator[Any]:
    """A client with a connection of its own."""
    target, options = f"127.0.0.1:{caller.port}", [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield channel.unary_unary("/test.Service/Ask", None, None)


def test_the_age_is_an_argument_only_if_it_is_set() -> None:
    assert "grpc.max_connection_age_ms" not in dict(GrpcLimits().options)
    options = dict(GrpcLimits(max_age_s=1.5).options)
    assert options["grpc.max_connection_age_ms"] == options["grpc.max_connection_age_grace_ms"] == 1500
