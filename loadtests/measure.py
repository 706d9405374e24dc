"""One benchmark session: starts a server for each kind of model and the floors, and lets them take turns under load.

Runs on the main thread; everything measured and every generator is a child process. Knows no protocol (cases.py) and
no tool (generators.py).
"""

import http.client
import json
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime

from loadtests import generators, kinds, mlp
from loadtests.cases import Answer, Case, Question, check, send
from loadtests.cpu_time import cpu_seconds
from loadtests.generators import Job, LoadError
from loadtests.oip import AnswerError
from loadtests.processes import ProcessError, Server, free_ports, log_tail
from loadtests.report import FLOOR, Round, Row
from serving.core.types import Tensors

FLOOR_REST = Path(__file__).with_name("floor_rest.py")
WARM_UP_S = 1.0
LOAD_S = 240  # for a server to be ready: converting a SavedModel takes its time


@dataclass(frozen=True)
class Settings:
    """How much to measure. `floor_rest` is a module with an ASGI `app` that finds the model's path in MODEL."""

    rounds: int
    duration_s: float
    in_flight: tuple[int, ...]
    models: tuple[str, ...]
    pin: bool
    floor_rest: Path


Command = Callable[[Path, int, int], Sequence[str]]


def serving_command(repository: Path, http_port: int, grpc_port: int) -> list[str]:
    """How the server under test is started: it must answer `GET /v2/health/ready` with 200 once it can be measured."""
    ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    return [sys.executable, "-m", "serving", "start", str(repository), *ports]


@dataclass(frozen=True)
class Running:
    """A server that is ready, and its port per transport."""

    server: Server
    ports: Mapping[str, int]


@dataclass(frozen=True)
class Side:
    """One of those that take turns: a kind of model, or the floor."""

    name: str
    server: Server
    port: int
    case: Case


@contextmanager
def serving(name: str, repository: Path, log: Path, pin: bool, command: Command = serving_command) -> Iterator[Running]:
    """The server under test on a repository. ProcessError when it does not get ready."""
    http_port, grpc_port = free_ports(2)
    argv = command(repository, http_port, grpc_port)
    with Server(name, argv, log, {}, server_core(pin)) as server:
        server.wait_until(lambda: is_ready(http_port), LOAD_S)
        yield Running(server, {"http": http_port, "grpc": grpc_port})


def server_core(pin: bool) -> int | None:
    return sorted(os.sched_getaffinity(0))[0] if pin else None


def generator_core(pin: bool) -> int | None:
    return sorted(os.sched_getaffinity(0))[1] if pin else None


