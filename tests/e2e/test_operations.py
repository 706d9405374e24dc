"""Operating a running server from the command line, and over the REST API behind that."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import artifact
from tests import models
from tests.e2e.conftest import Serve
from tests.e2e.server import LIMIT_S, ROOT, Server, command, error_line, wait_for
from tests.repository.build import add_version, corrupt_version

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the model m, versions 1 and 2, of which the version is the factor."""
    add_version(tmp_path / "repo", 1)
    add_version(tmp_path / "repo", 2)
    return tmp_path / "repo"


@pytest.fixture
def server(serve: Serve, repo: Path) -> Server:
    """Serves `repo`, and loads what it is told to and nothing else."""
    return serve(repo, "--mode", "explicit", "--load-model", "*")


def told(server: Server, *args: object) -> list[str]:
    """The lines that a command prints that succeeds."""
    result = command(*args, "--url", server.url)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout.splitlines()


def refusal(server: Server, *args: object) -> str:
    return error_line(command(*args, "--url", server.url))


def status(server: Server, model: str = "m") -> dict[str, Any]:
    answer = server.get(f"/serving/models/{model}")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def factor(server: Server, version: int | None = None) -> float:
    """What the model multiplies by, as a client sees it."""
    path = "/v2/models/m" + (f"/versions/{version}" if version else "") + "/infer"
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
    return float(server.post(path, json=body).json()["outputs"][0]["data"][0])


