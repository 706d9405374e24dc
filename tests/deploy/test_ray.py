"""The application on a real Ray cluster of several nodes on this machine: what it answers is what a server by itself
answers, it grows under load, and it outlives the death of a node."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.protocols import messages as m
from tests import models, savedmodels
from tests.e2e.clients import Asker, RefusedError
from tests.e2e.plain import MODEL, OIP, PREDICTION, Plain
from tests.e2e.server import LIMIT_S, ROOT, Samples, Server, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
# Of one connection, of one request, or of who listens.
_OF_TRANSPORT = {"connection", "date", "server", "transfer-encoding", "x-request-id"}


@dataclass
class Node:
    """A node's proxies, where tests expect a server."""

    http: str
    grpc: str

    @property
    def url(self) -> str:
        return f"http://{self.http}"

    def metrics(self) -> Samples:
        return Samples(httpx.get(self.url + "/metrics", timeout=LIMIT_S).text)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repo")
    for version in (1, 2):
        models.save(models.scale(version), root / f"scale/{version}/model.onnx")
    settings = {"versions": "all", "version_labels": {"old": 1}}
    (root / "scale/model.yaml").write_text(json.dumps(settings))
    models.save(models.identity("BYTES", ("batch", 2)), root / "text/1/model.onnx")
    models.save(models.identity("FP32", ("batch", 1_000_000)), root / "wide/1/model.onnx")
    savedmodels.write("half_plus_two", root / "default/123")
    return root


