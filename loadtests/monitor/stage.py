"""Lets the waves of incidents happen, and notes when which alert fires and resolves.

Runs on the main thread, with one more that asks Prometheus all the time.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from loadtests.monitor.incidents import OF_THE_MACHINE, Expected, Incident, Stage
from loadtests.monitor.prometheus import Alert, Labels, Prometheus

_LOOK_S = 0.2


@dataclass
class Firing:
    """One time that an alert fired, in seconds since the epoch; `resolved_at` None: it still does."""

    alert: Alert
    fired_at: float
    resolved_at: float | None = None


@dataclass
class Outcome:
    """Of one expected alert. Seconds from the beginning of the incident, and from its cure; None: never."""

    incident: str
    alert: str
    labels: dict[str, str] = field(default_factory=dict)
    fired_s: float | None = None
    resolved_s: float | None = None

    @property
    def good(self) -> bool:
        return self.fired_s is not None and self.resolved_s is not None


@dataclass(frozen=True)
class Wave:
    """What became of each expected alert, the alerts that fired though nobody expected them, and when it was."""

    outcomes: list[Outcome]
    unexpected: set[str]
    begun_at: float
    cured_at: float


class Watch:
    """What fires and fired."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self._lock = threading.Lock()
        self._all: list[Firing] = []
        self._now: dict[tuple[str, Labels], Firing] = {}

    def look(self) -> None:
        found = {(a.name, a.key): a for a in self._prometheus.alerts() if a.state == "firing"}
        now = time.time()
        with self._lock:
            for key in self._now.keys() - found.keys():
                self._now.pop(key).resolved_at = now
            for key in found.keys() - self._now.keys():
                self._now[key] = Firing(found[key], now)
                self._all.append(self._now[key])

    def all(self) -> list[Firing]:
        with self._lock:
            return list(self._all)


@contextmanager
def watching(prometheus: Prometheus) -> Iterator[Watch]:
    """In a thread of its own; what went wrong there is raised at the end."""
    watch, over, failures = Watch(prometheus), threading.Event(), list[Exception]()

    def go_on() -> None:
        try:
            while not over.wait(_LOOK_S):
                watch.look()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


def matches(expected: Expected, alert: Alert, stage: Stage) -> bool:
    labels = {"model": expected.model} if expected.model else {}
    if expected.on:
        labels["instance"] = (stage.models if expected.on == "models" else stage.server).instance
    return alert.name == expected.alert and labels.items() <= alert.labels.items()


def wave(incidents: tuple[Incident, ...], stage: Stage, watch: Watch, limit_s: float) -> Wave:
    """All at once: they begin, every expected alert fires, they are cured, every alert resolves.

    Args:
        limit_s: how long to wait for the first, and for the second.
    """
    begun = time.time()
    pairs = [(incident, expected) for incident in incidents for expected in incident.expected]

    def firings(expected: Expected) -> list[Firing]:
        return [f for f in watch.all() if matches(expected, f.alert, stage) and (f.resolved_at or begun) >= begun]

    with ExitStack() as stack:
        for incident in incidents:
            stack.enter_context(incident.stage(stage))
        _wait(lambda: all(firings(expected) for _, expected in pairs), limit_s)
    cured = time.time()
    also = {name for incident in incidents for name in incident.also}
    mentioned = also | {expected.alert for _, expected in pairs}

    def over() -> bool:
        return all(f.resolved_at is not None for f in watch.all() if f.alert.name in mentioned)

    _wait(over, limit_s)
    outcomes = []
    for incident, expected in pairs:
        outcome = Outcome(incident.name, expected.alert)
        if found := firings(expected):
            outcome.labels = dict(found[0].alert.labels)
            outcome.fired_s = max(0.0, found[0].fired_at - begun)
            if (last := found[-1].resolved_at) is not None:
                outcome.resolved_s = max(0.0, last - cured)
        outcomes.append(outcome)
    unexpected = {
        f"{f.alert.name} {dict(f.alert.labels)}"
        for f in watch.all()
        if f.fired_at >= begun
        and f.alert.name not in {*also, *OF_THE_MACHINE}
        and not any(matches(expected, f.alert, stage) for _, expected in pairs)
    }
    return Wave(outcomes, unexpected, begun, cured)


def _wait(condition: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
