"""The locust users against a real server: exit code and what they report."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from loadtests import mlp
from loadtests.processes import Server, free_ports

ROOT = Path(__file__).parents[2]


@dataclass
class Ports:
    http: int
    grpc: int


def is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


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


def locust(ports: Ports, *arguments: str, seconds: int = 1) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--json"]
    argv += ["-u", "3", "-r", "3", "-t", f"{seconds}s", "--host", f"http://127.0.0.1:{ports.http}"]
    argv += ["--grpc-host", f"127.0.0.1:{ports.grpc}", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_all_users_get_right_answers(ports: Ports) -> None:
    done = locust(ports, "--model", "mlp", "--rows", "3")
    assert done.returncode == 0, done.stderr
    entries = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert set(entries) == {"infer, JSON", "infer, binary", "infer, gRPC"}
    for entry in entries.values():
        assert entry["num_requests"] > 0 and entry["num_failures"] == 0
        # three rows of ten floats in each answer
        assert entry["total_content_length"] > 120 * entry["num_requests"]


def test_failures_make_the_exit_code(ports: Ports) -> None:
    (nobody,) = free_ports(1)
    done = locust(Ports(ports.http, nobody), "--model", "mlp", "Grpc", seconds=3)  # the first call may take one
    assert done.returncode == 1
    (entry,) = json.loads(done.stdout)
    assert entry["num_failures"] == entry["num_requests"] > 0
    assert "UNAVAILABLE" in done.stderr + done.stdout


def test_rows_that_the_model_refuses_are_failures_of_every_user(ports: Ports) -> None:
    done = locust(ports, "--model", "mlp", "--rows", "65")
    assert done.returncode == 1
    for entry in json.loads(done.stdout):
        assert entry["num_failures"] == entry["num_requests"] > 0


def test_an_unknown_model_ends_at_once(ports: Ports) -> None:
    done = locust(ports, "--model", "mpl", seconds=30)
    assert done.returncode == 1
    assert "no metadata from" in done.stderr
