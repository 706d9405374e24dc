"""What the load generators print, read; and each of them against servers that answer well, badly and not at all."""

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from loadtests import generators
from loadtests.cases import Case
from loadtests.generators import Job, Load, LoadError, connections, parse_h2load, parse_wrk
from loadtests.processes import free_ports


def wrk_output(**changes: float) -> str:
    result = {"requests": 5000, "seconds": 2.5, "p50_ms": 1.25, "p99_ms": 7.5}
    result |= {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0} | changes
    return f"Running 2s test @ http://127.0.0.1:8000/\n  1 threads and 32 connections\n{json.dumps(result)}\n"


def test_wrk_is_read() -> None:
    assert parse_wrk(wrk_output()) == Load(5000, 2.5, 1.25, 7.5)


@pytest.mark.parametrize("kind", ["connect", "read", "write", "status", "timeout"])
def test_any_error_of_wrk_voids_it(kind: str) -> None:
    with pytest.raises(LoadError, match=f"3 {kind}"):
        parse_wrk(wrk_output(**{kind: 3}))


def test_wrk_without_a_result_or_a_request_is_void() -> None:
    with pytest.raises(LoadError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")
    with pytest.raises(LoadError, match="no request"):
        parse_wrk(wrk_output(requests=0))


def h2load_output(succeeded: int = 200, data: int = 14000, finished: str = "1.60s") -> str:
    return f"""starting benchmark...
spawning thread #0: 4 total client(s). 200 total requests
Application protocol: h2c
progress: 100% done

finished in {finished}, 7559.23 req/s, 947.66KB/s
requests: 200 total, 200 started, 200 done, {succeeded} succeeded, {200 - succeeded} failed, 0 errored, 0 timeout
status codes: {succeeded} 2xx, 0 3xx, {200 - succeeded} 4xx, 0 5xx
traffic: 626.83KB (641870) total, 14.94KB (15300) headers (space savings 96.22%), 13.67KB ({data}) data
                     min         max         mean         sd        +/- sd
time for request:      271us      8.08ms      4.20ms       660us    86.88%
"""


# Start, status and duration of 200 requests, which took 0.1, 0.2, ... 20 ms.
H2LOAD_LOG = "".join(f"1795227360{i:06}\t200\t{100 * (i + 1)}\n" for i in range(200))


@pytest.mark.parametrize(("finished", "seconds"), [("1.60s", 1.6), ("661.44ms", 0.66144), ("950us", 0.00095)])
def test_h2load_is_read(finished: str, seconds: float) -> None:
    load = parse_h2load(h2load_output(finished=finished), H2LOAD_LOG, answer_bytes=65)
    assert load.requests == 200
    assert load.seconds == pytest.approx(seconds)
    assert load.p50_ms == pytest.approx(10.05)
    assert load.p99_ms == pytest.approx(19.8, abs=0.1)


def test_an_http_failure_voids_h2load() -> None:
    with pytest.raises(LoadError, match="1 of 200"):
        parse_h2load(h2load_output(succeeded=199), H2LOAD_LOG, answer_bytes=None)


@pytest.mark.parametrize("data", [14000 - 70, 14000 + 1, 0])
def test_grpc_failures_show_in_the_bytes_that_came(data: int) -> None:
    # Status 200 and no message: that is how a gRPC error looks to an HTTP tool.
    with pytest.raises(LoadError, match="some calls failed"):
        parse_h2load(h2load_output(data=data), H2LOAD_LOG, answer_bytes=65)
    assert parse_h2load(h2load_output(data=data), H2LOAD_LOG, answer_bytes=None).requests == 200


def test_h2load_without_a_result_is_void() -> None:
    with pytest.raises(LoadError, match="no result"):
        parse_h2load("starting benchmark...\n", "", answer_bytes=65)


@pytest.mark.parametrize(("in_flight", "expected"), [(1, 1), (8, 1), (16, 2), (32, 4), (64, 8)])
def test_eight_streams_share_a_connection(in_flight: int, expected: int) -> None:
    assert connections(in_flight) == expected


BODY, ANSWER = b"x" * 3000, b"y" * 40


@contextmanager
def http_server(fail_every: int | None) -> Iterator[int]:
    """Answers POST with ANSWER if it came as sent; every n-th time with a 500."""
    numbers = count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body are two small writes here, which Nagle's algorithm would hold apart.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            good = body == BODY and self.headers["x-case"] == "a b" and self.path == "/path"
            self.send_response(500 if not good or (fail_every and next(numbers) % fail_every == 0) else 200)
            self.send_header("content-length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            pass  # generators hang up in the middle of an answer when their time is over

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class GrpcHandler(grpc.GenericRpcHandler):
    def __init__(self, fail_every: int | None) -> None:
        self.fail_every, self.numbers = fail_every, count(1)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.unary_unary_rpc_method_handler(self.answer) if handler_call_details.method == "/s/M" else None

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if request != BODY or (self.fail_every and next(self.numbers) % self.fail_every == 0):
            context.abort(grpc.StatusCode.INTERNAL, "as asked")
        return ANSWER


@contextmanager
def grpc_server(fail_every: int | None) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(4), handlers=(GrpcHandler(fail_every),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


CASES = {
    "http": Case("http", "http", "/path", {"x-case": "a b"}, BODY, lambda _: {}, {}),
    "grpc": Case("grpc", "grpc", "/s/M", {}, BODY, lambda _: {}, {}),
}
SERVERS = {"http": http_server, "grpc": grpc_server}
TOOLS = [("wrk", "http"), ("h2load", "grpc"), ("python", "http"), ("python", "grpc")]


@pytest.fixture(params=TOOLS, ids="-".join)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A case, and the tool set up that sends it."""
    tool, transport = request.param
    if tool == "python":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    elif not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    assert generators.generator_name(CASES[transport]) == tool
    return CASES[transport]


def job(case: Case, port: int, files: Path, in_flight: int = 16, rate: float | None = 1000) -> Job:
    return Job(case, port, in_flight, 0.2, rate, len(ANSWER), files, None)


@pytest.mark.parametrize("in_flight", [1, 16])
def test_a_server_that_answers_well_is_measured(case: Case, in_flight: int, tmp_path: Path) -> None:
    with SERVERS[case.transport](None) as port:
        warm_up = generators.run(job(case, port, tmp_path, in_flight, rate=None))
        load = generators.run(job(case, port, tmp_path, in_flight, rate=warm_up.requests / warm_up.seconds))
    assert load.requests > in_flight
    assert 0 < load.p50_ms <= load.p99_ms
    # Little's law: in flight = rate x mean latency, and a median is at most twice the mean. So the units are right.
    assert load.requests / load.seconds * load.p50_ms / 1e3 < 3 * in_flight


def test_a_failure_now_and_then_voids_the_measurement(case: Case, tmp_path: Path) -> None:
    with SERVERS[case.transport](50) as port, pytest.raises(LoadError):
        generators.run(job(case, port, tmp_path))


def test_nobody_there_voids_the_measurement(case: Case, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(LoadError):
        generators.run(job(case, port, tmp_path))
