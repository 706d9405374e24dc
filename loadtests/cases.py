"""What is measured: one request per protocol, the same bytes for every server, and how to read its answer.

Pure apart from `send`, which makes one real call. Another protocol is another function that returns a `Case`.
"""

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import grpc

from loadtests import oip, tfs
from loadtests.oip import AnswerError
from serving.core import dtypes
from serving.core.compare import difference
from serving.core.types import Tensors

ATOL = 1e-4


@dataclass(frozen=True)
class Question:
    """What a model is asked, in whatever form, and its right answer."""

    model: str
    inputs: Tensors
    expected: Tensors


@dataclass(frozen=True)
class Answer:
    """A successful answer; header names are in lower case."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Case:
    """One request: an HTTP POST of `body` to `path`, or a unary call of the gRPC method `path` with the message `body`.

    `read` gives an answer's outputs; ValueError, KeyError or TypeError for an answer that it cannot read. `floor` is
    what a floor is sent instead, if floors do not speak this protocol.
    """

    name: str
    transport: Literal["http", "grpc"]
    path: str
    headers: Mapping[str, str]
    body: bytes
    read: Callable[[Answer], Tensors]
    expected: Tensors
    floor: "Case | None" = None


def rest_json(question: Question) -> Case:
    body = oip.encode_json(question.inputs)
    return Case("rest-json", "http", oip.infer_path(question.model), JSON, body, _read_rest, question.expected)


def rest_binary(question: Question) -> Case:
    body, json_bytes = oip.encode_binary(question.inputs)
    headers = {"content-type": "application/octet-stream", oip.JSON_LENGTH: str(json_bytes)}
    return Case("rest-binary", "http", oip.infer_path(question.model), headers, body, _read_rest, question.expected)


def grpc_raw(question: Question) -> Case:
    body = oip.encode_grpc(question.model, question.inputs)
    return Case("grpc", "grpc", oip.GRPC_INFER, {}, body, _read_grpc, question.expected)


def tfs_rest(question: Question) -> Case:
    """The floor gets the same row in the protocol that it speaks."""
    kinds = {name: dtypes.BY_NUMPY[array.dtype] for name, array in question.expected.items()}
    path, body = tfs.predict_path(question.model), tfs.encode_rows(question.inputs)
    return Case(
        "tfs-rest",
        "http",
        path,
        JSON,
        body,
        lambda answer: tfs.decode_rows(answer.body, kinds),
        question.expected,
        floor=rest_json(question),
    )


def tfs_grpc(question: Question, typed: bool = False) -> Case:
    name, body = (
        "tfs-grpc-typed" if typed else "tfs-grpc",
        tfs.encode_predict(question.model, question.inputs, typed=typed),
    )
    return Case(name, "grpc", tfs.GRPC_PREDICT, {}, body, _read_predict, question.expected)


JSON = {"content-type": "application/json"}
CASES: dict[str, Callable[[Question], Case]] = {
    "rest-json": rest_json,
    "rest-binary": rest_binary,
    "grpc": grpc_raw,
    "tfs-rest": tfs_rest,
    "tfs-grpc": tfs_grpc,
    "tfs-grpc-typed": partial(tfs_grpc, typed=True),
}


def _read_rest(answer: Answer) -> Tensors:
    return oip.decode_rest(answer.headers, answer.body)


def _read_grpc(answer: Answer) -> Tensors:
    return oip.decode_grpc(answer.body)


def _read_predict(answer: Answer) -> Tensors:
    return tfs.decode_predict(answer.body)


def send(case: Case, port: int, timeout_s: float = 10) -> Answer:
    """Make the call once, on loopback. AnswerError when it is refused; OSError when nothing listens there."""
    return (_send_grpc if case.transport == "grpc" else _send_http)(case, port, timeout_s)


def _send_http(case: Case, port: int, timeout_s: float) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("POST", case.path, case.body, dict(case.headers))
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise AnswerError(f"status {response.status}: {body[:200]!r}")
    return Answer({name.lower(): value for name, value in response.getheaders()}, body)


def _send_grpc(case: Case, port: int, timeout_s: float) -> Answer:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            return Answer({}, channel.unary_unary(case.path, bytes, bytes)(case.body, timeout=timeout_s))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ConnectionError(error.details()) from error
            raise AnswerError(f"{error.code().name}: {error.details()}") from error


def verify(case: Case, answer: Answer) -> None:
    """AnswerError unless `answer` holds what is expected."""
    try:
        outputs = case.read(answer)
    except (ValueError, KeyError, TypeError) as error:
        raise AnswerError(f"unreadable answer ({error!r}): {answer.body[:200]!r}") from error
    wrong = difference(outputs, case.expected, atol=ATOL, rtol=0)
    if wrong is not None:
        raise AnswerError(f"not the model's answer: {wrong}")


def check(case: Case, port: int) -> Answer:
    """Make the call once and look at the answer. AnswerError when it is wrong or none; OSError as of `send`."""
    answer = send(case, port)
    verify(case, answer)
    return answer
