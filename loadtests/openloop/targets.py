"""Servers to measure, each on the first core: this one, and Triton beside it. Leaving a context ends the server.

Runs on the main thread. Knows how they are started, and nothing of what they are asked.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.cases import Case, Question, grpc_raw, rest_binary
from loadtests.compare import environments
from loadtests.compare.triton import triton
from loadtests.measure import answer_of, generator_core, server_core, serving
from loadtests.oip import AnswerError
from loadtests.openloop import models, offline
from loadtests.openloop.load import Kind, Target, checked
from loadtests.openloop.models import MODELS, Model
from loadtests.processes import ProcessError

OURS, TRITON = "serving", "triton"
CASES: dict[str, Callable[[Question], Case]] = {"rest": rest_binary, "grpc": grpc_raw}
MOST_PER_S = 10_000.0  # no use asking any of them for more single rows
SESSIONS = {OURS: offline.SERVED, TRITON: offline.plain(1)}  # the session that each of them has


@dataclass(frozen=True)
class Place:
    """Where servers are measured: a directory for their files, whether cores are set apart, and what happens now."""

    files: Path
    pin: bool
    say: Callable[[str], None]
    arguments: tuple[str, ...] = ()  # more of them for this server

    @property
    def server_core(self) -> int | None:
        return server_core(self.pin)

    def log(self, name: str) -> Path:
        return self.files / f"{name}.log"


class Subject:
    """A model on disk, and the questions about it."""

    def __init__(self, model: Model, place: Place, settings: str = "") -> None:
        self.model = model
        self.place = place
        self.repository = place.files / "repository"
        self.path = models.write(model, self.repository, settings)
        self._questions: dict[int, Question] = {}

    def kind(self, transport: str, rows: int = 1, weight: float = 1.0) -> Kind:
        """The request for so many rows, over REST (`rest`, binary tensors) or gRPC (`grpc`)."""
        if rows not in self._questions:
            inputs = {models.INPUT: self.model.rows(rows)}
            self._questions[rows] = Question(self.model.name, inputs, answer_of(self.path, inputs))
        name = "1 row" if rows == 1 else f"{rows} rows"
        return Kind(name, CASES[transport](self._questions[rows]), weight)

    def offline(
        self,
        sessions: Sequence[str] = (offline.SERVED, *map(offline.plain, offline.THREADS)),
        batches: Sequence[int] = offline.BATCHES,
        seconds: float = 0.5,
    ) -> offline.Offline:
        """What the model alone does on the server's core."""
        self.place.say("the model alone")
        return offline.measure(self.path, self.place.server_core, batches, sessions, seconds)

    @contextmanager
    def ours(self) -> Iterator[Target]:
        def command(repository: Path, http_port: int, grpc_port: int) -> list[str]:
            ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
            return [sys.executable, "-m", "serving", "start", str(repository), *ports, *self.place.arguments]

        self.place.say("starting this server")
        with serving("this server", self.repository, self.place.log(OURS), self.place.pin, command) as running:
            yield Target(OURS, running.ports, generator_core(self.place.pin), running.server.pid)

    @contextmanager
    def triton(self) -> Iterator[Target]:
        self.place.say("starting Triton")
        files = self.place.files / TRITON
        files.mkdir(exist_ok=True)
        cpus = None if self.place.server_core is None else {self.place.server_core}
        model = self.model
        with triton(self.path, model.max_batch_size, files, name=model.name, cpus=cpus) as running:
            ports = {"http": running.http_port, "grpc": running.grpc_port}
            yield Target(TRITON, ports, generator_core(self.place.pin), running.pid)

    def start(self, name: str) -> AbstractContextManager[Target]:
        return {OURS: self.ours, TRITON: self.triton}[name]()


def versions(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of the packages in the environments of other servers."""
    return {name: environments.versions(environments.python(name)) for name in names if name != OURS}


def subject(name: str, place: Place, settings: str = "") -> Subject:
    place.say(f"making the model '{name}'")
    return Subject(MODELS[name], place, settings)


def ready(target: Target, kinds: Sequence[Kind]) -> list[Kind]:
    """Requests that are answered rightly. ProcessError when one is not."""
    try:
        return checked(target, kinds)
    except (AnswerError, OSError) as error:
        raise ProcessError(f"{target.name}: {error}") from error