def answer_of(model: Path, inputs: Tensors) -> Tensors:
    """What the ONNX file `model` gives, here and now."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


class Bench:
    """Measures in the directory `files`, which it fills with model repositories, logs and request bodies.

    `say` is told what happens now; `command` starts a server under test.
    """

    def __init__(
        self, settings: Settings, files: Path, say: Callable[[str], None], command: Command = serving_command
    ) -> None:
        self._settings = settings
        self._command = command
        self._files = files
        self._say = say
        self._model = mlp.write_repository(files / "reference")
        inputs = {mlp.INPUT: mlp.row()}
        self._question = Question(mlp.NAME, inputs, answer_of(self._model, inputs))

    def run(self, cases: Sequence[Callable[[Question], Case]]) -> list[Row]:
        """Start the servers and measure each case at each number in flight. ProcessError when one does not start."""
        with ExitStack() as stack:
            running = {}
            for kind in self._settings.models:
                self._say(f"starting the server of the {kind} model")
                running[kind] = stack.enter_context(self._serving(kind))
            rows: list[Row] = []
            for build in cases:
                rows += self._rows(build(self._question), running)
        return rows

    def server_logs(self) -> dict[str, str]:
        """By kind of model, the last lines that its server wrote."""
        return {kind: log_tail(self._log(kind)) for kind in self._settings.models if self._log(kind).exists()}

    def _log(self, kind: str) -> Path:
        return self._files / f"serving-{kind}.log"

    @contextmanager
    def _serving(self, kind: str) -> Iterator[Running]:
        repository = self._files / "models" / kind
        kinds.write_repository(kind, repository, self._files)
        name = f"the server of the {kind} model"
        with serving(name, repository, self._log(kind), self._settings.pin, self._command) as running:
            platform = _platform(running.ports["http"])
            if platform != kinds.PLATFORMS[kind]:
                what = f"{name} serves it as {platform}, not as {kinds.PLATFORMS[kind]}"
                raise ProcessError(f"{what}\n{log_tail(self._log(kind))}")
            yield running

    @contextmanager
    def _floor(self, case: Case, answer: Answer) -> Iterator[Side]:
        """The floor for a case, answering. `answer` is what the server gave."""
        (port,) = free_ports(1)
        asked = case.floor or case
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
        with Server(f"the floor of {case.name}", argv, log, environment, server_core(self._settings.pin)) as server:
            server.wait_until(lambda: _answers(asked, port))
            yield Side(FLOOR, server, port, asked)

    def _rows(self, case: Case, running: Mapping[str, Running]) -> list[Row]:
        """One row per number in flight; what fails voids its row."""
        generator = generators.generator_name(case)
        sides = [Side(kind, one.server, one.ports[case.transport], case) for kind, one in running.items()]
        try:
            for side in sides:
                answer = _check(side)
        except (AnswerError, OSError) as error:
            return [Row(case.name, in_flight, generator, (), str(error)) for in_flight in self._settings.in_flight]
        rows = []
        with self._floor(case, answer) as floor:
            for in_flight in self._settings.in_flight:
                try:
                    turns = tuple(self._turns(in_flight, [*sides, floor]))
                    rows.append(Row(case.name, in_flight, generator, turns))
                except (LoadError, AnswerError, OSError) as error:
                    rows.append(Row(case.name, in_flight, generator, (), str(error)))
        return rows

    def _turns(self, in_flight: int, sides: Sequence[Side]) -> Iterator[dict[str, Round]]:
        """Each side once per round, one right after the other; a last look whether all still answer rightly."""
        jobs = {}
        for side in sides:
            self._say(f"{side.case.name}, {in_flight} in flight: warm-up")
            answer_bytes = len(_check(side).body)
            core = generator_core(self._settings.pin)
            warm_up = Job(side.case, side.port, in_flight, WARM_UP_S, None, answer_bytes, self._files, core)
            with _named(side):
                jobs[side.name] = warmed(warm_up, self._settings.duration_s)
        for number in range(1, self._settings.rounds + 1):
            self._say(f"{sides[0].case.name}, {in_flight} in flight: round {number} of {self._settings.rounds}")
            turn = {}
            for side in sides:
                with _named(side):
                    turn[side.name] = measure(side.server, jobs[side.name])
            yield turn
        for side in sides:
            _check(side)


def warmed(warm_up: Job, seconds: float) -> Job:
    """Run a job for its warm-up; the same for `seconds`, at the rate that was seen."""
    load = generators.run(warm_up)
    return replace(warm_up, seconds=seconds, rate=load.requests / load.seconds)


def measure(server: Server, job: Job) -> Round:
    before_s = cpu_seconds(server.pid)
    load = generators.run(job)
    spent_s = cpu_seconds(server.pid) - before_s
    return Round(load.requests, load.seconds, 1e6 * spent_s / load.requests, load.p50_ms, load.p99_ms)


def _check(side: Side) -> Answer:
    with _named(side):
        return check(side.case, side.port)


@contextmanager
def _named(side: Side) -> Iterator[None]:
    """What fails inside says whose failure it is."""
    try:
        yield
    except (AnswerError, LoadError) as error:
        raise type(error)(f"{side.name}: {error}") from error


def _platform(port: int) -> str:
    """What the model's metadata call its runtime. Raises what an answer does that is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/{mlp.NAME}", timeout=10) as answer:
        return str(json.load(answer)["platform"])


def is_ready(port: int) -> bool:
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
