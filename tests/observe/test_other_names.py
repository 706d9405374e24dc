"""What dashboards for Triton and TensorFlow Serving are given: their names, labels and units."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serving.core.errors import ServingError
from serving.core.types import Timing
from serving.engine import Engine
from serving.observe.other_names import tensorflow_serving, triton
from serving.protocols.oip.rest import OipRest
from tests import models
from tests.protocols.build import body, serving_engine, tensor

_LINE = re.compile(r"([a-z_:]+)\{(.*)\} (\S+)")


def lines(text: bytes) -> dict[str, dict[str, float]]:
    """Values by name and labels, as they are written."""
    found: dict[str, dict[str, float]] = {}
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            match = _LINE.fullmatch(line)
            assert match is not None, line
            found.setdefault(match[1], {})[match[2]] = float(match[3])
    return found


def kinds(text: bytes) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text.decode(), re.MULTILINE))


def after(tmp_path: Path, names: Callable[[Engine], Callable[[], bytes]]) -> bytes:
    """What is told after three answers, one refusal and one failure of the model."""
    from serving.protocols.oip import metadata

    models.save(models.identity(), tmp_path / "copy/2/model.onnx")
    models.save(models.lookup(), tmp_path / "lookup/1/model.onnx")

    async def main() -> bytes:
        async with serving_engine(tmp_path) as (engine, control):
            rest = OipRest(engine, control, metadata.ServerIdentity("s", "0"))
            for rows in (1, 2, 3):
                data = np.ones(4 * rows).tolist()
                await rest.infer("copy", None, body(tensor(shape=[rows, 4], data=data)))
            bad = tensor(name="x", datatype="INT64", shape=[1, 1], data=[99])
            for model, request in (("copy", b"{"), ("lookup", body(bad))):
                try:
                    await rest.infer(model, None, request)
                except ServingError:
                    continue
                raise AssertionError("it was to be refused")
            return names(engine)()

    return asyncio.run(main())


def test_triton(tmp_path: Path) -> None:
    text = after(tmp_path, triton)
    found = lines(text)
    copy, lookup = 'model="copy",version="2"', 'model="lookup",version="1"'
    assert found["nv_inference_request_success"] == {copy: 3, lookup: 0}
    assert found["nv_inference_count"] == {copy: 6, lookup: 0}
    assert found["nv_inference_exec_count"] == {copy: 3, lookup: 0}
    assert found["nv_inference_pending_request_count"] == {copy: 0, lookup: 0}
    failures = {labels: count for labels, count in found["nv_inference_request_failure"].items() if count}
    assert failures == {f'{copy},reason="OTHER"': 1, f'{lookup},reason="BACKEND"': 1}
    parts = sum(found[f"nv_inference_{part}_duration_us"][copy] for part in ("queue", "compute_infer"))
    assert 0 < parts <= found["nv_inference_request_duration_us"][copy] < 60e6
    assert kinds(text) == {name: "gauge" if "pending" in name else "counter" for name in found}


def test_tensorflow_serving(tmp_path: Path) -> None:
    text = after(tmp_path, tensorflow_serving)
    found = lines(text)
    assert found[":tensorflow:serving:request_count"] == {
        'model_name="copy",status="OK"': 3,
        'model_name="copy",status="INVALID_ARGUMENT"': 1,
        'model_name="lookup",status="INTERNAL"': 1,
    }
    labels = 'model_name="copy",API="predict",entrypoint="REST"'
    assert found[":tensorflow:serving:request_latency_count"] == {labels: 3}
    assert 0 < found[":tensorflow:serving:request_latency_sum"][labels] < 60e6
    assert found[":tensorflow:serving:request_latency_bucket"][f'{labels},le="+Inf"'] == 3
    assert list(found[":tensorflow:serving:runtime_latency_count"]) == ['model_name="copy",API="Predict",runtime="TF1"']
    assert set(kinds(text).values()) == {"counter", "histogram"}


def test_durations_are_microseconds_and_protocols_are_one(tmp_path: Path) -> None:
    async def main() -> bytes:
        async with serving_engine(tmp_path) as (engine, _):
            for protocol in ("oip_grpc", "tfs_grpc"):
                engine.metrics.requests("m", "1", protocol).answered(0, Timing(compute_s=0.004), 0, 0.25)
            return tensorflow_serving(engine)()

    models.save(models.identity(), tmp_path / "m/1/model.onnx")
    found = lines(asyncio.run(main()))
    labels = 'model_name="m",API="Predict",entrypoint="GRPC"'
    assert found[":tensorflow:serving:request_latency_sum"] == {labels: 500_000}
    buckets = found[":tensorflow:serving:request_latency_bucket"]
    assert [buckets[f'{labels},le="{edge}"'] for edge in ("100", "100000", "250000", "1e+07", "+Inf")] == [
        0,
        0,
        2,
        2,
        2,
    ]


def test_names_of_models_are_escaped(tmp_path: Path) -> None:
    async def main() -> bytes:
        async with serving_engine(tmp_path) as (engine, _):
            engine.metrics.requests('quo"te\n\\', "1", "oip_rest").failed("invalid")
            return tensorflow_serving(engine)()

    models.save(models.identity(), tmp_path / "m/1/model.onnx")
    assert b'{model_name="quo\\"te\\n\\\\",status="INVALID_ARGUMENT"} 1\n' in asyncio.run(main())
