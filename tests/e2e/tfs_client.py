"""The official stubs of `tensorflow-serving-api`, unmodified, behind one small face.

Importing this module imports TensorFlow, which takes seconds, so a fixture does it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from tests.e2e.clients import RefusedError
from tests.e2e.server import LIMIT_S, Server

Features = Mapping[str, Sequence[float | int | bytes]]
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


def tensor(array: Any, dtype: Any = None) -> Any:
    """A TensorProto as TensorFlow makes it: raw bytes for arrays of numbers, typed values for the rest."""
    return tf.make_tensor_proto(array, dtype)


def typed(array: np.ndarray) -> Any:
    """The same with typed values, as the published examples fill it by hand."""
    field = {"f": "float_val", "i": "int_val", "O": "string_val"}[array.dtype.kind]
    made = tf.make_tensor_proto(array)
    made.ClearField("tensor_content")
    made.ClearField(field)
    getattr(made, field).extend(array.reshape(-1).tolist())
    return made


def examples(*rows: Features, context: Features | None = None) -> Any:
    """An Input."""
    made = [_example(row) for row in rows]
    if context is None:
        return input_pb2.Input(example_list={"examples": made})
    return input_pb2.Input(example_list_with_context={"examples": made, "context": _example(context)})


def _example(features: Features) -> Any:
    made = tf.train.Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        kind = type(values[0])
        kept = {float: feature.float_list, int: feature.int64_list, bytes: feature.bytes_list}[kind]
        kept.value.extend(values)
    return made


def spec(model: str = "", signature: str = "", version: int | None = None, label: str = "") -> Any:
    made = model_pb2.ModelSpec(name=model, signature_name=signature)
    if version is not None:
        made.version.value = version
    if label:
        made.version_label = label
    return made


class TfsClient:
    """For one thread. Every method raises RefusedError, with the name of the gRPC code, if the server refuses."""

    def __init__(self, server: Server) -> None:
        self.channel = grpc.insecure_channel(server.grpc)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def predict(
        self, model_spec: Any, inputs: Mapping[str, Any], outputs: Sequence[str] = ()
    ) -> tuple[dict[str, np.ndarray], Any]:
        """Arrays are sent as TensorFlow would send them. The outputs, and the ModelSpec of the answer."""
        request = predict_pb2.PredictRequest(model_spec=model_spec, output_filter=outputs)
        for name, given in inputs.items():
            request.inputs[name].CopyFrom(tensor(given) if isinstance(given, np.ndarray) else given)
        answer = _ask(self.prediction.Predict, request)
        assert not any(output.tensor_content for output in answer.outputs.values())  # typed values only
        return {name: tf.make_ndarray(output) for name, output in answer.outputs.items()}, answer.model_spec

    def classify(self, model_spec: Any, given: Any) -> tuple[list[list[tuple[str, float]]], Any]:
        request = classification_pb2.ClassificationRequest(model_spec=model_spec, input=given)
        answer = _ask(self.prediction.Classify, request)
        return classes(answer.result), answer.model_spec

    def regress(self, model_spec: Any, given: Any) -> tuple[list[float], Any]:
        request = regression_pb2.RegressionRequest(model_spec=model_spec, input=given)
        answer = _ask(self.prediction.Regress, request)
        return [one.value for one in answer.result.regressions], answer.model_spec

    def multi_inference(self, tasks: Sequence[tuple[Any, str]], given: Any) -> Any:
        """Tasks are pairs of a ModelSpec and a method."""
        made = [inference_pb2.InferenceTask(model_spec=one, method_name=method) for one, method in tasks]
        request = inference_pb2.MultiInferenceRequest(tasks=made, input=given)
        return _ask(self.prediction.MultiInference, request).results

    def signatures(self, model_spec: Any, *fields: str) -> tuple[Any, Any]:
        """SignatureDefs by name, and the ModelSpec of the answer."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=model_spec, metadata_field=fields)
        answer = _ask(self.prediction.GetModelMetadata, request)
        found = get_model_metadata_pb2.SignatureDefMap()
        assert answer.metadata["signature_def"].Unpack(found)
        return dict(found.signature_def), answer.model_spec

    def status(self, model_spec: Any) -> list[tuple[int, str, int, str]]:
        """Of each version: number, state, error code and message."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_spec)
        found = _ask(self.model.GetModelStatus, request).model_version_status
        state = get_model_status_pb2.ModelVersionStatus.State.Name
        return [(one.version, state(one.state), one.status.error_code, one.status.error_message) for one in found]

    def reload(self, *models: Mapping[str, Any]) -> None:
        """Each is the fields of a ModelConfig."""
        configs = [model_server_config_pb2.ModelConfig(**{"model_platform": "tensorflow", **one}) for one in models]
        listed = model_server_config_pb2.ModelConfigList(config=configs)
        self.reload_config(model_server_config_pb2.ModelServerConfig(model_config_list=listed))

    def reload_config(self, config: Any) -> None:
        answer = _ask(self.model.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest(config=config))
        assert (answer.status.error_code, answer.status.error_message) == (0, "")

    def serving(self, service: str) -> bool:
        return bool(_ask(self.health.Check, health_pb2.HealthCheckRequest(service=service)).status == 1)


def classes(result: Any) -> list[list[tuple[str, float]]]:
    """Label and score of each class of each example."""
    return [[(one.label, one.score) for one in row.classes] for row in result.classifications]


def _ask(method: Callable[..., Any], request: Any) -> Any:
    try:
        return method(request, timeout=LIMIT_S)
    except grpc.RpcError as error:
        raise RefusedError(error.code().name, error.details() or "") from None
