"""The locust users against a real server: exit code and what they report."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from loadtests import mlp
from loadtests.locust.options import PROTOCOLS
from loadtests.measure import is_ready
from loadtests.processes import Server, free_ports
from serving.core.artifact import Golden, write_golden

ROOT = Path(__file__).parents[2]


@dataclass
class Ports:
    http: int
    grpc: int


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """A running server with the model `mlp`."""
    files = tmp_path_factory.mktemp("locust")
    mlp.write_repository(files / "models")
    ports = Ports(*free_ports(2))
    argv = [sys.executable, "-m", "serving", "start", str(files / "models")]
    argv += ["--http-port", str(ports.http), "--grpc-port", str(ports.grpc)]
    with Server("serving", argv, files / "log", {}, None) as server:
        server.wait_until(lambda: is_ready(ports.http))
        yield ports


def locust(ports: Ports, *arguments: str, seconds: int = 4, users: int = 6) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--json"]
    argv += ["-u", str(users), "-r", str(users), "-t", f"{seconds}s", "--host", f"http://127.0.0.1:{ports.http}"]
    argv += ["--grpc-host", f"127.0.0.1:{ports.grpc}", "--per-user", "10", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_users_of_every_protocol_get_right_answers(ports: Ports) -> None:
    done = locust(ports, "--model", "mlp", "--rows", "3")
    assert done.returncode == 0, done.stderr
    entries = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert set(entries) == set(PROTOCOLS)
    for entry in entries.values():
        assert entry["num_requests"] > 0 and entry["num_failures"] == 0
        # three rows of ten floats in each answer
        assert entry["total_content_length"] > 120 * entry["num_requests"]


def test_failures_make_the_exit_code(ports: Ports) -> None:
    (nobody,) = free_ports(1)
    done = locust(Ports(ports.http, nobody), "--model", "mlp", "--mix", "oip-grpc")  # the first call takes one
    assert done.returncode == 1
    (entry,) = json.loads(done.stdout)
    assert entry["num_failures"] == entry["num_requests"] > 0
    assert "UNAVAILABLE" in done.stderr + done.stdout


def test_rows_that_the_model_refuses_are_failures_of_every_user(ports: Ports) -> None:
    done = locust(ports, "--model", "mlp", "--rows", "65", "--check", "shape")
    assert done.returncode == 1
    entries = json.loads(done.stdout)
    assert {entry["name"] for entry in entries} == set(PROTOCOLS)
    for entry in entries:
        assert entry["num_failures"] == entry["num_requests"] > 0


def test_answers_that_are_not_as_expected_are_failures(ports: Ports, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((2, mlp.PIXELS)).astype(np.float32)
    write_golden(tmp_path, Golden({mlp.INPUT: x}, {mlp.OUTPUT: np.full((2, mlp.CLASSES), 0.1, np.float32)}))
    done = locust(ports, "--model", "mlp", "--payload", str(tmp_path / "golden.npz"), "--check", "golden")
    assert done.returncode == 1
    for entry in json.loads(done.stdout):
        assert entry["num_failures"] == entry["num_requests"] > 0
    assert "not the answer that is expected" in done.stderr + done.stdout


@pytest.mark.slow
def test_steps_on_two_workers_with_a_report(ports: Ports, tmp_path: Path) -> None:
    report = tmp_path / "report"
    arguments = ["--model", "mlp", "--shape", "step", "--steps", "2", "--report", str(report), "--processes", "2"]
    done = locust(ports, *arguments, "--mix", "oip-binary,oip-grpc=2", seconds=8)
    assert done.returncode == 0, done.stderr
    summary = json.loads((report / "summary.json").read_text())
    assert {entry["name"] for entry in summary["entries"]} == {"oip-binary", "oip-grpc", "all"}
    assert summary["entries"][-1]["requests"] > 20 and summary["entries"][-1]["failures"] == 0
    looks = json.loads((report / "looks.json").read_text())
    assert max(look["users"] for look in looks) == 6
    assert any(look["p99_ms"] for look in looks)  # as the workers saw them
    assert any(look["cores"] for look in looks) and any(look["rows_per_batch"] for look in looks)
    assert "data:image/png" in (report / "report.html").read_text()


def test_an_unknown_model_ends_at_once(ports: Ports) -> None:
    done = locust(ports, "--model", "mpl", seconds=30)
    assert done.returncode == 1
    assert "/v2/models/mpl: status 404" in done.stderr


@pytest.mark.slow
def test_smoke_starts_a_server_of_its_own(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "loadtests.locust", "smoke", "--out", str(tmp_path), "-t", "2s"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(protocol in done.stdout for protocol in PROTOCOLS)
    assert (tmp_path / "report.html").exists()
