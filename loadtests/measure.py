"""One benchmark session: starts the server and its floors and lets them take turns under load, row by row.

Runs on the main thread; everything measured and every generator is a child process. Knows no protocol (cases.py) and
no tool (generators.py).
"""

import http.client
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime

from loadtests import generators, mlp
from loadtests.cases import Answer, Case, send, verify
from loadtests.cpu_time import cpu_seconds
from loadtests.generators import Job, LoadError
from loadtests.oip import AnswerError
from loadtests.processes import Server, free_ports, log_tail
from loadtests.report import Pair, Round, Row

FLOOR_REST = Path(__file__).with_name("floor_rest.py")
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Settings:
    """How much to measure. `floor_rest` is a module with an ASGI `app` that finds the model's path in MODEL."""

    rounds: int
    duration_s: float
    in_flight: tuple[int, ...]
    pin: bool
    floor_rest: Path

    @property
    def server_core(self) -> int | None:
        return sorted(os.sched_getaffinity(0))[0] if self.pin else None

    @property
    def generator_core(self) -> int | None:
        return sorted(os.sched_getaffinity(0))[1] if self.pin else None


Command = Callable[[Path, int, int], Sequence[str]]


def serving_command(repository: Path, http_port: int, grpc_port: int) -> list[str]:
    """How the server under test is started: it must answer `GET /v2/health/ready` with 200 once it can be measured."""
    ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    return [sys.executable, "-m", "serving", "start", str(repository), *ports]


class Bench:
    """Measures in the directory `files`, which it fills with a model repository, logs and request bodies.

    `say` is told what happens now; `command` starts the server under test.
    """

    def __init__(
        self, settings: Settings, files: Path, say: Callable[[str], None], command: Command = serving_command
    ) -> None:
        self._settings = settings
        self._command = command
        self._files = files
        self._say = say
        self._model = mlp.write_repository(files / "models")
        self._row = mlp.row()
        session = onnxruntime.InferenceSession(str(self._model), providers=["CPUExecutionProvider"])
        self._expected = {mlp.OUTPUT: session.run([mlp.OUTPUT], {mlp.INPUT: self._row})[0]}

    def run(self, cases: Sequence[Callable[[np.ndarray], Case]]) -> list[Row]:
        """Start the server and measure each case at each number in flight. ProcessError when one does not start."""
        self._say("starting the server")
        with self._serving() as (server, ports):
            rows: list[Row] = []
            for build in cases:
                case = build(self._row)
                rows += self._rows(case, server, ports[case.transport])
        return rows

    def server_log(self) -> str:
        """The last lines that the server wrote."""
        return log_tail(self._files / "serving.log")

    @contextmanager
    def _serving(self) -> Iterator[tuple[Server, dict[str, int]]]:
        """The server under test, ready, and its port per transport."""
        http_port, grpc_port = free_ports(2)
        argv = self._command(self._files / "models", http_port, grpc_port)
        with Server("the server", argv, self._files / "serving.log", {}, self._settings.server_core) as server:
            server.wait_until(lambda: _is_ready(http_port))
            yield server, {"http": http_port, "grpc": grpc_port}

    @contextmanager
    def _floor(self, case: Case, answer: Answer) -> Iterator[tuple[Server, int]]:
        """The floor for a case, answering, and its port. `answer` is what the server gave."""
        (port,) = free_ports(1)
        if case.transport == "http":
            path = self._settings.floor_rest.resolve()
            argv = [sys.executable, "-m", "uvicorn", "--app-dir", str(path.parent), f"{path.stem}:app"]
            argv += ["--port", str(port), "--loop", "uvloop", "--http", "httptools"]
            argv += ["--no-access-log", "--log-level", "warning"]
        else:
            constant = self._files / "floor-answer"
            constant.write_bytes(answer.body)
            argv = [sys.executable, "-m", "loadtests.floor_grpc", str(port), str(constant)]
        log, environment = self._files / "floor.log", {"MODEL": str(self._model)}
        with Server(f"the floor of {case.name}", argv, log, environment, self._settings.server_core) as server:
            server.wait_until(lambda: _answers(case, port))
            yield server, port

    def _rows(self, case: Case, server: Server, port: int) -> list[Row]:
        """One row per number in flight; what fails voids its row."""
        generator = generators.generator_name(case)
        try:
            answer = self._check(case, port)
        except (AnswerError, OSError) as error:
            return [Row(case.name, in_flight, generator, (), str(error)) for in_flight in self._settings.in_flight]
        rows = []
        with self._floor(case, answer) as (floor, floor_port):
            for in_flight in self._settings.in_flight:
                try:
                    pairs = tuple(self._pairs(case, in_flight, (server, port), (floor, floor_port)))
                    rows.append(Row(case.name, in_flight, generator, pairs))
                except (LoadError, AnswerError, OSError) as error:
                    rows.append(Row(case.name, in_flight, generator, (), str(error)))
        return rows

    def _pairs(self, case: Case, in_flight: int, *sides: tuple[Server, int]) -> Iterator[Pair]:
        """The rounds: server, floor, server, floor, and a last look whether both still answer rightly."""
        jobs = []
        for _, port in sides:
            self._say(f"{case.name}, {in_flight} in flight: warm-up")
            answer_bytes = len(self._check(case, port).body)
            core = self._settings.generator_core
            warm_up = Job(case, port, in_flight, WARM_UP_S, None, answer_bytes, self._files, core)
            load = generators.run(warm_up)
            rate = load.requests / load.seconds
            jobs.append(replace(warm_up, seconds=self._settings.duration_s, rate=rate))
        for number in range(1, self._settings.rounds + 1):
            self._say(f"{case.name}, {in_flight} in flight: round {number} of {self._settings.rounds}")
            server, floor = [_measure(side, job) for (side, _), job in zip(sides, jobs, strict=True)]
            yield Pair(server, floor)
        for _, port in sides:
            self._check(case, port)

    def _check(self, case: Case, port: int) -> Answer:
        answer = send(case, port)
        verify(case, answer, self._expected)
        return answer


def _measure(server: Server, job: Job) -> Round:
    before_s = cpu_seconds(server.pid)
    load = generators.run(job)
    spent_s = cpu_seconds(server.pid) - before_s
    return Round(load.requests, load.seconds, 1e6 * spent_s / load.requests, load.p50_ms, load.p99_ms)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _answers(case: Case, port: int) -> bool:
    try:
        send(case, port)
    except AnswerError:
        return True  # what it answers is checked before it counts
    except OSError:
        return False
    return True
