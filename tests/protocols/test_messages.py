import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from serving.protocols import messages

ROOT = Path(__file__).parents[2]

# Makes a message of the library's, and reads it with ours; then the other way round.
BESIDE = """
{imports}
from serving.protocols import messages

theirs, ours = {theirs}, messages.{ours}
assert theirs is not ours and theirs.DESCRIPTOR.full_name == ours.DESCRIPTOR.full_name
sent = theirs({fields})
assert ours.FromString(sent.SerializeToString()) == ours({fields})
assert theirs.FromString(ours({fields}).SerializeToString()) == sent
"""

CASES = {
    "tritonclient": {
        "imports": "from tritonclient.grpc import service_pb2",
        "theirs": "service_pb2.ModelReadyRequest",
        "ours": "oip.ModelReadyRequest",
        "fields": "name='m', version='3'",
    },
    "kserve": {
        "imports": "import kserve; from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelReadyRequest",
        "theirs": "ModelReadyRequest",
        "ours": "oip.ModelReadyRequest",
        "fields": "name='m', version='3'",
    },
    "tensorflow": {
        "imports": "from tensorflow.core.framework.tensor_pb2 import TensorProto",
        "theirs": "TensorProto",
        "ours": "tf.TensorProto",
        "fields": "dtype=1, float_val=[1.5, 2.5]",
    },
    "tensorflow_serving": {
        "imports": "from tensorflow_serving.apis import model_service_pb2, predict_pb2, prediction_service_pb2",
        "theirs": "predict_pb2.PredictRequest",
        "ours": "tfs.PredictRequest",
        "fields": "model_spec={'name': 'm', 'version_label': 'stable'}, inputs={'x': {'float_val': [1.5]}}",
    },
}
slow = pytest.mark.slow  # imports that take seconds


@pytest.mark.parametrize(
    "library",
    ["tritonclient", *(pytest.param(name, marks=slow) for name in ("kserve", "tensorflow", "tensorflow_serving"))],
)
@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_shares_a_process_with_the_official_messages(library: str, first: str) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    code = BESIDE.format(**CASES[library])
    if first == "ours":
        code = "import serving.protocols.messages\n" + code
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("found", "full_name"),
    [
        (messages.oip.ModelInferRequest, "inference.ModelInferRequest"),
        (messages.oip.ModelInferRequest.InferInputTensor, "inference.ModelInferRequest.InferInputTensor"),
        (messages.oip.ModelConfig, "inference.ModelConfig"),
        (messages.tf.TensorProto, "tensorflow.TensorProto"),
        (messages.tf.Example, "tensorflow.Example"),
        (messages.tfs.ModelConfig, "tensorflow.serving.ModelConfig"),
        (messages.health.HealthCheckRequest, "grpc.health.v1.HealthCheckRequest"),
        (messages.reflection.ServerReflectionRequest, "grpc.reflection.v1.ServerReflectionRequest"),
        (messages.reflection_v1alpha.ServerReflectionRequest, "grpc.reflection.v1alpha.ServerReflectionRequest"),
        (messages.protobuf.Any, "google.protobuf.Any"),
    ],
)
def test_a_message_is_a_class(found: Any, full_name: str) -> None:
    assert found.DESCRIPTOR.full_name == full_name
    assert found.FromString(found().SerializeToString()) == found()


def test_an_enum_is_an_int_enum() -> None:
    assert messages.tf.DataType.DT_HALF == 19
    assert messages.tf.DataType(1).name == "DT_FLOAT"
    assert messages.tf.TensorProto(dtype=messages.tf.DataType.DT_HALF).dtype == messages.tf.DataType.DT_HALF
    assert messages.tf_error.Code.UNAUTHENTICATED == 16


def test_an_enum_within_a_message_is_the_message_s_own() -> None:
    assert messages.tfs.ModelVersionStatus.AVAILABLE == 30
    assert messages.health.HealthCheckResponse.ServingStatus.Name(1) == "SERVING"


def test_a_service_is_a_descriptor() -> None:
    service = messages.oip.GRPCInferenceService
    assert service.full_name == "inference.GRPCInferenceService"
    assert len(service.methods) == 20
    assert service.methods_by_name["ModelInfer"].input_type is messages.oip.ModelInferRequest.DESCRIPTOR


def test_any_carries_a_message() -> None:
    signatures = messages.tfs.SignatureDefMap(signature_def={"serving_default": {"method_name": "m"}})
    response = messages.tfs.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(signatures)
    found = messages.tfs.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    assert found == signatures


def test_what_a_package_does_not_declare() -> None:
    with pytest.raises(AttributeError, match="ModelInferRequset"):
        _ = messages.oip.ModelInferRequset
