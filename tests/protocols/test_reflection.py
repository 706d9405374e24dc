"""Reflection, without a transport; then the official client against the real listener."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import StatusCode

from serving.core.errors import ErrorKind, ServingError
from serving.protocols import messages
from serving.protocols.grpc import Call
from serving.protocols.reflection import Reflection, reflections
from serving.transport.grpc import GrpcListener
from serving.transport.limits import GrpcLimits

SERVED = ["tensorflow.serving.PredictionService", "inference.GRPCInferenceService"]
LISTED = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
    "tensorflow.serving.PredictionService",
]
PREDICT_FILES = {
    "tensorflow_serving.proto",
    "tensorflow_serving_config.proto",
    "tensorflow_signature.proto",
    "tensorflow_struct.proto",
    "tensorflow_tensor.proto",
    "tensorflow_example.proto",
    "tensorflow_error.proto",
    "google/protobuf/any.proto",
    "google/protobuf/wrappers.proto",
}

both = pytest.mark.parametrize(
    "api", [messages.reflection, messages.reflection_v1alpha], ids=lambda api: api.ServerReflection.full_name
)


async def sent(data: list[bytes]) -> AsyncIterator[bytes]:
    for message in data:
        yield message


def stream(api: SimpleNamespace, *requests: dict[str, Any]) -> list[Any]:
    """The answers to one stream of requests."""

    async def run() -> list[Any]:
        data = [api.ServerReflectionRequest(**request).SerializeToString() for request in requests]
        answers = Reflection(api, SERVED).info(sent(data), Call())
        return [api.ServerReflectionResponse.FromString(answer) async for answer in answers]

    return asyncio.run(run())


def ask(**request: Any) -> Any:
    [answer] = stream(messages.reflection, request)
    return answer


def names(answer: Any) -> list[str]:
    assert answer.WhichOneof("message_response") == "file_descriptor_response"
    return [FileDescriptorProto.FromString(data).name for data in answer.file_descriptor_response.file_descriptor_proto]


def refused(answer: Any) -> StatusCode:
    assert answer.WhichOneof("message_response") == "error_response"
    assert answer.error_response.error_message
    return next(code for code in StatusCode if code.value[0] == answer.error_response.error_code)


def test_both_versions_list_both() -> None:
    found = reflections(SERVED)
    assert [one.service for one in found] == LISTED[:2]
    for api, one in zip((messages.reflection, messages.reflection_v1alpha), found, strict=True):
        data = api.ServerReflectionRequest(list_services="").SerializeToString()

        async def first(one: Reflection = one, data: bytes = data) -> bytes:
            return await anext(one.info(sent([data]), Call()))

        answer = api.ServerReflectionResponse.FromString(asyncio.run(first()))
        assert [service.name for service in answer.list_services_response.service] == LISTED


@both
def test_what_a_client_asks_to_describe_a_call(api: SimpleNamespace) -> None:
    listed, service, again, message = stream(
        api,
        {"list_services": "*"},
        {"file_containing_symbol": "tensorflow.serving.PredictionService"},
        {"file_containing_symbol": "tensorflow.serving.PredictionService.Predict"},
        {"file_containing_symbol": "inference.ModelInferRequest"},
    )
    assert [one.name for one in listed.list_services_response.service] == sorted(SERVED)
    assert names(service)[0] == "tensorflow_serving.proto"
    assert len(names(service)) == len(PREDICT_FILES) and set(names(service)) == PREDICT_FILES
    assert names(again) == ["tensorflow_serving.proto"]  # what it imports was sent before
    assert names(message) == ["open_inference_grpc.proto", "model_config.proto"]


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("inference.GRPCInferenceService", "open_inference_grpc.proto"),
        ("inference.GRPCInferenceService.ModelStreamInfer", "open_inference_grpc.proto"),
        ("inference.ModelInferRequest.InferInputTensor", "open_inference_grpc.proto"),
        ("inference.ModelInferRequest.InferInputTensor.shape", "open_inference_grpc.proto"),
        ("inference.InferParameter.parameter_choice", "open_inference_grpc.proto"),
        ("inference.DataType", "model_config.proto"),
        ("inference.TYPE_BOOL", "model_config.proto"),
        ("inference.ModelInput.FORMAT_NHWC", "model_config.proto"),
        ("tensorflow.TensorShapeProto.Dim", "tensorflow_tensor.proto"),
        ("google.protobuf.Any", "google/protobuf/any.proto"),
    ],
)
def test_a_symbol_of_any_kind(symbol: str, file: str) -> None:
    assert names(ask(file_containing_symbol=symbol))[0] == file


def test_a_file() -> None:
    answer = ask(file_by_filename="open_inference_grpc.proto")
    assert names(answer) == ["open_inference_grpc.proto", "model_config.proto"]
    assert names(ask(file_by_filename="google/protobuf/wrappers.proto")) == ["google/protobuf/wrappers.proto"]


@pytest.mark.parametrize(
    "request_",
    [
        {"file_by_filename": "nothing.proto"},
        {"file_by_filename": ""},
        {"file_containing_symbol": "inference.Nothing"},
        {"file_containing_symbol": "inference.GRPCInferenceService.Nothing"},
        {"file_containing_symbol": "inference.ModelInferRequest.nothing"},
        {"file_containing_symbol": "inference"},
        {"file_containing_symbol": "."},
        {"file_containing_symbol": ""},
        {"all_extension_numbers_of_type": "inference.Nothing"},
        {"file_containing_extension": {"containing_type": "inference.ModelInferRequest", "extension_number": 100}},
    ],
    ids=str,
)
def test_what_is_not_there(request_: dict[str, Any]) -> None:
    assert refused(ask(**request_)) is StatusCode.NOT_FOUND


def test_a_message_has_no_extensions() -> None:
    answer = ask(all_extension_numbers_of_type="inference.ModelInferRequest").all_extension_numbers_response
    assert answer.base_type_name == "inference.ModelInferRequest"
    assert not answer.extension_number


@both
def test_an_error_does_not_end_the_stream(api: SimpleNamespace) -> None:
    nothing, missing, found = stream(
        api, {}, {"file_by_filename": "nothing.proto"}, {"file_by_filename": "health.proto"}
    )
    assert refused(nothing) is StatusCode.INVALID_ARGUMENT
    assert refused(missing) is StatusCode.NOT_FOUND
    assert names(found) == ["health.proto"]


@both
def test_the_request_comes_back(api: SimpleNamespace) -> None:
    request = {"host": "example.test", "file_containing_symbol": "inference.Nothing"}
    [answer] = stream(api, request)
    assert answer.original_request == api.ServerReflectionRequest(**request)
    assert answer.valid_host == "example.test"


def test_what_is_no_request() -> None:
    async def run() -> None:
        await anext(Reflection(messages.reflection, SERVED).info(sent([b"\xff"]), Call()))

    with pytest.raises(ServingError) as caught:
        asyncio.run(run())
    assert caught.value.kind is ErrorKind.INVALID


def test_the_official_client_builds_every_message() -> None:
    client = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")

    def discover(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            database = client.ProtoReflectionDescriptorDatabase(channel)
            assert sorted(database.get_services()) == LISTED
            pool = DescriptorPool(database)
            for name in LISTED:
                service, ours = pool.FindServiceByName(name), messages.pool.FindServiceByName(name)
                assert [method.name for method in service.methods] == [method.name for method in ours.methods]
                for method, our in zip(service.methods, ours.methods, strict=True):
                    assert method.input_type.fields_by_name.keys() == our.input_type.fields_by_name.keys()
            assert pool.FindMessageTypeByName("tensorflow.SignatureDef").fields_by_name["defaults"].number == 4
            assert list(database.FindAllExtensionNumbers("inference.ModelInferRequest")) == []
            with pytest.raises(KeyError):
                pool.FindMessageTypeByName("inference.Nothing")

    async def run() -> None:
        listener = GrpcListener(reflections(SERVED), GrpcLimits())
        port = await listener.listen("127.0.0.1", 0)
        try:
            await asyncio.to_thread(discover, port)
        finally:
            await listener.stop(1.0)

    asyncio.run(run())
