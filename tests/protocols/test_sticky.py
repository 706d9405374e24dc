"""Requests with the same key go to the same version, over each protocol; and each request goes to one version only."""

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.traffic import Limits, Traffic
from serving.protocols import messages as m
from serving.protocols.grpc import Call
from serving.protocols.offload import Offload
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.oip.metadata import ServerIdentity
from serving.protocols.oip.rest import OipRest
from serving.protocols.tfs.grpc import PredictionService
from serving.protocols.tfs.rest import TfsRest
from serving.repository.control.events import Kind
from tests import models
from tests.batching.control import on_loop, turns
from tests.protocols.build import lines
from tests.repository.test_manager import Served, serving

KEYS = [f"user-{i}" for i in range(40)]
HALVES = {"1": 50, "2": 50}
IDENTITY = ServerIdentity("s", "0")

Headers = list[tuple[bytes, bytes]]
# Gives the version that has answered a request with this key, if any.
Ask = Callable[[Served, str | None], Awaitable[int]]


def headers(key: str | None) -> Headers:
    return [(b"host", b"h"), *([(b"x-user", key.encode())] if key is not None else [])]


def call(key: str | None) -> Call:
    return Call(sent=lambda: [("user-agent", "u"), *([("x-user", key)] if key is not None else [])])


def _oip_body() -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1] * 4}]}).encode()


def _oip_message() -> bytes:
    request = m.oip.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1] * 4)
    data: bytes = request.SerializeToString()
    return data


async def _rest(served: Served, key: str | None) -> int:
    reply = await OipRest(served.engine, served.manager, IDENTITY).infer("m", None, _oip_body(), headers=headers(key))
    value = json.loads(reply.body)
    assert int(value["model_version"]) == value["outputs"][0]["data"][0]
    return int(value["model_version"])


async def _raw(served: Served, key: str | None) -> int:
    body = np.ones(4, np.float32).tobytes()
    rest = OipRest(served.engine, served.manager, IDENTITY)
    reply = await rest.infer("m", None, body, [*lines(b"0"), *headers(key)])
    size = int(dict(reply.headers)[b"inference-header-content-length"])
    value = json.loads(reply.body[:size])
    assert np.frombuffer(reply.body[size:], np.float32)[0] == int(value["model_version"])
    return int(value["model_version"])


async def _generate(served: Served, key: str | None) -> int:
    body = b'{"x": [1, 1, 1, 1]}'
    rest = OipRest(served.engine, served.manager, IDENTITY)
    reply = await rest.generate("m", None, body, headers=headers(key), stream=False)
    value = json.loads(reply.body)
    assert value["y"][0] == int(value["model_version"])
    return int(value["model_version"])


async def _grpc(served: Served, key: str | None) -> int:
    service = OipGrpc(served.engine, served.manager, IDENTITY)
    data = await service.methods["ModelInfer"](_oip_message(), call(key))
    return int(m.oip.ModelInferResponse.FromString(data).model_version)


async def _stream(served: Served, key: str | None) -> int:
    service = OipGrpc(served.engine, served.manager, IDENTITY)

    async def requests() -> AsyncIterator[bytes]:
        yield _oip_message()

    async with aclosing(service.streams["ModelStreamInfer"](requests(), call(key))) as answers:  # type: ignore[type-var]
        (version,) = [
            m.oip.ModelStreamInferResponse.FromString(data).infer_response.model_version async for data in answers
        ]
    return int(version)


async def _tfs_rest(served: Served, key: str | None) -> int:
    reply = await TfsRest(served.engine).handle(
        "POST", "/v1/models/m:predict", b'{"instances": [[1, 1, 1, 1]]}', headers=headers(key)
    )
    return int(json.loads(reply.body)["predictions"][0][0])


async def _tfs_grpc(served: Served, key: str | None) -> int:
    data = await PredictionService(served.engine).methods["Predict"](_predict("x"), call(key))
    return int(m.tfs.PredictResponse.FromString(data).model_spec.version.value)


def _predict(name: str) -> bytes:
    request = m.tfs.PredictRequest()
    request.model_spec.name = "m"
    tensor = request.inputs[name]
    tensor.dtype = 1
    for size in (1, 4):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend([1.0] * 4)
    data: bytes = request.SerializeToString()
    return data


