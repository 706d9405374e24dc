"""A hostile client against a real server process: each request is refused clearly, and nothing is left behind.

The server's own memory and its answers to honest clients are watched from outside.
"""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from serving.protocols.messages import oip as m
from tests import models
from tests.e2e.server import LIMIT_S, Server
from tests.protocols.build import NESTED, body, tensor

ROW = tensor(shape=[1, 4], data=[1, 2, 3, 4])
INFER = "/v2/models/copy/infer"
MB = 1024 * 1024


class Target:
    """A server and the means to ask it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = httpx.Client(base_url=server.url, timeout=LIMIT_S)
        self.channel = grpc.insecure_channel(server.grpc, options=[("grpc.max_send_message_length", -1)])

    def post(self, data: bytes, path: str = INFER, **headers: str) -> tuple[int, str]:
        """The status, and the error if it is one."""
        answer = self.http.post(path, content=data, headers=headers)
        return answer.status_code, "" if answer.is_success else answer.json()["error"]

    def call(self, data: bytes, method: str = "ModelInfer") -> tuple[grpc.StatusCode, str]:
        try:
            self.channel.unary_unary(f"/inference.GRPCInferenceService/{method}", None, None)(data, timeout=LIMIT_S)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""

    def raw(self, *parts: bytes) -> bytes:
        """All that comes back on a connection of its own, of which the client closes its half."""
        with socket.create_connection(("127.0.0.1", self.server.http_port), timeout=LIMIT_S) as connection:
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while data := connection.recv(65536):
                received += data
            return received

    def memory(self) -> int:
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def check(self) -> None:
        """An honest client is served as if nothing had happened."""
        assert self.server.process.poll() is None
        assert self.post(body(ROW)) == (200, "")
        assert self.call(infer_message()) == (grpc.StatusCode.OK, "")

    def close(self) -> None:
        self.http.close()
        self.channel.close()


def infer_message(datatype: str = "FP32", shape: Any = (1, 4), raw: bytes | None = bytes(16), **fields: Any) -> bytes:
    message = m.ModelInferRequest(model_name="copy", **fields)
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    if raw is not None:
        message.raw_input_contents.append(raw)
    data: bytes = message.SerializeToString()
    return data


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One server for all tests here: what one attack leaves behind, the next ones meet."""
    directory = tmp_path_factory.mktemp("bad_input")
    models.save(models.identity(), directory / "repo" / "copy" / "1" / "model.onnx")
    models.save(models.identity("INT32", (models.BATCH, 2)), directory / "repo" / "whole" / "1" / "model.onnx")
    server = Server(directory / "logs", directory / "repo")
    try:
        target = Target(server.wait_ready())
        target.check()
        yield target
        target.check()
        target.close()
        assert "Traceback" not in server.log
    finally:
        server.end()


@contextmanager
def flat_memory(target: Target, allowed: int = 24 * MB) -> Iterator[None]:
    before = target.memory()
    yield
    target.check()
    assert target.memory() - before < allowed


def one(**changes: Any) -> bytes:
    return body({**ROW, **changes})


def without(key: str) -> bytes:
    return body({k: v for k, v in ROW.items() if k != key})


