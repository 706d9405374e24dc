"""What no honest client sends, to a real server: every group of it is refused with a status that blames the client, and
leaves the server as it was: right answers, no more memory than the group may cost, no trace of an exception in the log.

Bodies that are cut, lie about their lengths, or are something else altogether, over every endpoint and every method.
"""

import gzip
import json
import random
import re
import socket
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import grpc
import httpx
import pytest

from serving.protocols import messages as m
from tests import models, savedmodels
from tests.e2e.clients import RefusedError
from tests.e2e.plain import MODEL, OIP, PREDICTION, Plain, forget_peak, helpers, memory
from tests.e2e.server import LIMIT_S, Server
from tests.protocols.build import NESTED

MB = 1024 * 1024
MAX_BODY = 8 * MB
EXPANDED = 256 * MB  # of bodies that are compressed to hide it
MAY_COST = 240 * MB  # at the worst moment of a group: a body that is held ten times over, two helpers that start

# A client's mistake, or what is not offered. Never: 500, 502.
CLIENTS_FAULT = (400, 403, 404, 413, 501)
REFUSED = (
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
)

ANSWERED = ("OK", *REFUSED)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    """A server with everything open that can be, and models of each backend; bodies of 8 MB at most."""
    root = tmp_path_factory.mktemp("malformed")
    repo = root / "repo"
    models.save(models.identity(), repo / "copy/1/model.onnx")
    models.save(models.identity("FP32", ("batch", "width")), repo / "wide/1/model.onnx")
    tensors = [{"input": "x", "output": "y", "datatype": "BYTES", "shape": [-1, 2]}]
    (repo / "text/1").mkdir(parents=True)
    (repo / "text/1/identity.yaml").write_text(json.dumps({"tensors": tensors}))
    savedmodels.write("half_plus_two", repo / "half_plus_two/123")
    savedmodels.write("half_plus_three", repo / "half_plus_three/1")
    limits = ("--http-max-input-size", MAX_BODY, "--grpc-max-message-size", MAX_BODY)
    server = Server(root / "logs", repo, *limits, "--allow-model-upload", "--allow-client-shm")
    try:
        with Plain(server.wait_ready()) as made:
            yield made
    finally:
        server.end()


@pytest.fixture(autouse=True)
def unharmed(target: Plain) -> Iterator[None]:
    """What every group has to leave behind."""
    server = target.server
    serve_honest_clients(target)
    before = _footprint(server)
    forget_peak(server.process.pid)
    logged = len(server.log)
    yield
    assert server.process.poll() is None
    serve_honest_clients(target)
    peak = memory(server.process.pid, "VmHWM") + sum(memory(pid) for pid in helpers(server.process.pid))
    assert peak - before < MAY_COST
    assert "Traceback" not in server.log[logged:]


def _footprint(server: Server) -> int:
    pid = server.process.pid
    return memory(pid) + sum(memory(helper) for helper in helpers(pid))


def serve_honest_clients(target: Plain) -> None:
    """Good requests, over each protocol and framing, get the right values."""
    answer = target.post("/v2/models/copy/infer", to_json(infer()))
    assert answer.json()["outputs"][0]["data"] == [1, 2, 3, 4]
    answer = target.post("/v1/models/half_plus_two:predict", b'{"instances": [[1.0], [2.0]]}')
    assert answer.json() == {"predictions": [[2.5], [3.0]]}
    raw = m.oip.ModelInferResponse.FromString(target.call(OIP, "ModelInfer", infer_message())).raw_output_contents
    assert list(raw) == [bytes(16)]
    outputs = m.tfs.PredictResponse.FromString(target.call(PREDICTION, "Predict", predict_message())).outputs
    assert list(outputs["y"].float_val) == [2.5]


# Good requests, to be spoilt


def infer(name: str = "x", **changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}]}


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def infer_message(
    model: str = "copy", shape: Sequence[int] = (1, 4), raw: bytes | None = bytes(16), **more: Any
) -> bytes:
    message = m.oip.ModelInferRequest(model_name=model, **more)
    message.inputs.add(name="x", datatype="FP32", shape=shape)
    if raw is not None:
        message.raw_input_contents.append(raw)
    data: bytes = message.SerializeToString()
    return data


def predict_message(model: str = "half_plus_two", shape: Sequence[int] = (1, 1), **tensor: Any) -> bytes:
    message = m.tfs.PredictRequest(model_spec={"name": model})
    message.inputs["x"].CopyFrom(m.tf.TensorProto(**{"dtype": "DT_FLOAT", "float_val": [1.0], **tensor}))
    for size in shape:
        message.inputs["x"].tensor_shape.dim.add(size=size)
    data: bytes = message.SerializeToString()
    return data


def example_input() -> Any:
    example = m.tf.Example()
    example.features.feature["x"].float_list.value.append(1.0)
    return m.tfs.Input(example_list={"examples": [example]})


