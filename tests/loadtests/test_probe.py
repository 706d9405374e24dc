"""Small requests at a steady rate: all are sent, waiting counts, and what fails is told."""

import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtests.probe import ProbeError, latencies_ms, main, read_answer
from loadtests.processes import free_ports

ROOT = Path(__file__).parents[2]
BODY = b"0123456789"
REQUEST = b"POST /p HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 10\r\nx-case: a b\r\n\r\n" + BODY
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"


@contextmanager
def server(answers: list[bytes], pauses_s: dict[int, float] | None = None) -> Iterator[int]:
    """Takes one connection and gives these answers in order, each to a whole request as expected, then hangs up."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as requests:
            for number, answer in enumerate(answers):
                if requests.read(len(REQUEST)) != REQUEST:
                    return
                time.sleep((pauses_s or {}).get(number, 0))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def task(port: int, **changes: Any) -> dict[str, Any]:
    what = {"port": port, "path": "/p", "headers": {"x-case": "a b"}, "per_s": 100, "seconds": 0.1, "after_s": 0.0}
    return what | changes


def test_every_request_of_the_rate_is_sent_and_timed() -> None:
    with server([GOOD] * 10) as port:
        found = latencies_ms(task(port), BODY)
    assert len(found) == 10
    assert all(latency > 0 for latency in found)


def test_waiting_for_the_answer_before_counts() -> None:
    # The third answer takes 80 ms; the requests after it were due 10, 20, ... ms later and had to wait.
    with server([GOOD] * 10, {2: 0.08}) as port:
        found = latencies_ms(task(port), BODY)
    assert found[2] >= 80
    assert found[3] >= 70 and found[4] >= 60 and found[5] >= 50


def test_it_begins_after_the_time_given() -> None:
    start = time.perf_counter()
    with server([GOOD] * 10) as port:
        latencies_ms(task(port, after_s=0.2), BODY)
    assert time.perf_counter() - start >= 0.29  # the last request is due 90 ms after the first


@pytest.mark.parametrize(
    ("answers", "message"), [([GOOD, BAD], "503 Service Unavailable: b'busy'"), ([GOOD], "no answer")]
)
def test_what_fails_is_told(answers: list[bytes], message: str, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(BODY)
    with server(answers) as port:
        assert message in main(task(port, body=str(tmp_path / "body")))["failure"]


def test_nobody_there_is_told_in_its_output(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(BODY)
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "loadtests.probe", json.dumps(task(port, body=str(tmp_path / "body")))]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "refused" in json.loads(done.stdout)["failure"]


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", BAD],
    ids=["nothing", "no length", "cut off", "an error"],
)
def test_an_answer_that_is_none(answer: bytes) -> None:
    with pytest.raises(ProbeError):
        read_answer(io.BytesIO(answer))


def test_an_answer_is_read_to_its_end_and_no_further() -> None:
    answers = io.BytesIO(GOOD + GOOD)
    read_answer(answers)
    assert answers.read() == GOOD


def test_without_a_time_it_goes_on_until_its_input_ends(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(BODY)
    with server([GOOD] * 1000) as port:
        what = task(port, body=str(tmp_path / "body"), seconds=None)
        argv = [sys.executable, "-m", "loadtests.probe", json.dumps(what)]
        before_s = time.perf_counter()
        with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            begun_s = json.loads(process.stdout.readline())["begun_s"]
            assert before_s < begun_s < time.perf_counter()
            time.sleep(0.2)
            output, _ = process.communicate(timeout=60)
    assert 0 < len(json.loads(output)["latencies_ms"]) < 1000
