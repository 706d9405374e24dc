"""Versions sent to a running server: what it serves then, and what is said where it does not take them."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from serving.core.artifact import GOLDEN, Golden, read_golden
from serving.core.compare import difference
from tests.e2e.conftest import Serve
from tests.e2e.server import Server, wait_for
from tests.trainers.child import ROOT, fork, python, trains
from trainers.contract import TrainingError
from trainers.publishing.push import push

DIGITS = ROOT / "model_repo/digits/1"


def golden(version: Path) -> Golden:
    found = read_golden(version)
    assert found is not None
    return found


def answers(server: Server, model: str, sample: Golden) -> dict[str, np.ndarray]:
    body = {
        "inputs": [
            {"name": name, "datatype": "FP32", "shape": array.shape, "data": array.ravel().tolist()}
            for name, array in sample.inputs.items()
        ]
    }
    outputs = server.post(f"/v2/models/{model}/infer", json=body).json()["outputs"]
    return {out["name"]: np.array(out["data"], np.float32).reshape(out["shape"]) for out in outputs}


def refusal(url: str, version: Path) -> str:
    """The one line with which a push fails."""
    with pytest.raises(TrainingError) as error:
        push(url, version)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Version 7 of the model `pushed`, in a repository of its own."""
    path = tmp_path / "repo/pushed/7"
    shutil.copytree(DIGITS, path)
    return path


def test_what_is_pushed_serves_with_all_that_belongs_to_it(serve: Serve, version: Path) -> None:
    server = serve(ROOT / "model_repo", "--allow-model-upload")
    (version.parent / "model.yaml").write_text("max_batch_size: 16\n")
    (version / ".hidden").write_text("stays here")
    (version.parent / ".tmp-1").mkdir()
    sample = golden(version)

    assert push(server.url, version) == f"{server.url}/v2/models/pushed/versions/7"
    assert difference(answers(server, "pushed", sample), sample.outputs, atol=1e-4, rtol=0) is None
    assert server.get("/v2/models/pushed/config").json()["max_batch_size"] == 16

    assert push(f"{server.http}/", version) == f"{server.url}/v2/models/pushed/versions/8"  # 7 is taken there
    wait_for(lambda: set(server.index("pushed")) == {("pushed", 8)}, "the end of version 7")

    np.savez(version / GOLDEN, **{"in:x": sample.inputs["x"], "out:probabilities": sample.outputs["probabilities"] + 1})
    assert f"{GOLDEN}: SHA-256 is " in refusal(server.url, version)  # the manifest came along
    (version / "MANIFEST.json").unlink()
    assert "does not reproduce its golden sample" in refusal(server.url, version)  # and so did the sample
    assert server.state("pushed", 8) == ("READY", "")
    assert difference(answers(server, "pushed", sample), sample.outputs, atol=1e-4, rtol=0) is None


def test_a_server_that_does_not_take_it_says_why(serve: Serve, version: Path) -> None:
    server = serve(ROOT / "model_repo")
    told = refusal(server.url, version)
    assert told.startswith(f"{server.url}: failed to load 'pushed': files cannot be uploaded to this server")
    assert "start it with --allow-model-upload" in told

    server = serve(ROOT / "model_repo", "--allow-model-upload", "--http-max-input-size", 100_000)
    told = refusal(server.url, version)
    assert "exceeds the maximum allowed input size of 100000 bytes" in told and "--http-max-input-size" in told
    (version / "MANIFEST.json").unlink()
    (version / "model.onnx").write_bytes(b"no model")
    told = refusal(server.url, version)
    assert "load failed for model 'pushed': version 7" in told and "model.onnx" in told
    assert set(server.index()) == {("digits", 1)}


def test_no_server_and_no_version(version: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert refusal(url, version) == f"{url}: cannot be reached: Connection refused"
        run = ("-m", "trainers", "digits", "--repo", version.parents[1], "--log-dir", version / "runs")
        result = python(*run, "--push", url)  # said before the training
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == f"error: {url}: cannot be reached: Connection refused\n"
    for address in ("", "http://", "ftp://somewhere", "http://[", "http://127.0.0.1:x", "http://127.0.0.1:99999"):
        assert refusal(address, version).startswith(f"{address}: not the address of a server")
    for path in (version.with_name("8"), version.parent, version / "model.onnx"):
        assert refusal(url, path).startswith(f"{path}: not the directory of a published version")


@contextmanager
def other_server(status: int, content: bytes) -> Iterator[str]:
    """Answers everything with this."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (200, b"<html>", "not a server that takes models: its answer is not JSON"),
        (200, json.dumps({"models": 1}).encode(), "not a server that takes models: its index is not a list of models"),
        (200, b"", "not a server that takes models: its index is not a list of models"),
        (404, b"<html>", "HTTP 404 Not Found"),
        (500, b'{"error": "two\\nlines"}', "two lines"),
    ],
)
def test_another_kind_of_server(status: int, content: bytes, told: str, version: Path) -> None:
    with other_server(status, content) as url:
        assert refusal(url, version) == f"{url}: {told}"


@trains
def test_a_training_pushes_what_it_published(serve: Serve, tmp_path: Path) -> None:
    server = serve(ROOT / "model_repo", "--allow-model-upload", "--no-trial-load")  # one TensorFlow is enough
    arguments = ("-m", "trainers", "digits", "--steps", 20, "--repo", tmp_path / "repo", "--log-dir", tmp_path / "runs")
    result = fork(*arguments, "--push", server.url)
    assert (result.returncode, result.stderr) == (0, "")
    # The server had version 1 of `digits`, and nothing of `digits_tf`.
    assert f"pushed digits: {server.url}/v2/models/digits/versions/2\n" in result.stdout
    assert f"pushed digits_tf: {server.url}/v2/models/digits_tf/versions/1\n" in result.stdout
    for name in ("digits", "digits_tf"):
        sample = golden(tmp_path / "repo" / name / "1")
        assert difference(answers(server, name, sample), sample.outputs, atol=1e-4, rtol=0) is None