@contextmanager
def running(server: Server, *args: object, out: int = subprocess.PIPE, **env: str) -> Iterator["subprocess.Popen[str]"]:
    """A command that is under way."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", *map(str, args), "--url", server.url],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Terminal:
    """What a command writes to a terminal of 80 columns."""

    def __init__(self) -> None:
        self.end, self.theirs = pty.openpty()
        self.text = ""

    def until(self, pattern: str) -> str:
        """Reads until the text has the pattern; all that was read so far."""
        deadline = time.monotonic() + LIMIT_S
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"waited for {pattern!r}, got {self.text!r}"
            if select.select([self.end], [], [], 0.1)[0]:
                self.text += os.read(self.end, 1 << 16).decode()
        return self.text

    def close(self) -> None:
        os.close(self.end)
        os.close(self.theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


# load, unload


def test_a_load_shows_its_course(server: Server, repo: Path) -> None:
    add_version(repo, 3)
    assert factor(server) == 2
    lines = told(server, "load", "m")
    assert lines[0] == "m/3 loading" and lines[-1] == "m: version 3 takes all requests"
    assert [line for line in lines if line.startswith("m/3 ready: ")]
    assert factor(server) == 3


def test_an_unload_ends_when_the_memory_is_given_back(server: Server) -> None:
    assert told(server, "unload", "m") == ["m/2 unloaded", "m: nothing is served"]
    assert {v["state"] for v in status(server)["versions"]} == {"ON_DISK"}
    assert told(server, "load", "m")[-1] == "m: version 2 takes all requests"


def test_a_load_in_a_terminal_says_what_goes_on(server: Server, repo: Path, terminal: Terminal) -> None:
    models.save(models.slow(1_000), repo / "slow/1/model.onnx")
    with running(server, "load", "slow", out=terminal.theirs, TERM="xterm", COLUMNS="80") as process:
        terminal.until(r"slow/1 is (tried out in a process of its own|loading|warming up) \(\d+ s\)")
        terminal.until(r"slow: version 1 takes all requests")
        assert process.wait(LIMIT_S) == 0


def test_a_load_goes_on_after_ctrl_c(server: Server, repo: Path) -> None:
    models.save(models.slow(1_000), repo / "slow/1/model.onnx")
    with running(server, "load", "slow", PYTHONUNBUFFERED="1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "slow/1 loading\n"
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(LIMIT_S) == 130
        assert "the load goes on; `serving events slow --follow` shows how" in rest
    wait_for(lambda: server.state("slow", 1)[0] == "READY", "the load that goes on")


def test_a_load_that_changes_nothing(server: Server) -> None:
    assert told(server, "load", "m") == ["m: version 2 takes all requests"]


def test_a_bad_version_is_quarantined(server: Server, repo: Path) -> None:
    corrupt_version(repo, 3)
    result = command("load", "m", "--url", server.url)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "m/3 quarantined: ONNX Runtime cannot load model.onnx" in result.stdout
    assert "version 3" in result.stderr and "ONNX Runtime cannot load model.onnx" in result.stderr
    assert factor(server) == 2
    (version,) = [v for v in status(server)["versions"] if v["number"] == 3]
    assert version["state"] == "FAILED" and version["quarantined"]
    shown = told(server, "status", "m")
    assert any(re.match(r" +3  FAILED$", line) for line in shown)
    assert any(line.startswith("    quarantined: ONNX Runtime cannot load model.onnx") for line in shown)
    checked = command("check", repo)
    assert checked.returncode == 1
    assert "wrong   m version 3: ONNX Runtime cannot load model.onnx" in checked.stdout
    assert f"at       {repo}/m/3/model.onnx" in checked.stdout


def test_force_tries_what_is_in_quarantine_again(server: Server, repo: Path) -> None:
    corrupt_version(repo, 3)
    assert command("load", "m", "--url", server.url).returncode == 1
    attempts = len([e for e in server.get("/serving/events").json()["events"] if e["kind"] == "quarantined"])
    assert attempts == 1
    assert command("load", "m", "--force", "--url", server.url).returncode == 1
    events = server.get("/serving/events").json()["events"]
    assert len([e for e in events if e["kind"] == "loading" and e["version"] == 3]) == 2


# promote, rollback, label, traffic


def test_a_rollout_and_its_end(server: Server) -> None:
    assert told(server, "label", "m", "stable", 2)[-1] == "m: version 2 takes all requests; stable is 2"
    lines = told(server, "label", "m", "canary", 1)
    assert lines[0] == "m/1 loading" and lines[-1] == "m: version 2 takes all requests; canary is 1, stable is 2"
    last = told(server, "traffic", "m", "stable=95", "canary=5", "--sticky", "X-User", "--limit-errors", 0.05)[-1]
    assert last == "m: version 2 takes 95 %, version 1 takes 5 %; canary is 1, stable is 2"
    assert status(server)["traffic"] == {
        "weights": {"stable": 95.0, "canary": 5.0},
        "sticky": "x-user",
        "limits": {"requests": 100, "error_rate": 0.05},
    }
    assert told(server, "promote", "m")[-1] == "m: version 1 takes all requests; stable is 1"
    assert factor(server) == 1
    assert told(server, "rollback", "m")[-1] == "m: version 2 takes all requests; stable is 2"
    assert factor(server) == 2


def test_a_version_by_number_is_loaded_first(server: Server) -> None:
    lines = told(server, "promote", "m", 1)
    assert lines[0] == "m/1 loading" and lines[-1] == "m: version 1 takes all requests; stable is 1"
    assert told(server, "rollback", "m", 2)[-1] == "m: version 2 takes all requests; stable is 2"


def test_copies_for_another_version(server: Server) -> None:
    told(server, "traffic", "m", "--shadow", 1, "--shadow-percent", 50, "--limit-differences", 0.5)
    traffic = status(server)["traffic"]
    assert (traffic["shadow"]["to"], traffic["shadow"]["percent"]) == ("1", 50)
    assert "    copies of 50 % of the requests go to 1" in told(server, "status", "m")
    told(server, "traffic", "m", "--reset")
    assert status(server)["traffic"] is None


def test_a_label_is_taken_away(server: Server) -> None:
    told(server, "label", "m", "best", 2)
    assert status(server)["labels"] == {"best": 2}
    told(server, "label", "m", "best", "--remove")
    assert status(server)["labels"] == {}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("load", "no"), "no"),
        (("unload", "no"), "there is no model 'no'"),
        (("status", "no"), "there is no model 'no'"),
        (("promote", "no"), "no"),
        (("promote", "m", "best"), "no label 'best'"),
        (("promote", "m", 9), "version 9"),
        (("label", "m", "best", 9), "version 9"),
        (("label", "m", "best"), "give one of VERSION and --remove"),
        (("label", "m", "best", 1, "--remove"), "give one of VERSION and --remove"),
        (("label", "m", "7", 1), "'7' is not a label"),
        (("traffic", "m"), "give weights such as stable=95 canary=5, other options, or --reset alone"),
        (("traffic", "m", "1=1", "--reset"), "--reset alone"),
        (("traffic", "m", "canary"), "expected VERSION=WEIGHT or LABEL=WEIGHT, such as canary=5, got 'canary'"),
        (("traffic", "m", "canary=many"), "got 'canary=many'"),
        (("traffic", "m", "canary=5"), "no label 'canary'"),
        (("traffic", "m", "2=-1"), "'weights' (2): input should be greater than or equal to 0"),
        (("traffic", "m", "2=1", "--shadow-percent", 5), "--shadow names the version that gets copies"),
        (("traffic", "m", "--shadow", 1, "--shadow-percent", 500), "'shadow' (percent)"),
        (("traffic", "m", "2=1", "--sticky", "a b"), "expected the name of a header in lower case, got 'a b'"),
    ],
    ids=str,
)
def test_what_is_refused_is_one_line(closed_server: Server, args: tuple[object, ...], says: str) -> None:
    assert says in refusal(closed_server, *args)
    assert status(closed_server)["shares"] == {"2": 100.0}


@pytest.fixture(scope="module")
def closed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For questions that are refused."""
    root = tmp_path_factory.mktemp("refused")
    add_version(root / "repo", 1)
    add_version(root / "repo", 2)
    server = Server(root / "logs", root / "repo").wait_ready()
    yield server
    server.end()
    assert "Traceback" not in server.log


