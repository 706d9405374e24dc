"""One session with large inputs: each form alone, and small requests beside it, in turns on one running server.

Runs on the main thread, with one more for a generator that works beside another; server and generators are processes.
Knows no protocol (cases.py) and no tool (generators.py).
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests import generators
from loadtests.cases import Case, check
from loadtests.generators import Job, LoadError
from loadtests.large_report import Form
from loadtests.measure import WARM_UP_S, Running, generator_core, measure, warmed
from loadtests.oip import AnswerError
from loadtests.processes import pinned
from loadtests.report import Round

# The large requests begin before the small ones, and have to go on until the last of these is answered.
LEAD_S = 1.0
TAIL_S = 2.0


@dataclass(frozen=True)
class Settings:
    """How much to measure; `per_s` small requests a second."""

    rounds: int
    duration_s: int
    per_s: int
    pin: bool


class Large:
    """Measures a running server that has both models; `files` is for what generators read and write.

    `say` is told what happens now.
    """

    def __init__(self, settings: Settings, files: Path, say: Callable[[str], None], running: Running) -> None:
        self._settings = settings
        self._files = files
        self._say = say
        self._running = running

    def run(self, small: Case, cases: Sequence[Case]) -> tuple[list[list[float]], list[Form]]:
        """Latencies of the small requests without large ones, by round, and each form in turn beside them.

        LoadError, AnswerError or OSError when small requests alone fail.
        """
        check(small, self._running.ports["http"])
        forms = [Form(case.name, len(case.body)) for case in cases]
        jobs = {}
        for form, case in zip(forms, cases, strict=True):
            self._say(f"{form.name}: warm-up")
            with _voiding(form):
                jobs[form.name] = self._warmed(case)
        quiet = []
        for number in range(1, self._settings.rounds + 1):
            self._say(f"small requests alone: round {number} of {self._settings.rounds}")
            quiet.append(self._small(small))
            for form, case in zip(forms, cases, strict=True):
                if form.failure is not None:
                    continue
                self._say(f"{form.name}: round {number} of {self._settings.rounds}")
                with _voiding(form):
                    form.alone.append(measure(self._running.server, jobs[form.name]))
                    form.small_ms.append(self._small_beside(small, jobs[form.name], form.alone[-1]))
                    check(case, self._port(case))
        return quiet, forms

    def _port(self, case: Case) -> int:
        return self._running.ports[case.transport]

    def _warmed(self, case: Case) -> Job:
        answer_bytes = len(check(case, self._port(case)).body)
        core = generator_core(self._settings.pin)
        warm_up = Job(case, self._port(case), 1, WARM_UP_S, None, answer_bytes, self._files, core)
        # Two at a time first: a generator leaves a request behind when its time is over, and the first one of the next
        # must not be what starts another helper process.
        generators.run(replace(warm_up, in_flight=2))
        return warmed(warm_up, self._settings.duration_s)

    def _small_beside(self, small: Case, job: Job, alone: Round) -> list[float]:
        """Latencies of small requests while `job` goes on. LoadError when it ended first."""
        seconds = LEAD_S + self._settings.duration_s + TAIL_S
        longer = replace(job, seconds=seconds, rate=alone.requests / alone.seconds)
        with ThreadPoolExecutor(1) as thread:
            large = thread.submit(generators.run, longer)
            try:
                found = self._small(small, LEAD_S)
                over = large.done()
            finally:
                load = large.result()
        if over:
            raise LoadError(f"the {load.requests} large requests ended before the small ones did")
        return found

    def _small(self, small: Case, after_s: float = 0.0) -> list[float]:
        """Latencies in milliseconds. LoadError when one failed."""
        body = self._files / "small-body"
        body.write_bytes(small.body)
        task = {
            "port": self._port(small),
            "path": small.path,
            "headers": dict(small.headers),
            "body": str(body),
            "per_s": self._settings.per_s,
            "seconds": self._settings.duration_s,
            "after_s": after_s,
        }
        argv = [sys.executable, "-m", "loadtests.probe", json.dumps(task)]
        limit_s = 60 + 10 * self._settings.duration_s
        try:
            with pinned(generator_core(self._settings.pin)):
                done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise LoadError("the small requests did not end") from error
        if done.returncode != 0:
            raise LoadError(f"the small requests failed: {done.stderr.strip()[-300:]}")
        result = json.loads(done.stdout)
        if "failure" in result:
            raise LoadError(f"a small request failed: {result['failure']}")
        return list(result["latencies_ms"])


@contextmanager
def _voiding(form: Form) -> Iterator[None]:
    """What fails inside voids the form."""
    try:
        yield
    except (AnswerError, LoadError, OSError) as error:
        form.failure = str(error)
