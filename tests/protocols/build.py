"""Requests, answers and an engine for tests of the codecs."""

import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.errors import ErrorKind, ServingError
from serving.core.metrics import Metrics
from serving.core.types import InferRequest, InferResponse, Signature, TensorSpec
from serving.engine import Engine
from serving.protocols.grpc import Call
from serving.protocols.http import Headers, HttpReply
from serving.protocols.messages import oip
from serving.protocols.oip import grpc_codec, rest_codec
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.oip.metadata import ServerIdentity
from serving.protocols.oip.outputs import Wants
from serving.protocols.oip.rest import OipRest
from serving.protocols.oip.shared_memory import SharedMemory
from serving.repository.manager import Manager, Source

NUMERIC = tuple(d for d in dtypes.ALL if d is not dtypes.BYTES)
IN_JSON = tuple(d for d in dtypes.ALL if d not in (dtypes.FP16, dtypes.BF16))
INTEGERS = tuple(d for d in dtypes.ALL if d.is_integer)
FLOATS = tuple(d for d in dtypes.ALL if d.is_float)

NESTED = "[" * 1_000_000  # deeper than any parser may follow


def dtype_id(dtype: dtypes.DType) -> str:
    return dtype.name


def refused(call: Callable[[], object], kind: ErrorKind = ErrorKind.INVALID) -> str:
    """What the client is told when `call` refuses."""
    with pytest.raises(ServingError) as caught:
        call()
    assert caught.value.kind is kind
    return caught.value.message


@contextmanager
def not_for_ever(limit_s: int = 30) -> Iterator[None]:
    """Ends work that would take hours. No measure of speed: what is right takes a thousandth of the limit."""

    def give_up(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"still at it after {limit_s} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# REST


def lines(length: bytes | None = None, encoding: bytes | None = None, accept: bytes | None = None) -> Headers:
    """Headers of an inference request over REST."""
    said = ((rest_codec.HEADER_LENGTH, length), (b"content-encoding", encoding), (b"accept-encoding", accept))
    return [(name, value) for name, value in said if value is not None]


def tensor(name: str = "x", datatype: str = "FP32", shape: object = (1, 2), **more: Any) -> dict[str, Any]:
    """An input of a REST request."""
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def body(*inputs: object, **top: Any) -> bytes:
    return json.dumps({"inputs": inputs, **top}).encode()


def decode(
    data: bytes,
    header_length: int | bytes | None = None,
    version: str | None = None,
    memory: SharedMemory | None = None,
) -> tuple[InferRequest, Wants]:
    """What the REST codec makes of a body for model `m`."""
    if isinstance(header_length, int):
        header_length = b"%d" % header_length
    return rest_codec.decode("m", version, data, rest_codec.header_size(header_length, len(data)), memory)


def decode_binary(*inputs: tuple[dict[str, Any], bytes], **top: Any) -> tuple[InferRequest, Wants]:
    """Decodes a request whose inputs come as raw bytes, each of the size that it claims."""
    entries = [{**entry, "parameters": {"binary_data_size": len(raw)}} for entry, raw in inputs]
    header = body(*entries, **top)
    return decode(header + b"".join(raw for _, raw in inputs), len(header))


def answer_of(
    outputs: Mapping[str, tuple[dtypes.DType, np.ndarray]],
    request_id: str = "",
    version: int = 3,
    axis_0: int | None = None,
) -> InferResponse:
    """An answer of model `m`; `axis_0`: what the model says of the first axis, instead of its size."""
    specs = {
        name: TensorSpec(name, dtype, array.shape if axis_0 is None else (axis_0, *array.shape[1:]))
        for name, (dtype, array) in outputs.items()
    }
    arrays = {name: array for name, (_, array) in outputs.items()}
    return InferResponse("m", version, arrays, Signature({}, specs), request_id)


def split_answer(reply: HttpReply) -> tuple[dict[str, Any], bytes]:
    """The JSON of a reply, and the raw tensors behind it."""
    length = dict(reply.headers).get(b"inference-header-content-length")
    size = len(reply.body) if length is None else int(length)
    value: dict[str, Any] = json.loads(reply.body[:size])
    return value, reply.body[size:]


# gRPC


def message(raw: list[bytes] | None = None, **fields: Any) -> Any:
    """A ModelInferRequest for model `m`."""
    return oip.ModelInferRequest(model_name="m", raw_input_contents=raw or [], **fields)


def read(request: Any, deadline: float | None = None, memory: SharedMemory | None = None) -> InferRequest:
    return grpc_codec.decode(request, Call(deadline), memory)[0]


# Both


def values_of(dtype: dtypes.DType) -> np.ndarray:
    """Three values of a type, its limits among them."""
    if dtype is dtypes.BYTES:
        array = np.empty(3, dtype=object)
        array[:] = [b"", "grüße".encode(), b"null\n"]
        return array
    if dtype is dtypes.BOOL:
        return np.array([True, False, True])
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        return np.array([info.min, info.max, 1], dtype.numpy)
    return np.array([-1.5, 0.0, 3.25]).astype(dtype.numpy)


def same(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Equal in type, shape and every element; NaN equals NaN."""
    if actual.dtype != expected.dtype or actual.shape != expected.shape:
        return False
    if actual.dtype == object:
        return bool(actual.tolist() == expected.tolist())
    return actual.tobytes() == expected.tobytes()


@asynccontextmanager
async def serving_engine(path: Path) -> AsyncIterator[tuple[Engine, Manager]]:
    """An engine with everything in `path` loaded, and what controls it."""
    metrics = Metrics()
    engine = Engine(metrics)
    manager = Manager([Source(path)], engine.publish, metrics, settle_s=0.0, watch=False)
    await manager.start()
    engine.started = True
    try:
        yield engine, manager
    finally:
        await manager.close()


@asynccontextmanager
async def serving_oip(
    path: Path, memory: SharedMemory | None = None, **rest: Any
) -> AsyncIterator[tuple[OipRest, OipGrpc, Engine]]:
    """Both forms of the Open Inference Protocol on an engine with everything in `path` loaded."""
    identity = ServerIdentity("s", "0")
    async with serving_engine(path) as (engine, control):
        yield (
            OipRest(engine, control, identity, memory=memory, **rest),
            OipGrpc(engine, control, identity, memory=memory),
            engine,
        )