@pytest.fixture(scope="module")
def alone(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server by itself."""
    server = Server(tmp_path_factory.mktemp("alone"), repo)
    try:
        yield server.wait_ready()
    finally:
        server.end()


@pytest.fixture(scope="module")
def nodes(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """The head, which has proxies only, and a node with one replica, or two of them under load."""
    log = tmp_path_factory.mktemp("ray") / "log"
    arguments = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2, "upscale_delay_s": 1}
    command = [
        sys.executable,
        "-m",
        "deploy.ray.local",
        str(repo),
        "--nodes",
        "1",
        "--arguments",
        json.dumps(arguments),
    ]
    with (
        log.open("wb") as err,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            line = next((line for line in process.stdout if line.startswith("[{")), "")  # Ray prints, too
            assert line, f"the cluster did not start: {log.read_text()[-6000:]}"
            yield [Node(**node) for node in json.loads(line)]
        finally:
            process.stdin.close()  # ends it
            process.wait(LIMIT_S)


@pytest.fixture
def through_ray(nodes: list[Node]) -> Iterator[Plain]:
    with Plain(nodes[0]) as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture
def plain(alone: Server) -> Iterator[Plain]:
    with Plain(alone) as made:
        yield made


# REST


def oip_json(rows: np.ndarray = ROWS) -> bytes:
    tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "data": rows.tolist()}
    return json.dumps({"id": "a", "inputs": [tensor]}).encode()


def oip_binary(rows: np.ndarray) -> tuple[bytes, int]:
    """A body with a binary tensor, answered as one, and the length of its JSON."""
    tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "parameters": {"binary_data_size": rows.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + rows.tobytes(), len(head)


_BINARY, _HEAD = oip_binary(ROWS)
_LENGTH = {"inference-header-content-length": str(_HEAD)}
EXAMPLES = json.dumps({"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]}).encode()

REQUESTS: dict[str, tuple[str, str, bytes, Mapping[str, str]]] = {
    "live": ("GET", "/v2/health/live", b"", {}),
    "ready": ("GET", "/v2/health/ready", b"", {}),
    "server": ("GET", "/v2", b"", {}),
    "model": ("GET", "/v2/models/scale", b"", {}),
    "version": ("GET", "/v2/models/scale/versions/1", b"", {}),
    "configuration": ("GET", "/v2/models/scale/config", b"", {}),
    "index": ("POST", "/v2/repository/index", b"", {}),
    "infer": ("POST", "/v2/models/scale/infer", oip_json(), {}),
    "infer version": ("POST", "/v2/models/scale/versions/1/infer", oip_json(), {}),
    "infer binary": ("POST", "/v2/models/scale/infer", _BINARY, _LENGTH),
    "infer gzip": ("POST", "/v2/models/scale/infer", gzip.compress(oip_json()), {"content-encoding": "gzip"}),
    "infer for gzip": ("POST", "/v2/models/scale/infer", oip_json(), {"accept-encoding": "gzip"}),
    "generate": ("POST", "/v2/models/text/generate", b'{"x": ["a", "b"]}', {}),
    "generate stream": ("POST", "/v2/models/text/generate_stream", b'{"x": ["a", "b"]}', {}),
    "no such model": ("POST", "/v2/models/none/infer", oip_json(), {}),
    "not JSON": ("POST", "/v2/models/scale/infer", b"{", {}),
    "wrong shape": ("POST", "/v2/models/scale/infer", oip_json(ROWS[:, :2]), {}),
    "no such path": ("GET", "/nothing", b"", {}),
    "wrong method": ("GET", "/v2/models/scale/infer", b"", {}),
    "encoded path": ("GET", "/v2/models/sc%61le", b"", {}),
    "predict rows": ("POST", "/v1/models/default:predict", b'{"instances": [[1.0], [2.0]]}', {}),
    "predict columns": ("POST", "/v1/models/scale:predict", json.dumps({"inputs": ROWS.tolist()}).encode(), {}),
    "predict label": (
        "POST",
        "/v1/models/scale/labels/old:predict",
        json.dumps({"inputs": ROWS.tolist()}).encode(),
        {},
    ),
    "regress": ("POST", "/v1/models/default:regress", EXAMPLES, {}),
    "status": ("GET", "/v1/models/scale", b"", {}),
    "signatures": ("GET", "/v1/models/default/metadata", b"", {}),
    "no such servable": ("POST", "/v1/models/none:predict", b'{"instances": [1]}', {}),
    "documentation": ("GET", "/openapi.json", b"", {}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_rest_answers_are_those_of_a_server_by_itself(name: str, plain: Plain, through_ray: Plain) -> None:
    method, path, body, headers = REQUESTS[name]
    expected, found = (one.http.request(method, path, content=body, headers=headers) for one in (plain, through_ray))
    assert found.status_code == expected.status_code
    if name == "signatures":  # protobuf's maps have another order in each process
        assert found.json() == expected.json()
    else:
        assert found.content == expected.content
    kept, seen = (
        {name: value for name, value in one.headers.items() if name not in _OF_TRANSPORT} for one in (expected, found)
    )
    assert seen == kept


def test_a_large_body_comes_back_bit_for_bit(plain: Plain, through_ray: Plain) -> None:
    rows = np.random.default_rng(1).random((5, 1_000_000), np.float32)
    body, head = oip_binary(rows)
    answer = through_ray.post("/v2/models/wide/infer", body, **{"inference-header-content-length": str(head)})
    assert answer.status_code == 200
    assert answer.content.endswith(rows.tobytes())


# gRPC


def _infer(model: str = "scale", rows: np.ndarray = ROWS) -> bytes:
    made = m.oip.ModelInferRequest(model_name=model, id="a")
    made.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    made.raw_input_contents.append(rows.tobytes())
    return _bytes(made)


def _predict(model: str, rows: Any, **spec: Any) -> bytes:
    made = m.tfs.PredictRequest(model_spec=m.tfs.ModelSpec(name=model, **spec))
    tensor = made.inputs["x"]
    tensor.dtype = m.tf.DataType.DT_FLOAT
    for size in np.shape(rows):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(np.ravel(rows).tolist())
    return _bytes(made)


def _regress() -> bytes:
    made = m.tfs.RegressionRequest(model_spec=m.tfs.ModelSpec(name="default", signature_name="regress_x_to_y"))
    example = made.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(2.0)
    return _bytes(made)


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


_SPEC = m.tfs.ModelSpec(name="default")
CALLS: dict[str, tuple[str, str, bytes, Any]] = {
    "live": (OIP, "ServerLive", b"", m.oip.ServerLiveResponse),
    "ready": (OIP, "ServerReady", b"", m.oip.ServerReadyResponse),
    "server": (OIP, "ServerMetadata", b"", m.oip.ServerMetadataResponse),
    "model": (OIP, "ModelMetadata", _bytes(m.oip.ModelMetadataRequest(name="scale")), m.oip.ModelMetadataResponse),
    "configuration": (OIP, "ModelConfig", _bytes(m.oip.ModelConfigRequest(name="scale")), m.oip.ModelConfigResponse),
    "index": (OIP, "RepositoryIndex", b"", m.oip.RepositoryIndexResponse),
    "infer": (OIP, "ModelInfer", _infer(), m.oip.ModelInferResponse),
    "no such model": (OIP, "ModelInfer", _infer("none"), None),
    "wrong shape": (OIP, "ModelInfer", _infer(rows=ROWS[:, :2]), None),
    "no message": (OIP, "ModelInfer", b"\xff\xff", None),
    "predict": (PREDICTION, "Predict", _predict("scale", ROWS), m.tfs.PredictResponse),
    "predict label": (PREDICTION, "Predict", _predict("scale", ROWS, version_label="old"), m.tfs.PredictResponse),
    "predict SavedModel": (PREDICTION, "Predict", _predict("default", [[1.0]]), m.tfs.PredictResponse),
    "regress": (PREDICTION, "Regress", _regress(), m.tfs.RegressionResponse),
    "signatures": (
        PREDICTION,
        "GetModelMetadata",
        _bytes(m.tfs.GetModelMetadataRequest(model_spec=_SPEC, metadata_field=["signature_def"])),
        m.tfs.GetModelMetadataResponse,
    ),
    "status": (
        MODEL,
        "GetModelStatus",
        _bytes(m.tfs.GetModelStatusRequest(model_spec=_SPEC)),
        m.tfs.GetModelStatusResponse,
    ),
    "no such servable": (PREDICTION, "Predict", _predict("none", [[1.0]]), None),
    "health": ("grpc.health.v1.Health", "Check", b"", m.health.HealthCheckResponse),
    "no such service": ("grpc.health.v1.Health", "Check", _bytes(m.health.HealthCheckRequest(service="x")), None),
}


@pytest.mark.parametrize("name", CALLS)
def test_grpc_answers_are_those_of_a_server_by_itself(name: str, plain: Plain, through_ray: Plain) -> None:
    service, method, data, answer = CALLS[name]

    def ask(one: Plain) -> Any:
        try:
            found = one.call(service, method, data)
        except RefusedError as error:
            return error.status, error.text
        if answer is m.tfs.GetModelMetadataResponse:  # the map inside has another order in each process
            return m.tfs.SignatureDefMap.FromString(answer.FromString(found).metadata["signature_def"].value)
        return answer.FromString(found)

    expected = ask(plain)
    assert isinstance(expected, tuple) is (answer is None)
    assert ask(through_ray) == expected


def test_streams(plain: Plain, through_ray: Plain) -> None:
    requests = [_infer(), _infer("none"), _infer(rows=ROWS[:1])]
    expected, found = (one.stream(OIP, "ModelStreamInfer", *requests) for one in (plain, through_ray))
    assert len(found) == len(requests)
    key = [m.oip.ModelStreamInferResponse.FromString(data) for data in expected]
    assert sorted(map(str, key)) == sorted(str(m.oip.ModelStreamInferResponse.FromString(data)) for data in found)


@pytest.mark.parametrize("declared", [m.reflection, m.reflection_v1alpha], ids=["v1", "v1alpha"])
def test_reflection(declared: Any, plain: Plain, through_ray: Plain) -> None:
    asked = ({"list_services": ""}, {"file_containing_symbol": "tensorflow.serving.PredictionService"}, {})
    requests = [_bytes(declared.ServerReflectionRequest(**one)) for one in asked]
    method = (declared.ServerReflection.full_name, "ServerReflectionInfo")
    expected, found = (
        [declared.ServerReflectionResponse.FromString(data) for data in one.stream(*method, *requests)]
        for one in (plain, through_ray)
    )
    assert expected[1].HasField("file_descriptor_response")
    assert found == expected


def test_a_watched_health_is_told(through_ray: Plain) -> None:
    watch = through_ray.channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)(b"", timeout=LIMIT_S)
    assert m.health.HealthCheckResponse.FromString(next(watch)).status == 1
    watch.cancel()


# Official clients, at every node


@pytest.mark.parametrize("node", [0, 1], ids=["head", "worker"])
@pytest.mark.parametrize("form", ["json", "binary", "grpc"])
def test_tritonclient(nodes: list[Node], form: str, node: int) -> None:
    asker = Asker(nodes[node], form)  # type: ignore[arg-type]
    try:
        answer = asker.infer("scale", {"x": ROWS}, request_id="a")
        assert (answer.model, answer.version, answer.id) == ("scale", "2", "a")
        np.testing.assert_array_equal(answer.outputs["y"], 2 * ROWS)
        text = np.array([[b"a", "ü".encode()]], object)
        np.testing.assert_array_equal(asker.infer("text", {"x": text}).outputs["y"], text)
        with pytest.raises(RefusedError) as caught:
            asker.infer("none", {"x": ROWS})
        assert caught.value.status in (404, "NOT_FOUND")
    finally:
        asker.close()


def test_tensorflow_serving_api(nodes: list[Node]) -> None:
    from tests.e2e import tfs_client

    client = tfs_client.TfsClient(nodes[0])  # type: ignore[arg-type]
    try:
        outputs, spec = client.predict(tfs_client.spec("default"), {"x": np.array([[2.0]], np.float32)})
        np.testing.assert_array_equal(outputs["y"], [[3.0]])
        assert spec.version.value == 123
        regressed, _ = client.regress(tfs_client.spec("default", "regress_x_to_y"), tfs_client.examples({"x": [2.0]}))
        assert regressed == [3.0]
        assert [version for version, *_ in client.status(tfs_client.spec("default"))] == [123]
        with pytest.raises(RefusedError) as caught:
            client.reload({"name": "default", "base_path": "/tmp"})
        assert caught.value.status == "PERMISSION_DENIED"
    finally:
        client.close()


# Replicas


def test_it_grows_under_load_and_counts_every_request_once(nodes: list[Node]) -> None:
    """Users go on until there is another replica; then the metrics of all replicas are those of all requests."""

    def counted() -> float:
        return nodes[0].metrics().sum("serving_requests_total", model="scale", version="1")

    def replicas() -> set[str]:
        return {dict(labels)["replica"] for labels in nodes[0].metrics().find("serving_ready")}

    before, grown, sent = counted(), threading.Event(), 0

    def user() -> int:
        count = 0
        with httpx.Client(base_url=nodes[0].url, timeout=LIMIT_S) as client:
            while not grown.is_set():
                answer = client.post("/v2/models/scale/versions/1/infer", content=oip_json())
                assert answer.status_code == 200, answer.text
                count += 1
        return count

    assert len(replicas()) == 1
    with ThreadPoolExecutor(12) as executor:
        users = [executor.submit(user) for _ in range(12)]
        try:
            wait_for(lambda: len(replicas()) == 2 or any(one.done() for one in users), "another replica")
        finally:
            grown.set()
        sent = sum(one.result() for one in users)
    assert counted() - before == sent


def test_a_node_that_dies_takes_only_its_own_requests(tmp_path: Path) -> None:
    """The command checks by itself what has to hold, and says so with its exit code."""
    counts = tmp_path / "counts.json"
    done = subprocess.run(
        [sys.executable, "-m", "deploy.ray.chaos", "--before", "2", "--after", "5", "--json", str(counts)],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=4 * LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    found = json.loads(counts.read_text())
    assert found["processes_killed"] > 2
    assert {user["protocol"] for user in found["requests"]} == {"OIP REST", "OIP gRPC", "TFS REST", "TFS gRPC"}
    assert not sum(user["first"]["wrong"] + user["second"]["wrong"] for user in found["requests"])
