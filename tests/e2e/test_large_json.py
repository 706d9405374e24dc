"""Large JSON bodies: others are answered while one is worked on, and the helper processes may come and go."""

import os
import re
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from serving.protocols import messages as m
from tests import models
from tests.e2e.plain import OIP, Plain, helpers, lives
from tests.e2e.server import LIMIT_S, Server, wait_for
from tests.e2e.traffic import in_threads, join

MB = 1024 * 1024
SIZE = 30 * MB  # of a large body
INFER = "/v2/models/wide/infer"
PREDICT = "/v1/models/wide:predict"

# How many small answers have to come between the last byte of a large request and the first of its answer. If the loop
# itself read and wrote JSON, there would be some tens: those that were under way, and some while the model runs.
MEANWHILE = 100


@contextmanager
def running(directory: Path) -> Iterator[Server]:
    models.save(models.identity("FP32", ("batch", "width")), directory / "repo/wide/1/model.onnx")
    made = Server(directory / "logs", directory / "repo")
    try:
        yield made.wait_ready()
    finally:
        made.end()
    assert "Traceback" not in made.log


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("large_json")) as made:
        yield made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One for a test that ends its helpers."""
    with running(tmp_path) as made:
        yield made


# Large requests and their answers

NUMBERS = [round(0.1234567 + i, 7) for i in range(97)]


def numbers(size: int, start: float = 0.0) -> tuple[bytes, np.ndarray]:
    """About so many bytes of JSON numbers, and the same as an array [1, n]. They begin with `start`."""
    text = orjson.dumps(NUMBERS)[1:-1] + b","
    times = size // len(text)
    array = np.array([start, *NUMBERS * times], np.float32).reshape(1, -1)
    return b"%b,%b" % (repr(start).encode(), (text * times)[:-1]), array


class Large:
    """One request on a connection of its own, of which the last byte is sent when the test says so."""

    def __init__(self, server: Server, path: str, body: bytes, **headers: object) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.http_port), timeout=LIMIT_S)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).replace("_", "-")
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
        self._socket.sendall(head.encode() + body[:-1])
        self._last = body[-1:]

    def wait_until_read(self) -> None:
        """Returns when the server has taken all that was sent so far."""
        _, own_port = self._socket.getsockname()
        _, server_port = self._socket.getpeername()
        ends = f":{server_port:04X} [0-9A-F]+:{own_port:04X} [0-9A-F]+ [0-9A-F]+:00000000 "
        wait_for(lambda: re.search(ends, Path("/proc/net/tcp").read_text()), "the server to read the body")

    def end(self) -> "Large":
        self._socket.sendall(self._last)
        return self

    def wait_for_answer(self) -> None:
        """Returns when the first byte is there."""
        assert self._socket.recv(1, socket.MSG_PEEK)

    @property
    def is_answered(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])

    def answer(self) -> tuple[int, Any]:
        """The status, and the JSON."""
        with self._socket.makefile("rb") as received:
            head, _, body = received.read().partition(b"\r\n\r\n")
        self._socket.close()
        return int(head.split()[1]), orjson.loads(body)

    def leave(self) -> None:
        self._socket.close()


def oip_json(server: Server, size: int = SIZE, start: float = 0.0) -> tuple[Large, np.ndarray]:
    text, array = numbers(size, start)
    shape = str(list(array.shape)).encode()
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": %b, "data": [%b]}]}' % (shape, text)
    return Large(server, INFER, body), array


def oip_binary(server: Server) -> tuple[Large, np.ndarray]:
    """Large in its answer, which takes less time to write than a request takes to read: so there is more of it."""
    _, array = numbers(3 * SIZE)
    raw = array.tobytes()
    entry = {"name": "x", "datatype": "FP32", "shape": array.shape, "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"inputs": [entry]})
    return Large(server, INFER, head + raw, inference_header_content_length=len(head)), array


def tfs_row(server: Server) -> tuple[Large, np.ndarray]:
    text, array = numbers(SIZE)
    return Large(server, PREDICT, b'{"instances": [[%b]]}' % text), array


def tfs_column(server: Server) -> tuple[Large, np.ndarray]:
    text, array = numbers(SIZE)
    return Large(server, PREDICT, b'{"inputs": {"x": [[%b]]}}' % text), array


def check(large: Large, array: np.ndarray) -> None:
    """It is answered with what it sent."""
    status, answer = large.answer()
    assert status == 200, answer
    data = answer["outputs"][0]["data"] if "model_name" in answer else answer.get("predictions", answer.get("outputs"))
    assert np.array_equal(np.array(data, np.float32).reshape(1, -1), array)


# Small ones


@contextmanager
def small_requests(server: Server) -> Iterator[Callable[[], int]]:
    """Two clients, REST and gRPC, that ask one after the other; gives how many right answers there were so far."""
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}'
    raw = np.array([1, 2], np.float32).tobytes()
    message = m.oip.ModelInferRequest(model_name="wide", raw_input_contents=[raw])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    state = SimpleNamespace(stop=threading.Event(), answered=[0, 0], failed=[])

    def run(number: int) -> None:
        try:
            with Plain(server) as plain:
                while not state.stop.is_set():
                    if number:
                        answer = plain.call(OIP, "ModelInfer", message.SerializeToString())
                        assert m.oip.ModelInferResponse.FromString(answer).raw_output_contents[0] == raw
                    else:
                        assert plain.post(INFER, body).json()["outputs"][0]["data"] == [1, 2]
                    state.answered[number] += 1
        except Exception as error:  # whatever it is, the test shall see it
            state.failed.append(error)

    threads = in_threads(run, 2)
    try:
        wait_for(lambda: min(state.answered) > 5 or state.failed, "small answers")
        yield lambda: sum(state.answered)
    finally:
        state.stop.set()
        join(threads)
    assert not state.failed


def test_a_small_body_needs_no_helper(server: Server) -> None:
    with small_requests(server):
        pass
    assert helpers(server.process.pid) == []


LARGE = (oip_json, oip_binary, tfs_row, tfs_column)


@pytest.mark.parametrize("make", LARGE, ids=lambda make: make.__name__)
def test_others_are_answered_meanwhile(shared: Server, make: Callable[[Server], tuple[Large, np.ndarray]]) -> None:
    meanwhile = []
    with small_requests(shared) as answered:
        for _ in range(5):  # the machine may be busy with something else for one of them
            large, array = make(shared)
            large.wait_until_read()
            before = answered()
            large.end().wait_for_answer()
            meanwhile.append(answered() - before)
            check(large, array)
            if meanwhile[-1] >= MEANWHILE:
                return
    raise AssertionError(f"{meanwhile} small requests were answered meanwhile")


@pytest.mark.parametrize("make", LARGE, ids=lambda make: make.__name__)
def test_nothing_but_helpers_does_that_work(shared: Server, make: Callable[[Server], tuple[Large, np.ndarray]]) -> None:
    """While they stand still, so does the large request, and no other."""
    warm_up(shared)
    pids = helpers(shared.process.pid)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        with small_requests(shared) as answered:
            large, array = make(shared)
            large.end()
            before = answered()
            wait_for(lambda: answered() > before + 100, "answers while the helpers stand still")
            assert not large.is_answered
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    check(large, array)


def test_more_of_them_than_helpers(shared: Server) -> None:
    """Each gets its own answer."""
    made = [oip_json(shared, 4 * MB, float(i)) for i in range(6)]
    for large, _ in made:
        large.end()
    for large, array in made:
        check(large, array)


# Helpers


@pytest.fixture
def helper(server: Server) -> int:
    """The process of the one helper, which has nothing to do."""
    warm_up(server)
    (pid,) = helpers(server.process.pid)
    return pid


def warm_up(server: Server) -> None:
    """Starts a helper, if there is none."""
    large, array = oip_json(server, 4 * MB)
    large.end()
    check(large, array)


def test_a_helper_that_died_is_replaced(server: Server, helper: int) -> None:
    os.kill(helper, signal.SIGKILL)
    for start in (1.0, 2.0):
        large, array = oip_json(server, 4 * MB, start)
        large.end()
        check(large, array)
    (other,) = helpers(server.process.pid)
    assert other != helper


def test_a_helper_dies_at_work(server: Server, helper: int) -> None:
    """Another one goes on with its request; nobody notices."""
    os.kill(helper, signal.SIGSTOP)
    with small_requests(server) as answered:
        large, array = oip_json(server, 4 * MB)
        large.end()
        before = answered()
        wait_for(lambda: answered() > before + 50, "answers while the helper stands still")
        os.kill(helper, signal.SIGKILL)
        check(large, array)


def test_a_client_that_leaves(server: Server, helper: int) -> None:
    """What the helper makes for it reaches nobody else."""
    os.kill(helper, signal.SIGSTOP)
    with small_requests(server) as answered:
        left, _ = oip_json(server, 4 * MB, 7.0)
        left.end()
        before = answered()
        wait_for(lambda: answered() > before + 50, "answers while the helper stands still")
        left.leave()
        made = [oip_json(server, 4 * MB, float(i)) for i in range(3)]
        for large, _ in made:
            large.end()
        os.kill(helper, signal.SIGCONT)
        for large, array in made:
            check(large, array)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_helpers_end_with_the_server(server: Server, helper: int, number: signal.Signals, busy: bool) -> None:
    left = [oip_json(server, SIZE, start)[0].end() for start in (1.0, 2.0)] if busy else []
    wait_for(lambda: len(helpers(server.process.pid)) == max(len(left), 1), "both helpers at work")
    pids = helpers(server.process.pid)
    server.signal(number)
    if number is signal.SIGTERM:
        wait_for(lambda: "stopping" in server.log, "the server to begin to stop")
        server.signal(number)  # a second one: now
    server.wait()
    wait_for(lambda: not any(map(lives, pids)), "the end of the helpers")
    for large in left:
        large.leave()
