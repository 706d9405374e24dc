"""What clients ask for in headers, and what they hear of time."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, InferResponse, Timing
from serving.engine import Engine
from serving.protocols import asks
from serving.protocols.grpc import Call, retry_metadata
from serving.protocols.http import HttpReply, error_reply
from serving.protocols.messages import oip as m
from serving.protocols.messages import tfs
from serving.protocols.oip import generate, stream
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.oip.grpc_codec import Asked, Parts
from serving.protocols.oip.metadata import ServerIdentity
from serving.protocols.oip.rest import OipRest
from serving.protocols.status import Family
from serving.protocols.tfs.grpc import PredictionService
from serving.protocols.tfs.rest import TfsRest
from tests import models
from tests.protocols.build import body, lines, message, refused, serving_engine, tensor

T = TypeVar("T")

LIMIT, ENVOY = b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"
ROW = tensor(shape=[1, 4], data=[1, 2, 3, 4])


class TestOfHeaders:
    def test_nothing(self) -> None:
        assert asks.of_headers([(b"host", b"h"), (b"accept", b"*/*")]) == asks.Asks(None, False)

    @pytest.mark.parametrize("name", [LIMIT, ENVOY])
    @pytest.mark.parametrize(("value", "limit_s"), [(b"1", 0.001), (b"2500", 2.5), (b"0.5", 0.0005)])
    def test_a_limit_counts_from_now(self, name: bytes, value: bytes, limit_s: float) -> None:
        before = time.monotonic()
        deadline = asks.of_headers([(name, value)]).deadline
        assert deadline is not None and before + limit_s <= deadline <= time.monotonic() + limit_s

    def test_the_smallest_wins(self) -> None:
        both = [(LIMIT, b"60000"), (ENVOY, b"10")]
        for headers in (both, both[::-1]):
            deadline = asks.of_headers(headers).deadline
            assert deadline is not None and deadline < time.monotonic() + 1
        assert asks.of_headers(both, 5.0).deadline == 5.0
        assert asks.of_headers([], 5.0).deadline == 5.0
        later = time.monotonic() + 10_000
        assert (asks.of_headers(both, later).deadline or later) < later

    def test_zero_is_no_limit(self) -> None:
        assert asks.of_headers([(LIMIT, b"0"), (ENVOY, b"0.0")]).deadline is None

    @pytest.mark.parametrize("value", [b"", b"-1", b"1s", b"1e3", b"nan", b"inf", b" 1", b"\xff", b"9" * 13, b"1."])
    def test_anything_else_is_refused(self, value: bytes) -> None:
        text = refused(lambda: asks.of_headers([(ENVOY, value)]))
        assert text.startswith("invalid value for header 'x-envoy-expected-rq-timeout-ms', expected a number of milli")

    @pytest.mark.parametrize(("value", "wanted"), [(b"1", True), (b"true", True), (b"0", False), (b"", False)])
    def test_timing(self, value: bytes, wanted: bool) -> None:
        assert asks.of_headers([(b"x-serving-timing", value)]).timing is wanted


def test_where_the_time_went() -> None:
    timing = Timing(queue_s=0.0015, compute_s=0.002, rows=32)
    assert asks.server_timing(0.00005, timing, 0.00001, 0.004) == (
        'decode;dur=0.050, queue;dur=1.500, compute;dur=2.000, encode;dur=0.010, total;dur=4.000, batch;desc="32 rows"'
    )


# Hints when to try again


def full(retry_after_s: float | None) -> ServingError:
    return ServingError(ErrorKind.QUEUE_FULL, "Exceeds maximum queue size", retry_after_s)


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize(
    ("after_s", "seconds", "milliseconds"),
    [(0.0, b"1", b"1"), (0.0123, b"1", b"13"), (1.0, b"1", b"1000"), (1.2, b"2", b"1200")],
)
def test_a_hint_in_headers_and_metadata(family: Family, after_s: float, seconds: bytes, milliseconds: bytes) -> None:
    reply = error_reply(full(after_s), family)
    assert reply.status == 503 and json.loads(reply.body) == {"error": "Exceeds maximum queue size"}
    assert reply.headers[1:] == [(b"retry-after", seconds), (b"retry-after-ms", milliseconds)]
    assert retry_metadata(full(after_s)) == (("grpc-retry-pushback-ms", milliseconds.decode()),)
    assert generate.error_event(full(after_s)).headers[1:] == reply.headers[1:]


def test_no_hint_is_no_header() -> None:
    assert len(error_reply(full(None), Family.OIP).headers) == 1
    assert len(generate.error_event(full(None)).headers) == 1
    assert retry_metadata(full(None)) == ()


def test_a_hint_in_a_stream() -> None:
    async def infer(_: Asked) -> Parts:
        raise full(0.25)

    async def one() -> Any:
        yield message().SerializeToString()

    async def main() -> Any:
        def read(data: bytes, _: Call) -> Asked:
            return Asked("m", "a1", lambda: pytest.fail("nobody reads it"))

        (data,) = [data async for data in stream.answers(one(), Call(), read, infer)]
        return m.ModelStreamInferResponse.FromString(data)

    answer = asyncio.run(main())
    assert answer.infer_response.parameters["retry_after_ms"].int64_param == 250
    assert answer.error_message == "Exceeds maximum queue size" and answer.infer_response.id == "a1"


# From the headers to the engine and back, in all protocols


class Busy(Engine):
    """Notes by when each request wants its answer; and has no room, if it is told so."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.metrics)
        self.catalog = engine.catalog
        self.deadlines: list[float | None] = []
        self.error: ServingError | None = None

    async def infer(self, request: InferRequest, version: Any = None) -> InferResponse:
        self.deadlines.append(request.deadline)
        if self.error is not None:
            raise self.error
        return await super().infer(request, version)


