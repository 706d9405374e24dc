"""Answers that come one after the other: gRPC streams and server-sent events. And what gRPC tools ask of any server."""

import asyncio
import json
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serving.protocols import messages
from tests.e2e.server import LIMIT_S, Server

ROW = np.arange(16, dtype=np.int32).reshape(1, 16)


def inputs(row: np.ndarray = ROW) -> list[Any]:
    """For `simple`."""
    made = []
    for name in ("INPUT0", "INPUT1"):
        one = tritonclient.grpc.InferInput(name, list(row.shape), "INT32")
        one.set_data_from_numpy(row)
        made.append(one)
    return made


class Stream:
    """The client's stream, and what came of it in order."""

    def __init__(self, server: Server, **more: Any) -> None:
        self.client = tritonclient.grpc.InferenceServerClient(server.grpc)
        self.came: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: self.came.put((result, error)), **more)

    def ask(self, model: str = "simple", row: np.ndarray = ROW, **more: Any) -> None:
        self.client.async_stream_infer(model, inputs(row), **more)

    def answer(self) -> Any:
        result, error = self.came.get(timeout=LIMIT_S)
        assert error is None
        return result

    def refusal(self) -> InferenceServerException:
        result, error = self.came.get(timeout=LIMIT_S)
        assert result is None
        assert isinstance(error, InferenceServerException)
        return error


@pytest.fixture
def stream(examples: Server) -> Iterator[Stream]:
    made = Stream(examples)
    yield made
    made.client.stop_stream()
    assert made.came.empty()
    made.client.close()


def test_answers_come_in_the_order_of_the_requests(stream: Stream) -> None:
    for i in range(50):
        rows = np.full((1 + i % 8, 16), i, np.int32)
        stream.ask(row=rows, request_id=str(i))
    for i in range(50):
        answer = stream.answer()
        assert answer.get_response().id == str(i)
        assert answer.get_response().parameters["triton_final_response"].bool_param is True
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), np.full((1 + i % 8, 16), 2 * i))


def test_different_models_in_one_stream(stream: Stream) -> None:
    """Still in order, though some take longer."""
    names = ["simple", "onnx_int32_int32_int32", "onnx_int32_float32_float32"] * 5
    for name in names:
        stream.ask(name)
    assert [stream.answer().get_response().model_name for _ in names] == names


def test_error_is_one_answer_among_others(stream: Stream) -> None:
    stream.ask(request_id="a")
    stream.ask("nosuch", request_id="b")
    stream.ask(row=ROW[:, :15], request_id="c")
    stream.ask(row=np.zeros((9, 16), np.int32), request_id="d")
    stream.ask(request_id="e")
    assert stream.answer().get_response().id == "a"
    assert "Request for unknown model: 'nosuch' is not found" in stream.refusal().message()
    assert "unexpected shape for input 'INPUT0' for model 'simple'" in stream.refusal().message()
    assert "inference request batch-size must be <= 8 for 'simple'" in stream.refusal().message()
    assert stream.answer().get_response().id == "e"


def test_error_carries_the_id_of_its_request(examples: Server) -> None:
    with tritonclient.grpc.InferenceServerClient(examples.grpc) as client:
        asked = [service_pb2.ModelInferRequest(model_name="nosuch", id=i) for i in ("first", "second")]
        answers = list(client._client_stub.ModelStreamInfer(iter(asked), timeout=LIMIT_S))
    assert [a.infer_response.id for a in answers] == ["first", "second"]
    assert all("Request for unknown model" in a.error_message for a in answers)


def test_stopped_stream_can_be_started_again(stream: Stream) -> None:
    stream.ask()
    stream.answer()
    stream.client.stop_stream()
    with pytest.raises(InferenceServerException):
        stream.ask()
    stream.client.start_stream(lambda result, error: stream.came.put((result, error)))
    stream.ask(request_id="again")
    assert stream.answer().get_response().id == "again"


def test_cancelled_stream(examples: Server) -> None:
    stream = Stream(examples)
    stream.ask()
    stream.answer()
    stream.client.stop_stream(cancel_requests=True)
    assert "CANCELLED" in str(stream.refusal().status())
    stream.client.close()


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_stream(examples: Server, compression: str) -> None:
    stream = Stream(examples, compression_algorithm=compression)
    stream.ask()
    np.testing.assert_array_equal(stream.answer().as_numpy("OUTPUT0"), ROW + ROW)
    stream.client.stop_stream()
    stream.client.close()


def test_stream_of_the_asynchronous_client(examples: Server) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for i in range(10):
            yield {"model_name": "nosuch" if i == 5 else "simple", "inputs": inputs(), "request_id": str(i)}

    async def ask() -> list[tuple[Any, Any]]:
        async with tritonclient.grpc.aio.InferenceServerClient(examples.grpc) as client:
            return [pair async for pair in client.stream_infer(requests())]

    came = asyncio.run(ask())
    assert [i for i, (_, error) in enumerate(came) if error] == [5]
    assert [r.get_response().id for r, error in came if not error] == [str(i) for i in range(10) if i != 5]


# Generate

GENERATE = "/v2/models/writer/generate"


