"""ModelStreamInfer: many requests on one call, answered in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.engine import Engine
from serving.protocols.grpc import Call
from serving.protocols.messages import oip as m
from serving.protocols.oip import stream
from serving.protocols.oip.grpc import PROTOCOL
from serving.protocols.oip.grpc_codec import Reader
from serving.transport.grpc import GrpcListener
from serving.transport.limits import GrpcLimits
from tests import models
from tests.leftovers import Marker, Watched, without_collector
from tests.protocols.build import serving_oip
from tests.transport.raw import on_loop, until

FOREVER = "for ever"


async def given(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        if item is FOREVER:
            await asyncio.Event().wait()
        yield item


async def take(items: AsyncIterator[Any], found: list[Any]) -> None:
    """Keeps what came, also if an exception ends it."""
    async for item in items:
        found.append(item)


class Worker:
    """Work that ends when a test says so."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.open: dict[int, asyncio.Event] = {}

    async def __call__(self, item: int) -> int:
        self.begun.append(item)
        try:
            await self.open.setdefault(item, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        if item < 0:
            raise invalid(f"{item} is negative")
        return item * 10

    def finish(self, *items: int) -> None:
        for item in items:
            self.open.setdefault(item, asyncio.Event()).set()


class TestInOrder:
    @on_loop
    async def test_the_first_comes_first_however_long_it_takes(self) -> None:
        work = Worker()
        found = stream.in_order(given(1, 2, 3), work, 8)
        first = asyncio.ensure_future(anext(found))
        await until(lambda: work.begun == [1, 2, 3])
        work.finish(3, 2)
        await asyncio.sleep(0)
        assert not first.done()
        work.finish(1)
        assert await first == 10
        assert [item async for item in found] == [20, 30]

    @on_loop
    async def test_no_more_at_once_than_asked_for(self) -> None:
        work = Worker()
        found = stream.in_order(given(*range(10)), work, 3)
        first = asyncio.ensure_future(anext(found))
        await until(lambda: len(work.begun) == 3)
        work.finish(2, 1)  # answered, and not yet taken
        for _ in range(20):
            await asyncio.sleep(0)
        assert work.begun == [0, 1, 2]
        work.finish(*range(10))
        assert [await first, *[item async for item in found]] == [n * 10 for n in range(10)]

    @on_loop
    async def test_nothing(self) -> None:
        assert [item async for item in stream.in_order(given(), Worker(), 3)] == []

    @on_loop
    async def test_what_fails_ends_it(self) -> None:
        work = Worker()
        work.finish(1, -1)
        found: list[int] = []
        with pytest.raises(ServingError, match="-1 is negative"):
            await take(stream.in_order(given(1, -1, 2, FOREVER), work, 8), found)
        assert found == [10] and work.cancelled == [2]

    @on_loop
    async def test_what_came_before_a_failure_to_read_is_given(self) -> None:
        work = Worker()
        work.finish(1, 2)
        found: list[int] = []
        with pytest.raises(OSError, match="gone"):
            await take(stream.in_order(given(1, 2, OSError("gone")), work, 8), found)
        assert found == [10, 20]

    @on_loop
    async def test_when_it_is_closed_all_work_is_cancelled(self) -> None:
        work = Worker()
        work.finish(1)
        found = stream.in_order(given(1, 2, 3, FOREVER), work, 8)
        assert await anext(found) == 10
        await until(lambda: work.begun == [1, 2, 3])
        await found.aclose()
        assert sorted(work.cancelled) == [2, 3]

    @on_loop
    async def test_when_its_caller_is_cancelled_all_work_is(self) -> None:
        work = Worker()
        waits = asyncio.ensure_future(anext(stream.in_order(given(1, 2, FOREVER), work, 8)))
        await until(lambda: work.begun == [1, 2])
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert sorted(work.cancelled) == [1, 2]

    @pytest.mark.parametrize("ends", ["well", "failed", "closed"])
    @on_loop
    async def test_nothing_that_it_read_outlives_it(self, ends: str) -> None:
        async def items(watched: Watched) -> AsyncIterator[Marker]:
            for _ in range(3):
                yield watched.marker()

        async def work(item: Marker) -> Marker:
            if ends == "failed":
                raise invalid("no")
            return item

        with without_collector() as watched:
            found = stream.in_order(items(watched), work, 8)
            try:
                while await anext(found, None) and ends != "closed":
                    pass
            except ServingError:
                pass
            await found.aclose()
            del found
            await watched.freed()


def request(model: str, *values: int, request_id: str = "", **more: Any) -> Any:
    data = np.array(values, np.int64).tobytes()
    message = m.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[data], **more)
    message.inputs.add(name="x", datatype="INT64", shape=[len(values), 1])
    return message


class Client:
    """A real client of a real listener, for models `lookup` (fails above 3) and `spin` (x says how long it takes)."""

    def __init__(self, channel: Any, engine: Engine) -> None:
        self._call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        self.engine = engine

    def start(self, *requests: Any, end: bool = True, **metadata: str) -> Any:
        async def sent() -> AsyncIterator[bytes]:
            for one in requests:
                yield one if isinstance(one, bytes) else one.SerializeToString()
            if not end:
                await asyncio.Event().wait()

        return self._call(sent(), metadata=tuple(metadata.items()))

    async def ask(self, *requests: Any, **metadata: str) -> list[Any]:
        answers = self.start(*requests, end=True, **metadata)
        return [m.ModelStreamInferResponse.FromString(answer) async for answer in answers]