def test_a_server_where_nothing_may_change(serve: Serve, repo: Path) -> None:
    server = serve(repo, "--mode", "fixed")
    for args in (("load", "m"), ("unload", "m"), ("promote", "m", 1), ("traffic", "m", "2=1"), ("label", "m", "a", 2)):
        assert "fixed" in refusal(server, *args)
    assert server.post("/serving/models/m/unload").status_code == 403
    assert factor(server) == 2


# status, events


def test_status_as_json_is_what_the_server_says(server: Server) -> None:
    def without_times(model: dict[str, Any]) -> dict[str, Any]:
        return {**model, "versions": [{**v, "in_flight": 0} for v in model["versions"]]}

    (line,) = told(server, "status", "--json")
    assert [without_times(m) for m in json.loads(line)["models"]] == [without_times(status(server))]
    (line,) = told(server, "status", "m", "--json")
    assert json.loads(line)["name"] == "m"


def test_status_says_what_versions_do(server: Server) -> None:
    for _ in range(3):
        factor(server)
    title, *lines = told(server, "status")
    assert title.split() == ["model", "version", "state", "share", "label", "memory", "requests", "errors"]
    assert lines[0].split() == ["m", "1", "on", "disk"]
    assert re.fullmatch(r" +2  READY    100 % +(\d+ MB|\d+ kB|\d+\.\d MB) +3 +0", lines[1])


def test_status_again_and_again(server: Server, terminal: Terminal) -> None:
    with running(server, "status", "--watch", out=terminal.theirs, TERM="xterm") as process:
        terminal.until("READY")
        server.post("/serving/models/m/unload")
        terminal.until("unloaded by hand")
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0


def test_watching_needs_a_terminal(server: Server) -> None:
    assert refusal(server, "status", "--watch") == "error: --watch is for a terminal"
    assert refusal(server, "status", "--watch", "--json") == "error: --watch is for a terminal, and without --json"


def test_events_as_they_come(server: Server) -> None:
    with running(server, "events", "m", "--follow", PYTHONUNBUFFERED="1") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  m/2 loading\n", first)
        server.post("/serving/models/m/labels", json={"label": "best", "version": 2})
        while "m/2 labelled: 'best'" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 0


def test_events_as_json(server: Server) -> None:
    events = [json.loads(line) for line in told(server, "events", "--json", "-n", 2)]
    assert [(e["model"], e["version"]) for e in events][-1] == ("m", 2)
    assert len(events) == 2 and events[0]["number"] + 1 == events[1]["number"]


def test_no_events(server: Server) -> None:
    assert told(server, "events", "no") == ["nothing has happened to 'no'"]
    assert told(server, "events", "no", "--json") == []


