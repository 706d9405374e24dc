"""Twice as many requests as can be served: how many are answered within their deadline, and how soon the rest hears no.

The model is slow, so that neither generator nor protocol matters: its batches of 8 take 50 ms and more. Each request
says in its `timeout` parameter how long it may wait. The highest sustainable rate is the one at which still 99 of 100
are answered within the deadline; the peak is the best goodput at any rate, and what counts is the goodput at twice the
sustainable rate, of that peak.
"""

import argparse
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from rich.table import Table

from loadtests.command import Screen
from loadtests.openloop import load, plots, results, search, targets
from loadtests.openloop.load import Kind, Target
from loadtests.openloop.models import MODELS
from loadtests.openloop.offline import SERVED
from loadtests.openloop.outcomes import Latency, Outcomes, Verdict
from loadtests.openloop.targets import Place

NAME, HELP = "overload", "twice the sustainable rate: goodput, and how soon refused requests are answered"
IN_TIME = 0.99
WANTED_SHARE, WANTED_REFUSAL_MS, LEAST_BATCH_MS = 0.95, 10.0, 50.0
FACTORS = (0.8, 1.0, 1.1, 1.25, 1.5, 2.0)  # of the sustainable rate


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=list(MODELS), default="slow")
    parser.add_argument("--transport", choices=list(targets.CASES), default="rest")
    parser.add_argument("--deadline", type=results.positive_float, default=500, metavar="MS", help="default 500")
    parser.add_argument("--seconds", type=results.positive_float, default=12, help="each run (default 12)")
    parser.add_argument("--rounds", type=int, default=1, help="of all rates (default 1); 2x is always run three times")


@dataclass(frozen=True)
class Point:
    """One run: `factor` is its rate over the sustainable one, goodput in requests a second."""

    factor: float
    offered_per_s: float
    goodput: float
    answered: Latency
    refused: Latency
    late: int  # answered, and after the deadline
    failed: int

    @classmethod
    def of(cls, factor: float, run: Outcomes, deadline_s: float) -> "Point":
        answered = run.latencies_s(Verdict.ANSWERED)
        return cls(
            factor,
            len(run.schedule) / run.seconds,
            run.goodput(deadline_s),
            Latency.of(answered),
            Latency.of(run.latencies_s(Verdict.REFUSED)),
            int((answered > deadline_s).sum()),
            run.count(Verdict.FAILED) + run.count(Verdict.PENDING),
        )


