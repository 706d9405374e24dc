"""A service that has read such requests before gives the answers of one that has not."""

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.errors import ServingError
from serving.engine import Engine
from serving.protocols import messages as m
from serving.protocols.grpc import Call
from serving.protocols.tfs import tensor_proto
from serving.protocols.tfs.grpc import PredictionService
from tests import models
from tests.protocols.build import serving_engine
from tests.protocols.tfs.test_grpc import repo, run

__all__ = ["repo"]


def request(spec: dict[str, Any], *arrays: np.ndarray, typed: bool = False, **fields: Any) -> bytes:
    message = m.tfs.PredictRequest(model_spec=spec, **fields)
    for name, array in zip(("x", "INPUT1"), arrays, strict=False):
        tensor = tensor_proto.message(array, dtypes.BY_NUMPY[array.dtype])
        if not typed:
            tensor = m.tf.TensorProto(dtype=tensor.dtype, tensor_shape=tensor.tensor_shape)
            tensor.tensor_content = array.tobytes()
        message.inputs[name].CopyFrom(tensor)
    data: bytes = message.SerializeToString()
    return data


def requests() -> list[bytes]:
    found = []
    for rows in (1, 2, 300):
        x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
        for values in (x, x + 1):
            found += [
                request(spec, values)
                for spec in (
                    {"name": "copy"},
                    {"name": "copy", "version": {"value": 2}},
                    {"name": "copy", "version_label": "stable"},
                    {"name": "copy", "signature_name": "serving_default"},
                    {"name": "copy", "version": {"value": 9}},
                    {"name": "copy", "signature_name": "other"},
                    {"name": "nobody"},
                    {},
                )
            ]
            found += [
                request({"name": "copy"}, values, output_filter=["y"]),
                request({"name": "copy"}, values, output_filter=["z"]),
                request({"name": "copy"}, values, typed=True),
                request({"name": "copy"}, values.reshape(-1)),
                request({"name": "copy"}, values.astype(np.int64)),
                request({"name": "copy"}, values, values),
            ]
    empty = np.empty((0, 4), np.float32)
    return [*found, request({"name": "copy"}, empty), request({"name": "copy"}), b"", b"\xff"]


async def outcome(service: PredictionService, data: bytes) -> object:
    try:
        return await service.methods["Predict"](data, Call())
    except ServingError as error:
        return error.kind, error.message


@pytest.mark.parametrize("seed", range(3))
def test_any_requests_in_any_order(repo: Path, seed: int) -> None:
    asked = requests() * 3
    random.Random(seed).shuffle(asked)

    async def ask(engine: Engine, service: PredictionService, _: object) -> None:
        answered = 0
        for data in asked:
            found = await outcome(service, data)
            assert found == await outcome(PredictionService(engine), data)
            answered += isinstance(found, bytes)
        assert answered > len(asked) / 4

    run(repo, ask)


def test_it_is_read_once(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((1, 4), np.float32)

    async def ask(engine: Engine, service: PredictionService, _: object) -> None:
        await outcome(service, request({"name": "copy"}, x))
        monkeypatch.setattr("serving.protocols.tfs.grpc_codec.read_predict", None)  # would be a TypeError
        data = await outcome(service, request({"name": "copy"}, 2 * x))
        assert isinstance(data, bytes)
        answer = m.tfs.PredictResponse.FromString(data)
        assert np.array_equal(tensor_proto.decode("y", answer.outputs["y"]), 6 * x)

    run(repo, ask)


def test_a_new_version_reads_for_itself(repo: Path) -> None:
    data = request({"name": "copy"}, np.ones((1, 4), np.float32))

    async def ask() -> None:
        async with serving_engine(repo) as (engine, manager):
            service = PredictionService(engine)
            for _ in range(2):
                assert isinstance(await outcome(service, data), bytes)
            models.save(models.scale(5, width=8), repo / "copy" / "4" / "model.onnx")
            await manager.load("copy")
            for _ in range(2):
                found = await outcome(service, data)
                assert isinstance(found, tuple) and "unexpected shape for input 'x'" in found[1]

    asyncio.run(ask())
