"""A server is asked what its batcher did: over HTTP, and with the command."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests import models
from tests.e2e.clients import Asker
from tests.e2e.conftest import Serve
from tests.e2e.server import Server, command, error_line

REQUESTS = 60


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> Server:
    """Has answered `REQUESTS` requests for `m/2`."""
    models.save(models.scale(2), tmp_path / "repo/m/2/model.onnx")
    (tmp_path / "repo/m/model.yaml").write_text("max_queue_delay_ms: 1\n")
    running = serve(tmp_path / "repo")

    def ask(part: int) -> None:
        asker = Asker(running, "grpc" if part % 2 else "binary")
        for _ in range(REQUESTS // 4):
            asker.infer("m", {"x": np.ones((1, 4), np.float32)})
        asker.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    return running


def test_endpoint_and_command(server: Server) -> None:
    for path in ("/v2/models/m/batching/explain", "/v2/models/m/versions/2/batching/explain"):
        told = server.get(path).json()
        assert (told["model"], told["version"], told["total"]["requests"]) == ("m", "2", REQUESTS)
        assert f"{REQUESTS} requests" in told["sentences"][0]
        assert told["settings"]["max_queue_delay_ms"] == 1
    for path, status in (("none", 404), ("m/versions/1", 404), ("m/versions/x", 400)):
        answer = server.get(f"/v2/models/{path}/batching/explain")
        assert answer.status_code == status and answer.json().keys() == {"error"}

    plain = command("explain", "m", "--url", server.url)
    assert plain.returncode == 0 and plain.stderr == ""
    lines = plain.stdout.splitlines()
    assert lines[0] == "m/2" and f"{REQUESTS} requests" in lines[1]
    assert "runs by rows" in lines

    as_json = command("explain", "m", "--version", "2", "--json", "--url", server.url)
    assert json.loads(as_json.stdout)["total"]["requests"] == REQUESTS

    assert error_line(command("explain", "none", "--url", server.url)).startswith("error: Request for unknown model")
    assert "expected --url http" in error_line(command("explain", "m", "--url", server.grpc))