def run(options: argparse.Namespace, place: Place, screen: Screen) -> tuple[dict[str, Any], bool]:
    seconds = 3 if options.quick else options.seconds
    deadline_s = options.deadline / 1e3
    subject = targets.subject(options.model, place)
    largest = subject.model.max_batch_size
    alone = subject.offline([SERVED], (1, largest), 0.3 if options.quick else 1)
    batch_ms = 1e3 * alone.run_s(SERVED, largest)
    with subject.ours() as target:
        kind = subject.kind(options.transport)
        kind = replace(kind, case=load.with_timeout(kind.case, round(1e3 * options.deadline)))
        kinds = targets.ready(target, [kind])
        load.run(target, kinds, 0.5 * alone.rows_per_s(SERVED), 0.5 if options.quick else 3)
        try:
            rate = sustainable(target, kinds, 0.95 * alone.rows_per_s(SERVED), seconds, deadline_s, place)
        except search.SearchError as error:
            screen.note(str(error))
            return {"failure": str(error)}, False
        runs = []
        for number in range(options.rounds):
            for factor in FACTORS:
                for again in range(1 if factor < 2 or options.quick else 3):
                    place.say(f"{factor:g} x {rate:.0f} requests a second")
                    seen = load.run(target, kinds, factor * rate, seconds, seed=100 * number + 10 * again + 1)
                    runs.append((factor, seen))
    points = [Point.of(factor, seen, deadline_s) for factor, seen in runs]
    verdict = Judged.of(points)
    screen.table(table(points))
    screen.note(f"Batches of {largest} take {batch_ms:.0f} ms (at least {LEAST_BATCH_MS:.0f} are wanted).")
    screen.note(f"Highest sustainable rate: {rate:.1f} requests a second. Peak goodput: {verdict.peak:.1f}.")
    screen.note(f"At twice that rate {verdict.share:.1%} of the peak (at least {WANTED_SHARE:.0%} wanted).")
    refused, tail = f"{verdict.refused_p50_ms:.2f} ms", f"{verdict.refused_p99_ms:.2f} ms"
    screen.note(f"Refused after a median of {refused} (under {WANTED_REFUSAL_MS:.0f} ms wanted), p99 {tail}.")
    for factor, seen in runs:
        results.tell_trouble(screen, f"{factor:g} x", seen.summary())
    drawn = [(point.offered_per_s, point.goodput) for point in points]
    title = f"Goodput with deadlines of {options.deadline:g} ms: {options.model}"
    plots.goodputs(options.out / f"{NAME}.png", title, drawn, rate, WANTED_SHARE)
    document = {
        "model": asdict(MODELS[options.model]),
        "deadline_ms": options.deadline,
        "batch_ms": batch_ms,
        "sustainable_per_s": rate,
        "judged": asdict(verdict),
        "points": [asdict(point) for point in points],
        "runs": [{"factor": factor, **asdict(seen.summary())} for factor, seen in runs],
    }
    return document, verdict.kept and batch_ms >= LEAST_BATCH_MS


def sustainable(
    target: Target, kinds: list[Kind], guess: float, seconds: float, deadline_s: float, place: Place
) -> float:
    def missed(rate: float, number: int) -> float:
        """The part of the requests that were not answered in time."""
        place.say(f"{rate:.0f} requests a second")
        seen = load.run(target, kinds, rate, seconds, seed=1000 + number)
        return 1 - float((seen.latencies_s(Verdict.ANSWERED) <= deadline_s).sum()) / len(seen.schedule)

    return search.highest(search.within(missed, 1 - IN_TIME), guess, tolerance=0.05)


@dataclass(frozen=True)
class Judged:
    """Goodput at twice the sustainable rate, medians of its runs, and the peak over all rates' medians."""

    peak: float
    share: float
    refused_p50_ms: float
    refused_p99_ms: float
    failed: int

    @classmethod
    def of(cls, points: list[Point]) -> "Judged":
        by_factor: dict[float, list[Point]] = {}
        for point in points:
            by_factor.setdefault(point.factor, []).append(point)
        goodputs = {factor: median(each.goodput for each in found) for factor, found in by_factor.items()}
        most = by_factor[max(by_factor)]
        peak = max(goodputs.values())
        return cls(
            peak,
            goodputs[max(goodputs)] / peak,
            median(each.refused.p50_ms for each in most),
            median(each.refused.p99_ms for each in most),
            sum(each.failed for each in points),
        )

    @property
    def kept(self) -> bool:
        return self.share >= WANTED_SHARE and self.refused_p50_ms < WANTED_REFUSAL_MS and self.failed == 0


COLUMNS = ("÷ sustainable", "req/s", "goodput/s", "answered", "late", "p99 ms", "refused", "p50 ms", "p99 ms", "failed")


def table(points: list[Point]) -> Table:
    result = results.new_table("Goodput: answered within the deadline", COLUMNS, left=0)
    for point in points:
        result.add_row(
            f"{point.factor:g}",
            f"{point.offered_per_s:.1f}",
            f"{point.goodput:.1f}",
            str(point.answered.count),
            str(point.late),
            results.number(point.answered.p99_ms, 0),
            str(point.refused.count),
            results.number(point.refused.p50_ms),
            results.number(point.refused.p99_ms),
            str(point.failed),
        )
    return result