Headers = list[tuple[bytes, bytes]]
Send = Callable[[Headers], Awaitable[HttpReply]]
SENDS: dict[str, Callable[[OipRest, TfsRest], Send]] = {
    "infer": lambda oip, _: lambda headers: oip.infer("copy", None, body(ROW), headers=headers),
    "raw": lambda oip, _: lambda headers: oip.infer("copy", None, bytes(16), [*lines(b"0"), *headers]),
    "generate": lambda oip, _: (
        lambda headers: oip.generate("copy", None, b'{"x": [1, 2, 3, 4]}', None, headers, stream=False)
    ),
    "predict": lambda _, tfs: (
        lambda headers: tfs.handle(
            "POST", "/v1/models/copy:predict", b'{"instances": [[1, 2, 3, 4]]}', None, None, headers
        )
    ),
}


def run(tmp_path: Path, test: Callable[[Busy, OipRest, TfsRest, OipGrpc], Awaitable[T]]) -> T:
    models.save(models.identity(), tmp_path / "copy" / "2" / "model.onnx")

    async def main() -> T:
        async with serving_engine(tmp_path) as (engine, control):
            busy, identity = Busy(engine), ServerIdentity("s", "0")
            oip = OipRest(busy, control, identity)
            return await test(busy, oip, TfsRest(busy), OipGrpc(busy, control, identity))

    return asyncio.run(main())


@pytest.mark.parametrize("kind", SENDS)
def test_over_rest(kind: str, tmp_path: Path) -> None:
    async def test(engine: Busy, oip: OipRest, tfs: TfsRest, _: OipGrpc) -> None:
        send = SENDS[kind](oip, tfs)
        reply = await send([])
        assert reply.status == 200 and engine.deadlines == [None]
        assert not any(name == b"server-timing" for name, _ in reply.headers)
        reply = await send([(LIMIT, b"60000"), (b"x-serving-timing", b"1")])
        (deadline,) = engine.deadlines[1:]
        assert deadline is not None and 0 < deadline - time.monotonic() <= 60
        timing = dict(reply.headers)[b"server-timing"]
        assert timing.startswith(b"decode;dur=") and timing.endswith(b'batch;desc="1 rows"')
        assert reply.body == (await send([])).body

    run(tmp_path, test)


