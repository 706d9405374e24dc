"""How much of what the model alone can do a server makes of it: E, the headline.

E is the highest rate of Poisson arrivals of single rows whose 99th percentile stays within the bound, over the rows a
second that the server's own session does offline, at its best fixed batch. Beside it stands the same rate over the best
that any session does offline, whatever its threads: E alone would be the better, the slower the session. All of it runs
on one core, one thread and one instance; the generator has the other one. Offline figures are taken before, between and
after the server's.
"""

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from loadtests.command import Names, Screen
from loadtests.openloop import bound, plots, results, targets
from loadtests.openloop.bound import Amounts, Found
from loadtests.openloop.models import MODELS
from loadtests.openloop.offline import Offline
from loadtests.openloop.targets import OURS, SESSIONS, TRITON, Place, Subject

NAME, HELP = "efficiency", "the highest rate within a latency bound, over what the model alone can do"
WANTED = 0.90
BOUND_MS = 60.0
GUESS = {OURS: 0.9, TRITON: 0.6}  # of what the model alone does


def add(parser: argparse.ArgumentParser) -> None:
    known = {OURS: None, TRITON: None}
    parser.add_argument(
        "--only", type=Names("server", known), default=list(known), metavar="SERVER,...", help=", ".join(known)
    )
    parser.add_argument("--model", choices=list(MODELS), default="large")
    parser.add_argument("--transport", choices=list(targets.CASES), default="rest")
    parser.add_argument("--p99", type=results.positive_float, default=BOUND_MS, metavar="MS", help="default 60")


@dataclass(frozen=True)
class Efficiency:
    """Of one server: its rate, and the model alone meanwhile."""

    found: Found
    offline: Offline

    @property
    def own(self) -> float:
        """Rows a second of the server's own session, offline."""
        return self.offline.rows_per_s(SESSIONS[self.found.target])

    @property
    def e(self) -> float | None:
        return None if self.found.rate is None else self.found.rate / self.own

    @property
    def of_best(self) -> float | None:
        return None if self.found.rate is None else self.found.rate / self.offline.best()


def measure(subject: Subject, name: str, transport: str, p99_ms: float, amounts: Amounts, quick: bool) -> Efficiency:
    seconds = 0.1 if quick else 0.5
    offline = subject.offline(seconds=seconds)
    # The sizes that matter, longer.
    best = sorted({offline.best_batch(session) for session in offline.seconds})

    def again() -> None:
        nonlocal offline
        offline += subject.offline(batches=best, seconds=2 * seconds)

    with subject.start(name) as target:
        kinds = targets.ready(target, [subject.kind(transport)])
        guess = min(targets.MOST_PER_S, GUESS[name] * offline.rows_per_s(SESSIONS[name]))
        found = bound.highest(target, kinds, p99_ms, guess, amounts, subject.place.say, between=again)
        again()
    return Efficiency(found, offline)


def run(options: argparse.Namespace, place: Place, screen: Screen) -> tuple[dict[str, Any], bool]:
    amounts = Amounts().quick() if options.quick else Amounts()
    subject = targets.subject(options.model, place)
    found = [measure(subject, name, options.transport, options.p99, amounts, options.quick) for name in options.only]
    screen.table(table(found, options.p99))
    for one in found:
        if one.found.failure is not None:
            screen.note(f"{one.found.target}: {one.found.failure}")
        for confirmation in one.found.confirmations:
            results.tell_trouble(screen, one.found.target, confirmation)
    rates = {one.found.target: one.found.rate for one in found if one.found.rate is not None}
    probes = {one.found.target: [*one.found.probes, *one.found.confirmations] for one in found}
    path = options.out / f"{NAME}.png"
    plots.searches(path, f"The highest rate within {options.p99:g} ms: {options.model}", probes, rates, options.p99)
    document = {
        "model": asdict(MODELS[options.model]),
        "bound_ms": options.p99,
        "servers": [
            {**asdict(one.found), "e": one.e, "of_best": one.of_best, "offline": one.offline.seconds} for one in found
        ],
        "versions": targets.versions(options.only),
    }
    return document, all(one.e is not None and (one.found.target != OURS or one.e >= WANTED) for one in found)


COLUMNS = ("server", "rate /s", "p99 ms", "own session /s", "batch", "E", "wanted", "best of any /s", "rate ÷ best")


def table(found: list[Efficiency], p99_ms: float) -> Table:
    result = results.new_table(f"Highest Poisson rate with p99 within {p99_ms:g} ms, over the model alone", COLUMNS)
    for one in found:
        own = SESSIONS[one.found.target]
        if one.found.rate is None or one.e is None or one.of_best is None:
            result.add_row(one.found.target, "none")
            continue
        result.add_row(
            one.found.target,
            f"{one.found.rate:.0f}",
            f"{one.found.p99_ms:.1f}",
            f"{one.own:.0f}",
            str(one.offline.best_batch(own)),
            f"{one.e:.3f}",
            f">= {WANTED:.2f}" if one.found.target == OURS else "",
            f"{one.offline.best():.0f}",
            f"{one.of_best:.3f}",
        )
    return result
