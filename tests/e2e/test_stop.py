"""The end of a server: what it has accepted is answered, what it has not is refused plainly."""

import http.client
import json
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2

from tests import models
from tests.e2e.clients import Asker
from tests.e2e.conftest import Serve
from tests.e2e.server import LIMIT_S, Server, wait_for
from tests.e2e.traffic import in_threads, join

CLIENTS = 16
REFUSAL = re.compile("Connection refused|Server exiting")  # of what was never accepted
LOOPS = 400  # some 20 ms for a run, so that requests are always under way


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    models.save(models.slow(LOOPS), tmp_path / "repo/m/1/model.onnx")
    (tmp_path / "repo/m/model.yaml").write_text("max_batch_size: 2\n")  # so that most wait in the queue
    models.save(models.spin(), tmp_path / "repo/spin/1/model.onnx")
    return tmp_path / "repo"


class Outcomes:
    """What clients saw until they were turned away."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lost: list[str] = []
        self._lock = threading.Lock()

    def note(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def lose(self, how: str) -> None:
        with self._lock:
            self.lost.append(how)


def body(value: float) -> bytes:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [value] * 4}
    return json.dumps({"inputs": [entry]}).encode()


def rest_client(server: Server, number: int, outcomes: Outcomes, keep: bool) -> None:
    """Asks until no connection can be made. Once one is made and the request sent, only the full answer will do."""
    value = float(number)
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=LIMIT_S)
    with closing(connection):
        while True:
            if connection.sock is None:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    outcomes.note("refused")
                    return
            value += 0.5
            try:
                connection.request("POST", "/v2/models/m/infer", body(value))
                answer = connection.getresponse()
                found = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                outcomes.lose(f"REST client {number}: {error!r}")
                return
            if answer.status == 200 and found["outputs"][0]["data"] == [value] * 4:
                outcomes.note("answered")
            else:
                outcomes.lose(f"REST client {number}: {answer.status} {found}")
                return
            if not keep:
                connection.close()


def grpc_client(server: Server, number: int, outcomes: Outcomes) -> None:
    """Asks until it is refused plainly, with what clients take for 'ask another server'; all else is a loss."""
    value = np.float32(number)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        while True:
            value += np.float32(0.5)
            request = service_pb2.ModelInferRequest(model_name="m")
            request.inputs.add(name="x", datatype="FP32", shape=(1, 4))
            request.raw_input_contents.append(np.full(4, value, np.float32).tobytes())
            try:
                answer = client._client_stub.ModelInfer(request)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE and REFUSAL.search(str(error.details())):
                    outcomes.note("refused")
                else:
                    outcomes.lose(f"gRPC client {number}: {error!r}")
                return
            if np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [value] * 4:
                outcomes.note("answered")
            else:
                outcomes.lose(f"gRPC client {number}: {answer}")
                return


def is_stopping(server: Server) -> bool:
    return "stopping: no longer ready" in server.log


@pytest.mark.parametrize(("number", "keep"), [(signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGINT, True)])
def test_nothing_that_was_accepted_is_lost(serve: Serve, repo: Path, number: int, keep: bool) -> None:
    server = serve(repo, "--drain-limit-s", "60")
    outcomes = Outcomes()

    def client(i: int) -> None:
        if i % 2:
            grpc_client(server, i, outcomes)
        else:
            rest_client(server, i, outcomes, keep)

    threads = in_threads(client, CLIENTS)
    wait_for(lambda: outcomes.counts["answered"] >= 100 or outcomes.lost, "traffic")
    wait_for(lambda: server.metrics().sum("serving_queue_rows", model="m") > 4, "a queue")
    before = outcomes.counts["answered"]
    server.signal(number)
    assert server.wait() == 0
    join(threads)
    assert outcomes.lost == []
    assert outcomes.counts["refused"] == CLIENTS
    assert outcomes.counts["answered"] > before, "what was under way was answered"
    assert "Traceback" not in server.log


def test_request_that_is_half_sent_is_answered(serve: Serve, repo: Path) -> None:
    server = serve(repo, "--drain-limit-s", "60")
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=LIMIT_S) as connection:
        data = body(3)
        head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(data)
        connection.sendall(head + data[:20])
        # The server has read it when it answers a later request.
        assert server.get("/v2/health/ready").status_code == 200
        server.signal()
        wait_for(lambda: is_stopping(server), "the server to stop")
        wait_for(lambda: _is_refused(server.http_port), "the listener to close")
        connection.sendall(data[20:])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        assert answer.getheader("connection") == "close"
        assert json.loads(answer.read())["outputs"][0]["data"] == [3] * 4
    assert server.wait() == 0


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_requests_that_wait_for_company_are_answered(serve: Serve, repo: Path) -> None:
    """A batch that would wait for a minute for more rows: at the end nobody else comes."""
    (repo / "m/model.yaml").write_text("max_batch_size: 8\nmax_queue_delay_ms: 60000\n")
    server = serve(repo, "--drain-limit-s", "10")
    statuses: list[int] = []
    threads = in_threads(lambda i: statuses.append(_status(server, i)), 3)
    wait_for(lambda: server.metrics().sum("serving_queue_rows", model="m") == 3, "the requests to wait")
    server.signal()
    assert server.wait() == 0
    join(threads)
    assert statuses == [200] * 3


def _status(server: Server, number: int) -> int:
    """Of the answer to one request; 0 if none came."""
    try:
        return server.post("/v2/models/m/infer", content=body(number)).status_code
    except httpx.HTTPError:
        return 0


def test_not_ready_during_the_grace_and_still_serving(serve: Serve, repo: Path) -> None:
    """While load balancers find out, requests are served as before."""
    server = serve(repo, "--stop-grace-s", "1000")
    asker = Asker(server, "grpc")
    server.signal()
    wait_for(lambda: server.get("/v2/health/ready").status_code == 400, "the server to be not ready")
    assert server.get("/v2/health/live").status_code == 200
    assert asker.client.is_server_ready() is False
    assert asker.client.is_server_live() is True
    x = np.ones((1, 4), np.float32)
    assert asker.infer("m", {"x": x}).version == "1"
    assert server.post("/v2/models/m/infer", content=body(1)).status_code == 200
    server.signal()  # a second one cuts the grace short
    assert server.wait() in (0, 1)
    asker.close()


class Endless:
    """A server on which requests run that never end, one for each of `forms`."""

    def __init__(self, server: Server, forms: Sequence[str]) -> None:
        self.server = server
        self.ends: list[str] = []
        self._threads = in_threads(lambda i: self._ask(forms[i]), len(forms))
        wait_for(self._run, "the endless requests to run")

    def _ask(self, form: str) -> None:
        asker = Asker(self.server, form)
        try:
            asker.infer("spin", {"x": np.array([[models.FOREVER]])})
            self.ends.append("answered")
        except Exception as error:  # whatever the client makes of it
            self.ends.append(type(error).__name__)

    def _run(self) -> bool:
        return self.server.metrics().sum("serving_in_flight_requests", model="spin") == len(self._threads)

    def wait(self) -> int:
        """The server's exit code, when all clients know that there will be no answer."""
        code = self.server.wait()
        join(self._threads)
        assert len(self.ends) == len(self._threads) and "answered" not in self.ends
        return code