def test_generate(examples: Server) -> None:
    answer = examples.post(GENERATE, json={"text_input": "größe", "count": 21, "id": "q1"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"id": "q1", "model_name": "writer", "model_version": "1", "n": 42, "text_output": "größe"}
    assert list(answer.json()) == sorted(answer.json())


@pytest.mark.parametrize(
    "body",
    [
        {"text_input": ["a"], "count": [3]},
        {"parameters": {"text_input": "a", "count": 3}},
        {"text_input": "a", "parameters": {"count": 3, "other": 0.5}, "further": True},
    ],
)
def test_generate_finds_inputs_wherever_they_stand(examples: Server, body: dict[str, Any]) -> None:
    answer = examples.post(GENERATE, json=body).json()
    assert (answer["text_output"], answer["n"]) == ("a", 6)
    assert "id" not in answer


def test_generate_of_a_version(examples: Server) -> None:
    answer = examples.post("/v2/models/writer/versions/1/generate", json={"text_input": "a", "count": 1})
    assert answer.json()["model_version"] == "1"


def test_generate_gives_vectors_as_lists(examples: Server) -> None:
    answer = examples.post("/v2/models/identity_fp32/generate", json={"INPUT0": [1, 2.5, -3]}).json()
    assert answer["OUTPUT0"] == [1.0, 2.5, -3.0]


def test_generate_stream(examples: Server) -> None:
    body = {"text_input": "hi", "count": 1, "id": "q2"}
    with httpx.stream("POST", examples.url + GENERATE + "_stream", json=body, timeout=LIMIT_S) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        text = b"".join(answer.iter_raw()).decode()
    assert text.startswith("data: {") and text.endswith("}\n\n") and text.count("\n\n") == 1
    assert json.loads(text.removeprefix("data: ")) == {
        "id": "q2", "model_name": "writer", "model_version": "1", "n": 2, "text_output": "hi"
    }  # fmt: skip


@pytest.mark.parametrize("end", ["", "_stream"])
@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b'{"text_input": "a"}', 400, "expected 2 inputs but got 1 inputs for model 'writer'"),
        (b'{"text_input": "a", "count": "b"}', 400, "count"),
        (b'{"text_input": 1, "count": 1}', 400, "text_input"),
        (b'{"text_input": [], "count": []}', 400, "the batch is empty"),
        (b'{"text_input": ["a", "b"], "count": 1}', 400, "batch size does not match other inputs for 'writer'"),
        (b'{"text_input": "a", "text_input": "b", "count": 1}', 400, "input 'text_input' already exists in request"),
        (b'{"text_input": "a", "parameters": {"text_input": "b", "count": 1}}', 400, "already exists in request"),
        (b'["a"]', 400, ""),
        (b"{", 400, "failed to parse the request JSON buffer"),
        (b"", 400, ""),
    ],
)
def test_generate_refuses(examples: Server, end: str, body: bytes, status: int, text: str) -> None:
    answer = examples.post(GENERATE + end, content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert text in answer.json()["error"]


def test_generate_counts_the_elements_of_a_fixed_shape(examples: Server) -> None:
    body = {"INPUT0": [1] * 17, "INPUT1": [1] * 16}
    answer = examples.post("/v2/models/simple/generate", json=body)
    assert answer.status_code == 400
    assert "The schema can not convert input 'INPUT0' to tensor with proper shape" in answer.json()["error"]


def test_generate_of_an_unknown_model(examples: Server) -> None:
    answer = examples.post("/v2/models/nosuch/generate", json={})
    assert (answer.status_code, answer.json()["error"]) == (404, "Request for unknown model: 'nosuch' is not found")


def test_generate_takes_no_compressed_request(examples: Server) -> None:
    answer = examples.post(GENERATE, content=b"{}", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400
    assert "Unsupported content-encoding, only 'identity' is supported." in answer.json()["error"]


# What gRPC tools ask


@pytest.fixture
def channel(examples: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(examples.grpc) as made:
        yield made


def test_health(channel: grpc.Channel) -> None:
    health = messages.health
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health.HealthCheckRequest.SerializeToString,
        response_deserializer=health.HealthCheckResponse.FromString,
    )
    serving = health.HealthCheckResponse.ServingStatus.SERVING
    for service in ("", "inference.GRPCInferenceService"):
        assert check(health.HealthCheckRequest(service=service), timeout=LIMIT_S).status == serving
    with pytest.raises(grpc.RpcError) as caught:
        check(health.HealthCheckRequest(service="nosuch"), timeout=LIMIT_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health.HealthCheckRequest.SerializeToString,
        response_deserializer=health.HealthCheckResponse.FromString,
    )
    statuses: Any = watch(health.HealthCheckRequest(), timeout=LIMIT_S)
    assert next(statuses).status == serving
    statuses.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_client_that_knows_nothing_but_reflection(channel: grpc.Channel, version: str) -> None:
    """It finds the services, reads their declarations, and calls one."""
    declared = messages.reflection if version == "v1" else messages.reflection_v1alpha
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=declared.ServerReflectionRequest.SerializeToString,
        response_deserializer=declared.ServerReflectionResponse.FromString,
    )
    questions = [
        declared.ServerReflectionRequest(list_services="*"),
        declared.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
    ]
    listed, files = ask(iter(questions), timeout=LIMIT_S)
    assert {service.name for service in listed.list_services_response.service} == {
        "inference.GRPCInferenceService",
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    found = {}
    for data in files.file_descriptor_response.file_descriptor_proto:
        file = FileDescriptorProto.FromString(data)
        found[file.name] = file
    pool = DescriptorPool()

    def add(name: str) -> None:
        for needed in found[name].dependency:
            add(needed)
        pool.Add(found[name])

    add(next(name for name, file in found.items() if file.service))
    method = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name["ModelMetadata"]
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelMetadata",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    assert call(GetMessageClass(method.input_type)(name="simple"), timeout=LIMIT_S).name == "simple"
