"""What is wanted of a setting, and how much of it has to be measured to know whether it is better than the best so far.

Pure, but for the measuring that it is given.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from serving.tuning.setting import Outcome, Setting, Trial

GAIN = 1.05  # less is noise
_STEPS = 5  # of bisection
_FIRST = 0.7  # of the capacity
_LOWER = 0.5  # of what does not hold
_AGAIN = (1.0, 1.0, 0.85, 0.6)  # of the rate that held in the search
_LONGER = 2.0  # times as long as in the search, to confirm


class Bench(Protocol):
    """Measures. Blocks."""

    def capacity(self, setting: Setting, seconds: float) -> float:
        """Requests per second with many in flight."""

    def trial(self, setting: Setting, rate: float, seconds: float) -> Trial: ...


class Goal(Protocol):
    @property
    def p99_ms(self) -> float: ...

    def judge(self, bench: Bench, setting: Setting, best: Outcome | None, seconds: float) -> Outcome:
        """Measures a setting, as far as it may be better than `best`; one measurement takes so many seconds."""

    def better(self, one: Outcome, other: Outcome) -> bool:
        """Clearly, not by noise."""

    def confirm(self, bench: Bench, outcome: Outcome, best: Outcome, seconds: float) -> Outcome:
        """Measures again what was found: of many tries, the best was also the luckiest, and what failed may have been
        unlucky, so it is tried with what is claimed for the best."""


@dataclass(frozen=True)
class HighestRate:
    """As many requests per second as can be answered within the bound.

    Attributes:
        most: what is enough, since more do not come through the server.
    """

    p99_ms: float
    most: float = math.inf

    def judge(self, bench: Bench, setting: Setting, best: Outcome | None, seconds: float) -> Outcome:
        needed = GAIN * best.best.rate if best is not None and best.best is not None else 0.0
        if needed > self.most:
            return Outcome(setting, lost=True)
        capacity = bench.capacity(setting, seconds / 2)
        if capacity < needed:
            return Outcome(setting, (), None, capacity, lost=True)
        trials: list[Trial] = []
        found: Trial | None = None
        low, high = needed, min(capacity, self.most)
        rate = needed or (high if high == self.most else high * _FIRST)
        for _ in range(_STEPS):
            tried = bench.trial(setting, rate, seconds)
            trials.append(tried)
            if tried.holds(self.p99_ms):
                found, low = tried, rate
            elif needed and not found:
                return Outcome(setting, tuple(trials), None, capacity, lost=True)
            else:
                high = rate
            if high < GAIN * low:
                break
            rate = (low + high) / 2 if found else high * _LOWER
        return Outcome(setting, tuple(trials), found, capacity)

    def better(self, one: Outcome, other: Outcome) -> bool:
        if one.best is None or other.best is None:
            return _nearer(one, other)
        return one.best.rate >= GAIN * other.best.rate

    def confirm(self, bench: Bench, outcome: Outcome, best: Outcome, seconds: float) -> Outcome:
        claimed = outcome.best or best.best
        if claimed is None:
            return outcome
        trials = list(outcome.trials)
        for part in _AGAIN:
            tried = bench.trial(outcome.setting, part * claimed.rate, _LONGER * seconds)
            trials.append(tried)
            if tried.holds(self.p99_ms):
                return Outcome(outcome.setting, tuple(trials), tried, outcome.capacity)
        return Outcome(outcome.setting, tuple(trials), None, outcome.capacity)


@dataclass(frozen=True)
class LowestLatency:
    """The least p99, and within the bound, at a given rate."""

    p99_ms: float
    rate: float

    def judge(self, bench: Bench, setting: Setting, best: Outcome | None, seconds: float) -> Outcome:
        return self._one(bench, setting, (), seconds * _LONGER)

    def better(self, one: Outcome, other: Outcome) -> bool:
        if one.best is None or other.best is None:
            return _nearer(one, other)
        return one.best.p99_ms * GAIN <= other.best.p99_ms

    def confirm(self, bench: Bench, outcome: Outcome, best: Outcome, seconds: float) -> Outcome:
        return self._one(bench, outcome.setting, outcome.trials, seconds * _LONGER**2)

    def _one(self, bench: Bench, setting: Setting, before: tuple[Trial, ...], seconds: float) -> Outcome:
        tried = bench.trial(setting, self.rate, seconds)
        return Outcome(setting, (*before, tried), tried if tried.holds(self.p99_ms) else None)


def _nearer(one: Outcome, other: Outcome) -> bool:
    """Of two of which not both hold the bound: the one that does, or that is clearly nearer to it."""
    if one.best is not None or other.best is not None:
        return one.best is not None
    nearest, others = (min((t.p99_ms for t in each.trials), default=math.inf) for each in (one, other))
    return math.isfinite(nearest) and nearest * GAIN <= others