BAD_JSON = {
    "nothing": b"",
    "half": body(ROW)[:-20],
    "not json": b"{inputs: []}",
    "not text": b"\xff\xfe" * 100,
    "a million levels": NESTED.encode(),
    "a million levels and NaN": NESTED.encode() + b"NaN",
    "a million objects": b'{"a":' * 1_000_000,
    "no inputs": b"{}",
    "not an object": b"[1]",
    "2 GB": one(shape=[2**29, 4]),
    "2^62 elements": one(shape=[2**62]),
    "2^126 elements": one(shape=[2**63 - 1, 2**63 - 1]),
    "a hidden claim": one(shape=[0, 2**62, 4], data=[]),
    "a million dimensions": one(shape=[2**62] * 1_000_000),
    "negative": one(shape=[-1, -4]),
    "fractional": one(shape=[1.0, 4]),
    "a deep shape": body(ROW).replace(b"[1, 4]", b"[" * 1000 + b"]" * 1000),
    "a deep element": body(ROW).replace(b"[1, 2, 3, 4]", b"[1, 2, 3, " + b"[" * 1000 + b"]" * 1000 + b"]"),
    "wrong dtype": one(datatype="INT32"),
    "unknown dtype": one(datatype="FLOAT"),
    "text for numbers": one(data=["1", "2", "3", "4"]),
    "bools for numbers": one(data=[True, False, True, False]),
    "null for numbers": one(data=[1, 2, 3, None]),
    "too few": one(data=[1, 2, 3]),
    "too many": one(data=[1] * 1000),
    "no data": without("data"),
    "no name": without("name"),
    "no shape": without("shape"),
    "no dtype": without("datatype"),
    "unknown input": one(name="z"),
    "duplicate input": body(ROW, ROW),
    "one input too many": body(ROW, {**ROW, "name": "z"}),
    "unknown output": body(ROW, outputs=[{"name": "z"}]),
    "duplicate output": body(ROW, outputs=[{"name": "y"}, {"name": "y"}]),
    "empty batch": one(shape=[0, 4], data=[]),
    "more rows than a batch": one(shape=[65, 4], data=[0] * 260),
    "wrong width": one(shape=[4, 1]),
    "wrong rank": one(shape=[4]),
    "scalar": one(shape=[], data=[1]),
    "a lone surrogate": body(ROW, id="\ud800", more=float("nan")),
    "an endless number": body(ROW, parameters={"timeout": 10**400}, more=float("nan")),
    "raw bytes that are not there": one(parameters={"binary_data_size": 2**40}),
    "100,000 inputs": body(*({**ROW, "name": str(n)} for n in range(100_000))),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json(target: Target, name: str) -> None:
    status, error = target.post(BAD_JSON[name])
    assert status == 400 and error


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "1.5", "2147483648", "true", "null"])
def test_what_is_no_integer(target: Target, value: str) -> None:
    data = body(tensor(datatype="INT32", shape=[1, 2], data=[1, 2])).replace(b"[1, 2]}", b"[1, %b]}" % value.encode())
    status, error = target.post(data, "/v2/models/whole/infer")
    assert status == 400 and error


@pytest.mark.parametrize("raw", [b"", bytes(15), bytes(17), bytes(1000)])
@pytest.mark.parametrize("claim", [0, 15, 16, 17, 2**40])
@pytest.mark.parametrize("header_length", [None, "-1", "0", "5", "99999", "99999999999", "x", "9" * 5000])
def test_bad_binary(target: Target, raw: bytes, claim: int, header_length: str | None) -> None:
    header = body(tensor(shape=[1, 4], parameters={"binary_data_size": claim}))
    length = str(len(header)) if header_length is None else header_length
    status, error = target.post(header + raw, **{"Inference-Header-Content-Length": length})
    assert status == 400 and error


BAD_MESSAGES: dict[str, bytes] = {
    "nothing": b"",
    "not a message": b"\xff" * 100,
    "half": infer_message()[:-3],
    "no data": infer_message(raw=None),
    "too few": infer_message(raw=bytes(15)),
    "too many": infer_message(raw=bytes(17)),
    "2 GB": infer_message(shape=[2**29, 4]),
    "2^62 elements": infer_message(shape=[2**62]),
    "a hidden claim": infer_message(shape=[0, 2**62, 4], raw=b""),
    "a million dimensions": infer_message(shape=[2**62] * 1_000_000),
    "100 dimensions": infer_message(shape=[1] * 100, raw=bytes(4)),
    "negative": infer_message(shape=[-1, -4]),
    "wrong dtype": infer_message("INT32"),
    "unknown dtype": infer_message("FLOAT"),
    "empty batch": infer_message(shape=[0, 4], raw=b""),
    "more rows than a batch": infer_message(shape=[65, 4], raw=bytes(65 * 16)),
    "unknown output": infer_message(outputs=[{"name": "z"}]),
    "bad version": infer_message(model_version="x"),
    "zeros for a version": infer_message(model_version="0" * 5000),
    "a negative timeout": infer_message(parameters={"timeout": {"int64_param": -1}}),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_bad_messages(target: Target, name: str) -> None:
    code, details = target.call(BAD_MESSAGES[name])
    expected = grpc.StatusCode.NOT_FOUND if name == "nothing" else grpc.StatusCode.INVALID_ARGUMENT
    assert code is expected and details


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/../../etc/passwd",
        "/v2/models/..%2f..%2fetc%2fpasswd/infer",
        "/v2/models/%2e%2e/infer",
        "/v2/models/copy%00/infer",
        "/v2/models/copy%0d%0aX-Injected:%201/infer",
        "/v2/models/" + "a" * 30_000 + "/infer",
        "/v2/models/copy/versions/" + "0" * 5000 + "/infer",
        "/v2/models/copy/versions/-1/infer",
        "/v2/repository/models/..%2fcopy/load",
        "/v2/repository/models/../load",
        "/v2/repository/models/%2fetc/load",
        "/v2/repository/models/.hidden/load",
    ],
)
def test_paths(target: Target, path: str) -> None:
    with socket.create_connection(("127.0.0.1", target.server.http_port), timeout=LIMIT_S) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        with connection.makefile("rb") as received:
            head, _, data = received.read().partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 40[04] ", head) and b"\nx-injected" not in head.lower()
    assert json.loads(data).keys() == {"error"}


