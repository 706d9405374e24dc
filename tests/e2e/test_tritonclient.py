"""The official clients, unmodified, against a running server: what they ask, what they get, how they are refused."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serving import __version__
from serving.core import dtypes
from tests import models
from tests.e2e.clients import FORMS, Asker, RefusedError, grpc_code, refusal
from tests.e2e.server import LIMIT_S, Server, wait_for

MAX_BATCH = 8
EVERY = [name for name in models.DTYPES if name != "BF16"]  # the runtime cannot pass it together with BYTES
DTYPES_JSON_CANNOT_CARRY = ("FP16", "BF16")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves `simple` (two inputs, two outputs), `versions` (1, 2, 10), one identity for each dtype, and some more."""
    root = tmp_path_factory.mktemp("tritonclient")
    repo = root / "repo"
    models.save(models.add_sub(), repo / "simple/1/model.onnx")
    (repo / "simple/model.yaml").write_text(f"max_batch_size: {MAX_BATCH}\n")
    for version in (1, 2, 10):
        models.save(models.scale(version), repo / f"versions/{version}/model.onnx")
    (repo / "versions/model.yaml").write_text("versions: all\n")
    for name in models.DTYPES:
        models.save(models.identity(name, ("batch", 3)), repo / f"id_{name}/1/model.onnx")
    models.save(models.every_dtype(EVERY), repo / "every/1/model.onnx")
    models.save(models.lookup(), repo / "lookup/1/model.onnx")
    models.save(models.identity("FP32", (3, 4)), repo / "fixed/1/model.onnx")
    models.save(models.scale(3), repo / "controlled/1/model.onnx")
    (repo / "empty").mkdir()
    running = Server(root / "logs", repo, "--server-name", "tested").wait_ready()
    yield running
    running.end()
    assert "Traceback" not in running.log


@pytest.fixture(params=FORMS)
def asker(request: pytest.FixtureRequest, server: Server) -> Iterator[Asker]:
    """A client for each form of the protocol."""
    made = Asker(server, request.param)
    yield made
    made.close()


@pytest.fixture(params=("binary", "grpc"))
def raw_asker(request: pytest.FixtureRequest, server: Server) -> Iterator[Asker]:
    """A client for each form that can carry every data type."""
    made = Asker(server, request.param)
    yield made
    made.close()


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    """The generated gRPC client, for requests that the official client cannot make."""
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    yield client._client_stub
    client.close()


def pair(rows: int = 1, width: int = 16) -> dict[str, np.ndarray]:
    """Inputs of `simple`."""
    first = np.arange(rows * width, dtype=np.int32).reshape(rows, width)
    return {"INPUT0": first, "INPUT1": np.full((rows, width), 7, np.int32)}


