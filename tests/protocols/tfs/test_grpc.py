"""The gRPC services on a real engine with ONNX models, without sockets."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.errors import ErrorKind, ServingError
from serving.engine import Engine
from serving.protocols import messages as m
from serving.protocols.grpc import Call, Service
from serving.protocols.status import Family
from serving.protocols.tfs import tensor_proto
from serving.protocols.tfs.grpc import MAX_MESSAGE, PROTOCOL, ModelService, PredictionService, all_of
from tests import models
from tests.leftovers import Marker, without_collector
from tests.protocols.build import serving_engine

T = TypeVar("T")

X = np.array([[1, 2, 3, 4]], np.float32)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """`copy`, versions 2 and 3 (scaled by their number), the label `stable` for 2; `sum` with two inputs."""
    for number in (2, 3):
        models.save(models.scale(number), tmp_path / "copy" / str(number) / "model.onnx")
    (tmp_path / "copy" / "model.yaml").write_text("versions: all\nversion_labels: {stable: 2}\n")
    models.save(models.add_sub(width=4), tmp_path / "sum" / "1" / "model.onnx")
    return tmp_path


def run(repo: Path, ask: Callable[[Engine, PredictionService, ModelService], Awaitable[T]]) -> T:
    async def main() -> T:
        async with serving_engine(repo) as (engine, control):
            return await ask(engine, PredictionService(engine), ModelService(engine, control))

    return asyncio.run(main())


async def call(service: Service, method: str, request: Any, answer: Any, deadline: float | None = None) -> Any:
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return answer.FromString(await service.methods[method](data, Call(deadline)))


async def refusal(service: Service, method: str, request: Any, deadline: float | None = None) -> tuple[ErrorKind, str]:
    with pytest.raises(ServingError) as caught:
        await call(service, method, request, m.tfs.PredictResponse, deadline)
    return caught.value.kind, caught.value.message


def predict(spec: dict[str, Any], x: np.ndarray = X, **fields: Any) -> Any:
    request = m.tfs.PredictRequest(model_spec=spec, **fields)
    request.inputs["x"].CopyFrom(tensor_proto.message(x, dtypes.BY_NUMPY[x.dtype]))
    return request


def test_services_are_whole() -> None:
    engine: Any = None
    for service, descriptor in (
        (PredictionService(engine), m.tfs.PredictionService),
        (ModelService(engine, engine), m.tfs.ModelService),
    ):
        assert service.service == descriptor.full_name
        assert service.family is Family.TFS
        assert set(service.methods) == set(descriptor.methods_by_name)
        assert not service.streams


def test_predict(repo: Path) -> None:
    async def ask(engine: Engine, service: PredictionService, _: ModelService) -> None:
        for spec, number in (
            ({"name": "copy"}, 3),
            ({"name": "copy", "version": {"value": 2}}, 2),
            ({"name": "copy", "version_label": "stable", "signature_name": "serving_default"}, 2),
        ):
            answer = await call(service, "Predict", predict(spec), m.tfs.PredictResponse)
            assert np.array_equal(tensor_proto.decode("y", answer.outputs["y"]), X * number)
            filled = answer.model_spec
            assert (filled.name, filled.version.value, filled.signature_name) == ("copy", number, "serving_default")
        large = np.tile(X, (60, 1))
        answer = await call(service, "Predict", predict({"name": "copy"}, large), m.tfs.PredictResponse)
        assert np.array_equal(tensor_proto.decode("y", answer.outputs["y"]), large * 3)
        empty = np.empty((0, 4), np.float32)
        answer = await call(service, "Predict", predict({"name": "copy"}, empty), m.tfs.PredictResponse)
        assert tensor_proto.decode("y", answer.outputs["y"]).shape == (0, 4)
        assert engine.metrics.requests("copy", "3", PROTOCOL).outcomes == {"ok": 3}
        assert engine.metrics.requests("copy", "2", PROTOCOL).outcomes == {"ok": 2}

    run(repo, ask)


def test_an_output_by_name(repo: Path) -> None:
    request = m.tfs.PredictRequest(model_spec={"name": "sum"}, output_filter=["OUTPUT1"])
    for name in ("INPUT0", "INPUT1"):
        request.inputs[name].CopyFrom(tensor_proto.message(np.ones((1, 4), np.int32), dtypes.INT32))

    async def ask(_: Engine, service: PredictionService, __: ModelService) -> None:
        answer = await call(service, "Predict", request, m.tfs.PredictResponse)
        assert set(answer.outputs) == {"OUTPUT1"}
        assert list(answer.outputs["OUTPUT1"].int_val) == [0, 0, 0, 0]

    run(repo, ask)


def test_refusals_are_counted_by_what_the_server_knows(repo: Path) -> None:
    classify = m.tfs.ClassificationRequest(model_spec={"name": "copy"}, input={"example_list": {"examples": [{}]}})

    async def ask(engine: Engine, service: PredictionService, _: ModelService) -> None:
        for method, request, kind, text, labels in (
            ("Predict", b"\xff", ErrorKind.INVALID, "not a valid tensorflow.serving.PredictRequest", ("", "")),
            ("Regress", b"\xff", ErrorKind.INVALID, "not a valid tensorflow.serving.RegressionRequest", ("", "")),
            ("Predict", m.tfs.PredictRequest(), ErrorKind.INVALID, "Missing ModelSpec", ("", "")),
            ("Predict", predict({}), ErrorKind.INVALID, "ModelSpec has no name specified.", ("", "")),
            (
                "Predict",
                predict({"name": "m"}),
                ErrorKind.NOT_FOUND,
                "Servable not found for request: Latest(m)",
                ("", ""),
            ),
            (
                "Predict",
                predict({"name": "copy", "version": {"value": 9}}),
                ErrorKind.NOT_FOUND,
                "Servable not found for request: Specific(copy, 9)",
                ("copy", "3"),
            ),
            (
                "Predict",
                predict({"name": "copy", "version_label": "x"}),
                ErrorKind.INVALID,
                "Unrecognized servable version label: x",
                ("copy", "3"),
            ),
            (
                "Predict",
                predict({"name": "copy", "version_label": "stable", "signature_name": "z"}),
                ErrorKind.PRECONDITION,
                'Serving signature key "z" not found.',
                ("copy", "2"),
            ),
            (
                "Predict",
                predict({"name": "copy"}, X[:, :2]),
                ErrorKind.INVALID,
                "unexpected shape for input 'x'",
                ("copy", "3"),
            ),
            ("Classify", classify, ErrorKind.INVALID, "Expected classification signature method_name", ("copy", "3")),
        ):
            before = engine.metrics.requests(*labels, PROTOCOL).outcomes.get(kind.value, 0)
            found, message = await refusal(service, method, request)
            assert (found, text in message) == (kind, True)
            assert not message.startswith("[request id")
            assert engine.metrics.requests(*labels, PROTOCOL).outcomes[kind.value] == before + 1

    run(repo, ask)


def test_a_deadline_that_has_passed(repo: Path) -> None:
    async def ask(_: Engine, service: PredictionService, __: ModelService) -> None:
        kind, _text = await refusal(service, "Predict", predict({"name": "copy"}), time.monotonic() - 1)
        assert kind is ErrorKind.EXPIRED

    run(repo, ask)


def test_long_messages_are_cut(repo: Path) -> None:
    async def ask(_: Engine, service: PredictionService, models_: ModelService) -> None:
        _kind, text = await refusal(service, "Predict", predict({"name": "m" * 2000}))
        assert text == ("Servable not found for request: Latest(" + "m" * 2000)[:MAX_MESSAGE] + "...TRUNCATED"
        asked = m.tfs.GetModelStatusRequest(model_spec={"name": "m" * 2000})
        assert (await refusal(models_, "GetModelStatus", asked))[1].endswith("mm...TRUNCATED")

    run(repo, ask)


def task(name: str, signature: str = "", method: str = "classify", **spec: Any) -> dict[str, Any]:
    spec = {"name": name, "signature_name": signature, **spec}
    return {"model_spec": spec, "method_name": f"tensorflow/serving/{method}"}


@pytest.mark.parametrize(
    ("tasks", "kind", "text", "labels"),
    [
        ([], ErrorKind.INVALID, "ModelSpec has no name specified.", ("", "")),
        ([task("copy"), task("")], ErrorKind.INVALID, "Found ModelSpec with an empty model name.", ("copy", "3")),
        (
            [task("copy"), task("sum")],
            ErrorKind.INVALID,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
            ("copy", "3"),
        ),
        (
            [task("copy"), task("copy", "z", version_label="stable")],
            ErrorKind.INVALID,
            "All ModelSpecs in a MultiInferenceRequest must access the same model version.",
            ("copy", "3"),
        ),
        ([task("m")], ErrorKind.NOT_FOUND, "Servable not found for request: Latest(m)", ("", "")),
        (
            [task("copy"), task("copy", "serving_default", "regress")],
            ErrorKind.INVALID,
            "Duplicate evaluation of signature: serving_default",
            ("copy", "3"),
        ),
        ([task("copy", "z")], ErrorKind.INVALID, "Requested signature not found in model graph: z", ("copy", "3")),
        (
            [task("copy", "", "predict")],
            ErrorKind.UNSUPPORTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
            ("copy", "3"),
        ),
        (
            [task("copy")],
            ErrorKind.INVALID,
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
            ("copy", "3"),
        ),
    ],
)
def test_multi_inference_refused(
    repo: Path, tasks: list[dict[str, Any]], kind: ErrorKind, text: str, labels: tuple[str, str]
) -> None:
    request = m.tfs.MultiInferenceRequest(tasks=tasks, input={"example_list": {"examples": [{}]}})

    async def ask(engine: Engine, service: PredictionService, _: ModelService) -> None:
        assert await refusal(service, "MultiInference", request) == (kind, text)
        assert engine.metrics.requests(*labels, PROTOCOL).outcomes == {kind.value: 1}

    run(repo, ask)


def test_multi_inference_without_examples(repo: Path) -> None:
    async def ask(_: Engine, service: PredictionService, __: ModelService) -> None:
        request = m.tfs.MultiInferenceRequest(tasks=[task("copy")])
        assert await refusal(service, "MultiInference", request) == (ErrorKind.INVALID, "Input is empty.")

    run(repo, ask)


def test_tasks_that_failed_are_freed_at_once() -> None:
    async def fail(_: Marker) -> None:
        raise ServingError(ErrorKind.MODEL, "no")

    async def main() -> None:
        with without_collector() as watched:
            with suppress(ServingError):
                await all_of(fail(watched.marker()) for _ in range(3))
            async with asyncio.timeout(10):
                await watched.freed()

    asyncio.run(main())


def test_metadata(repo: Path) -> None:
    fields = ["signature_def"]

    async def ask(_: Engine, service: PredictionService, __: ModelService) -> None:
        request = m.tfs.GetModelMetadataRequest(model_spec={"name": "copy"}, metadata_field=fields)
        answer = await call(service, "GetModelMetadata", request, m.tfs.GetModelMetadataResponse)
        found = answer.model_spec
        assert (found.name, found.version.value, found.signature_name) == ("copy", 3, "")
        described = m.tfs.SignatureDefMap()
        assert answer.metadata["signature_def"].type_url.endswith("/tensorflow.serving.SignatureDefMap")
        assert answer.metadata["signature_def"].Unpack(described)
        assert set(described.signature_def) == {"serving_default"}
        for given, kind, text in (
            ({"metadata_field": fields}, ErrorKind.INVALID, "Missing ModelSpec"),
            (
                {"model_spec": {"name": "m"}},
                ErrorKind.INVALID,
                "GetModelMetadataRequest must specify at least one metadata_field",
            ),
            (
                {"model_spec": {"name": "m"}, "metadata_field": ["signature_def", "foo"]},
                ErrorKind.INVALID,
                "Metadata field foo is not supported",
            ),
            (
                {"model_spec": {"name": "m"}, "metadata_field": fields},
                ErrorKind.NOT_FOUND,
                "Servable not found for request: Latest(m)",
            ),
            ({"model_spec": {}, "metadata_field": fields}, ErrorKind.INVALID, "ModelSpec has no name specified."),
        ):
            assert await refusal(service, "GetModelMetadata", m.tfs.GetModelMetadataRequest(**given)) == (kind, text)

    run(repo, ask)


def test_status(repo: Path) -> None:
    async def ask(_: Engine, __: PredictionService, service: ModelService) -> None:
        async def states(**spec: Any) -> list[tuple[int, int]]:
            request = m.tfs.GetModelStatusRequest(model_spec={"name": "copy", **spec})
            answer = await call(service, "GetModelStatus", request, m.tfs.GetModelStatusResponse)
            return [(line.version, line.state) for line in answer.model_version_status]

        available = m.tfs.ModelVersionStatus.AVAILABLE
        assert await states() == [(3, available), (2, available)]
        assert await states(version={"value": 2}) == [(2, available)]
        assert await states(version_label="stable") == [(3, available), (2, available)]
        for given, text in (
            ({"name": "m"}, "Could not find any versions of model m"),
            ({"name": "copy", "version": {"value": 9}}, "Could not find version 9 of model copy"),
        ):
            asked = m.tfs.GetModelStatusRequest(model_spec=given)
            assert await refusal(service, "GetModelStatus", asked) == (ErrorKind.NOT_FOUND, text)
        nothing = m.tfs.GetModelStatusRequest()
        assert await refusal(service, "GetModelStatus", nothing) == (ErrorKind.INVALID, "Missing ModelSpec")

    run(repo, ask)


def test_reload(repo: Path) -> None:
    def config(**model: Any) -> Any:
        models_ = {"name": "copy", "base_path": str(repo / "copy"), **model}
        return m.tfs.ReloadConfigRequest(config={"model_config_list": {"config": [models_]}})

    async def ask(engine: Engine, prediction: PredictionService, service: ModelService) -> None:
        only_two = {"model_version_policy": {"specific": {"versions": [2]}}, "version_labels": {"canary": 2}}
        answer = await call(service, "HandleReloadConfigRequest", config(**only_two), m.tfs.ReloadConfigResponse)
        assert answer.HasField("status") and answer.status.error_code == m.tf_error.Code.OK
        assert not answer.metric
        assert list(engine.catalog.models["copy"].ready) == [2]
        for spec in ({"name": "copy"}, {"name": "copy", "version_label": "canary"}):
            found = await call(prediction, "Predict", predict(spec), m.tfs.PredictResponse)
            assert found.model_spec.version.value == 2
        assert (await refusal(prediction, "Predict", predict({"name": "copy", "version_label": "stable"})))[1] == (
            "Unrecognized servable version label: stable"
        )
        assert (await refusal(prediction, "Predict", predict({"name": "sum"})))[0] is ErrorKind.NOT_FOUND
        kind, text = await refusal(service, "HandleReloadConfigRequest", config(version_labels={"x": 9}))
        assert kind is ErrorKind.PRECONDITION
        assert text == (
            "Request to assign label to version 9 of model copy, which is not currently available for inference"
        )
        kind, text = await refusal(service, "HandleReloadConfigRequest", m.tfs.ReloadConfigRequest())
        assert kind is ErrorKind.INVALID and text.startswith("ServerModelConfig type not supported")

    run(repo, ask)
