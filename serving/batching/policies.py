"""When a free instance takes a batch, and how large it may be. Pure; a policy is asked under the queue's lock.

Three come with the server; others are found under the entry point group `serving.batching`. What is true of all batches
(who may share a run, the order, deadlines, sizes that a model allows) is the queue's and not a policy's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from serving.batching.cost import Cost


class Waiting(Protocol):
    """Requests that wait and may share a run."""

    @property
    def rows(self) -> int:
        """Of all of them."""

    @property
    def oldest(self) -> float:
        """When the one that has waited longest arrived."""

    def rows_by(self, time: float) -> int:
        """Of those that had arrived by then."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What a model's settings say to its policy. `slo_s` None: there is none."""

    max_rows: int
    delay_s: float = 0.0
    slo_s: float | None = None


class Policy(Protocol):
    def start(self, waiting: Waiting) -> float:
        """When a free instance takes of what waits: a time that has passed means at once."""

    def rows(self, waiting: Waiting, cost: Cost) -> int:
        """How many rows it takes then, at least 1 and at most `max_rows`."""

    def ran(self, rows: int, seconds: float) -> None:
        """A run has ended."""


class Continuous:
    """A free instance takes what waits, at once or when `delay_s` is over. The batch is formed then, so that what has
    arrived while all instances were busy is in it."""

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings

    def start(self, waiting: Waiting) -> float:
        settings = self._settings
        return waiting.oldest + (0.0 if waiting.rows >= settings.max_rows else settings.delay_s)

    def rows(self, waiting: Waiting, cost: Cost) -> int:
        settings = self._settings
        if settings.slo_s is None:
            return settings.max_rows
        # Who has just missed a run waits for all of it, and then for his own.
        return cost.rows_within(settings.slo_s / 2, settings.max_rows)

    def ran(self, rows: int, seconds: float) -> None:
        pass


class FixedDelay(Continuous):
    """A batch closes when it is full or the delay is over, whether an instance is free or not; who comes later is in
    the next one. So do servers that batch by a timer: it is here to be compared with."""

    def rows(self, waiting: Waiting, cost: Cost) -> int:
        settings = self._settings
        return max(1, min(waiting.rows_by(waiting.oldest + settings.delay_s), settings.max_rows))


class Adaptive(Continuous):
    """The largest batch grows by one row while runs take less than half of `slo_s`, and shrinks by a tenth when one
    takes longer: additive increase, multiplicative decrease, as in Clipper (Crankshaw et al., NSDI 2017)."""

    _SHRINK = 0.9

    def __init__(self, settings: PolicySettings) -> None:
        super().__init__(settings)
        self._most = 1.0

    def rows(self, waiting: Waiting, cost: Cost) -> int:
        return int(self._most)

    def start(self, waiting: Waiting) -> float:
        return waiting.oldest + (0.0 if waiting.rows >= int(self._most) else self._settings.delay_s)

    def ran(self, rows: int, seconds: float) -> None:
        limit = self._settings.slo_s
        if limit is not None and seconds > limit / 2:
            self._most = max(1.0, self._most * self._SHRINK)
        elif rows >= int(self._most):
            self._most = min(float(self._settings.max_rows), self._most + 1)


POLICIES: Mapping[str, Callable[[PolicySettings], Policy]] = {
    "continuous": Continuous,
    "fixed_delay": FixedDelay,
    "adaptive": Adaptive,
}

_GROUP = "serving.batching"


def find(name: str) -> Callable[[PolicySettings], Policy]:
    """What makes a policy of this name.

    Raises:
        ValueError: there is none; the message names those that there are.
    """
    if name in POLICIES:
        return POLICIES[name]
    others = entry_points(group=_GROUP)
    for found in others:
        if found.name == name:
            made: Callable[[PolicySettings], Policy] = found.load()
            return made
    known = ", ".join(sorted({*POLICIES, *others.names}))
    raise ValueError(f"no batching policy '{name}'; there are {known}")