@pytest.mark.parametrize("kind", SENDS)
def test_a_bad_limit_is_a_400(kind: str, tmp_path: Path) -> None:
    async def test(engine: Busy, oip: OipRest, tfs: TfsRest, _: OipGrpc) -> None:
        send = SENDS[kind](oip, tfs)
        try:
            reply = await send([(LIMIT, b"soon")])
        except ServingError as error:
            reply = error_reply(error, Family.OIP)
        assert reply.status == 400 and b"x-request-timeout-ms" in reply.body and not engine.deadlines
        outcomes = engine.metrics.requests("copy", "2", "tfs_rest" if kind == "predict" else "oip_rest").outcomes
        assert outcomes == {"invalid": 1}

    run(tmp_path, test)


def test_the_parameter_and_the_header(tmp_path: Path) -> None:
    async def test(engine: Busy, oip: OipRest, *_: Any) -> None:
        now = time.monotonic()
        for timeout_us, limit_ms in ((60_000_000, b"5000000"), (5_000_000_000, b"60000")):
            data = body(ROW, parameters={"timeout": timeout_us})
            await oip.infer("copy", None, data, headers=[(LIMIT, limit_ms)])
        assert all(deadline is not None and 60 <= deadline - now < 4000 for deadline in engine.deadlines)

    run(tmp_path, test)


def test_hints_come_through(tmp_path: Path) -> None:
    """Refusals are put in other words on their way out."""

    async def test(engine: Busy, oip: OipRest, rest: TfsRest, grpc: OipGrpc) -> None:
        engine.error = full(0.5)
        for call in (oip.infer("copy", None, body(ROW)), grpc.methods["ModelInfer"](infer_request(), Call())):
            with pytest.raises(ServingError) as caught:
                await call
            assert caught.value.retry_after_s == 0.5 and caught.value.message.startswith("[request id: ")
        reply = await SENDS["predict"](oip, rest)([])
        assert dict(reply.headers)[b"retry-after-ms"] == b"500"
        engine.error = ServingError(ErrorKind.QUEUE_FULL, "x" * 5000, 0.5)
        with pytest.raises(ServingError) as caught:
            await PredictionService(engine).methods["Predict"](predict_request(), Call())
        assert caught.value.retry_after_s == 0.5 and len(caught.value.message) < 2000

    run(tmp_path, test)


def infer_request() -> bytes:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    data: bytes = m.ModelInferRequest(
        model_name="copy", inputs=[x], raw_input_contents=[np.ones(4, np.float32).tobytes()]
    ).SerializeToString()
    return data


def predict_request() -> bytes:
    request = tfs.PredictRequest()
    request.model_spec.name = "copy"
    x = request.inputs["x"]
    x.dtype = 1
    x.tensor_shape.dim.add(size=1)
    x.tensor_shape.dim.add(size=4)
    x.float_val.extend([1, 2, 3, 4])
    data: bytes = request.SerializeToString()
    return data


def test_over_grpc(tmp_path: Path) -> None:
    async def test(engine: Busy, oip: OipRest, rest: TfsRest, grpc: OipGrpc) -> None:
        prediction = PredictionService(engine)
        for method, data in (
            (grpc.methods["ModelInfer"], infer_request()),
            (prediction.methods["Predict"], predict_request()),
        ):
            plain, timed = Call(), Call(timing=True)
            await method(data, plain)
            await method(data, timed)
            assert plain.trailing == ()
            ((name, value),) = timed.trailing
            assert name == "server-timing" and value.endswith('batch;desc="1 rows"')

    run(tmp_path, test)
