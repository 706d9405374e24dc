"""What is done to a server, phase by phase, while requests of every protocol come at a steady rate.

Runs on the main thread; the clients have threads of their own. Knows what the server is told and what is killed, not
what clients may see of it (`judge`).
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.soak import law
from loadtests.soak.outcomes import Record
from loadtests.soak.site import Site
from loadtests.soak.traffic import Traffic

LARGE = "oip-json-large"
HELPER_S = 2.0  # between two kills of helpers: a new one has to come up, or nothing is left to kill
WEIGHTS = {"stable": 80.0, "canary": 20.0}


@dataclass(frozen=True)
class Settings:
    """`pause_s`: how long a phase goes on after what it does; `per_s`: of each protocol; `swaps`: in their phase."""

    pause_s: float
    per_s: float
    clients: int
    swaps: int
    helper_kills: int


@dataclass
class Phase:
    """From `begun_s` until the next one. Times on the clock of `time.monotonic`.

    Attributes:
        kills: when something was killed, or told to end.
        back_s: when the server was ready again, where it had gone.
        notes: what was found, for people.
        problems: what should not be.
    """

    name: str
    begun_s: float
    kills: list[float] = field(default_factory=list)
    back_s: float | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Found:
    phases: list[Phase] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    ended_s: float = 0.0


def run(settings: Settings, directory: Path, say: Callable[[str], None], arguments: Sequence[str] = ()) -> Found:
    """Raises ProcessError, ClientError or OSError when the server does not do what it is told."""
    with Site(directory, arguments) as site:
        say("starting the server")
        site.start()
        scenario = Scenario(settings, site, say)
        with Traffic(site.http_port, site.grpc_port, settings.per_s, settings.clients) as scenario.traffic:
            scenario.play()
        scenario.found.records += scenario.traffic.records()
        scenario.found.records.sort(key=lambda record: record.sent_s)
        scenario.found.ended_s = time.monotonic()
        return scenario.found


class Scenario:
    traffic: Traffic

    def __init__(self, settings: Settings, site: Site, say: Callable[[str], None]) -> None:
        self.found = Found()
        self._settings = settings
        self._site = site
        self._say = say
        self._chance = random.Random(0)

    def play(self) -> None:
        with self._phase("nothing"):
            pass
        with self._phase("hot swaps") as phase:
            for _ in range(self._settings.swaps):
                version = self._release()
                shutil.rmtree(self._site.repository / law.NAME / str(version - 1))
            phase.notes.append(f"{self._settings.swaps} versions")
        self._change("promote", {"version": str(self._default())})
        with self._phase("canary, promoted") as phase:
            self._canary(phase)
            self._change("promote", {})
        with self._phase("canary, rolled back") as phase:
            self._canary(phase)
            self._change("rollback", {})
        if self._settings.helper_kills:
            with self._phase("kill -9 of JSON helpers") as phase:
                self._kill_helpers(phase)
        with self._phase("kill -9 of a trial") as phase:
            self._kill_trial(phase)
        with self._phase("kill -9 of the server") as phase:
            self._kill_server(phase)
        with self._phase("SIGTERM") as phase:
            phase.kills.append(time.monotonic())
            self._site.signal(signal.SIGTERM)
            code = self._site.wait()
            phase.notes.append(f"ended after {time.monotonic() - phase.kills[0]:.1f} s")
            if code != 0:
                phase.problems.append(f"the server ended with exit code {code}")

    @contextmanager
    def _phase(self, name: str) -> Iterator[Phase]:
        self._say(name)
        phase = Phase(name, time.monotonic())
        self.found.phases.append(phase)
        yield phase
        time.sleep(self._settings.pause_s)

    def _canary(self, phase: Phase) -> None:
        """The next version gets a share of the traffic, for as long as a phase goes on."""
        version = self._release()
        self._change("labels", {"label": "canary", "version": version})
        standing = self._change("traffic", {"weights": WEIGHTS})
        phase.notes.append(f"version {version}, {standing['shares'][str(version)]:g} %")
        time.sleep(self._settings.pause_s)

    def _kill_helpers(self, phase: Phase) -> None:
        """While they have much to do."""
        site, per_s = self._site, 200.0  # a tenth of that
        with Traffic(site.http_port, site.grpc_port, per_s, 2, [LARGE]) as large:
            for _ in range(self._settings.helper_kills):
                time.sleep(HELPER_S + 0.2 * self._chance.random())
                for pid in site.helpers("serving.protocols.offload"):
                    phase.kills.append(_kill(pid))
            time.sleep(0.5)
        self.found.records += large.records()
        phase.notes.append(f"{len(phase.kills)} killed")
        if not phase.kills:
            phase.problems.append("there was no helper to kill")

    def _kill_trial(self, phase: Phase) -> None:
        """While it tries a version: that is tried again, and nobody is told."""
        version = law.release(self._site.repository)
        deadline_s = time.monotonic() + 10
        while not phase.kills and time.monotonic() < deadline_s:
            if any(each["trying"] for each in self._site.model()["versions"]):
                phase.kills += [_kill(pid) for pid in self._site.helpers("serving.repository.loads.trial_process")]
            time.sleep(0.005)
        phase.notes.append("killed while it tried" if phase.kills else "it was done before it could be killed")
        ready_s = self._site.wait_until_ready(version)
        phase.notes.append(f"version {version} ready after {ready_s:.1f} s")

    def _kill_server(self, phase: Phase) -> None:
        """With a canary under way; it must stand as before when it is back."""
        version = max(each["number"] for each in self._site.model()["versions"] if each["state"] == "READY")
        self._change("labels", {"label": "canary", "version": version})
        self._change("traffic", {"weights": WEIGHTS})
        time.sleep(self._settings.pause_s)
        before = standing(self._site.model())
        phase.kills.append(self._site.kill())
        time.sleep(self._settings.pause_s / 2)
        started_s = self._site.start()
        phase.back_s = time.monotonic()
        phase.notes.append(f"ready {started_s:.1f} s after its start")
        after = standing(self._site.model())
        if before != after:
            phase.problems.append(f"stood as {before}, stands as {after}")
        else:
            phase.notes.append(f"as before: {after['shares']}, {after['labels']}")

    def _release(self) -> int:
        version = law.release(self._site.repository)
        self._site.wait_until_ready(version)
        return version

    def _default(self) -> int:
        return int(self._site.model()["default"])

    def _change(self, what: str, body: object) -> dict[str, Any]:
        return self._site.operator.change(law.NAME, what, body)


def standing(model: dict[str, Any]) -> dict[str, Any]:
    """What must be the same after a restart: which versions serve, labels, weights, shares."""
    ready = sorted(each["number"] for each in model["versions"] if each["state"] == "READY")
    named = {key: model[key] for key in ("default", "labels", "shares", "traffic", "before")}
    return {"ready": ready, **named}


def _kill(pid: int) -> float:
    killed_s = time.monotonic()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return killed_s