ASKS: dict[str, Ask] = {
    "OIP REST": _rest,
    "OIP REST, raw": _raw,
    "OIP REST, generate": _generate,
    "OIP gRPC": _grpc,
    "OIP gRPC, stream": _stream,
    "TFS REST": _tfs_rest,
    "TFS gRPC": _tfs_grpc,
}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """The model m with two versions, each of which multiplies by its number."""
    for number in (1, 2):
        models.save(models.scale(number, width=4), tmp_path / "repo" / "m" / str(number) / "model.onnx")
    (tmp_path / "repo" / "m" / "model.yaml").write_text("versions: all\n")
    return tmp_path / "repo"


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
@on_loop
async def test_the_same_key_goes_to_the_same_version(ask: Ask, repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.share("m", Traffic(weights=HALVES, sticky="x-user"))
        routing = served.engine.catalog.models["m"].routing
        assert routing is not None
        expected = [version.number for key in KEYS if (version := routing.pick(key))]
        assert [await ask(served, key) for key in KEYS] == expected
        assert set(expected) == {1, 2}
        assert {await ask(served, None) for _ in range(40)} == {1, 2}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
@on_loop
async def test_without_stickiness_each_request_is_drawn(ask: Ask, repo: Path) -> None:
    """And it is read, run and answered by one version, not by a version drawn anew at each step."""
    random.seed(0)
    async with serving(repo) as served:
        await served.manager.share("m", Traffic(weights=HALVES))
        assert {await ask(served, "user-1") for _ in range(40)} == {1, 2}


def _unread() -> NoReturn:
    raise AssertionError("metadata were asked for")


@on_loop
async def test_metadata_are_asked_for_only_where_they_matter(repo: Path) -> None:
    """Making them costs gRPC more than reading them."""
    call = Call(sent=_unread)
    async with serving(repo) as served:
        oip = OipGrpc(served.engine, served.manager, IDENTITY)
        await oip.methods["ModelInfer"](_oip_message(), call)
        await PredictionService(served.engine).methods["Predict"](_predict("x"), call)
        await served.manager.share("m", Traffic(weights=HALVES, sticky="x-user"))
        with pytest.raises(AssertionError, match="asked for"):
            await oip.methods["ModelInfer"](_oip_message(), call)


@on_loop
async def test_a_large_body_that_is_read_elsewhere_keeps_its_version(repo: Path) -> None:
    rows = 4096
    x = {"name": "x", "shape": [rows, 4], "datatype": "FP32", "data": [1.25] * (4 * rows)}
    body = json.dumps({"inputs": [x]}).encode()
    (repo / "m" / "model.yaml").write_text("{versions: all, max_batch_size: 4096}\n")
    offload = Offload(1)
    async with serving(repo) as served:
        await served.manager.share("m", Traffic(weights=HALVES, sticky="x-user"))
        routing = served.engine.catalog.models["m"].routing
        assert routing is not None
        rest = OipRest(served.engine, served.manager, IDENTITY, offload=offload)
        try:
            for key in KEYS[:6]:
                reply = await rest.infer("m", None, body, headers=headers(key))
                assert json.loads(reply.body)["model_version"] == str(getattr(routing.pick(key), "number", None))
        finally:
            offload.close()


@on_loop
async def test_a_raw_request_runs_on_the_version_that_gave_it_its_shape(tmp_path: Path) -> None:
    random.seed(0)
    for number, shape in ((1, ("batch", 4)), (2, ("batch", 2, 2))):
        models.save(models.identity(shape=shape), tmp_path / "m" / str(number) / "model.onnx")
    (tmp_path / "m" / "model.yaml").write_text("versions: all\n")
    async with serving(tmp_path) as served:
        await served.manager.share("m", Traffic(weights=HALVES))
        rest = OipRest(served.engine, served.manager, IDENTITY)
        body = np.ones(4, np.float32).tobytes()
        assert {(await rest.infer("m", None, body, lines(b"0"))).status for _ in range(40)} == {200}


@on_loop
async def test_a_version_that_is_named_is_the_one_that_answers(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.label("m", "old", 1)
        await served.manager.share("m", Traffic(weights={"2": 1}, sticky="x-user"))
        rest, tfs = OipRest(served.engine, served.manager, IDENTITY), TfsRest(served.engine)
        for key in KEYS[:5]:
            reply = await rest.infer("m", "1", _oip_body(), headers=headers(key))
            assert json.loads(reply.body)["model_version"] == "1"
            for place in ("versions/1", "labels/old"):
                reply = await tfs.handle(
                    "POST", f"/v1/models/m/{place}:predict", b'{"instances": [[1, 1, 1, 1]]}', headers=headers(key)
                )
                assert json.loads(reply.body) == {"predictions": [[1, 1, 1, 1]]}


@pytest.mark.parametrize("form", ["REST", "gRPC"])
@on_loop
async def test_a_version_whose_signature_takes_no_such_requests_is_rolled_back(form: str, tmp_path: Path) -> None:
    """Over TensorFlow Serving's API requests are read by the signature, so they are refused before they are one."""
    random.seed(0)
    models.save(models.scale(1), tmp_path / "m" / "1" / "model.onnx")
    models.save(models.add_sub("FP32", 4), tmp_path / "m" / "2" / "model.onnx")
    (tmp_path / "m" / "model.yaml").write_text("versions: all\n")
    async with serving(tmp_path) as served:
        await served.manager.share("m", Traffic(weights=HALVES, limits=Limits(requests=20, error_rate=0.1)))
        rest, grpc = TfsRest(served.engine), PredictionService(served.engine)
        refused = 0
        for _ in range(40):
            if form == "REST":
                reply = await rest.handle("POST", "/v1/models/m:predict", b'{"instances": [[1, 1, 1, 1]]}')
                refused += reply.status == 400
            else:
                try:
                    await grpc.methods["Predict"](_predict("x"), Call())
                except ServingError as error:
                    refused += error.kind is ErrorKind.INVALID
            await turns()
        assert refused == 3
        (event,) = [e for e in await served.manager.events() if e.kind is Kind.ROLLED_BACK]
        assert event.version == 2


@on_loop
async def test_requests_that_no_version_could_read_say_nothing_of_one(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.share("m", Traffic(weights=HALVES, limits=Limits(requests=20, error_rate=0.1)))
        rest = TfsRest(served.engine)
        for _ in range(40):
            assert (await rest.handle("POST", "/v1/models/m:predict", b'{"instances": [["a"]]}')).status == 400
            await turns()
        assert not [e for e in await served.manager.events() if e.kind is Kind.ROLLED_BACK]
