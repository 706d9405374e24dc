"""The highest rate of a server with its 99th percentile within a bound: searched for, and confirmed in longer runs.

Runs on the main thread; servers and generators are processes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from loadtests.openloop import load, search
from loadtests.openloop.load import Kind, Target
from loadtests.openloop.outcomes import Summary


@dataclass(frozen=True)
class Amounts:
    """Seconds of a run while searching, and of each that confirms; how far apart the last two rates of a search are."""

    probe_s: float = 8
    confirm_s: float = 20
    confirmations: int = 3
    tolerance: float = 0.02
    warm_up_s: float = 2

    def quick(self) -> "Amounts":
        return Amounts(1.5, 2, 1, 0.1, 0.5)


@dataclass
class Found:
    """`rate` is None where none was found, and `failure` says why. `judged_ms` is the 99th percentile that the bound is
    for, in each of the confirming runs."""

    target: str
    bound_ms: float
    rate: float | None = None
    failure: str | None = None
    judged_ms: list[float] = field(default_factory=list)
    probes: list[Summary] = field(default_factory=list)
    confirmations: list[Summary] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        return median(self.judged_ms) if self.judged_ms else float("nan")


def highest(
    target: Target,
    kinds: Sequence[Kind],
    bound_ms: float,
    guess: float,
    amounts: Amounts,
    say: Callable[[str], None],
    judged: str | None = None,
    between: Callable[[], object] = lambda: None,
) -> Found:
    """Nothing may be refused or fail either.

    Args:
        guess: requests a second, where the search begins.
        judged: the kind that the bound is for; None: all.
        between: called between the search and its confirmation, while nothing is sent.
    """
    found = Found(target.name, bound_ms)

    def run(seconds: float, into: list[Summary], rate: float, number: int) -> float:
        say(f"{target.name}: {rate:.0f} requests a second for {seconds:g} s")
        seen = load.summary(target, kinds, rate, seconds, seed=number)
        into.append(seen)
        if seen.refused + seen.failed + seen.unanswered:
            return float("inf")
        return seen.by_kind[judged].p99_ms if judged is not None else seen.latency.p99_ms

    probe = partial(run, amounts.probe_s, found.probes)
    confirm = partial(run, amounts.confirm_s, found.confirmations)
    run(amounts.warm_up_s, [], guess / 3, 0)
    try:
        rate = search.highest(search.within(probe, bound_ms), guess, amounts.tolerance)
        between()
        found.rate, found.judged_ms = search.confirmed(
            confirm, rate, bound_ms, amounts.confirmations, amounts.tolerance
        )
    except search.SearchError as error:
        found.failure = str(error)
    return found
