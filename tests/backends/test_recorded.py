"""Requests that a SavedModel brings along for its warm-up, in files as TensorFlow Serving's own messages write them."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends import recorded, registry
from serving.backends import tensorflow as backend
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import Tensors
from serving.repository.disk.layout import scan
from serving.repository.loads import loading
from tests import savedmodels

tf = backend.tf
logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")


def predict(signature: str = "", **inputs: Any) -> Any:
    log = logs.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "whatever"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array(value, np.float32)))
    return log


def features(**values: float) -> Any:
    floats = {name: tf.train.Feature(float_list=tf.train.FloatList(value=[x])) for name, x in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=floats))


def classify(*rows: Any) -> Any:
    log = logs.PredictionLog()
    log.classify_log.request.model_spec.signature_name = "classify_x_to_y"
    log.classify_log.request.input.example_list.examples.extend(rows)
    return log


def regress_in_context(context: Any, *rows: Any) -> Any:
    log = logs.PredictionLog()
    log.regress_log.request.model_spec.signature_name = "regress_x_to_y"
    log.regress_log.request.input.example_list_with_context.context.CopyFrom(context)
    log.regress_log.request.input.example_list_with_context.examples.extend(rows)
    return log


def multi(*rows: Any) -> Any:
    log = logs.PredictionLog()
    for signature in ("classify_x_to_y", "regress_x_to_y2"):
        log.multi_inference_log.request.tasks.add().model_spec.signature_name = signature
    log.multi_inference_log.request.input.example_list.examples.extend(rows)
    return log


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return savedmodels.write("half_plus_two", tmp_path / "m" / "1")


def write(version: Path, *found: Any) -> Path:
    path = version / recorded.FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for log in found:
            file.write(log.SerializeToString())
    return path


def read(version: Path) -> list[recorded.Recorded]:
    return list(registry.recorded(version, ModelSpec()))


def test_predict(version: Path) -> None:
    write(version, predict(x=[[1], [2]]), predict("regress_x2_to_y3", inputs=[[3]]))
    first, second = read(version)
    assert (first.signature, first.examples, list(first.inputs)) == ("serving_default", None, ["x"])
    assert first.inputs["x"].dtype == np.float32 and first.inputs["x"].tolist() == [[1], [2]]
    assert (second.signature, second.inputs["inputs"].tolist()) == ("regress_x2_to_y3", [[3]])


def test_examples(version: Path) -> None:
    rows = features(x=1), features(x=2)
    write(version, classify(*rows), regress_in_context(features(x2=5), *rows), multi(rows[0]))
    found = read(version)
    assert [one.signature for one in found] == [
        "classify_x_to_y",
        "regress_x_to_y",
        "classify_x_to_y",
        "regress_x_to_y2",
    ]
    plain, in_context, *_ = (one.examples for one in found)
    assert plain is not None and [tf.train.Example.FromString(row) for row in plain] == list(rows)
    assert in_context is not None
    joined = [tf.train.Example.FromString(row).features.feature for row in in_context]
    assert [{name: each.float_list.value[0] for name, each in row.items()} for row in joined] == [
        {"x": 1, "x2": 5},
        {"x": 2, "x2": 5},
    ]


def test_other_kinds_are_passed_over_and_no_file_is_no_request(version: Path) -> None:
    assert read(version) == []
    log = logs.PredictionLog()
    log.session_run_log.SetInParent()
    write(version, log, logs.PredictionLog())
    assert read(version) == []


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (b"\xff" * 40, "request 0: no TFRecord file"),
        (struct.pack("<QI", 100, 0) + b"short", "request 0: the file ends in the middle of a record"),
        (b"\x05", "request 0: the file ends in the middle of a record"),
        (struct.pack("<QI", 3, 0) + b"\xff\xff\xff" + bytes(4), "request 1: no number at byte"),
        (
            struct.pack("<QI", 11, 0) + b"\x32\x09\x0a\x07\x12\x05\x12\x03\xff\xff\xff" + bytes(4),
            "request 1: no tensor: ",
        ),
    ],
)
def test_a_file_that_cannot_be_read(version: Path, contents: bytes, told: str) -> None:
    write(version).write_bytes(contents)
    with pytest.raises(LoadError, match=told):
        read(version)


def test_no_more_than_tensorflow_serving_takes(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MOST", 2)
    write(version, *(predict(x=[[1]]) for _ in range(2)))
    assert len(read(version)) == 2
    write(version, *(predict(x=[[1]]) for _ in range(3)))
    with pytest.raises(LoadError, match="more than 2 requests"):
        read(version)


class Noted:
    """A session that notes its runs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs: list[tuple[str, int]] = []

    def run(self, inputs: Tensors, outputs: tuple[str, ...], signature: str) -> Tensors:
        self.runs.append((signature, len(next(iter(inputs.values())))))
        result: Tensors = self._session.run(inputs, outputs, signature)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture
def warm_up(version: Path) -> Iterator[Any]:
    sessions: list[Any] = []

    def warm_up(**spec: Any) -> Noted:
        settings = ModelSpec(**spec)
        found = scan(version.parent.parent)["m"].versions[1]
        noted = Noted(loading.load("m", found, settings))
        sessions.append(noted)
        loading.warm_up("m", found, settings, noted)
        return noted

    yield warm_up
    for session in sessions:
        session.close()


def test_they_are_run_before_the_first_client(version: Path, warm_up: Any) -> None:
    write(version, predict(x=[[1]] * 37), classify(*[features(x=1)] * 41))
    assert warm_up().runs[-2:] == [("serving_default", 37), ("classify_x_to_y", 41)]
    assert not {37, 41} & {rows for _, rows in warm_up(warmup=False).runs}


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (predict("nope", x=[[1]]), "there is no signature 'nope'"),
        (predict(z=[[1]]), "expected .*'x'|'z'"),
        (predict(x=[[1], [2], [3]]), "batch-size must be <= 2"),
        (multi(features(z=1)), "the model fails on request 1 of"),
    ],
)
def test_what_no_client_could_send_is_a_reason_not_to_serve(version: Path, warm_up: Any, log: Any, told: str) -> None:
    write(version, log)
    with pytest.raises(LoadError, match=told) as refused:
        warm_up(max_batch_size=2)
    assert "request 1 of assets.extra/tf_serving_warmup_requests" in str(refused.value)


def test_examples_for_a_signature_that_takes_none(version: Path, warm_up: Any) -> None:
    log = classify(features(x=1))
    log.classify_log.request.model_spec.signature_name = "regress_x2_to_y3"
    write(version, log)
    with pytest.raises(LoadError, match="signature 'regress_x2_to_y3' does not take tf"):
        warm_up()