@pytest.mark.parametrize("forms", [("grpc",), ("binary", "grpc")], ids="+".join)
def test_drain_limit_ends_what_does_not_end(serve: Serve, repo: Path, forms: tuple[str, ...]) -> None:
    running = Endless(serve(repo, "--drain-limit-s", "1"), forms)
    running.server.signal()
    assert running.wait() == 1, "a request was lost, and the exit code has to say so"


@pytest.mark.parametrize(("form", "number"), [("binary", signal.SIGINT), ("grpc", signal.SIGTERM)])
def test_second_signal_ends_at_once(serve: Serve, repo: Path, form: str, number: int) -> None:
    running = Endless(serve(repo, "--drain-limit-s", "100000"), [form])
    running.server.signal(number)
    wait_for(lambda: is_stopping(running.server), "the server to stop")
    running.server.signal(number)
    assert running.wait() == 1


def test_signal_while_models_load(serve: Serve, repo: Path) -> None:
    """A load that takes long does not keep the process."""
    models.save(models.slow(20_000_000), repo / "long/1/model.onnx")
    server = serve(repo, ready=False)
    wait_for(lambda: "m/1 ready" in server.log, "the other model to be loaded")
    server.signal()
    assert server.wait() in (0, 1)
    assert "ready" not in server.printed
    assert "Traceback" not in server.log


def test_killed_server_starts_again_on_its_ports(serve: Serve, repo: Path) -> None:
    server = serve(repo)
    outcomes = Outcomes()
    threads = in_threads(lambda i: rest_client(server, i, outcomes, keep=True), 4)
    wait_for(lambda: outcomes.counts["answered"] >= 10, "traffic")
    server.signal(signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    join(threads)
    again = serve(repo, http_port=server.http_port, grpc_port=server.grpc_port)
    assert (again.http_port, again.grpc_port) == (server.http_port, server.grpc_port)
    for form in ("binary", "grpc"):
        asker = Asker(again, form)
        assert asker.infer("m", {"x": np.ones((1, 4), np.float32)}).version == "1"
        asker.close()


def test_stopped_server_starts_again_on_its_ports(serve: Serve, repo: Path) -> None:
    server = serve(repo)
    for _ in range(3):
        assert server.post("/v2/models/m/infer", content=body(1)).status_code == 200
    server.signal()
    assert server.wait() == 0
    again = serve(repo, http_port=server.http_port, grpc_port=server.grpc_port)
    assert again.get("/v2/health/ready").status_code == 200
