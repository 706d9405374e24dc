"""What became of every request of a run, and the figures that follow from it. Pure, apart from the file it is kept in.

Latencies count from when a request was due, so one that the generator sent late counts what it waited there too.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtests.openloop.arrivals import Schedule

BUSY = 0.85  # share of its core from which on a generator is not to be trusted: it queues itself
LATE_SHARE, LATE_MS = 0.1, 1.0  # of the latency's 99th percentile, and at least: more lag than that shows in figures


class Verdict(IntEnum):
    """REFUSED: the server was too busy to serve it and said so. FAILED: anything else but a right answer, or none."""

    PENDING = 0  # or never answered
    ANSWERED = 1
    REFUSED = 2
    FAILED = 3


@dataclass(frozen=True)
class Latency:
    """Quantiles in milliseconds; NaN of no requests."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: npt.NDArray[np.float64]) -> "Latency":
        if not len(seconds):
            return cls(0, *[float("nan")] * 6)
        # Times that were seen: that many requests took no longer.
        quantiles = np.quantile(seconds, [0.5, 0.9, 0.99, 0.999, 1], method="inverted_cdf")
        return cls(len(seconds), 1e3 * float(seconds.mean()), *(1e3 * float(each) for each in quantiles))


@dataclass(frozen=True)
class Generator:
    """The generator itself: when it was done, the part of its core that it took until then, the connections that it
    opened, and how many requests had to wait until one was free."""

    end_s: float
    cpu_share: float
    connections: int
    held: int


@dataclass(frozen=True)
class Outcomes:
    """By request, in seconds after the start: when it was sent and when its answer was whole; NaN if that was never.

    `failure` is what was wrong with the first request that failed.
    """

    schedule: Schedule
    names: tuple[str, ...]
    sent_s: npt.NDArray[np.float64]
    done_s: npt.NDArray[np.float64]
    verdicts: npt.NDArray[np.int8]
    generator: Generator
    failure: str | None = None

    def save(self, path: Path) -> None:
        about = {"names": self.names, "generator": asdict(self.generator), "failure": self.failure}
        with path.open("wb") as file:
            np.savez(
                file,
                due_s=self.schedule.due_s,
                kinds=self.schedule.kinds,
                sent_s=self.sent_s,
                done_s=self.done_s,
                verdicts=self.verdicts,
                about=json.dumps(about),
            )

    @classmethod
    def load(cls, path: Path) -> "Outcomes":
        with np.load(path) as data:
            about = json.loads(str(data["about"]))
            return cls(
                Schedule(data["due_s"], data["kinds"]),
                tuple(about["names"]),
                data["sent_s"],
                data["done_s"],
                data["verdicts"],
                Generator(**about["generator"]),
                about["failure"],
            )

    def latencies_s(self, verdict: Verdict, kind: str | None = None) -> npt.NDArray[np.float64]:
        """Of the requests that ended so, from when they were due; of all kinds or of one."""
        chosen = self._are(verdict, kind)
        return (self.done_s - self.schedule.due_s)[chosen]

    def count(self, verdict: Verdict, kind: str | None = None) -> int:
        return int(self._are(verdict, kind).sum())

    def _are(self, verdict: Verdict, kind: str | None) -> npt.NDArray[np.bool_]:
        chosen: npt.NDArray[np.bool_] = self.verdicts == verdict
        return chosen if kind is None else chosen & (self.schedule.kinds == self.names.index(kind))

    def goodput(self, deadline_s: float) -> float:
        """Requests a second that were answered within `deadline_s` of when they were due.

        By when they were answered: from the deadline of the first to when the last was due. A server that starts to
        work, or still has a queue to work off when no more comes, does not count.
        """
        begin_s, end_s = min(deadline_s, self.seconds / 2), self.seconds
        good = self._are(Verdict.ANSWERED, None) & (self.done_s - self.schedule.due_s <= deadline_s)
        return float((good & (self.done_s > begin_s) & (self.done_s <= end_s)).sum()) / (end_s - begin_s)

    @property
    def seconds(self) -> float:
        """That requests were due in, to the last of them; the length of the whole run if none was."""
        return float(self.schedule.due_s[-1]) if len(self.schedule) else self.generator.end_s

    @property
    def lag_s(self) -> npt.NDArray[np.float64]:
        """How late each request was sent; of those that were sent."""
        lag: npt.NDArray[np.float64] = (self.sent_s - self.schedule.due_s)[~np.isnan(self.sent_s)]
        return lag

    def summary(self) -> "Summary":
        return Summary.of(self)


@dataclass(frozen=True)
class Summary:
    """A run in figures. `offered_per_s` is what was due, `answered_per_s` what came of it; by kind if there are more.

    `unanswered` were sent or waited and had no answer when the run was over.
    """

    offered_per_s: float
    answered_per_s: float
    answered: int
    refused: int
    failed: int
    unanswered: int
    latency: Latency
    refusals: Latency
    lag: Latency
    generator: Generator
    by_kind: dict[str, Latency]
    failure: str | None
    warning: str | None

    @classmethod
    def of(cls, run: Outcomes) -> "Summary":
        latency, lag = Latency.of(run.latencies_s(Verdict.ANSWERED)), Latency.of(run.lag_s)
        by_kind = {name: Latency.of(run.latencies_s(Verdict.ANSWERED, name)) for name in run.names}
        last_s = np.max(run.done_s, initial=run.seconds, where=~np.isnan(run.done_s))
        return cls(
            len(run.schedule) / run.seconds,
            latency.count / float(last_s),
            latency.count,
            run.count(Verdict.REFUSED),
            run.count(Verdict.FAILED),
            run.count(Verdict.PENDING),
            latency,
            Latency.of(run.latencies_s(Verdict.REFUSED)),
            lag,
            run.generator,
            by_kind if len(by_kind) > 1 else {},
            run.failure,
            bottleneck(latency, lag, run.generator),
        )

    def within(self, p99_ms: float) -> bool:
        """Every request was answered, and 99 of 100 in time."""
        return self.refused + self.failed + self.unanswered == 0 and self.latency.p99_ms <= p99_ms


def bottleneck(latency: Latency, lag: Latency, generator: Generator) -> str | None:
    """Why the figures may tell more of the generator than of the server; None if they do not."""
    if generator.cpu_share > BUSY:
        return f"the generator was busy for {generator.cpu_share:.0%} of the time"
    if generator.held:
        return f"{generator.held} requests waited for one of {generator.connections} connections"
    if lag.p99_ms > max(LATE_MS, LATE_SHARE * latency.p99_ms):
        return f"the generator sent late: {lag.p99_ms:.1f} ms at the 99th percentile"
    return None


def plain(value: Any) -> Any:
    """Without NaN, which JSON has not."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and value != value else value
