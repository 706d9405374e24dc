"""What is made of one attack's figures. Pure.

The rise is what the attack did to the honest client: by how many milliseconds its p99 was higher while the attack ran
than before it, on the same connection to the same process; at least one millisecond, since less is not told from noise.
The ratio of rises is that of our server over that of a process which does nothing, under the same attack on the same
machine: what the attacker takes of the machine's cores is in both. A ratio of 1 says that the attack hurts honest
clients only as far as it would hurt those of anyone on this machine.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.hostile.catalog import Attack

WANTED_RATIO = 1.5
LEAST_RISE_MS = 1.0
MIN_SAMPLES = 20


@dataclass(frozen=True)
class Memory:
    """Of a server's processes: megabytes in memory and open files, before the attack, at most, and after it."""

    before_mb: float
    peak_mb: float
    after_mb: float
    before_files: int
    peak_files: int
    after_files: int


@dataclass(frozen=True)
class Side:
    """One process under one attack: milliseconds of the honest client, what the attacker saw, what was held."""

    before_p99_ms: float
    during_p99_ms: float
    during_max_ms: float
    samples: int
    seen: Mapping[str, int]
    memory: Memory
    failure: str | None = None
    refused: Mapping[str, float] = field(default_factory=dict)  # as the server itself has counted

    @property
    def rise_ms(self) -> float:
        return max(self.during_p99_ms - self.before_p99_ms, LEAST_RISE_MS)


@dataclass(frozen=True)
class Result:
    """One attack, each round on both processes."""

    attack: str
    serving: Sequence[Side]
    nothing: Sequence[Side]

    @property
    def ratio(self) -> float:
        """The median over the rounds of the ratio of rises."""
        return statistics.median(
            ours.rise_ms / theirs.rise_ms for ours, theirs in zip(self.serving, self.nothing, strict=True)
        )


def p99(values: Sequence[float]) -> float:
    """In the unit of the values, of which there must be some."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def complaints(attack: Attack, result: Result, wanted_ratio: float = WANTED_RATIO) -> list[str]:
    """What is not as it should be; nothing, if the server stood the attack."""
    found = []
    known = {*attack.expected, *attack.allowed}
    for side in result.serving:
        if side.failure is not None:
            found.append(f"the honest client met: {side.failure}")
        found += [f"nobody saw: {outcome}" for outcome in attack.expected if not side.seen.get(outcome)]
        found += [
            f"unexpected: {outcome} ({n} times)" for outcome, n in side.seen.items() if n and outcome not in known
        ]
        cost = side.memory.peak_mb - side.memory.before_mb
        if cost > attack.may_cost_mb:
            found.append(f"took {cost:.0f} MB, and may take {attack.may_cost_mb}")
        if side.failure is None and side.samples < MIN_SAMPLES:
            found.append(f"the honest client had {side.samples} answers only")
    if result.ratio > wanted_ratio:
        found.append(f"the ratio of rises is {result.ratio:.2f}, and {wanted_ratio:g} is wanted")
    return list(dict.fromkeys(found))
