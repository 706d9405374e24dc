"""What is sent and what is expected: from files, encoded for every protocol, checked."""

import json
from pathlib import Path

import numpy as np
import pytest

from loadtests import oip, tfs
from loadtests.locust import samples
from loadtests.locust.samples import Check, Sample, random_samples, read
from loadtests.locust.target import Target, encoded
from loadtests.oip import AnswerError
from serving.core import dtypes
from serving.core.artifact import Golden, write_golden
from serving.core.types import Signature, TensorSpec
from serving.protocols.messages import oip as m
from serving.protocols.messages import tfs as t

FP32, BYTES = dtypes.FP32, dtypes.BYTES
SIGNATURE = Signature({"x": TensorSpec("x", FP32, (-1, 2))}, {"y": TensorSpec("y", FP32, (-1, 3))})
X = np.array([[1, 2], [3, 4]], np.float32)
Y = np.array([[0, 1, 0], [0, 0, 1]], np.float32)


def test_random_samples_are_the_models() -> None:
    made = random_samples(SIGNATURE, 5)
    assert len(made) == samples.COUNT
    assert all(sample.inputs["x"].shape == (5, 2) and sample.rows == 5 and sample.expected is None for sample in made)


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X.astype(np.float64))
    (sample,) = read(tmp_path / "a.npz", SIGNATURE)
    assert sample.inputs["x"].dtype == np.float32 and np.array_equal(sample.inputs["x"], X)
    np.savez(tmp_path / "b.npz", z=X)
    with pytest.raises(ValueError, match="'z' is none of the inputs"):
        read(tmp_path / "b.npz", SIGNATURE)


def test_golden_sample(tmp_path: Path) -> None:
    write_golden(tmp_path, Golden({"x": X}, {"y": Y}))
    (sample,) = read(tmp_path / "golden.npz", SIGNATURE)
    assert sample.expected is not None and np.array_equal(sample.expected["y"], Y)


def test_json(tmp_path: Path) -> None:
    first = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]}
    second = {**first, "outputs": [{"name": "y", "shape": [2, 3], "data": Y.reshape(-1).tolist()}]}
    (tmp_path / "a.json").write_text(json.dumps([first, second]))
    one, two = read(tmp_path / "a.json", SIGNATURE)
    assert np.array_equal(one.inputs["x"], X) and one.expected is None
    assert two.expected is not None and np.array_equal(two.expected["y"], Y)


def test_json_text(tmp_path: Path) -> None:
    text = Signature({"s": TensorSpec("s", BYTES, (-1,))}, {})
    (tmp_path / "a.json").write_text(json.dumps({"inputs": [{"name": "s", "shape": [2], "data": ["a", "ü"]}]}))
    (sample,) = read(tmp_path / "a.json", text)
    assert list(sample.inputs["s"]) == [b"a", "ü".encode()]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"inputs": [{"name": "q", "data": []}]}', '{"inputs": 3}'])
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json"):
        read(tmp_path / "a.json", SIGNATURE)


def test_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.npz or \.json"):
        read(tmp_path / "a.csv", SIGNATURE)


def check(kind: str, y: np.ndarray) -> None:
    Check(kind, SIGNATURE, 0.01, 0).answer(Sample({"x": X}, {"y": Y}), {"y": y})


def test_checks() -> None:
    for kind in ("same", "golden", "argmax", "shape"):
        check(kind, Y + np.float32(0.005))
    for kind in ("same", "golden"):
        with pytest.raises(AnswerError, match="not the answer that is expected: 'y' differs"):
            check(kind, Y + np.float32(0.05))
    check("argmax", Y + np.float32(0.05))
    check("shape", Y[::-1])
    with pytest.raises(AnswerError, match="largest"):
        check("argmax", Y[::-1])
    for kind in ("same", "argmax", "shape"):
        for wrong in (Y[:1], Y.astype(np.float64), Y[:, :2]):
            with pytest.raises(AnswerError):
                check(kind, wrong)


def test_a_version_is_asked_for_in_every_protocol() -> None:
    made = {name: requests[0] for name, requests in encoded([Sample({"x": X})], "a/b", 3, "").items()}
    assert made["oip-json"].path == made["oip-binary"].path == "/v2/models/a%2Fb/versions/3/infer"
    assert made["tfs-rest"].path == "/v1/models/a%2Fb/versions/3:predict"
    for name in ("oip-grpc", "oip-stream"):
        message = m.ModelInferRequest.FromString(made[name].body)
        assert (message.model_name, message.model_version) == ("a/b", "3")
    spec = t.PredictRequest.FromString(made["tfs-grpc"].body).model_spec
    assert (spec.name, spec.version.value) == ("a/b", 3)


def test_a_label_is_asked_for_where_there_are_labels() -> None:
    made = encoded([Sample({"x": X})], "m", None, "canary")
    assert {name for name, requests in made.items() if requests} == {"tfs-rest", "tfs-grpc"}
    assert made["tfs-rest"][0].path == "/v1/models/m/labels/canary:predict"
    assert t.PredictRequest.FromString(made["tfs-grpc"][0].body).model_spec.version_label == "canary"


def test_what_json_cannot_carry_is_not_sent_as_json() -> None:
    made = encoded([Sample({"x": X.astype(np.float16)})], "m", None, "")
    assert {name for name, requests in made.items() if not requests} == {"oip-json", "tfs-rest"}


def test_answers_are_read() -> None:
    target = Target((Sample({"x": X}),), Check("shape", SIGNATURE, 0, 0), {})
    response = m.ModelStreamInferResponse()
    response.infer_response.outputs.add(name="y", datatype="FP32", shape=Y.shape)
    response.infer_response.raw_output_contents.append(Y.tobytes())
    body = oip.encode_json({"y": Y}).replace(b"inputs", b"outputs")
    predicted = t.PredictResponse()
    predicted.outputs["y"].CopyFrom(t.PredictRequest.FromString(tfs.encode_predict("m", {"y": Y})).inputs["y"])
    for protocol, answer in {
        "oip-json": body,
        "oip-grpc": response.infer_response.SerializeToString(),
        "oip-stream": response.SerializeToString(),
        "tfs-rest": json.dumps({"predictions": Y.tolist()}).encode(),
        "tfs-grpc": predicted.SerializeToString(),
    }.items():
        assert np.array_equal(target.read(protocol, {}, answer)["y"], Y), protocol
    with pytest.raises(AnswerError, match="busy"):
        target.read("oip-stream", {}, m.ModelStreamInferResponse(error_message="busy").SerializeToString())
