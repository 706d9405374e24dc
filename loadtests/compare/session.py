"""One comparison: every server started by itself, one after another, in rounds, each driven by the same generator.

Runs on the main thread; servers and generators are child processes. A server is started anew in each round, so that
none runs while another is measured. Knows no server (servers.py).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests import mlp
from loadtests.cases import Case, Question, check
from loadtests.compare import launch
from loadtests.compare.report import Row, Sample
from loadtests.compare.servers import SERVERS, Contestant, Form, Setup
from loadtests.generators import Job, LoadError, generator_name
from loadtests.measure import answer_of, generator_core, measure, server_core, warmed
from loadtests.oip import AnswerError
from loadtests.processes import ProcessError, Server, free_ports


@dataclass(frozen=True)
class Settings:
    """How much to measure. The sweep is one pass over all batch sizes; with `full` all of them are in every round.

    A server that does not answer rightly within `start_s` is void.
    """

    rounds: int = 5
    seconds: float = 4
    warm_up_s: float = 2
    sweep_s: float = 2
    in_flight: int = 32
    start_s: float = 120
    full: bool = False
    pin: bool = False


@dataclass(frozen=True)
class Entry:
    """One thing to measure: a server with one largest batch, asked in one form."""

    server: str
    form: Form
    max_batch_size: int


class Session:
    """Measures in the directory `files`, which it fills with what servers need and write. `say` is told what happens.

    `servers` are those known, by name.
    """

    def __init__(
        self,
        settings: Settings,
        files: Path,
        say: Callable[[str], None],
        servers: Mapping[str, Contestant] = SERVERS,
    ) -> None:
        self._settings = settings
        self._files = files
        self._say = say
        self._servers = servers
        self._starts = 0
        self._model = files / "model.onnx"
        self._model.write_bytes(mlp.build().SerializeToString())
        inputs = {mlp.INPUT: mlp.row()}
        self._question = Question(mlp.NAME, inputs, answer_of(self._model, inputs))

    def run(self, names: Iterable[str], forms: Collection[Form]) -> tuple[list[Row], list[Row]]:
        """The rows of every server at its best batch size, and those that the sizes were chosen from."""
        entries = [
            Entry(name, form, size)
            for name in names
            for form in self._servers[name].requests
            if form in forms
            for size in self._servers[name].sizes
        ]
        if self._settings.full:
            rows = self._measure(entries, self._settings)
            return best(rows), rows
        sweep = self._measure(entries, replace(self._settings, rounds=1, seconds=self._settings.sweep_s, warm_up_s=1))
        chosen = [Entry(row.server, row.form, row.max_batch_size) for row in best(sweep)]
        return self._measure(chosen, self._settings), sweep

    def _measure(self, entries: Sequence[Entry], settings: Settings) -> list[Row]:
        samples: dict[Entry, list[Sample]] = {entry: [] for entry in entries}
        failures: dict[Entry, str] = {}
        starts = dict.fromkeys((entry.server, entry.max_batch_size) for entry in entries)
        for number in range(1, settings.rounds + 1):
            for server, size in starts:
                what = f"round {number} of {settings.rounds}: {server}, batches of up to {size}"
                now = [one for one in entries if (one.server, one.max_batch_size) == (server, size)]
                # What failed once is void: nobody needs more of it.
                self._round(what, [one for one in now if one not in failures], settings, samples, failures)
        return [
            Row(entry.server, entry.form, entry.max_batch_size, tuple(samples[entry]))
            if entry not in failures
            else Row(entry.server, entry.form, entry.max_batch_size, (), failures[entry])
            for entry in entries
        ]

    def _round(
        self,
        what: str,
        entries: Sequence[Entry],
        settings: Settings,
        samples: Mapping[Entry, list[Sample]],
        failures: dict[Entry, str],
    ) -> None:
        """Start one server and measure it in each form; what fails is noted."""
        if not entries:
            return
        first = entries[0]
        contestant = self._servers[first.server]
        cases = {entry: contestant.requests[entry.form](self._question) for entry in entries}
        self._starts += 1
        files = self._files / f"{first.server}-{self._starts}"
        files.mkdir()
        http, grpc, metrics = free_ports(3)
        ports = {"http": http, "grpc": grpc}
        command = contestant.command(Setup(self._model, first.max_batch_size, files, (http, grpc, metrics)))
        core = server_core(settings.pin)
        cpus = None if core is None else {core}
        self._say(f"{what}: starting")
        ready = _Answers(cases[first], ports[cases[first].transport])
        try:
            with launch.started(contestant.title, command, files / "log", ready, cpus, settings.start_s) as server:
                for entry, case in cases.items():
                    self._say(f"{what}: {generator_name(case)}, {entry.form}")
                    try:
                        samples[entry].append(self._sample(server, case, ports[case.transport], settings))
                    except (LoadError, AnswerError, OSError) as error:
                        failures[entry] = str(error)
        except ProcessError as error:
            failures.update(dict.fromkeys(entries, f"{error}\nlast answer: {ready.failure}"))

    def _sample(self, server: Server, case: Case, port: int, settings: Settings) -> Sample:
        answer_bytes = len(check(case, port).body)
        core = generator_core(settings.pin)
        warm_up = Job(case, port, settings.in_flight, settings.warm_up_s, None, answer_bytes, self._files, core)
        found = measure(server, warmed(warm_up, settings.seconds))
        check(case, port)
        return Sample(found, launch.memory_bytes(server.pid))


class _Answers:
    """Whether a request is answered rightly, which some servers do not for a while after they have opened a port."""

    def __init__(self, case: Case, port: int) -> None:
        self._case = case
        self._port = port
        self.failure = ""

    def __call__(self) -> bool:
        try:
            check(self._case, self._port)
        except (AnswerError, OSError) as error:
            self.failure = str(error)
            return False
        return True


def best(rows: Sequence[Row]) -> list[Row]:
    """Of each server and form the row with the most requests per second; a void one where all are."""
    groups: dict[tuple[str, Form], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.server, row.form), []).append(row)
    return [max(group, key=lambda row: row.requests_per_s) for group in groups.values()]