@pytest.mark.parametrize(
    "length", [len(body(ROW)) - 1, len(body(ROW)) + 1, 0, 2**31, 2**62, -1, 10**30], ids=lambda n: f"{n:.0e}"
)
def test_wrong_content_length(target: Target, length: int) -> None:
    received = target.raw(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode(), body(ROW))
    # Too long: the end never comes, and the connection ends with the client's. Else it is refused.
    assert received == b"" if length == len(body(ROW)) + 1 else received.startswith(b"HTTP/1.1 400 ")


def test_body_larger_than_the_limit(target: Target) -> None:
    with flat_memory(target):
        data = bytes(80 * MB)
        for _ in range(3):
            status, error = target.post(data)
            assert status == 400 and "exceeds the maximum allowed input size" in error


def test_memory_stays_flat(target: Target) -> None:
    """Thousands of bad requests of each kind, after some that fill caches and pools."""
    small = {**BAD_JSON, "a path": b""}
    for name in ("a million levels", "a million levels and NaN", "a million objects", "a million dimensions"):
        del small[name]
    del small["100,000 inputs"]

    def attack(times: int) -> None:
        for _ in range(times):
            for data in small.values():
                target.post(data)
            for name, data in BAD_MESSAGES.items():
                if name != "a million dimensions":
                    target.call(data)

    attack(2)
    with flat_memory(target):
        attack(60)


@pytest.mark.parametrize("name", ["a million levels and NaN", "a million objects", "a million dimensions"])
def test_memory_stays_flat_under_large_ones(target: Target, name: str) -> None:
    target.post(BAD_JSON[name])
    with flat_memory(target, 48 * MB):
        for _ in range(5):
            target.post(BAD_JSON[name])


def test_connections_that_are_dropped_leave_nothing(target: Target) -> None:
    def drop(times: int) -> None:
        for n in range(times):
            with socket.create_connection(("127.0.0.1", target.server.http_port), timeout=LIMIT_S) as connection:
                head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {10 * MB}\r\n\r\n"
                connection.sendall((head.encode() + bytes(100_000))[: n * 997 % 100_000])

    drop(20)
    with flat_memory(target):
        drop(300)


def test_labels_cannot_be_made_up(target: Target) -> None:
    for n in range(50):
        target.post(body(ROW), f"/v2/models/made-up-{n}/infer")
        target.post(body(ROW), f"/v2/models/copy/versions/{n + 100}/infer")
    assert "made-up" not in (text := target.http.get("/metrics").text)
    assert set(re.findall(r'serving_requests_total{[^}]*version="(\d*)"', text)) <= {"", "1"}


def test_honest_clients_are_served_meanwhile(target: Target) -> None:
    """Connections that hang half-way hold nobody up."""
    hanging = []
    try:
        for n in range(200):
            connection = socket.create_connection(("127.0.0.1", target.server.http_port), timeout=LIMIT_S)
            hanging.append(connection)
            connection.sendall(request_start(n))
        for n in range(20):
            row = np.full(4, n, np.float32)
            answer = target.http.post(INFER, content=body(tensor(shape=[1, 4], data=row.tolist())))
            assert answer.json()["outputs"][0]["data"] == row.tolist()
    finally:
        for connection in hanging:
            connection.close()


def request_start(n: int) -> bytes:
    whole = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n".encode() + bytes(400)
    return whole[: n * 2 + 1]