def spec(signature: str = "", model: str = "half_plus_two") -> Any:
    return m.tfs.ModelSpec(name=model, signature_name=signature)


def refused(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in (statuses or CLIENTS_FAULT), answer.text[:300]
    assert answer.json().keys() == {"error"} and answer.json()["error"]


def code_of(target: Plain, service: str, method: str, data: bytes, **more: Any) -> str:
    """OK, or with what the call was refused. A refusal without a reason is an empty text."""
    try:
        target.call(service, method, data, **more)
    except RefusedError as error:
        return str(error.status) if error.text else ""
    return "OK"


# Raw tensors that are not what the request says


def binary(claim: Any, raw: bytes, length: object = None, path: str = "text", **changes: Any) -> dict[str, Any]:
    """The arguments of `post` for one input of which the request claims so many bytes."""
    entry = {"name": "x", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": claim}, **changes}
    head = to_json({"inputs": [entry]})
    header = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    return {"path": f"/v2/models/{path}/infer", "data": head + raw, **header}


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


TWO = u32(2) + b"ab" + u32(3) + b"cde"
FRAMINGS = {
    "nothing": b"",
    "one string": TWO[:6],
    "three strings": TWO + u32(0),
    "half a length": TWO[:8],
    "half a string": TWO[:-1],
    "a length beyond the end": u32(2) + b"ab" + u32(4) + b"cde",
    "the longest length": u32(2**32 - 1) + b"ab" + u32(2) + b"cd",
    "a length that is text": b"ab,cde",
    "all lengths, then all strings": u32(2) + u32(3) + b"abcde",
    "the other byte order": (2).to_bytes(4, "big") + b"ab" + (3).to_bytes(4, "big") + b"cde",
    "a million empty strings": u32(0) * 1_000_000,
    "ends in a length": TWO + b"\0",
}
CLAIMS = (-1, 0, 12, 14, 2**31, 2**62, 2**63, 2**64, 10**30, 1.5, 13.0, "13", True, None, [13], {}, [], "")


@pytest.mark.parametrize("name", FRAMINGS)
def test_strings_that_are_not_framed(target: Plain, name: str) -> None:
    raw = FRAMINGS[name]
    refused(target.post(**binary(len(raw), raw)), 400)
    message = m.oip.ModelInferRequest(model_name="text", raw_input_contents=[raw])
    message.inputs.add(name="x", datatype="BYTES", shape=[1, 2])
    assert code_of(target, OIP, "ModelInfer", message.SerializeToString()) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_sizes_that_are_not_true(target: Plain, claim: Any) -> None:
    refused(target.post(**binary(claim, TWO)), 400)
    two = {**binary(len(TWO), TWO)}
    head = json.loads(two["data"][: -len(TWO)])
    head["inputs"].append({**head["inputs"][0], "name": "z", "parameters": {"binary_data_size": claim}})
    data = to_json(head)
    two |= {"data": data + TWO, "Inference-Header-Content-Length": str(len(data))}
    refused(target.post(**two), 400)


def test_headers_that_lie_about_their_length(target: Plain) -> None:
    good = binary(len(TWO), TWO)
    right = int(good["Inference-Header-Content-Length"])
    for length in (*range(1, right, 7), right - 1, right + 1, len(good["data"]), len(good["data"]) + 1):
        refused(target.post(**{**good, "Inference-Header-Content-Length": str(length)}), 400)
    for text in ("-1", "1e2", "0x60", "", "9" * 100, "١٢", "1,2", "NaN"):
        header = {b"Inference-Header-Content-Length": text.encode()}
        refused(target.http.post(good["path"], content=good["data"], headers=header), 400)


def test_bodies_that_are_cut(target: Plain) -> None:
    """With a true content-length, and with that of the whole body before the client closes its half."""
    good = binary(len(TWO), TWO)
    data, length = good["data"], good["Inference-Header-Content-Length"]
    for end in range(0, len(data), 9):
        refused(target.post(**{**good, "data": data[:end]}), 400)
        head = f"POST {good['path']} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n"
        head += f"inference-header-content-length: {length}\r\n\r\n"
        assert exchange(target, head.encode() + data[:end]) == b""


CHUNKED = b"POST /v2/models/copy/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"


@pytest.mark.parametrize(
    "chunks",
    [b"5\r\n{}", b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"f" * 17 + b"\r\n{}", b"7fffffffffffffff\r\n{}"],
    ids=repr,
)
def test_chunks_that_lie(target: Plain, chunks: bytes) -> None:
    answer = exchange(target, CHUNKED + b"\r\n" + chunks)
    assert answer == b"" or re.match(rb"HTTP/1\.1 4\d\d ", answer)


def test_both_kinds_of_length(target: Plain) -> None:
    """What a proxy in front might read otherwise than we do."""
    answer = exchange(target, CHUNKED + b"content-length: 5\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    assert answer == b"" or re.match(rb"HTTP/1\.1 4\d\d ", answer)


def exchange(target: Plain, data: bytes) -> bytes:
    """All that comes back on a connection of its own, of which the client closes its half."""
    with socket.create_connection(("127.0.0.1", target.server.http_port), timeout=LIMIT_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as received:
            return received.read()


# JSON


@cache
def json_paths(url: str) -> tuple[str, ...]:
    """Every documented endpoint that reads JSON."""
    paths: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()["paths"]
    found = []
    for path, methods in paths.items():
        if "requestBody" not in methods.get("post", {}) or "/cudasharedmemory/" in path:  # which says no to all
            continue
        of_savedmodel = path.startswith("/v1/")
        # None of these may unload what the other groups need.
        manages = "/repository/" in path or path.startswith("/serving/")
        model = "nosuch" if manages else "half_plus_two" if of_savedmodel else "copy"
        filled = path.replace("{model}", model).replace("{version}", "123" if of_savedmodel else "1")
        found.append(filled.replace("{label}", "stable").replace("{region}", "r"))
    return tuple(found)


LEVELS = 100_000
DEEP = {
    "arrays": b"[" * LEVELS,
    "whole arrays": b"[" * LEVELS + b"]" * LEVELS,
    "objects": b'{"a":' * LEVELS,
    "whole objects": b'{"a":' * LEVELS + b"1" + b"}" * LEVELS,
    "a million arrays and NaN": NESTED.encode() + b"NaN",
    "arrays in an object, with NaN": b'{"b": NaN, "a": ' + b"[" * LEVELS + b"]" * LEVELS + b"}",
}
BELOW = ("inputs", "instances", "examples", "parameters", "trace_level", "x", "id", "ready", "key")


def test_every_endpoint_is_attacked(target: Plain) -> None:
    paths = json_paths(target.server.url)
    for end in (":predict", ":classify", ":regress", "/infer", "/generate", "/generate_stream", "/index", "/load"):
        assert any(path.endswith(end) for path in paths), f"nothing ends with {end}"
    assert any(path.endswith("/logging") for path in paths) and any(path.endswith("/setting") for path in paths)


@pytest.mark.parametrize("name", DEEP)
def test_deep_json(target: Plain, name: str) -> None:
    for path in json_paths(target.server.url):
        refused(target.post(path, DEEP[name]), 400)


@pytest.mark.parametrize("key", BELOW)
def test_deep_values(target: Plain, key: str) -> None:
    """Where the value is not looked at, it may be answered."""
    deep = {}
    for levels in (90, 1000, LEVELS):
        deep[levels] = b'{"%b": %b}' % (key.encode(), b"[" * levels + b"]" * levels)
    for path in json_paths(target.server.url):
        for levels, data in deep.items():
            answer = target.post(path, data)
            assert answer.status_code in (200, *CLIENTS_FAULT)
            assert levels < LEVELS or answer.status_code == 400


NOT_JSON = {
    "nothing": b"",
    "white space": b" \n" * 1000,
    "not UTF-8": b'{"inputs": "\xff\xfe"}',
    "an overlong slash": b'{"inputs": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"inputs": "\xed\xa0\x80"}',
    "half a character": b'{"inputs": "\xe2\x98',
    "UTF-16": '{"inputs": []}'.encode("utf-16"),
    "UTF-32": '{"inputs": []}'.encode("utf-32"),
    "NUL": b"\0" * 1000,
    "a quote": b'"',
    "half": b'{"inputs": [{"name": "x"',
    "single quotes": b"{'inputs': []}",
    "1e400": b'{"inputs": 1e400, "instances": [1e400], "examples": [{"x": 1e400}], "x": 1e400, "id": 1e400}',
    "half an escape": b'{"inputs": "\\u12"}',
    "a number of 100,000 digits": b'{"inputs": NaN, "instances": [%b]}' % (b"9" * 100_000),
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_json(target: Plain, name: str) -> None:
    for path in json_paths(target.server.url):
        answer = target.post(path, NOT_JSON[name])
        if answer.status_code == 200:  # where a body may be left out, or is not JSON for this endpoint
            may_be_left_out = "/repository/" in path or path.endswith("/infer")
            assert name in ("nothing", "white space") and may_be_left_out
        else:
            refused(answer)


ODD_JSON = {
    "null": b"null",
    "a number": b"1",
    "a string": b'"inputs"',
    "an array": b"[]",
    "an array of objects": b"[{}]",
    "numbers for everything": b'{"inputs": 1, "instances": 1, "examples": 1, "id": 1, "parameters": 1, "ready": 1}',
    "null for everything": b'{"inputs": null, "instances": null, "examples": null, "id": null, "x": null, "key": null}',
    "objects for everything": b'{"inputs": {}, "instances": {}, "examples": {}, "id": {}, "x": {}, "key": {}}',
    "a long key": b'{"%b": 1}' % (b"k" * MB),
    "100,000 keys": b"{%b}" % b",".join(b'"k%d":%d' % (i, i) for i in range(100_000)),
    "the same key 100,000 times": b"{%b}" % b",".join([b'"inputs":1'] * 100_000),
    "a long string": b'{"inputs": "%b", "id": "%b"}' % (b"s" * MB, b"s" * MB),
    "lone surrogates": b'{"inputs": "\\ud800", "instances": ["\\ud800"], "examples": [{"x": "\\ud800"}]}',
}


@pytest.mark.parametrize("name", ODD_JSON)
def test_json_of_another_kind(target: Plain, name: str) -> None:
    for path in json_paths(target.server.url):
        answer = target.post(path, ODD_JSON[name])
        assert answer.status_code in (200, *CLIENTS_FAULT), (path, answer.text[:300])


# What each of these stands for: an input of one FP32 value, in three places.
NO_NUMBERS = (
    *("1e400", "-1e400", "1e999999999", "9" * 400, "9" * 5000, "0x10", "1_000", "01", "+1", ".5", "1.", "--1", "1e"),
    *(
        '"1"',
        '"NaN"',
        "null",
        "true",
        "nan",
        "inf",
        "-NaN",
        "+Infinity",
        "{}",
        '{"b64": "AAAA"}',
        "[]",
        "[1, 2]",
        "[[]]",
    ),
    *("undefined", "1 2", "1,", ",1", "/*1*/ 1", "１"),
)


@pytest.mark.parametrize("text", NO_NUMBERS, ids=lambda text: text[:20])
def test_what_is_no_number(target: Plain, text: str) -> None:
    bodies = {
        "/v2/models/copy/infer": to_json(infer()).replace(b"[1, 2, 3, 4]", b"[1, 2, 3, %b]" % text.encode()),
        "/v2/models/copy/generate": b'{"x": [1, 2, 3, %b]}' % text.encode(),
        "/v1/models/half_plus_two:predict": b'{"instances": [[1.0], [%b]]}' % text.encode(),
        "/v1/models/half_plus_two/versions/123:predict": b'{"inputs": {"x": [[1.0], [%b]]}}' % text.encode(),
        "/v1/models/half_plus_two:classify": b'{"signature_name": "classify_x_to_y", "examples": [{"x": %b}]}'
        % text.encode(),
        "/v1/models/half_plus_two:regress": b'{"signature_name": "regress_x_to_y", "examples": [{"x": %b}]}'
        % text.encode(),
    }
    for path, data in bodies.items():
        refused(target.post(path, data), 400)


SHAPES = (
    [2**31, 4], [2**62], [2**63], [2**64], [10**30], [2**62, 4], [0, 2**62], [1] * 33, [1] * 100_000, [-1, 4],
    [-(2**63)], [1.0, 4], ["1", 4], [None, 4], [[1, 4]], [True, 4], {}, "1,4", 4, None, [], [1, 2**40, 0],
)  # fmt: skip


@pytest.mark.parametrize("model", ["copy", "wide", "text"])
def test_shapes_that_nothing_has(target: Plain, model: str) -> None:
    datatype = "BYTES" if model == "text" else "FP32"
    for shape in SHAPES:
        for data in ([], [1.5, 1.5, 1.5, 1.5]):
            body = to_json(infer(shape=shape, datatype=datatype, data=data))
            refused(target.post(f"/v2/models/{model}/infer", body), 400)
        refused(target.post(**binary(16, bytes(16), path=model, shape=shape, datatype=datatype)), 400)


DUPLICATES = {
    "/v2/models/copy/generate": b'{"x": [1, 2, 3, 4], "x": [1, 2, 3, 5]}',
    "/v1/models/half_plus_two:predict": b'{"inputs": {"x": [[1.0]], "x": [[2.0]]}}',
    "/v1/models/half_plus_two/versions/123:predict": b'{"instances": [{"x": [1.0], "x": [2.0]}]}',
    "/v2/models/copy/infer": b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}, '
    b'{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 5]}]}',
}


@pytest.mark.parametrize("path", DUPLICATES)
def test_keys_that_name_a_tensor_twice(target: Plain, path: str) -> None:
    refused(target.post(path, DUPLICATES[path]), 400)


def test_many_small_objects(target: Plain) -> None:
    """Parsed, they take twenty times the memory of their text."""
    for text in (b"{},", b"[],", b'"",', b"1,"):
        body = b'{"inputs": [%b{}], "instances": 1}' % (text * (2 * MB // len(text)))
        for path in ("/v2/models/copy/infer", "/v1/models/half_plus_two:predict"):
            refused(target.post(path, body), 400)


# Compression


@cache
def squeezed(size: int, start: bytes = b"", end: bytes = b"", fill: bytes = b"\0", wbits: int = 31) -> bytes:
    """So many bytes of the same between two others, compressed about 1000 to 1."""
    compressor = zlib.compressobj(9, wbits=wbits)
    piece = fill * MB
    parts = [compressor.compress(start)]
    parts += [compressor.compress(piece) for _ in range(size // MB)]
    return b"".join((*parts, compressor.compress(end), compressor.flush()))


COMPRESSED_PATHS = {
    "/v2/models/copy/infer": to_json(infer()),
    "/v1/models/half_plus_two:predict": b'{"instances": [[1.0]]}',
    "/v1/models/half_plus_two:classify": b'{"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}]}',
}


@pytest.mark.parametrize("path", COMPRESSED_PATHS)
def test_bombs(target: Plain, path: str) -> None:
    good = COMPRESSED_PATHS[path]
    bombs = {
        "zeros": squeezed(EXPANDED),
        "white space around a good request": squeezed(EXPANDED, good[:-1], good[-1:], b" "),
        "many members": squeezed(MB, fill=b" ") * (EXPANDED // MB) + gzip.compress(good),
        "a bomb in a bomb": gzip.compress(squeezed(EXPANDED)),
        "one byte too many": squeezed(MAX_BODY - len(good) // MB * MB, good[:-1], b" " + good[-1:], b" "),
    }
    for name, bomb in bombs.items():
        assert len(bomb) < MAX_BODY / 8, name
        refused(target.post(path, bomb, **{"Content-Encoding": "gzip"}), 400)


@pytest.mark.parametrize("path", COMPRESSED_PATHS)
def test_bombs_in_deflate(target: Plain, path: str) -> None:
    refused(target.post(path, squeezed(EXPANDED, wbits=15), **{"Content-Encoding": "deflate"}), 400, 501)


@pytest.mark.parametrize("path", COMPRESSED_PATHS)
def test_a_body_that_may_be_that_large(target: Plain, path: str) -> None:
    """Nothing is wrong with it but its ratio."""
    good = COMPRESSED_PATHS[path]
    body = squeezed(MAX_BODY - 2 * MB, good[:-1], good[-1:], b" ")
    assert target.post(path, body, **{"Content-Encoding": "gzip"}).status_code == 200


@pytest.mark.parametrize("path", COMPRESSED_PATHS)
def test_broken_compression(target: Plain, path: str) -> None:
    whole = gzip.compress(COMPRESSED_PATHS[path])
    broken = [whole[:end] for end in range(0, len(whole), 5)]
    broken += [
        whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in (0, 1, 2, len(whole) // 2, -6 % len(whole))
    ]
    broken += [COMPRESSED_PATHS[path], b"\x1f\x8b", bytes(100), whole + b"garbage"]
    for data in broken:
        answer = target.post(path, data, **{"Content-Encoding": "gzip"})
        assert answer.status_code == 400 or data.startswith(whole)
    refused(target.post(path, whole, **{"Content-Encoding": "br"}), 501, 400)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("call", [(OIP, "ModelInfer"), (PREDICTION, "Predict"), (MODEL, "GetModelStatus")], ids=str)
def test_bombs_in_grpc(target: Plain, call: tuple[str, str], compression: Any) -> None:
    assert code_of(target, *call, bytes(EXPANDED // 4), compression=compression) == "RESOURCE_EXHAUSTED"


# Messages


def methods(streams: bool) -> list[tuple[str, str]]:
    """Every method of every service, those with a stream on either side or the others."""
    found = []
    for service in (
        m.oip.GRPCInferenceService,
        m.tfs.PredictionService,
        m.tfs.ModelService,
        m.health.Health,
        m.reflection.ServerReflection,
        m.reflection_v1alpha.ServerReflection,
    ):
        for method in service.methods:
            if (method.client_streaming or method.server_streaming) is streams:
                found.append((service.full_name, method.name))
    return found


def input_of(service: str, method: str) -> Any:
    """What the method takes, as a descriptor."""
    return m.pool.FindServiceByName(service).methods_by_name[method].input_type


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def badly_wired(descriptor: Any) -> Iterator[bytes]:
    """Each field in every wire type, right or wrong, with content that seldom fits."""
    for number in (*(field.number for field in descriptor.fields), 0, 1000, 2**29 - 1, 2**29):
        for wire_type, content in (
            (0, b"\x01"),
            (0, b"\xff" * 10),
            (0, b"\xff" * 20),
            (1, b"\xff" * 8),
            (1, b"\xff" * 7),
            (2, b"\x03\xff\xff\xff"),
            (2, b"\x7f\x01"),
            (2, varint(2**31)),
            (2, varint(2**63) + b"\x01"),
            (3, b""),
            (4, b""),
            (5, b"\xff" * 4),
            (6, b"\xff" * 4),
            (7, b"\xff" * 4),
        ):
            yield varint(number << 3 | wire_type) + content


@pytest.mark.parametrize("method", methods(streams=False), ids="/".join)
def test_what_is_no_message(target: Plain, method: tuple[str, str]) -> None:
    rng = random.Random(f"garbage for {method}")
    for size in (1, 2, 5, 30, 1000):
        assert code_of(target, *method, rng.randbytes(size)) in ANSWERED
    code = code_of(target, *method, b"\xff" * 100)
    if not input_of(*method).fields:
        assert code in ("OK", "INVALID_ARGUMENT")  # nothing in the request has to be looked at
    elif method[1] in ("CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"):
        assert code in ("INVALID_ARGUMENT", "UNIMPLEMENTED")
    else:
        assert code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("method", methods(streams=False), ids="/".join)
def test_wrong_wire_types(target: Plain, method: tuple[str, str]) -> None:
    for data in badly_wired(input_of(*method)):
        assert code_of(target, *method, data) in ANSWERED, data


@pytest.mark.parametrize("method", methods(streams=True), ids="/".join)
def test_what_is_no_message_in_a_stream(target: Plain, method: tuple[str, str]) -> None:
    try:
        answers = target.stream(*method, b"\xff" * 100)
    except RefusedError as error:
        refusal = (error.status, bool(error.text))
    else:  # in the stream, which has a place for it
        refusal = ("INVALID_ARGUMENT", bool(m.oip.ModelStreamInferResponse.FromString(answers[0]).error_message))
    assert refusal == ("INVALID_ARGUMENT", True)


def test_a_stream_of_good_and_bad(target: Plain) -> None:
    """What can be read is answered in its place."""
    bad = (infer_message("nosuch"), infer_message(raw=bytes(15)), infer_message(shape=[2**62]), infer_message(raw=None))
    answers = target.stream(OIP, "ModelStreamInfer", infer_message(), *bad, infer_message())
    read = [m.oip.ModelStreamInferResponse.FromString(answer) for answer in answers]
    assert [bool(answer.error_message) for answer in read] == [False, True, True, True, True, False]


def test_messages_nested_deeply(target: Plain) -> None:
    nested = b""
    for _ in range(5000):
        part = varint(3 << 3 | 2) + varint(len(nested)) + nested  # VariantTensorDataProto.tensors
        nested = varint(15 << 3 | 2) + varint(len(part)) + part  # TensorProto.variant_val
    entry = b"\x0a\x01x\x12" + varint(len(nested)) + nested
    message = spec().SerializeToString()
    data = b"\x0a" + varint(len(message)) + message + b"\x12" + varint(len(entry)) + entry
    assert code_of(target, PREDICTION, "Predict", data) == "INVALID_ARGUMENT"


DIMENSIONS = (
    [2**28, 4],
    [2**40, 4],
    [2**62],
    [2**63 - 1, 2**63 - 1],
    [-1],
    [-1, 4],
    [0, 2**62],
    [1] * 300,
    [1] * 100_000,
)


@pytest.mark.parametrize("model", ["copy", "wide", "half_plus_two", "half_plus_three"])
def test_tensors_that_lie_about_their_shape(target: Plain, model: str) -> None:
    """One value, of which TensorFlow's rule is that the last repeats, may not ask for gigabytes."""
    for shape in (*DIMENSIONS, [2**26]):
        assert code_of(target, OIP, "ModelInfer", infer_message(model, shape)) == "INVALID_ARGUMENT"
        for tensor in (
            {},
            {"float_val": []},
            {"float_val": [], "tensor_content": bytes(16)},
            {"dtype": "DT_STRING", "float_val": [], "string_val": [b"a"]},
            {"dtype": "DT_HALF", "float_val": [], "half_val": [1]},
            {"dtype": "DT_DOUBLE", "float_val": [], "double_val": [1]},
        ):
            assert code_of(target, PREDICTION, "Predict", predict_message(model, shape, **tensor)) == "INVALID_ARGUMENT"


BAD_TENSORS: dict[str, dict[str, Any]] = {
    "no type": {"dtype": 0},
    "a type that nobody knows": {"dtype": 12345},
    "a complex type": {"dtype": "DT_COMPLEX64", "scomplex_val": [1, 2]},
    "a resource": {"dtype": "DT_RESOURCE", "resource_handle_val": [{"name": "/etc/passwd"}]},
    "a variant": {"dtype": "DT_VARIANT", "variant_val": [{"type_name": "int"}]},
    "a reference": {"dtype": "DT_FLOAT_REF"},
    "a quantized type": {"dtype": "DT_QINT8", "int_val": [1]},
    "too many values": {"float_val": [1.0, 2.0]},
    "too few bytes": {"tensor_content": bytes(3)},
    "too many bytes": {"tensor_content": bytes(5)},
    "another type": {"dtype": "DT_INT32", "int_val": [1]},
    "strings without lengths": {"dtype": "DT_STRING", "tensor_content": b"\xff\xff\xff"},
    "strings that are too long": {"dtype": "DT_STRING", "tensor_content": varint(2**62) + b"a"},
    "an unknown rank": {"tensor_shape": {"unknown_rank": True}},
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_are_none(target: Plain, name: str) -> None:
    data = predict_message(**BAD_TENSORS[name])
    assert code_of(target, PREDICTION, "Predict", data) == "INVALID_ARGUMENT"


BAD_EXAMPLES: dict[str, Any] = {
    "no input": None,
    "no examples": m.tfs.Input(example_list={}),
    "an empty example": m.tfs.Input(example_list={"examples": [{}]}),
    "a feature without a kind": m.tfs.Input(example_list={"examples": [{"features": {"feature": {"x": {}}}}]}),
    "integers for floats": m.tfs.Input(
        example_list={"examples": [{"features": {"feature": {"x": {"int64_list": {"value": [1]}}}}}]}
    ),
    "bytes for floats": m.tfs.Input(
        example_list={"examples": [{"features": {"feature": {"x": {"bytes_list": {"value": [b"1"]}}}}}]}
    ),
    "a thousand floats for one": m.tfs.Input(
        example_list={"examples": [{"features": {"feature": {"x": {"float_list": {"value": [1.0] * 1000}}}}}]}
    ),
}


@pytest.mark.parametrize("name", BAD_EXAMPLES)
def test_examples_that_the_model_cannot_read(target: Plain, name: str) -> None:
    bad = BAD_EXAMPLES[name]
    task = m.tfs.InferenceTask(model_spec=spec("classify_x_to_y"), method_name="tensorflow/serving/classify")
    requests = {
        "Classify": m.tfs.ClassificationRequest(model_spec=spec("classify_x_to_y"), input=bad),
        "Regress": m.tfs.RegressionRequest(model_spec=spec("regress_x_to_y"), input=bad),
        "MultiInference": m.tfs.MultiInferenceRequest(tasks=[task], input=bad),
    }
    for method, request in requests.items():
        assert code_of(target, PREDICTION, method, request.SerializeToString()) == "INVALID_ARGUMENT"


# Good requests with random faults: of a fixed seed, so the same in every run

FAULTS = 120


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """The same with one to four faults."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice((1, 1, 2, 4, 16)))
        match rng.randrange(6):
            case 0:
                del changed[start:end]
            case 1:
                changed[start:start] = rng.randbytes(end - start)
            case 2:
                changed[start:end] = rng.randbytes(end - start)
            case 3:
                changed[start:start] = changed[start:end]
            case 4:
                changed[start:end] = rng.choice((b"\0", b"\xff" * 4, b"9" * 30, b"-1", b"null", b"[", b'"', b"1e999"))
            case _ if start < len(changed):
                changed[start] ^= 1 << rng.randrange(8)
    return bytes(changed)


GENERATE = b'{"x": [1.0, 2.0, 3.0, 4.0], "id": "a", "parameters": {"p": 1}}'
LOAD = b'{"parameters": {"config": "{\\"max_batch_size\\": 8}", "file:1/model.onnx": "AAAA"}}'
BODIES: dict[str, tuple[str, bytes]] = {
    "infer": ("/v2/models/copy/infer", to_json({"id": "a", "parameters": {"timeout": 10**9}, **infer()})),
    "outputs": (
        "/v2/models/copy/infer",
        to_json({**infer(), "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}),
    ),
    "generate": ("/v2/models/copy/generate", GENERATE),
    "generate_stream": ("/v2/models/copy/generate_stream", GENERATE),
    "row": ("/v1/models/half_plus_two:predict", b'{"signature_name": "serving_default", "instances": [{"x": [1.0]}]}'),
    "column": ("/v1/models/half_plus_two:predict", b'{"inputs": {"x": [[1.0], [NaN]]}}'),
    "strings": ("/v1/models/text:predict", b'{"instances": [["a", {"b64": "AAAA"}]]}'),
    "classify": ("/v1/models/half_plus_two:classify", COMPRESSED_PATHS["/v1/models/half_plus_two:classify"]),
    "regress": (
        "/v1/models/half_plus_two:regress",
        b'{"signature_name": "regress_x_to_y", "context": {"x2": 1.0}, "examples": [{"x": [1.0]}]}',
    ),
    "index": ("/v2/repository/index", b'{"ready": true}'),
    "load": ("/v2/repository/models/nosuch/load", LOAD),
    "unload": ("/v2/repository/models/nosuch/unload", b'{"parameters": {"unload_dependents": true}}'),
    "trace": ("/v2/trace/setting", b'{"trace_level": ["OFF"], "trace_rate": "1000", "trace_count": "-1"}'),
    "logging": ("/v2/logging", b'{"log_verbose_level": 0, "log_format": "default"}'),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_with_faults(target: Plain, name: str) -> None:
    path, data = BODIES[name]
    assert target.post(path, data).status_code in (200, 400, 404)
    rng = random.Random(name)
    for _ in range(FAULTS):
        answer = target.post(path, spoilt(rng, data))
        assert answer.status_code in (200, *CLIENTS_FAULT), (answer.status_code, answer.text[:300])


def test_binary_bodies_with_faults(target: Plain) -> None:
    good = binary(len(TWO), TWO)
    assert target.post(**good).status_code == 200
    rng = random.Random("binary")
    for _ in range(3 * FAULTS):
        answer = target.post(**{**good, "data": spoilt(rng, good["data"])})
        assert answer.status_code in (200, *CLIENTS_FAULT)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_with_faults(target: Plain, encoding: str) -> None:
    pack: Callable[[bytes], bytes] = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    rng = random.Random(encoding)
    for path, data in COMPRESSED_PATHS.items():
        for _ in range(FAULTS):
            answer = target.post(path, spoilt(rng, pack(data)), **{"Content-Encoding": encoding})
            assert answer.status_code in (200, *CLIENTS_FAULT)


def contents_message() -> bytes:
    message = m.oip.ModelInferRequest(model_name="copy", id="a", parameters={"timeout": {"int64_param": 10**9}})
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4], contents={"fp32_contents": [1, 2, 3, 4]})
    message.outputs.add(name="y")
    data: bytes = message.SerializeToString()
    return data


MESSAGES: dict[str, tuple[str, str, Any]] = {
    "raw": (OIP, "ModelInfer", infer_message()),
    "contents": (OIP, "ModelInfer", contents_message()),
    "metadata": (OIP, "ModelMetadata", m.oip.ModelMetadataRequest(name="copy", version="1")),
    "config": (OIP, "ModelConfig", m.oip.ModelConfigRequest(name="copy", version="1")),
    "statistics": (OIP, "ModelStatistics", m.oip.ModelStatisticsRequest(name="copy", version="1")),
    "index": (OIP, "RepositoryIndex", m.oip.RepositoryIndexRequest(ready=True)),
    "load": (
        OIP,
        "RepositoryModelLoad",
        m.oip.RepositoryModelLoadRequest(
            model_name="nosuch",
            parameters={
                "config": {"string_param": '{"max_batch_size": 8}'},
                "file:1/model.onnx": {"bytes_param": b"abc"},
            },
        ),
    ),
    "register": (
        OIP,
        "SystemSharedMemoryRegister",
        m.oip.SystemSharedMemoryRegisterRequest(name="r", key="/nosuch", offset=8, byte_size=64),
    ),
    "trace": (OIP, "TraceSetting", m.oip.TraceSettingRequest(settings={"trace_rate": {"value": ["1000"]}})),
    "typed": (PREDICTION, "Predict", predict_message()),
    "content": (PREDICTION, "Predict", predict_message(tensor_content=bytes(4), float_val=[])),
    "filter": (
        PREDICTION,
        "Predict",
        m.tfs.PredictRequest.FromString(predict_message()).SerializeToString()
        + m.tfs.PredictRequest(output_filter=["y"], model_spec={"version": {"value": 123}}).SerializeToString(),
    ),
    "classify": (
        PREDICTION,
        "Classify",
        m.tfs.ClassificationRequest(model_spec=spec("classify_x_to_y"), input=example_input()),
    ),
    "regress": (
        PREDICTION,
        "Regress",
        m.tfs.RegressionRequest(model_spec=spec("regress_x_to_y"), input=example_input()),
    ),
    "multi-inference": (
        PREDICTION,
        "MultiInference",
        m.tfs.MultiInferenceRequest(
            tasks=[{"model_spec": spec("regress_x_to_y"), "method_name": "tensorflow/serving/regress"}],
            input=example_input(),
        ),
    ),
    "signatures": (
        PREDICTION,
        "GetModelMetadata",
        m.tfs.GetModelMetadataRequest(model_spec=spec(), metadata_field=["signature_def"]),
    ),
    "status": (MODEL, "GetModelStatus", m.tfs.GetModelStatusRequest(model_spec=spec())),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_with_faults(target: Plain, name: str) -> None:
    service, method, message = MESSAGES[name]
    data = message if isinstance(message, bytes) else message.SerializeToString()
    if name not in ("load", "register"):  # these name what is not there, as nothing good shall come of a fault
        assert code_of(target, service, method, data) == "OK"
    rng = random.Random(name)
    for _ in range(FAULTS):
        broken = spoilt(rng, data)
        assert code_of(target, service, method, broken) in ANSWERED, broken