@asynccontextmanager
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    models.save(models.lookup(), tmp_path / "lookup" / "1" / "model.onnx")
    models.save(models.spin(), tmp_path / "spin" / "1" / "model.onnx")
    async with serving_oip(tmp_path) as (_, service, engine):
        listener = GrpcListener([service], GrpcLimits())
        port = await listener.listen("127.0.0.1", 0)
        options = [("grpc.use_local_subchannel_pool", 1)]
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                yield Client(channel, engine)
        finally:
            await listener.stop(0.0)


class TestModelStreamInfer:
    @on_loop
    async def test_answers_in_order(self, tmp_path: Path) -> None:
        async with client(tmp_path) as asker:
            requests = [request("lookup", n % 4, request_id=str(n)) for n in range(200)]
            requests[0] = request("spin", 2000, request_id="0")  # takes longer than all others
            answers = await asker.ask(*requests)
        assert [a.infer_response.id for a in answers] == [str(n) for n in range(200)]
        assert not any(a.error_message for a in answers)
        response = answers[3].infer_response
        assert (response.model_name, response.model_version) == ("lookup", "1")
        assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [0.25]
        assert all(a.infer_response.parameters["triton_final_response"].bool_param for a in answers)

    @on_loop
    async def test_several_are_under_way_at_the_same_time(self, tmp_path: Path) -> None:
        (tmp_path / "lookup").mkdir()
        (tmp_path / "lookup" / "model.yaml").write_text("max_batch_size: 8\nmax_queue_delay_ms: 60000\nwarmup: false\n")
        async with client(tmp_path) as asker:
            answers = await asker.ask(*(request("lookup", 1) for _ in range(8)))  # a full batch waits for no more
            assert len(answers) == 8
            statistics = asker.engine.catalog.models["lookup"].ready[1].statistics
            assert statistics.runs == 1 and list(statistics.batches) == [8]

    @on_loop
    async def test_an_error_is_an_answer(self, tmp_path: Path) -> None:
        async with client(tmp_path) as asker:
            wrong = request("lookup", 1, request_id="b")
            wrong.inputs[0].datatype = "FP32"
            answers = await asker.ask(
                request("no", 1, request_id="a"), wrong, request("lookup", 9, request_id="c"), request("lookup", 1)
            )
            outcomes = asker.engine.metrics.requests("lookup", "1", PROTOCOL).outcomes
        unknown, invalid, failed, good = answers
        assert unknown.error_message == "Request for unknown model: 'no' is not found"
        assert invalid.error_message.startswith("input byte size mismatch for input 'x'")
        assert [a.infer_response.id for a in answers] == ["a", "b", "c", ""]
        for before in (unknown, invalid):
            assert before.infer_response.model_name == "" and not before.infer_response.parameters
        assert failed.error_message and failed.infer_response.model_name == "lookup"
        assert failed.infer_response.parameters["triton_final_response"].bool_param
        assert good.error_message == "" and len(good.infer_response.outputs) == 1
        assert outcomes == {"invalid": 1, "model": 1, "ok": 1}

    @on_loop
    async def test_an_error_of_the_run_may_end_the_stream(self, tmp_path: Path) -> None:
        async with client(tmp_path) as asker:
            found: list[bytes] = []
            requests = (request("no", 1), request("lookup", 1), request("lookup", 9))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await take(asker.start(*requests, end=False, triton_grpc_error="true"), found)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            answers = map(m.ModelStreamInferResponse.FromString, found)
            assert [bool(a.error_message) for a in answers] == [True, False]
            (answer,) = await asker.ask(request("lookup", 9), triton_grpc_error="no")
            assert answer.error_message

    @on_loop
    async def test_bytes_that_are_no_request_are_refused_like_one(self, tmp_path: Path) -> None:
        async with client(tmp_path) as asker:
            for more in ({}, {"triton_grpc_error": "true"}):
                good, bad, again = await asker.ask(request("lookup", 1), b"\xff", request("lookup", 1), **more)
                assert (good.error_message, again.error_message) == ("", "")
                assert bad.error_message == "the request is not a valid inference.ModelInferRequest message"
            assert asker.engine.metrics.requests("", "", PROTOCOL).outcomes == {"invalid": 2}

    @on_loop
    async def test_a_client_that_goes_away_cancels_what_waits(self, tmp_path: Path) -> None:
        async with client(tmp_path) as asker:
            version = asker.engine.catalog.models["spin"].ready[1]
            answers = asker.start(*(request("spin", 5_000) for _ in range(3)), end=False)
            await until(lambda: version.leases == 3)
            answers.cancel()
            await until(lambda: version.leases == 0)
            assert asker.engine.metrics.requests("spin", "1", PROTOCOL).outcomes == {"cancelled": 3}

    @on_loop
    async def test_a_stream_of_nothing(self, tmp_path: Path) -> None:
        async with client(tmp_path) as asker:
            assert await asker.ask() == []


@on_loop
async def test_an_error_that_nobody_foresaw_is_told_in_band() -> None:
    async def infer(_message: Any) -> Any:
        raise ServingError(ErrorKind.INTERNAL, "internal error; the server's log has the details")

    data = request("m", 1, request_id="a").SerializeToString()
    answers = stream.answers(given(data), Call(), Reader().read, infer)
    (answer,) = [m.ModelStreamInferResponse.FromString(a) async for a in answers]
    assert answer.error_message.startswith("internal error") and answer.infer_response.id == "a"