def some(name: str, shape: tuple[int, ...] = (2, 3)) -> np.ndarray:
    """Values of a data type, extremes among them."""
    dtype = dtypes.BY_NAME[name]
    size = int(np.prod(shape))
    if name == "BYTES":
        texts = ["", "a", "grüße", "\N{SNOWMAN}" * 300, "nul \0 in it", '{"json": "\\"}\n']
        return np.array([texts[i % len(texts)].encode() for i in range(size)], dtype=object).reshape(shape)
    if name == "BOOL":
        return np.resize([True, False, False], shape)
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        values = [limits.min, limits.max, 0, 1, limits.max // 2, 3]
        return np.array([values[i % len(values)] for i in range(size)], dtype.numpy).reshape(shape)
    numbers = [0.0, -0.0, 1.5, -2.25, float("inf"), float("nan")]
    return np.array([numbers[i % len(numbers)] for i in range(size)], dtype.numpy).reshape(shape)


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    """Equal in every bit that counts: NaN equals NaN, -0.0 does not equal 0.0."""
    assert got.dtype == want.dtype
    if want.dtype == dtypes.BF16.numpy:  # numpy knows no NaN there
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_array_equal(got, want)
    if want.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


# Health and metadata


def test_health(asker: Asker) -> None:
    client = asker.client
    assert client.is_server_live() is True
    assert client.is_server_ready() is True
    assert client.is_model_ready("simple") is True
    assert client.is_model_ready("versions", "10") is True
    assert client.is_model_ready("versions", "3") is False
    assert client.is_model_ready("empty") is False
    assert client.is_model_ready("nosuch") is False


def test_health_over_rest_has_bodies(server: Server) -> None:
    assert server.get("/v2/health/live").json() == {"live": True}
    assert server.get("/v2/health/ready").json() == {"ready": True}
    assert server.get("/v2/models/simple/ready").json() == {"name": "simple", "ready": True}
    answer = server.get("/v2/models/nosuch/ready")
    assert (answer.status_code, answer.json()) == (400, {"error": "Model version not ready"})


def test_server_metadata(asker: Asker) -> None:
    metadata = _metadata(asker, "get_server_metadata")
    assert metadata["name"] == "tested"
    assert metadata["version"] == __version__
    assert {"binary_tensor_data", "model_repository"} <= set(metadata["extensions"])


def test_model_metadata(asker: Asker) -> None:
    metadata = _metadata(asker, "get_model_metadata", "simple")
    assert metadata.pop("properties", None) in (None, {"max_batch_size": str(MAX_BATCH)})
    shape: list[Any] = ["-1", "16"] if asker.form == "grpc" else [-1, 16]  # protobuf's JSON has int64 as text
    assert metadata == {
        "name": "simple",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": n, "datatype": "INT32", "shape": shape} for n in ("INPUT0", "INPUT1")],
        "outputs": [{"name": n, "datatype": "INT32", "shape": shape} for n in ("OUTPUT0", "OUTPUT1")],
    }


def test_model_metadata_lists_versions_by_number(asker: Asker) -> None:
    assert _metadata(asker, "get_model_metadata", "versions")["versions"] == ["1", "2", "10"]
    assert _metadata(asker, "get_model_metadata", "versions", "2")["versions"] == ["2"]


@pytest.mark.parametrize("name", models.DTYPES)
def test_metadata_names_every_dtype(asker: Asker, name: str) -> None:
    metadata = _metadata(asker, "get_model_metadata", f"id_{name}")
    assert [t["datatype"] for t in metadata["inputs"] + metadata["outputs"]] == [name, name]


def _metadata(asker: Asker, method: str, *args: str) -> dict[str, Any]:
    more = {"as_json": True} if asker.form == "grpc" else {}
    found: dict[str, Any] = getattr(asker.client, method)(*args, **more)
    return found


# Inference


def test_several_inputs_and_outputs(asker: Asker) -> None:
    inputs = pair(rows=3)
    answer = asker.infer("simple", inputs, outputs=["OUTPUT0", "OUTPUT1"])
    assert (answer.model, answer.version, answer.id) == ("simple", "1", "")
    assert answer.datatypes == {"OUTPUT0": "INT32", "OUTPUT1": "INT32"}
    assert answer.shapes == {"OUTPUT0": [3, 16], "OUTPUT1": [3, 16]}
    assert_same(answer.outputs["OUTPUT0"], inputs["INPUT0"] + inputs["INPUT1"])
    assert_same(answer.outputs["OUTPUT1"], inputs["INPUT0"] - inputs["INPUT1"])


def test_inputs_in_any_order(asker: Asker) -> None:
    inputs = pair()
    answer = asker.infer("simple", dict(reversed(inputs.items())))
    assert_same(answer.outputs["OUTPUT1"], inputs["INPUT0"] - inputs["INPUT1"])


@pytest.mark.parametrize("wanted", [["OUTPUT1"], ["OUTPUT0"], ["OUTPUT1", "OUTPUT0"]])
def test_outputs_that_were_asked_for_come_in_the_order_of_the_model(asker: Asker, wanted: list[str]) -> None:
    answer = asker.infer("simple", pair(), outputs=wanted)
    assert answer.names == sorted(wanted)


def test_all_outputs_if_none_is_asked_for(asker: Asker) -> None:
    assert asker.infer("simple", pair()).names == ["OUTPUT0", "OUTPUT1"]
    assert asker.infer("simple", pair(), outputs=[]).names == ["OUTPUT0", "OUTPUT1"]


def test_request_id_comes_back(asker: Asker) -> None:
    assert asker.infer("simple", pair(), request_id="a/ü-1").id == "a/ü-1"


@pytest.mark.parametrize(("version", "answers"), [("", 10), ("1", 1), ("2", 2), ("10", 10)])
def test_version_that_was_asked_for_answers(asker: Asker, version: str, answers: int) -> None:
    x = np.ones((1, 4), np.float32)
    answer = asker.infer("versions", {"x": x}, version=version)
    assert answer.version == str(answers)
    assert_same(answer.outputs["y"], x * answers)


def test_unknown_parameters_are_no_error(asker: Asker) -> None:
    asker.infer("simple", pair(), parameters={"mine": 1, "other": "text", "third": True})


@pytest.mark.parametrize("name", models.DTYPES)
def test_every_dtype_raw(raw_asker: Asker, name: str) -> None:
    x = some(name)
    answer = raw_asker.infer(f"id_{name}", {"x": x})
    assert answer.datatypes == {"y": name}
    assert_same(answer.outputs["y"], x)


@pytest.mark.parametrize("name", [n for n in models.DTYPES if n not in DTYPES_JSON_CANNOT_CARRY])
def test_every_dtype_in_json(server: Server, name: str) -> None:
    asker = Asker(server, "json")
    x = some(name)
    answer = asker.infer(f"id_{name}", {"x": x}, outputs=["y"])
    assert answer.datatypes == {"y": name}
    y = answer.outputs["y"]
    if name == "BYTES":  # the client leaves what came in JSON as text
        y = np.array([text.encode() for text in y.flat], dtype=object).reshape(y.shape)
    assert_same(y, x)
    asker.close()


@pytest.mark.parametrize("name", [n for n in models.DTYPES if n not in DTYPES_JSON_CANNOT_CARRY])
def test_every_dtype_in_grpc_contents(stub: Any, name: str) -> None:
    fields = {"BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes"}
    field = fields.get(name, "uint" if name.startswith("UINT") else "int") + "_contents"
    x = some(name)
    request = grpc_request(f"id_{name}", name, x.shape)
    getattr(request.inputs[0].contents, field).extend(x.ravel().tolist())
    answer = stub.ModelInfer(request)
    assert [(t.name, t.datatype, list(t.shape)) for t in answer.outputs] == [("y", name, [2, 3])]
    assert len(answer.raw_output_contents) == 1
    assert not answer.outputs[0].HasField("contents")
    assert_same(tritonclient.grpc.InferResult(answer).as_numpy("y"), x)


def test_all_dtypes_in_one_request(raw_asker: Asker) -> None:
    inputs = {f"in_{name}": some(name) for name in EVERY}
    answer = raw_asker.infer("every", inputs)
    assert answer.names == [f"out_{name}" for name in EVERY]
    for name in EVERY:
        assert_same(answer.outputs[f"out_{name}"], inputs[f"in_{name}"])


def test_json_and_binary_mixed_in_one_request(server: Server) -> None:
    client = tritonclient.http.InferenceServerClient(server.http)
    inputs = [tritonclient.http.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    inputs[0].set_data_from_numpy(pair()["INPUT0"], binary_data=True)
    inputs[1].set_data_from_numpy(pair()["INPUT1"], binary_data=False)
    outputs = [
        tritonclient.http.InferRequestedOutput("OUTPUT0", binary_data=False),
        tritonclient.http.InferRequestedOutput("OUTPUT1", binary_data=True),
    ]
    result = client.infer("simple", inputs, outputs=outputs)
    assert "data" in result.get_output("OUTPUT0") and "parameters" not in result.get_output("OUTPUT0")
    assert result.get_output("OUTPUT1")["parameters"] == {"binary_data_size": 64}
    assert_same(result.as_numpy("OUTPUT0"), pair()["INPUT0"] + pair()["INPUT1"])
    assert_same(result.as_numpy("OUTPUT1"), pair()["INPUT0"] - pair()["INPUT1"])
    client.close()


def test_json_answer_is_compact_and_in_the_order_of_the_protocol(server: Server) -> None:
    body = {"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [[1, 2, 3, 4.5]]}]}
    answer = server.post("/v2/models/versions/versions/2/infer", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in answer.headers
    assert answer.text == (
        '{"id":"7","model_name":"versions","model_version":"2",'
        '"outputs":[{"name":"y","datatype":"FP32","shape":[1,4],"data":[2.0,4.0,6.0,9.0]}]}'
    )


def test_model_without_batch_axis_takes_exactly_its_shape(asker: Asker) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert_same(asker.infer("fixed", {"x": x}, outputs=["y"]).outputs["y"], x)
    with pytest.raises(RefusedError, match=r"unexpected shape for input 'x' for model 'fixed'\. Expected \[3,4\], got"):
        asker.infer("fixed", {"x": x[:2]})


def test_asynchronous_clients(server: Server) -> None:
    async def ask(library: Any, address: str) -> np.ndarray:
        async with library.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            inputs = [library.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
            for one in inputs:
                one.set_data_from_numpy(pair()[one.name()])
            results = await asyncio.gather(*(client.infer("simple", inputs) for _ in range(20)))
            return np.concatenate([result.as_numpy("OUTPUT0") for result in results])

    want = np.repeat(pair()["INPUT0"] + pair()["INPUT1"], 20, axis=0)
    assert_same(asyncio.run(ask(tritonclient.http.aio, server.http)), want)
    assert_same(asyncio.run(ask(tritonclient.grpc.aio, server.grpc)), want)


def test_large_tensors_both_ways(raw_asker: Asker) -> None:
    """More than the 4 MB that gRPC takes by default."""
    raw_asker.infer("id_FP32", {"x": np.zeros((64, 3), np.float32)})
    texts = np.array([[b"x" * 2**21] * 3], dtype=object)
    assert_same(raw_asker.infer("id_BYTES", {"x": texts}).outputs["y"], texts)


# Refusals

X16 = np.zeros((1, 16), np.int32)

REFUSALS: dict[str, tuple[Callable[[Asker], Any], int, str]] = {
    "unknown model": (
        lambda a: a.infer("nosuch", pair()),
        404,
        "Request for unknown model: 'nosuch' is not found",
    ),
    "unknown version": (
        lambda a: a.infer("simple", pair(), version="2"),
        404,
        "Request for unknown model: 'simple' version 2 is not found",
    ),
    "model without versions": (
        lambda a: a.infer("empty", pair()),
        404,
        "Request for unknown model: 'empty' has no available versions",
    ),
    "unknown model's metadata": (
        lambda a: a.client.get_model_metadata("nosuch"),
        404,
        "Request for unknown model: 'nosuch' is not found",
    ),
    "unknown version's metadata": (
        lambda a: a.client.get_model_metadata("simple", "7"),
        404,
        "Request for unknown model: 'simple' version 7 is not found",
    ),
    "version that is no number": (
        lambda a: a.infer("simple", pair(), version="abc"),
        400,
        "failed to get model version from specified version string 'abc'",
    ),
    "version that is too large": (
        lambda a: a.infer("simple", pair(), version="9" * 30),
        400,
        "failed to get model version from specified version string",
    ),
    "version 0": (
        lambda a: a.infer("simple", pair(), version="0"),
        400,
        "version should be an integral value > 0",
    ),
    "missing input": (
        lambda a: a.infer("simple", {"INPUT0": X16}, request_id="r1"),
        400,
        "[request id: r1] expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], "
        "but missing required input(s) ['INPUT1']. Please provide all required input(s).",
    ),
    "wrong input name": (
        lambda a: a.infer("simple", {"INPUT0": X16, "X": X16}),
        400,
        "unexpected inference input 'X' for model 'simple'",
    ),
    "one input too many": (
        lambda a: a.infer("simple", {**pair(), "X": X16}),
        400,
        "unexpected inference input 'X' for model 'simple'",
    ),
    "duplicate input": (
        lambda a: a.infer("simple", [("INPUT0", X16), ("INPUT0", X16)], request_id="r2"),
        400,
        "input 'INPUT0' already exists in request",
    ),
    "wrong dtype": (
        lambda a: a.infer("simple", pair() | {"INPUT0": X16.astype(np.float32)}),
        400,
        "[request id: <id_unknown>] inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'",
    ),
    "wrong shape": (
        lambda a: a.infer("simple", pair() | {"INPUT0": X16[:, :15]}),
        400,
        "[request id: <id_unknown>] unexpected shape for input 'INPUT0' for model 'simple'. "
        "Expected [-1,16], got [1,15]",
    ),
    "wrong rank": (
        lambda a: a.infer("simple", pair() | {"INPUT1": X16[0]}),
        400,
        "unexpected shape for input 'INPUT1' for model 'simple'. Expected [-1,16], got [16]",
    ),
    "scalar": (
        lambda a: a.infer("simple", pair() | {"INPUT1": np.array(1, np.int32)}),
        400,
        "input 'INPUT1' has no shape but model requires batch dimension for 'simple'",
    ),
    "rows differ between inputs": (
        lambda a: a.infer("simple", {"INPUT0": pair(2)["INPUT0"], "INPUT1": X16}),
        400,
        "batch size does not match other inputs for 'simple'",
    ),
    "unknown output": (
        lambda a: a.infer("simple", pair(), outputs=["NOPE"]),
        400,
        "unexpected inference output 'NOPE' for model 'simple'",
    ),
    "duplicate output": (
        lambda a: a.infer("simple", pair(), outputs=["OUTPUT0", "OUTPUT0"]),
        400,
        "output 'OUTPUT0' already exists in request",
    ),
    "empty batch": (
        lambda a: a.infer("simple", pair(rows=0)),
        400,
        "input byte size mismatch for input 'INPUT0' for model 'simple'. Expected 64, got 0",
    ),
    "too many rows": (
        lambda a: a.infer("simple", pair(rows=MAX_BATCH + 1)),
        400,
        f"inference request batch-size must be <= {MAX_BATCH} for 'simple'",
    ),
    "the model itself fails": (
        lambda a: a.infer("lookup", {"x": np.array([[99]], np.int64)}),
        500,
        "Failed to process the request(s) for model 'lookup/1', message: ",
    ),
    "load of a model that is not there": (
        lambda a: a.client.load_model("nosuch"),
        400,
        "failed to load 'nosuch', failed to poll from model repository",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(asker: Asker, case: str) -> None:
    ask, status, text = REFUSALS[case]
    with pytest.raises((RefusedError, InferenceServerException)) as caught:
        ask(asker)
    error = caught.value if isinstance(caught.value, RefusedError) else refusal(caught.value)
    assert error.status == (grpc_code(status) if asker.form == "grpc" else status), error.text
    assert text in error.text
    assert asker.infer("simple", pair(), outputs=["OUTPUT0"]).names == ["OUTPUT0"]  # and goes on


@pytest.mark.parametrize("name", DTYPES_JSON_CANNOT_CARRY)
def test_json_cannot_bring_half_precision(server: Server, name: str) -> None:
    body = {"inputs": [{"name": "x", "datatype": name, "shape": [1, 3], "data": [1, 2, 3]}]}
    answer = server.post(f"/v2/models/id_{name}/infer", json=body)
    assert answer.status_code == 400
    assert (
        f"receiving {name} data via JSON is not supported. Please use the binary data format for input x"
        in answer.json()["error"]
    )


@pytest.mark.parametrize("name", DTYPES_JSON_CANNOT_CARRY)
def test_json_cannot_take_half_precision_away(server: Server, name: str) -> None:
    client = Asker(server, "binary")
    outputs = [tritonclient.http.InferRequestedOutput("y", binary_data=False)]
    with pytest.raises(InferenceServerException, match=f"sending {name} data via JSON is not supported") as caught:
        client.client.infer(f"id_{name}", client.inputs({"x": some(name)}), outputs=outputs)
    assert caught.value.status() == "400"
    client.close()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("{", "failed to parse the request JSON buffer"),
        ("[]", "the request JSON must be an object"),
        ("{}", "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ('{"inputs":[{"name":"x"}]}', "invalid datatype for input x"),
        ('{"inputs":[{"name":"x","datatype":"FLOAT","shape":[1,4],"data":[1,2,3,4]}]}', "invalid datatype for input x"),
        ('{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3]}]}', "Unable to parse 'data'"),
        ('{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":["1",2,3,4]}]}', "Unable to parse 'data'"),
        ('{"inputs":[{"name":"x","datatype":"FP32","shape":[1,-4],"data":[]}]}', "Unable to parse 'shape'"),
        (
            '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4]}]}',
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            "'shared_memory_region' in 'parameters'. But no field is set",
        ),
        (
            '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}]}',
            "unexpected size for input 'x', expecting 16 additional bytes for model 'versions'",
        ),
    ],
)
def test_json_that_is_wrong_is_a_mistake_of_the_client(server: Server, body: str, text: str) -> None:
    answer = server.post("/v2/models/versions/infer", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert text in answer.json()["error"]


@pytest.mark.parametrize(
    ("length", "text"),
    [
        ("abc", "Unable to parse Inference-Header-Content-Length, got: abc"),
        ("-1", "inference header size should be in range (0, "),
        ("100000", "inference header size should be in range (0, "),
        ("99999999999", "value is out of range [ -2147483648, 2147483647 ], got: 99999999999"),
    ],
)
def test_wrong_header_length(server: Server, length: str, text: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = server.post("/v2/models/versions/infer", content=b"{}", headers=headers)
    assert answer.status_code == 400
    assert text in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v2/models", "/v2/nothing", "/v2/models/simple/infer/more", "/"])
def test_unknown_path(server: Server, path: str) -> None:
    answer = server.get(path)
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
def test_wrong_verb(server: Server, verb: str) -> None:
    answer = httpx.request(verb, server.url + "/v2/models/simple/infer", timeout=LIMIT_S)
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})


def grpc_request(model: str, datatype: str, shape: tuple[int, ...], name: str = "x") -> Any:
    """A ModelInferRequest with one input that has no data yet."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    return request


def _no_data() -> Any:
    return grpc_request("versions", "FP32", (1, 4))


def _both_forms() -> Any:
    request = grpc_request("versions", "FP32", (1, 4))
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    request.raw_input_contents.append(bytes(16))
    return request


def _other_field() -> Any:
    request = grpc_request("versions", "FP32", (1, 4))
    request.inputs[0].contents.int_contents.extend([1, 2, 3, 4])
    return request


def _raw(size: int, datatype: str = "FP32", shape: tuple[int, ...] = (1, 4), model: str = "versions") -> Any:
    request = grpc_request(model, datatype, shape)
    request.raw_input_contents.append(bytes(size))
    return request


def _strings(data: bytes) -> Any:
    request = grpc_request("id_BYTES", "BYTES", (1, 3))
    request.raw_input_contents.append(data)
    return request


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_no_data, "unable to find data for input tensor 'x' for model 'versions' in request."),
        (
            _both_forms,
            "contents field must not be specified when using raw_input_contents for 'x' for model 'versions'",
        ),
        (_other_field, "unexpected explicit tensor data for input tensor 'x' for model 'versions' of type"),
        (lambda: _raw(15), "input byte size mismatch for input 'x' for model 'versions'. Expected 16, got 15"),
        (lambda: _raw(16, "FLOAT"), "invalid datatype for input x"),
        (lambda: _raw(0, shape=(-1, 4)), "unexpected shape for input 'x' for model 'versions'"),
        (lambda: _raw(16, shape=(2**40, 2**40)), "input 'x' causes total element count to exceed maximum size"),
        (lambda: _strings(b"\0\0\0"), "incomplete string length indicator for inference input 'x'"),
        (lambda: _strings(b"\x14\0\0\0ab"), "incomplete string data for inference input 'x'"),
        (lambda: _strings(bytes(8)), "expected 3 string elements for inference input 'x', got 2"),
        (lambda: _strings(bytes(16)), "unexpected number of string elements 4 for inference input 'x', expecting 3"),
        (lambda: _strings(b"\x01\0\0\0\xff" * 3), "is not UTF-8"),
    ],
    ids=[
        "no data", "both forms", "other field", "raw too short", "unknown datatype", "negative shape", "vast shape",
        "length cut off", "element cut off", "too few elements", "too many elements", "not UTF-8",
    ],
)  # fmt: skip
def test_grpc_message_that_is_wrong_is_a_mistake_of_the_client(stub: Any, make: Callable[[], Any], text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(make())
    assert caught.value.code().name == "INVALID_ARGUMENT"
    assert text in str(caught.value.details())


def test_reserved_parameters(server: Server, stub: Any) -> None:
    """The official client itself does not send them."""
    text = "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
    answer = server.post("/v2/models/versions/infer", json={"parameters": {"triton_mine": 1}, "inputs": []})
    assert (answer.status_code, answer.json()["error"]) == (400, text)
    request = _raw(16)
    request.parameters["triton_mine"].bool_param = True
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code().name == "INVALID_ARGUMENT"
    assert text in str(caught.value.details())


def test_surplus_raw_contents_are_ignored(stub: Any) -> None:
    request = _raw(16)
    request.raw_input_contents.append(b"more")
    assert stub.ModelInfer(request).model_version == "10"


@pytest.mark.parametrize("method", ["/inference.GRPCInferenceService/Nothing", "/other.Service/ModelInfer"])
def test_method_that_is_not_offered(server: Server, method: str) -> None:
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method, bytes, bytes)(b"", timeout=LIMIT_S)
    assert caught.value.code().name == "UNIMPLEMENTED"


# The repository


def test_repository_index(asker: Asker) -> None:
    if asker.form == "grpc":
        entries = [(e.name, e.version, e.state) for e in asker.client.get_model_repository_index().models]
    else:
        found = asker.client.get_model_repository_index()
        entries = [(e["name"], e.get("version", ""), e.get("state", "")) for e in found]
    entries = [entry for entry in entries if entry[0] != "controlled"]
    assert ("simple", "1", "READY") in entries
    assert ("empty", "", "") in entries
    assert [e for e in entries if e[0] == "versions"] == [("versions", v, "READY") for v in ("1", "2", "10")]
    assert [e[0] for e in entries] == sorted(e[0] for e in entries)


def test_unload_keeps_a_model_out_until_it_is_loaded(server: Server) -> None:
    x = np.ones((1, 4), np.float32)
    (repo,) = server.paths
    for version, form in ((2, "binary"), (3, "grpc")):
        asker = Asker(server, form)
        asker.client.unload_model("controlled")
        assert asker.client.is_model_ready("controlled") is False
        assert asker.client.is_server_ready() is True
        with pytest.raises(RefusedError, match="Request for unknown model: 'controlled' has no available versions"):
            asker.infer("controlled", {"x": x})
        wait_for(partial(_is_unloaded, server, version - 1), "the index to say so")
        # A change on disk is seen, and does not bring it back.
        models.save(models.scale(4), repo / f"controlled/{version}/model.onnx")
        wait_for(partial(_is_unloaded, server, version), "the new version to be found")
        assert asker.client.is_model_ready("controlled") is False
        asker.client.load_model("controlled")
        assert asker.client.is_model_ready("controlled") is True
        assert asker.infer("controlled", {"x": x}).version == str(version)
        asker.close()


def _is_unloaded(server: Server, version: int) -> bool:
    return server.state("controlled", version) == ("UNAVAILABLE", "unloaded")
