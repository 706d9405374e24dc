"""Routes, statuses and shapes of answers, from the socket to the model and back."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import models
from tests.protocols.build import body, tensor
from tests.transport.app import site
from tests.transport.raw import on_loop

ROW = body(tensor(shape=[1, 4], data=[1, 2, 3, 4]))
INFER = "/v2/models/copy/infer"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model `copy` (version 2)."""
    models.save(models.identity(), tmp_path / "copy" / "2" / "model.onnx")
    return tmp_path


class TestInfer:
    @on_loop
    async def test_json(self, repository: Path) -> None:
        async with site(repository) as it:
            for path in (INFER, "/v2/models/copy/versions/2/infer", INFER + "?test_1=1", "/v2/models/c%6Fpy/infer"):
                answer = await it.ask("POST", path, ROW)
                assert answer.status == 200 and answer.headers["content-type"] == "application/json"
                assert answer.json["model_version"] == "2"
                assert answer.json["outputs"][0]["data"] == [1, 2, 3, 4]

    @on_loop
    async def test_binary(self, repository: Path) -> None:
        raw = struct.pack("<4f", 1, 2, 3, 4)
        header = body(
            tensor(shape=[1, 4], parameters={"binary_data_size": 16}), parameters={"binary_data_output": True}
        )
        async with site(repository) as it:
            length = f"Inference-Header-Content-Length: {len(header)}"
            answer = await it.ask("POST", INFER, header + raw, length)
            assert answer.status == 200 and answer.headers["content-type"] == "application/octet-stream"
            size = int(answer.headers["inference-header-content-length"])
            assert json.loads(answer.body[:size])["outputs"][0]["parameters"] == {"binary_data_size": 16}
            assert answer.body[size:] == raw

    @pytest.mark.parametrize(
        ("path", "data", "headers", "status", "text"),
        [
            (INFER, b"{", (), 400, "failed to parse the request JSON buffer"),
            (INFER, b"", (), 400, "input byte size mismatch for input 'x'"),  # a raw request of no bytes
            (INFER, body(tensor(shape=[1, 3], data=[1, 2, 3])), (), 400, "unexpected shape for input 'x'"),
            (INFER, body(tensor(shape=[0, 4], data=[])), (), 400, "the batch is empty"),
            (INFER, body(tensor(shape=[65, 4], data=[0] * 260)), (), 400, "batch-size must be <= 64 for 'copy'"),
            (INFER, body(tensor(datatype="INT64", shape=[1, 4], data=[1, 2, 3, 4])), (), 400, "data-type is 'INT64'"),
            (INFER, ROW, ("content-encoding: br",), 501, "Unsupported compression type"),
            (INFER, ROW, ("content-encoding: gzip",), 400, "gzip"),
            (INFER, ROW, ("inference-header-content-length: -1",), 400, "inference header size should be in range"),
            ("/v2/models/no/infer", ROW, (), 404, "Request for unknown model: 'no' is not found"),
            ("/v2/models/copy/versions/1/infer", ROW, (), 404, "Request for unknown model: 'copy' version 1"),
            ("/v2/models/copy/versions/x/infer", ROW, (), 400, "failed to get model version from specified version"),
            ("/v2/models/copy/versions/0/infer", ROW, (), 400, "version should be an integral value > 0"),
        ],
    )
    @on_loop
    async def test_errors_have_one_shape(
        self, path: str, data: bytes, headers: tuple[str, ...], status: int, text: str, repository: Path
    ) -> None:
        async with site(repository) as it:
            answer = await it.ask("POST", path, data, *headers)
            assert answer.status == status and text in answer.error

    @on_loop
    async def test_what_headers_ask_for(self, repository: Path) -> None:
        async with site(repository) as it:
            for path, data in ((INFER, ROW), ("/v1/models/copy:predict", b'{"instances": [[1, 2, 3, 4]]}')):
                answer = await it.ask("POST", path, data, "X-Serving-Timing: 1", "X-Request-Timeout-Ms: 60000")
                assert answer.status == 200 and answer.headers["server-timing"].startswith("decode;dur=")
                answer = await it.ask("POST", path, data, "X-Request-Timeout-Ms: soon")
                assert answer.status == 400 and "'x-request-timeout-ms', expected a number" in answer.error

    @on_loop
    async def test_a_body_comes_whole_to_any_asgi_application(self, repository: Path) -> None:
        """The hot route reads bodies in parts as well, as other ASGI servers hand them over."""
        parts = [
            {"type": "http.request", "body": ROW[:10], "more_body": True},
            {"type": "http.request", "more_body": True},
            {"type": "http.request", "body": ROW[10:]},
        ]
        sent = []

        async def receive() -> Any:
            return parts.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        async with site(repository) as it:
            app = it.server.listener._shared.app
            await app({"type": "http", "method": "POST", "path": INFER, "headers": []}, receive, send)
        assert sent[0]["status"] == 200 and b'"model_name":"copy"' in sent[1]["body"]


