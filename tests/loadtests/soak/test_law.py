"""The model whose answers tell their version, and the requests of the mix."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from loadtests import oip
from loadtests.soak import law, wire
from serving.core.artifact import read_golden, read_manifest, verify
from serving.protocols.messages import oip as m
from serving.protocols.messages import tfs as t


def answer(version: int, x: np.ndarray) -> np.ndarray:
    return law.product(x) * np.float32(version)


def test_the_model_does_what_it_says() -> None:
    x = law.rows(5, 1)
    session = onnxruntime.InferenceSession(law.build(7).SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {law.INPUT: x})
    assert np.array_equal(y, answer(7, x))
    assert law.factor(law.product(x), {law.OUTPUT: y}) == 7


def test_whole_numbers_stay_exact_for_a_day_of_swaps() -> None:
    largest = max(np.abs(ask.base).max() for asks in wire.asks().values() for ask in asks)
    assert largest * 24 * 60 < law.EXACT


@pytest.mark.parametrize(
    "change", [lambda y: y + 1, lambda y: y[:1], lambda y: y.astype(np.float64), lambda y: -y, lambda y: y * 1.5]
)
def test_what_no_version_answers_is_wrong(change: object) -> None:
    base = law.product(law.rows(2, 1))
    with pytest.raises(ValueError, match=r"output|values"):
        law.factor(base, {law.OUTPUT: change(base * 3)})  # type: ignore[operator]


def test_versions_are_published_whole_and_in_order(tmp_path: Path) -> None:
    law.write_repository(tmp_path)
    assert law.release(tmp_path) == 2
    version = tmp_path / law.NAME / "2"
    manifest, golden = read_manifest(version), read_golden(version)
    assert manifest is not None and golden is not None and verify(version, manifest) == []
    assert np.array_equal(golden.outputs[law.OUTPUT], answer(2, golden.inputs[law.INPUT]))


def test_a_mix_has_every_protocol() -> None:
    assert tuple(wire.asks()) == wire.PROTOCOLS
    assert len(wire.asks()["oip-json-large"][0].body) > 256 * 1024  # what goes to helper processes


def grpc_answer(ask: wire.Ask, version: int, named: int) -> bytes:
    y = ask.base * np.float32(version)
    response = m.ModelInferResponse(model_name=law.NAME, model_version=str(named))
    response.outputs.add(name=law.OUTPUT, datatype="FP32", shape=y.shape)
    response.raw_output_contents.append(y.tobytes())
    return bytes(response.SerializeToString())


def test_answers_of_every_protocol_tell_their_version() -> None:
    asks = {name: asks[0] for name, asks in wire.asks().items()}
    ask = asks["oip-grpc"]
    assert wire.version_of(ask, {}, grpc_answer(ask, 4, 4)) == 4
    stream = m.ModelStreamInferResponse()
    stream.infer_response.MergeFromString(grpc_answer(ask, 4, 4))
    assert wire.version_of(asks["oip-stream"], {}, stream.SerializeToString()) == 4
    y = asks["tfs-rest"].base * 4
    assert wire.version_of(asks["tfs-rest"], {}, b'{"predictions": %s}' % str(y.tolist()).encode()) == 4
    body, json_bytes = oip.encode_binary({law.OUTPUT: y})
    answer = body[:json_bytes].replace(b'"inputs"', b'"model_version":"4","outputs"') + body[json_bytes:]
    headers = {oip.JSON_LENGTH: str(len(answer) - y.nbytes)}
    assert wire.version_of(asks["oip-binary"], headers, answer) == 4
    predicted = t.PredictResponse()
    predicted.model_spec.version.value = 4
    predicted.outputs[law.OUTPUT].dtype = 1
    predicted.outputs[law.OUTPUT].tensor_content = y.tobytes()
    for size in y.shape:
        predicted.outputs[law.OUTPUT].tensor_shape.dim.add(size=size)
    assert wire.version_of(asks["tfs-grpc"], {}, predicted.SerializeToString()) == 4


def test_an_answer_of_another_version_than_it_says_is_wrong() -> None:
    ask = wire.asks()["oip-grpc"][0]
    with pytest.raises(ValueError, match="the values of version 4 in an answer of version 5"):
        wire.version_of(ask, {}, grpc_answer(ask, 4, 5))