def test_a_stop_does_not_wait_for_those_who_wait_for_events(serve: Serve, repo: Path) -> None:
    server = serve(repo, "--drain-limit-s", 10)
    after = server.get("/serving/events?limit=1").json()["after"]
    with socket.create_connection(("127.0.0.1", server.http_port)) as client:
        client.sendall(f"GET /serving/events?after={after}&wait_s=30 HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        assert server.get("/v2/health/live").status_code == 200  # by now it has read that as well
        server.signal()
        assert server.wait() == 0  # not 1: nobody was cut off
        assert client.makefile().read().endswith(f'{{"events":[],"after":{after}}}')


# The server


EVERY = [
    ("status",),
    ("events",),
    ("load", "m"),
    ("unload", "m"),
    ("promote", "m"),
    ("rollback", "m"),
    ("label", "m", "best", 1),
    ("traffic", "m", "1=1"),
]


@pytest.mark.parametrize("args", EVERY, ids=lambda args: args[0])
def test_no_server_there(args: tuple[object, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    assert error_line(command(*args, "--url", f"http://127.0.0.1:{port}")).startswith(
        f"error: no server answers at http://127.0.0.1:{port}: "
    )


def test_the_port_of_grpc(closed_server: Server) -> None:
    url = f"http://{closed_server.grpc}"
    line = error_line(command("status", "--url", url))
    assert line == f"error: what answers at {url} does not speak HTTP; is it the port for REST?"


@pytest.mark.parametrize("args", EVERY[:3], ids=lambda args: args[0])
def test_operation_is_not_for_grpc(args: tuple[object, ...]) -> None:
    line = error_line(command(*args, "--url", "grpc://127.0.0.1:8001"))
    assert line == "error: this goes over REST alone: expected --url http://host:port, got grpc://127.0.0.1:8001"


class _Older(BaseHTTPRequestHandler):
    """Answers as servers did that had nothing below /serving."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()
        self.wfile.write(b'{"error":"Not Found"}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_an_older_server() -> None:
    older = HTTPServer(("127.0.0.1", 0), _Older)
    threading.Thread(target=older.serve_forever, daemon=True).start()
    try:
        for args, path in ((("status",), "models"), (("load", "m"), "events")):
            line = error_line(command(*args, "--url", f"http://127.0.0.1:{older.server_port}"))
            assert line.endswith(f"has no /serving/{path}; is it an older one?")
    finally:
        older.shutdown()
        older.server_close()


# check


def test_check_finds_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    published = {"signature": {}, "metric": None, "seed": None, "libraries": {}, "atol": 1e-5, "rtol": 1e-3}
    right, other = ({"y": ROWS * factor} for factor in (3, 4))

    def write(directory: Path) -> None:
        models.save(models.scale(3), directory / "model.onnx")

    artifact.publish(repo, "good", write, golden=artifact.Golden({"x": ROWS}, right), **published)
    artifact.publish(repo, "other", write, golden=artifact.Golden({"x": ROWS}, other), **published)
    damaged = artifact.publish(repo, "damaged", write, golden=None, **published)
    (damaged / "model.onnx").write_bytes(b"x")
    add_version(repo, 1, "mistaken")
    (repo / "mistaken/model.yaml").write_text("max_batchsize: 3\n")
    add_version(repo, 1, "pointing")
    (repo / "pointing/model.yaml").write_text("version_labels: {stable: 4}\ntraffic: {weights: {canary: 1, 7: 1}}\n")
    result = command("check", repo)
    assert result.returncode == 1 and result.stderr == ""
    out = " ".join(result.stdout.split())
    assert "good good version 1: onnxruntime_onnx on CPUExecutionProvider" in out
    assert "manifest every hash matches golden reproduced, within 1e-05 + 0.001 x |expected|" in out
    assert "wrong other version 1: the model does not reproduce its golden sample: 'y' differs by up to 11" in out
    assert f"at {repo}/other/1/golden.npz" in out
    assert f"at {damaged}/model.onnx fix publish the version again" in out
    assert f"at {repo}/mistaken/model.yaml" in out and "did you mean 'max_batch_size'?" in out
    assert "wrong pointing: version_labels: 'stable' is for version 4, which is not there" in out
    assert "wrong pointing: traffic: there is no label 'canary'" in out
    assert "wrong pointing: traffic: version 7 is not there" in out
    assert out.endswith("problems: 6")


def test_check_as_json(repo: Path) -> None:
    corrupt_version(repo, 3, "n")
    result = command("check", repo, "--json")
    assert result.returncode == 1
    report = json.loads(result.stdout)
    m, n = report["models"]
    assert (m["name"], m["skipped"], m["problems"]) == ("m", {"1": "only the highest version is served"}, [])
    (version,) = m["versions"]
    assert (version["number"], version["artifact"]) == (2, f"{repo}/m/2/model.onnx")
    assert version["signatures"][0]["inputs"] == "x FP32 [-1, 4]"
    assert 0 < version["memory_bytes"] <= version["peak_bytes"]
    assert n["versions"][0]["problems"][0]["where"] == f"{repo}/n/3/model.onnx"
