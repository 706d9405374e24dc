"""What is measured: one request per protocol, the same bytes for every server, and how to read its answer.

Pure apart from `send`, which makes one real call. Another protocol is another function that returns a `Case`.
"""

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import grpc
import numpy as np

from loadtests import mlp, oip
from loadtests.oip import AnswerError
from serving.core.compare import difference
from serving.core.types import Tensors

ATOL = 1e-4


@dataclass(frozen=True)
class Answer:
    """A successful answer; header names are in lower case."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Case:
    """One request: an HTTP POST of `body` to `path`, or a unary call of the gRPC method `path` with the message `body`.

    `read` gives an answer's outputs; ValueError, KeyError or TypeError for an answer that it cannot read.
    """

    name: str
    transport: Literal["http", "grpc"]
    path: str
    headers: Mapping[str, str]
    body: bytes
    read: Callable[[Answer], Tensors]


def rest_json(row: np.ndarray) -> Case:
    body = oip.encode_json({mlp.INPUT: row})
    return Case("rest-json", "http", oip.infer_path(mlp.NAME), {"content-type": "application/json"}, body, _read_rest)


def rest_binary(row: np.ndarray) -> Case:
    body, json_bytes = oip.encode_binary({mlp.INPUT: row})
    headers = {"content-type": "application/octet-stream", oip.JSON_LENGTH: str(json_bytes)}
    return Case("rest-binary", "http", oip.infer_path(mlp.NAME), headers, body, _read_rest)


def grpc_raw(row: np.ndarray) -> Case:
    body = oip.encode_grpc(mlp.NAME, {mlp.INPUT: row})
    return Case("grpc", "grpc", oip.GRPC_INFER, {}, body, lambda answer: oip.decode_grpc(answer.body))


def _read_rest(answer: Answer) -> Tensors:
    return oip.decode_rest(answer.headers, answer.body)


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


def verify(case: Case, answer: Answer, expected: Tensors) -> None:
    """AnswerError unless `answer` holds `expected`."""
    try:
        outputs = case.read(answer)
    except (ValueError, KeyError, TypeError) as error:
        raise AnswerError(f"unreadable answer ({error!r}): {answer.body[:200]!r}") from error
    wrong = difference(outputs, expected, atol=ATOL, rtol=0)
    if wrong is not None:
        raise AnswerError(f"not the model's answer: {wrong}")
