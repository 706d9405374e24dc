"""Captured requests of every protocol, a server that is killed, and the same requests again."""

import json
import re
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.capture.segments import read
from serving.protocols import messages as m
from tests import models
from tests.e2e.clients import Asker
from tests.e2e.conftest import Serve
from tests.e2e.plain import PREDICTION, Plain
from tests.e2e.server import Server, command, error_line, wait_for

ROWS = 4
PARAMETERS = {"signature_name": "serving_default", "flag": True, "number": 7}


def publish(repo: Path, number: int, factor: float) -> None:
    models.save(models.scale(factor), repo / f"scale/{number}/model.onnx")


def ask_everything(server: Server) -> None:
    """Two requests over each protocol, of rows that tell them apart; and one that fails."""
    for number in range(2):
        x = np.full((1 + number, ROWS), number + 0.5, np.float32)
        for form in ("json", "binary", "grpc"):
            asker = Asker(server, form)
            asker.infer("scale", {"x": x}, request_id=f"{form} {number}", outputs=["y"], parameters=PARAMETERS)
            asker.close()
        body = {"instances": x.tolist()}
        assert server.post("/v1/models/scale:predict", json=body).status_code == 200
        with Plain(server) as plain:
            tensor = m.tf.TensorProto(dtype=1, tensor_content=x.tobytes())
            for size in x.shape:
                tensor.tensor_shape.dim.add(size=size)
            request = m.tfs.PredictRequest(model_spec=m.tfs.ModelSpec(name="scale"))
            request.inputs["x"].CopyFrom(tensor)
            plain.call(PREDICTION, "Predict", request.SerializeToString())
    wrong = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}], "id": "wrong"}
    assert server.post("/v2/models/scale/infer", json=wrong).status_code == 400


def shown(directory: Path) -> dict[str, object]:
    result = command("capture", "show", directory, "--json")
    assert result.returncode == 0, result.stderr
    (one,) = json.loads(result.stdout)["models"]
    return dict(one)


def test_a_killed_server_and_its_requests_again(serve: Serve, tmp_path: Path) -> None:
    repo, kept = tmp_path / "repo", tmp_path / "kept"
    publish(repo, 1, 2.0)
    server = serve(repo, "--capture-rate", 1, "--capture-dir", kept)
    ask_everything(server)
    wait_for(lambda: sum(1 for _ in read(kept)) == 11, "the disk")
    assert server.metrics().sum("serving_dropped_records_total", kind="capture") == 0
    server.signal(signal.SIGKILL)
    server.wait()
    about = shown(kept)
    assert (about["records"], about["failed"], about["rows"], about["versions"]) == (11, 1, 16, [1])
    assert set(about["protocols"]) == {"oip_rest", "oip_grpc", "tfs_rest", "tfs_grpc"}  # type: ignore[call-overload]

    lines = command("capture", "show", kept, "--records").stdout.splitlines()
    assert len(lines) == 11 and lines[-1].split("  ")[-2].endswith("failed: invalid")

    again = serve(repo)
    for url in (again.url, f"grpc://{again.grpc}"):
        result = command("replay", kept, "--compare", "--url", url)
        assert result.returncode == 0, result.stdout + result.stderr
        title, row, summary = result.stdout.splitlines()
        assert title.split()[:5] == ["model", "answered", "by", "answered", "failed"]
        assert row.split()[:7] == ["scale", "1", "10", "1", "1", "10", "0"]  # the one that failed fails again
        assert summary.startswith("11 requests in ")

    publish(repo, 2, 2.5)
    wait_for(lambda: again.state("scale", 2)[0] == "READY", "version 2")
    result = command("replay", kept, "--compare", "--url", again.url, "--connections", 1, "--json")
    assert result.returncode == 1
    value = json.loads(result.stdout)
    (row,) = value["models"]
    assert (row["answered"], row["same"], row["different"], row["versions"]) == (10, 0, 10, ["2"])
    assert re.search(
        r"^request 1 \(scale id 'json 0'\): 'y' differs by up to 0\.25 in 4 of 4 elements", value["told"][0]
    )
    assert value["told"][0].endswith("(version 1 answered then, version 2 now)")
    assert command("replay", kept, "--url", again.url, "--rate", 200).returncode == 0  # answers are not looked at
    assert command("replay", kept, "--url", again.url, "--compare", "--atol", 1).returncode == 0
    gone = command("replay", kept, "--url", again.url, "--compare", "--pinned", "--limit", 3)
    assert gone.returncode == 1 and "failed: " in gone.stdout and "version 1" in gone.stdout

    trace = tmp_path / "trace.jsonl"
    assert command("capture", "show", kept, "--trace", trace).returncode == 0
    arrivals = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["rows"] for line in arrivals] == [1] * 5 + [2] * 5 + [1]
    assert arrivals[0]["at_s"] == 0 and arrivals == sorted(arrivals, key=lambda line: line["at_s"])


def test_nothing_is_kept_unless_it_is_asked_for(serve: Serve, tmp_path: Path) -> None:
    publish(tmp_path / "repo", 1, 2.0)
    server = serve(tmp_path / "repo", "--capture-dir", tmp_path / "kept")
    assert server.post("/v1/models/scale:predict", json={"instances": [[1] * ROWS]}).status_code == 200
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--capture-rate", 0.5), "--capture-rate needs a place for the requests that are kept"),
        (("--capture-rate", 0.5, "--capture-dir", "/dev/null/kept"), "cannot be used: Not a directory"),
    ],
)
def test_settings_that_cannot_be(flags: tuple[object, ...], told: str, tmp_path: Path) -> None:
    publish(tmp_path / "repo", 1, 2.0)
    assert told in error_line(command("start", tmp_path / "repo", "--http-port", 0, "--grpc-port", 0, *flags))


def test_a_full_disk_is_no_clients_business(serve: Serve, tmp_path: Path) -> None:
    """The directory becomes a file while the server runs."""
    publish(tmp_path / "repo", 1, 2.0)
    server = serve(tmp_path / "repo", "--capture-rate", 1, "--capture-dir", tmp_path / "kept")
    (tmp_path / "kept").rmdir()
    (tmp_path / "kept").touch()
    with httpx.Client(base_url=server.url) as client:
        for _ in range(5):
            assert client.post("/v1/models/scale:predict", json={"instances": [[1] * ROWS]}).status_code == 200
    dropped = "serving_dropped_records_total"
    wait_for(lambda: server.metrics().sum(dropped, kind="capture") == 5, "the count")
    assert server.log.count("capture: a sample cannot be written") == 1


def test_what_there_is_nothing_of(tmp_path: Path) -> None:
    for args in (("capture", "show", tmp_path), ("replay", tmp_path, "--url", "http://127.0.0.1:9")):
        assert error_line(command(*args)) == f"error: there is no request in '{tmp_path}'"