class TestRoutes:
    @pytest.mark.parametrize(
        ("method", "path", "expected"),
        [
            ("GET", "/v2/health/live", {"live": True}),
            ("GET", "/v2/health/ready", {"ready": True}),
            ("GET", "/v2/models/copy/ready", {"name": "copy", "ready": True}),
            ("GET", "/v2/models/copy/versions/2/ready", {"name": "copy", "ready": True}),
            (
                "POST",
                "/v2/repository/index",
                [{"name": "copy", "version": "2", "state": "READY", "reason": ""}],
            ),
        ],
    )
    @on_loop
    async def test_answers(self, method: str, path: str, expected: Any, repository: Path) -> None:
        async with site(repository) as it:
            answer = await it.ask(method, path)
            assert (answer.status, answer.json) == (200, expected)
            assert answer.headers["content-type"] == "application/json"

    @on_loop
    async def test_metadata(self, repository: Path) -> None:
        async with site(repository) as it:
            for path in ("/v2", "/v2/"):
                assert (await it.ask("GET", path)).json["name"] == "serving"
            for path in ("/v2/models/copy", "/v2/models/copy/versions/2"):
                answer = (await it.ask("GET", path)).json
                assert answer["versions"] == ["2"]
                assert answer["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]

    @on_loop
    async def test_loading_and_unloading(self, repository: Path) -> None:
        async with site(repository) as it:
            assert (await it.ask("POST", "/v2/repository/models/copy/unload")).status == 200
            answer = await it.ask("POST", INFER, ROW)
            assert answer.status == 404 and "has no available versions" in answer.error
            assert (await it.ask("GET", "/v2/models/copy/ready")).error == "Model version not ready"
            assert (await it.ask("POST", "/v2/repository/models/copy/load")).status == 200
            assert (await it.ask("POST", INFER, ROW)).status == 200

    @on_loop
    async def test_a_server_that_stops_is_not_ready(self, repository: Path) -> None:
        async with site(repository) as it:
            it.engine.stopping = True
            answer = await it.ask("GET", "/v2/health/ready")
            assert (answer.status, answer.json) == (400, {"ready": False})
            assert (await it.ask("GET", "/v2/health/live")).status == 200

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/"),
            ("GET", "/v3"),
            ("GET", "//v2"),
            ("GET", "/v2/models"),
            ("GET", "/v2/models/"),
            ("GET", "/v2/models/copy/"),
            ("POST", "/v2/models//infer"),
            ("POST", "/v2/models/a%2Fb/infer"),
            ("POST", "/v2/models/../copy/infer"),
            ("POST", "/v2/models/%2e%2e%2fcopy/infer"),
            ("POST", "/v2/models/copy/infer/"),
            ("POST", "/v2/models/copy/versions//infer"),
            ("POST", "/v2/repository/models/..%2F..%2Fetc/load"),
            ("GET", "/docs/"),
            ("GET", "/redoc"),
        ],
    )
    @on_loop
    async def test_no_such_route(self, method: str, path: str, repository: Path) -> None:
        async with site(repository) as it:
            answer = await it.ask(method, path)
            assert (answer.status, answer.error) == (404, "Not Found")

    @pytest.mark.parametrize("name", ["..", "%2e%2e", ".", "%00", "%ff", "a%0d%0ax:y", "~", "%25", "a" * 10_000])
    @on_loop
    async def test_no_such_model(self, name: str, repository: Path) -> None:
        async with site(repository) as it:
            for method, path in (("GET", f"/v2/models/{name}"), ("POST", f"/v2/models/{name}/infer")):
                answer = await it.ask(method, path, ROW)
                assert answer.status == 404 and "Request for unknown model" in answer.error
            assert (await it.ask("POST", f"/v2/repository/models/{name}/load")).status == 400

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", INFER),
            ("PUT", INFER),
            ("OPTIONS", INFER),
            ("POST", "/v2"),
            ("HEAD", "/v2"),
            ("DELETE", "/v2/models/copy"),
            ("GET", "/v2/repository/index"),
            ("POST", "/metrics"),
        ],
    )
    @on_loop
    async def test_wrong_method(self, method: str, path: str, repository: Path) -> None:
        async with site(repository) as it:
            answer = await it.ask(method, path)
            assert answer.status == 405
            if method != "HEAD":
                assert answer.error == "Method Not Allowed"
            assert answer.headers["allow"].upper() in ("GET", "POST")  # RFC 9110, 15.5.6

    @on_loop
    async def test_a_wrong_method_is_told_all_that_there_are(self, repository: Path) -> None:
        async with site(repository) as it:
            answer = await it.ask("DELETE", "/v2/logging")
            assert (answer.status, answer.headers["allow"].upper()) == (405, "GET, POST")

    @on_loop
    async def test_a_fault_of_our_own_has_the_shape_of_all_errors(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: Any) -> Any:
            raise KeyError("the secret")

        async with site(repository) as it:
            monkeypatch.setattr("serving.protocols.oip.metadata.server_metadata", broken)
            answer = await it.ask("GET", "/v2")
            assert answer.status == 500 and "secret" not in answer.error
        assert "KeyError: 'the secret'" in caplog.text


class TestMetrics:
    @pytest.mark.parametrize("path", ["/monitoring/prometheus/metrics", "/v1/metrics"])
    @on_loop
    async def test_they_can_be_at_another_path_too(self, path: str, repository: Path) -> None:
        async with site(repository, path) as it:
            for each in (path, "/metrics"):
                answer = await it.ask("GET", each)
                assert answer.status == 200 and b"serving_ready" in answer.body
            assert path not in (await it.document())["paths"]

    @on_loop
    async def test_prometheus_can_read_them(self, repository: Path) -> None:
        async with site(repository) as it:
            await it.ask("POST", INFER, ROW)
            await it.ask("POST", INFER, b"{")
            answer = await it.ask("GET", "/metrics")
            assert answer.status == 200
            assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            families = {f.name: f for f in text_string_to_metric_families(answer.body.decode())}
            assert {s.labels["outcome"]: s.value for s in families["serving_requests"].samples} == {
                "ok": 1,
                "invalid": 1,
            }
