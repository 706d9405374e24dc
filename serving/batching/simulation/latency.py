"""How long a run of so many rows takes, in seconds: what stands for the model in a simulation. Pure."""

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Latency = Callable[[int], float]
"""Seconds of one run, by its rows."""


@dataclass(frozen=True)
class Linear:
    """`fixed_s` for every run and `row_s` for each of its rows."""

    fixed_s: float
    row_s: float

    def __post_init__(self) -> None:
        if min(self.fixed_s, self.row_s) < 0:
            raise ValueError(f"a run cannot take less than no time: {self}")

    def __str__(self) -> str:
        return f"{1000 * self.fixed_s:g} ms a run and {1000 * self.row_s:g} ms a row"

    def __call__(self, rows: int) -> float:
        return self.fixed_s + self.row_s * rows


class Measured:
    """Seconds by rows where they were measured, and on straight lines through those points elsewhere.

    Below the first point it is the first one's time: runs have a floor. Beyond the last, the last line goes on; with
    one point only, time is proportional to rows.

    Raises:
        ValueError: no points, or one that cannot be.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        if not seconds or min(seconds) < 1 or min(seconds.values()) < 0:
            raise ValueError(f"expected seconds of runs by their rows, got {dict(seconds)}")
        self._points = sorted(seconds.items())

    def __call__(self, rows: int) -> float:
        points = self._points
        if rows <= points[0][0]:
            return points[0][1]
        if len(points) == 1:
            return points[0][1] * rows / points[0][0]
        end = min(bisect_left(points, (rows, 0.0)), len(points) - 1)
        (r0, s0), (r1, s1) = points[end - 1 : end + 1]
        return max(s0 + (s1 - s0) * (rows - r0) / (r1 - r0), 0.0)

    def __repr__(self) -> str:
        return f"Measured({dict(self._points)})"

    @property
    def points(self) -> dict[int, float]:
        return dict(self._points)

    def __str__(self) -> str:
        return ", ".join(f"{rows} rows {1000 * seconds:.3g} ms" for rows, seconds in self._points)


class Noisy:
    """Another latency times a random factor of mean 1: log-normal, as times of runs are.

    Args:
        spread: the factor's standard deviation.
        seed: the same seed gives the same times, run by run.
    """

    def __init__(self, latency: Latency, spread: float, seed: int) -> None:
        if spread < 0:
            raise ValueError(f"a spread is not negative, got {spread}")
        self._latency = latency
        # Of a log-normal with mean 1: variance = exp(sigma^2) - 1, and mu = -sigma^2 / 2.
        variance = math.log1p(spread**2)
        self._mu, self._sigma = -variance / 2, math.sqrt(variance)
        self._random = random.Random(seed)

    def __call__(self, rows: int) -> float:
        return self._latency(rows) * self._random.lognormvariate(self._mu, self._sigma)


def capacity(latency: Latency, max_rows: int, instances: int = 1) -> tuple[float, int]:
    """The most rows per second that runs of one size can make, and that size."""
    best = max(range(1, max_rows + 1), key=lambda rows: rows / max(latency(rows), 1e-12))
    return instances * best / max(latency(best), 1e-12), best
