"""Health against a real engine: without a transport, then watches over the real listener."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

import grpc.aio
import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.metrics import Metrics
from serving.engine import Engine
from serving.protocols.grpc import Call
from serving.protocols.health import Health
from serving.protocols.messages import health as pb
from serving.repository.catalog import Catalog
from serving.transport.grpc import GrpcListener
from serving.transport.limits import GrpcLimits

SERVICES = ("inference.GRPCInferenceService", "tensorflow.serving.ModelService", "tensorflow.serving.PredictionService")
KNOWN = {"", *SERVICES, "GRPCInferenceService", "ModelService", "PredictionService"}

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN


def make_engine(started: bool = True) -> Engine:
    engine = Engine(Metrics())
    engine.publish(Catalog(ready=True))
    engine.started = started
    return engine


def request(service: str) -> bytes:
    data: bytes = pb.HealthCheckRequest(service=service).SerializeToString()
    return data


def status(answer: bytes) -> Any:
    return pb.HealthCheckResponse.FromString(answer).status


def check(engine: Engine, service: str) -> Any:
    return status(asyncio.run(Health(engine, SERVICES).check(request(service), Call())))


async def sent(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))  # a watch that misses a change would wait for ever


def watch(engine: Engine, service: str) -> Any:
    return aclosing(Health(engine, SERVICES, poll_s=0).watch(sent(request(service)), Call()))


class TestCheck:
    @pytest.mark.parametrize("service", sorted(KNOWN))
    def test_follows_the_engine(self, service: str) -> None:
        engine = make_engine(started=False)
        assert check(engine, service) == NOT_SERVING
        engine.started = True
        assert check(engine, service) == SERVING
        engine.stopping = True
        assert check(engine, service) == NOT_SERVING

    @pytest.mark.parametrize("service", ["nobody", "inference", "modelservice", "tensorflow.serving"])
    def test_a_service_that_is_not_known(self, service: str) -> None:
        with pytest.raises(ServingError, match=f"unknown service '{service}'") as caught:
            check(make_engine(), service)
        assert caught.value.kind is ErrorKind.NOT_FOUND

    def test_what_is_no_request(self) -> None:
        with pytest.raises(ServingError) as caught:
            asyncio.run(Health(make_engine(), SERVICES).check(b"\xff", Call()))
        assert caught.value.kind is ErrorKind.INVALID


def test_list_has_what_check_knows() -> None:
    answer = asyncio.run(Health(make_engine(), SERVICES).list(b"", Call()))
    statuses = pb.HealthListResponse.FromString(answer).statuses
    assert {name: one.status for name, one in statuses.items()} == dict.fromkeys(KNOWN, SERVING)


class TestWatch:
    @pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "ModelService"])
    def test_tells_the_status_and_each_change(self, service: str) -> None:
        async def scenario() -> None:
            engine = make_engine(started=False)
            async with watch(engine, service) as answers:
                assert status(await anext(answers)) == NOT_SERVING
                for started, expected in [(True, SERVING), (False, NOT_SERVING), (True, SERVING)]:
                    engine.started = started
                    assert status(await anext(answers)) == expected

        run(scenario())

    @pytest.mark.parametrize(("service", "first"), [("", SERVING), ("nobody", SERVICE_UNKNOWN)])
    def test_says_nothing_while_nothing_changes(self, service: str, first: int) -> None:
        async def scenario() -> None:
            async with watch(make_engine(), service) as answers:
                assert status(await anext(answers)) == first
                following = asyncio.ensure_future(anext(answers))
                for _ in range(100):
                    await asyncio.sleep(0)
                assert not following.done()
                following.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await following

        run(scenario())

    def test_a_stop_is_told_and_ends_it(self) -> None:
        async def scenario() -> None:
            engine = make_engine()
            async with watch(engine, "") as answers:
                assert status(await anext(answers)) == SERVING
                engine.stopping = True
                assert status(await anext(answers)) == NOT_SERVING
                with pytest.raises(ServingError, match="stopping") as caught:
                    await anext(answers)
                assert caught.value.kind is ErrorKind.UNAVAILABLE

        run(scenario())

    @pytest.mark.parametrize("service", ["", "nobody"])
    def test_a_stop_is_not_told_twice(self, service: str) -> None:
        async def scenario() -> None:
            engine = make_engine(started=False)
            async with watch(engine, service) as answers:
                await anext(answers)
                engine.stopping = True
                with pytest.raises(ServingError, match="stopping"):
                    await anext(answers)

        run(scenario())

    def test_a_stopping_server_takes_no_new_one(self) -> None:
        async def scenario() -> None:
            engine = make_engine()
            engine.stopping = True
            async with watch(engine, "") as answers:
                with pytest.raises(ServingError, match="stopping"):
                    await anext(answers)

        run(scenario())

    @pytest.mark.parametrize("messages", [(), (b"\xff",)])
    def test_what_is_no_request(self, messages: tuple[bytes, ...]) -> None:
        async def scenario() -> None:
            async with aclosing(Health(make_engine(), SERVICES).watch(sent(*messages), Call())) as answers:
                with pytest.raises(ServingError) as caught:
                    await anext(answers)
                assert caught.value.kind is ErrorKind.INVALID

        run(scenario())


class TestOverTheListener:
    @pytest.mark.parametrize("ending", ["the client cancels", "the server stops"])
    def test_a_watch_does_not_hold_up_the_stop(self, ending: str) -> None:
        async def scenario() -> None:
            engine = make_engine()
            listener = GrpcListener([Health(engine, SERVICES, poll_s=0.001)], GrpcLimits())
            port = await listener.listen("127.0.0.1", 0)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_stream("/grpc.health.v1.Health/Watch")(request(""))
                assert status(await call.read()) == SERVING
                if ending == "the client cancels":
                    call.cancel()
                else:
                    engine.stopping = True
                    assert status(await call.read()) == NOT_SERVING
                    assert await call.code() == grpc.StatusCode.UNAVAILABLE
                assert await listener.stop(20)

        run(scenario())
