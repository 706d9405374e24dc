"""What TensorFlow itself makes of the same tensors and models: its messages and a SavedModel, without sockets."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from google.protobuf.json_format import ParseDict

from serving.backends import tensorflow as backend
from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, ServingError
from serving.protocols import messages as m
from serving.protocols.grpc import Call
from serving.protocols.tfs import tensor_proto
from serving.protocols.tfs.grpc import PROTOCOL, PredictionService
from serving.protocols.tfs.rest import TfsRest
from tests import savedmodels
from tests.protocols.build import dtype_id, same, serving_engine, values_of

tf = backend.tf
T = TypeVar("T")

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,), (2, 0)], ids=str)
def test_tensors_both_ways(dtype: DType, shape: tuple[int, ...]) -> None:
    array = np.resize(values_of(dtype), shape) if 0 not in shape else np.empty(shape, dtype.numpy)
    theirs = tf.make_tensor_proto(array, dtype=dtype.tensorflow.removeprefix("DT_").lower(), shape=shape)
    assert same(tensor_proto.decode("x", m.tf.TensorProto.FromString(theirs.SerializeToString())), array)
    ours = type(theirs).FromString(b"".join(tensor_proto.encode(array, dtype)))
    back = tf.make_ndarray(ours)
    assert same(back.astype(object) if dtype is dtypes.BYTES else back, array)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repo")
    savedmodels.write("half_plus_two", path / "half_plus_two" / "123")
    savedmodels.write("defaults", path / "defaults" / "1")
    return path


def run(repo: Path, ask: Callable[[TfsRest, PredictionService], Awaitable[T]]) -> T:
    async def main() -> T:
        async with serving_engine(repo) as (engine, _):
            return await ask(TfsRest(engine), PredictionService(engine))

    return asyncio.run(main())


def example(**features: float) -> Any:
    made = m.tf.Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def examples(*values: float) -> dict[str, Any]:
    return {"example_list": {"examples": [example(x=value) for value in values]}}


def test_half_plus_two_over_rest(repo: Path) -> None:
    bodies: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("predict", {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ("predict", {"inputs": [1.0, 2.0]}, {"outputs": [2.5, 3.0]}),
        ("predict", {"instances": [[1.0], [2.0]]}, {"predictions": [[2.5], [3.0]]}),
        ("predict", {"inputs": {"x": [[1.0], [2.0]]}}, {"outputs": [[2.5], [3.0]]}),
        (
            "predict",
            {"signature_name": "regress_x2_to_y3", "instances": [[1.0]]},
            {"predictions": [[3.5]]},
        ),
        (
            "classify",
            {"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}, {"x": 2.0}]},
            {"results": [[["", 2.5]], [["", 3.0]]]},
        ),
        (
            "regress",
            {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": 2.0}]},
            {"results": [2.5, 3.0]},
        ),
        (
            "regress",
            {"signature_name": "regress_x_to_y2", "context": {"x": 4.0}, "examples": [{}, {"x": [2.0]}]},
            {"results": [5.0, 4.0]},
        ),
    ]

    async def ask(rest: TfsRest, _: PredictionService) -> None:
        for method, body, expected in bodies:
            reply = await rest.handle("POST", f"/v1/models/half_plus_two:{method}", json.dumps(body).encode())
            assert (reply.status, json.loads(reply.body)) == (200, expected)
        wrong = {"signature_name": "regress_x2_to_y3", "examples": [{"x2": 1.0}]}
        reply = await rest.handle("POST", "/v1/models/half_plus_two:regress", json.dumps(wrong).encode())
        assert reply.status == 400 and b"Expects arg[0] to be float but string is provided" in reply.body
        integer = {"signature_name": "classify_x_to_y", "examples": [{"x": 2}]}  # not a float, says the model
        reply = await rest.handle("POST", "/v1/models/half_plus_two:classify", json.dumps(integer).encode())
        assert reply.status == 400

    run(repo, ask)


def test_half_plus_two_over_grpc(repo: Path) -> None:
    async def ask(_: TfsRest, service: PredictionService) -> None:
        async def call(method: str, request: Any, answer: Any) -> Any:
            return answer.FromString(await service.methods[method](request.SerializeToString(), Call()))

        default = m.tfs.PredictRequest(model_spec={"name": "half_plus_two"})
        for shape in ([3], [3, 1]):
            x = np.array([1, 2, 5], np.float32).reshape(shape)
            default.inputs["x"].CopyFrom(tensor_proto.message(x, dtypes.FP32))
            answer = await call("Predict", default, m.tfs.PredictResponse)
            y = np.array([2.5, 3, 4.5], np.float32).reshape(shape)
            assert same(tensor_proto.decode("y", answer.outputs["y"]), y)

        spec = {"name": "half_plus_two", "signature_name": "classify_x_to_y"}
        request = m.tfs.ClassificationRequest(model_spec=spec, input=examples(1, 2))
        classified = await call("Classify", request, m.tfs.ClassificationResponse)
        rows = [[(one.label, one.score) for one in row.classes] for row in classified.result.classifications]
        assert rows == [[("", 2.5)], [("", 3.0)]]
        assert classified.model_spec.version.value == 123

        spec = {"name": "half_plus_two", "signature_name": "regress_x_to_y2"}
        request = m.tfs.RegressionRequest(model_spec=spec, input=examples(1, 2))
        regressed = await call("Regress", request, m.tfs.RegressionResponse)
        assert [one.value for one in regressed.result.regressions] == [3.5, 4.0]
        assert regressed.model_spec.signature_name == "regress_x_to_y2"

        strings = np.array([one.SerializeToString() for one in request.input.example_list.examples], object)
        predicted = m.tfs.PredictRequest(model_spec={"name": "half_plus_two", "signature_name": "classify_x_to_y"})
        predicted.inputs["inputs"].CopyFrom(tensor_proto.message(strings, dtypes.BYTES))
        answer = await call("Predict", predicted, m.tfs.PredictResponse)
        assert tensor_proto.decode("y", answer.outputs["scores"]).tolist() == [[2.5], [3.0]]

    run(repo, ask)


def test_multi_inference(repo: Path) -> None:
    tasks = [
        {"model_spec": {"name": "half_plus_two", "signature_name": name}, "method_name": method}
        for name, method in (
            ("regress_x_to_y", REGRESS),
            ("classify_x_to_y", CLASSIFY),
            ("regress_x_to_y2", REGRESS),
        )
    ]
    request = m.tfs.MultiInferenceRequest(tasks=tasks, input=examples(1, 2))

    async def ask(_: TfsRest, service: PredictionService) -> None:
        answer = m.tfs.MultiInferenceResponse.FromString(
            await service.methods["MultiInference"](request.SerializeToString(), Call())
        )
        first, second, third = answer.results
        assert [one.value for one in first.regression_result.regressions] == [2.5, 3.0]
        assert [row.classes[0].score for row in second.classification_result.classifications] == [2.5, 3.0]
        assert [one.value for one in third.regression_result.regressions] == [3.5, 4.0]
        assert [result.model_spec.signature_name for result in answer.results] == [
            "regress_x_to_y",
            "classify_x_to_y",
            "regress_x_to_y2",
        ]
        assert service._engine.metrics.requests("half_plus_two", "123", PROTOCOL).outcomes == {"ok": 3}
        request.input.example_list.examples[1].Clear()  # the feature has no default: one task fails, and so do all
        with pytest.raises(ServingError) as caught:
            await service.methods["MultiInference"](request.SerializeToString(), Call())
        assert caught.value.kind is ErrorKind.INVALID

    run(repo, ask)


def test_metadata_is_that_of_the_saved_model(repo: Path) -> None:
    async def ask(rest: TfsRest, _: PredictionService) -> Any:
        reply = await rest.handle("GET", "/v1/models/half_plus_two/metadata", b"")
        assert reply.status == 200
        return json.loads(reply.body)

    value = run(repo, ask)
    assert value["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "123"}
    graph = backend.saved_model_pb2.SavedModel.FromString(
        (repo / "half_plus_two" / "123" / "saved_model.pb").read_bytes()
    ).meta_graphs[0]
    theirs = {name: one for name, one in graph.signature_def.items() if not name.startswith("__")}
    found = value["metadata"]["signature_def"]["signature_def"]
    assert found.keys() == theirs.keys()
    for name, definition in theirs.items():
        described = type(definition)()
        ParseDict(found[name], described)
        assert described == definition


def test_a_default_is_described_and_used(repo: Path) -> None:
    async def ask(rest: TfsRest, _: PredictionService) -> None:
        reply = await rest.handle("GET", "/v1/models/defaults/metadata", b"")
        signature = json.loads(reply.body)["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert set(signature["defaults"]) == {"factor", "unit"}
        assert signature["defaults"]["factor"]["float_val"] == [3.0]
        reply = await rest.handle("POST", "/v1/models/defaults:predict", b'{"inputs":{"x":[[1,2]]}}')
        assert (reply.status, json.loads(reply.body)["outputs"]["y"]) == (200, [[3.0, 6.0]])

    run(repo, ask)
