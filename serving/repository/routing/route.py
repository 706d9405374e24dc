"""Which version answers a request that names none, and who gets copies of it. Pure.

A `Routing` is made anew for each catalog, of what was asked for and of the versions that are ready; requests read it.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate

from serving.core.traffic import Shadow, Traffic
from serving.repository.routing.judge import Judge
from serving.repository.version import Version

STABLE, CANARY = "stable", "canary"  # the labels that a rollout goes by


@dataclass(frozen=True)
class Routing:
    """
    Attributes:
        default: the version with the label `stable` if it has a share, otherwise the one with the largest. It stands
            for the model where a choice by chance would not do, and what is on trial is held against it. None: no
            version that has a share is ready.
        shares: what each ready version gets of the requests that name none, by number; they add up to 1.
        trials: versions other than `default` that get requests or copies, by number.
        sticky: the header whose value says who goes together.
        shadow: gets copies of what `default` has answered.
        judge: decides on those on trial.
    """

    model: str
    default: Version | None
    shares: Mapping[int, float]
    trials: Mapping[int, Version]
    named: tuple[tuple[str, float, Version], ...]  # as asked for: a label or number, its weight, the version that it is
    sticky: str | None = None
    shadow: tuple[Version, Shadow] | None = None
    judge: Judge | None = None
    edges: tuple[float, ...] = ()  # the shares of `named`, added up

    def pick(self, key: str | None = None, draw: Callable[[], float] = random.random) -> Version | None:
        """The version for one request.

        Args:
            key: requests with the same key get the same version for as long as the weights stay, on every server. When
                the weight of a version grows, those who have it keep it.
            draw: gives a number in [0, 1) for a request without a key.
        """
        if len(self.shares) < 2:
            return self.default
        if key is None:
            return self.named[bisect_right(self.edges, draw(), hi=len(self.edges) - 1)][2]
        return min(self.named, key=lambda one: self._wait(one[0], one[1], key))[2]

    def _wait(self, name: str, weight: float, key: str) -> float:
        """A race for each key: all names start a clock that runs as fast as their weight, and the first to ring has it.
        A name is first in proportion to its weight, and a weight that changes moves nobody between two others."""
        text = "\0".join((self.model, name, key)).encode("utf-8", "surrogatepass")
        chance = (int.from_bytes(blake2b(text, digest_size=8).digest()) + 1) / (2**64 + 1)
        return -math.log(chance) / weight


def number_of(name: str, labels: Mapping[str, int]) -> int | None:
    """The version that a label or a number means; a label goes first. None: there is no such label."""
    if name in labels:
        return labels[name]
    return int(name) if name.isascii() and name.isdigit() else None


def numbers_of(traffic: Traffic | None, labels: Mapping[str, int]) -> set[int]:
    """The versions that requests or copies shall go to."""
    found = (number_of(name, labels) for name in traffic.names) if traffic else ()
    return {number for number in found if number is not None}


def route(
    model: str, traffic: Traffic | None, labels: Mapping[str, int], ready: Mapping[int, Version]
) -> Routing | None:
    """None: nothing was asked for that makes a difference, so the highest ready version takes all.

    The weight of a version that is not ready is shared out over the others; but where none of those that were asked for
    is ready, none takes its place. A version that only gets copies takes no requests.
    """
    if traffic is None:
        return None
    weights = {name: weight for name, weight in traffic.weights.items() if weight > 0}
    asked = {name: number for name in weights if (number := number_of(name, labels)) is not None}
    target = number_of(traffic.shadow.to, labels) if traffic.shadow else None
    if not asked:
        if target is None:
            return None
        highest = max((number for number in ready if number != target), default=None)
        asked = {} if highest is None else {str(highest): highest}
        weights = dict.fromkeys(asked, 1.0)
    named = tuple((name, weights[name], ready[number]) for name, number in asked.items() if number in ready)
    total = sum(weight for _, weight, _ in named)
    shares: dict[int, float] = {}
    for _, weight, version in named:
        shares[version.number] = shares.get(version.number, 0.0) + weight / total
    default = _default(shares, labels)
    trials = {number: ready[number] for number in shares if number != default}
    shadow = None
    if traffic.shadow is not None and target is not None and target in ready and default not in (None, target):
        trials[target] = ready[target]
        shadow = ready[target], traffic.shadow
    return Routing(
        model,
        None if default is None else ready[default],
        dict(sorted(shares.items())),
        dict(sorted(trials.items())),
        named,
        traffic.sticky,
        shadow,
        edges=tuple(accumulate(weight / total for _, weight, _ in named)),
    )


def _default(shares: Mapping[int, float], labels: Mapping[str, int]) -> int | None:
    stable = labels.get(STABLE)
    if stable in shares:
        return stable
    return max(shares, key=lambda number: (shares[number], -number), default=None)
