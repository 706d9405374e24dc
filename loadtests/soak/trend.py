"""Does a series grow? A slope, and between which limits it lies with 95 % confidence. Pure.

What a server takes goes up and down with each swap of a version, and neighbouring samples are much alike. So samples
are averaged over whole periods of swaps first. Where what is left still resembles its neighbours, there is less in it
than so many independent values would tell: the limits count as many as it is worth, after Santer and others, Journal of
Geophysical Research 105 (2000) 7337.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

FEWEST, SHORTEST_H = 10, 1 / 6  # means, and the time that they span, below which nothing is said
_Z = 1.959964  # of the normal distribution, for 95 %


@dataclass(frozen=True)
class Trend:
    """MB per hour. `low` and `high` limit the slope; `means` is how many values it was computed from, over `hours`."""

    slope: float
    low: float
    high: float
    means: int
    hours: float

    @property
    def tells(self) -> bool:
        """Whether there is enough of it to say anything."""
        return self.means >= FEWEST and self.hours >= SHORTEST_H

    def verdict(self, bearable: float) -> str:
        """In words; `bearable` is MB an hour. `grows` says whether that is a failure."""
        if not self.tells:
            least = f"{FEWEST} in {60 * SHORTEST_H:g} minutes are needed"
            return f"too short to tell: {self.means} periods in {60 * self.hours:.1f} minutes, {least}"
        if self.low <= 0 <= self.high:
            return "not distinguishable from zero"
        if self.high <= bearable:
            return "falls" if self.high < 0 else f"below {bearable:g} MB an hour"
        return "grows"

    def grows(self, bearable: float) -> bool:
        return self.verdict(bearable) == "grows"


def of_periods(at_s: Sequence[float], values: Sequence[float], period_s: float) -> Trend:
    """The slope of the means of `values` over whole periods; what is left at the end is left out."""
    times, series = np.asarray(at_s), np.asarray(values, np.float64)
    numbers = ((times - times[0]) // period_s).astype(int) if len(times) else np.empty(0, int)
    whole = [number for number in np.unique(numbers) if (number + 1) * period_s <= times[-1] - times[0]]
    means = np.array([series[numbers == number].mean() for number in whole])
    return slope(np.array(whole) * period_s / 3600, means)


def slope(x: np.ndarray, y: np.ndarray) -> Trend:
    """Of y over x by least squares. The limits are infinite where there are too few points."""
    count = len(x)
    if count < 3:
        return Trend(0.0, -np.inf, np.inf, count, 0.0)
    deviations = x - x.mean()
    square = float(deviations @ deviations)
    found = float(deviations @ y) / square
    left = y - y.mean() - found * deviations
    worth = count * (1 - (alike := likeness(left))) / (1 + alike)
    if worth < 3:
        return Trend(found, -np.inf, np.inf, count, float(x[-1] - x[0]))
    error = sqrt(float(left @ left) / (worth - 2) / square)
    reach = student(worth - 2) * error
    return Trend(found, found - reach, found + reach, count, float(x[-1] - x[0]))


def likeness(left: np.ndarray) -> float:
    """The correlation of neighbours, from 0, corrected for what fitting a line and having few values take from it."""
    square = float(left @ left)
    found = float(left[1:] @ left[:-1]) / square if square else 0.0
    return min(max(found + (1 + 4 * found) / len(left), 0.0), 0.99)


def student(degrees: float) -> float:
    """Where Student's t leaves 2.5 % on each side, by Cornish and Fisher's expansion; within 1 % from 5 degrees on."""
    z = _Z
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
