"""The highest rate that a server sustains, found with as few runs as possible. Pure: a run is a function's call."""

from collections.abc import Callable
from statistics import median

Sustained = Callable[[float, int], bool]  # a run's rate and its number, from which its seed may come
STEP = 1.1  # away from the guess
GROWTH = 1.3  # each further step is larger, in its logarithm
BRACKETS = 10
AGAIN = 500  # more than a search has runs


class SearchError(Exception):
    """No rate was sustained."""


def within(measure: Callable[[float, int], float], bound: float, near: float = 5) -> Sustained:
    """Whether what is measured at a rate is in `bound`. If it is beyond, but not `near` times as much, it is measured
    once more: something else on the machine may have been the reason, and a search does not come back to a rate."""

    def sustained(rate: float, number: int) -> bool:
        value = measure(rate, number)
        if bound < value <= near * bound:
            value = measure(rate, number + AGAIN)
        return value <= bound

    return sustained


def highest(sustained: Sustained, guess: float, tolerance: float = 0.02) -> float:
    """A rate that was sustained, at most `tolerance` of it below one that was not; first tries `guess`.

    SearchError when not even a small part of `guess` is sustained.
    """
    number, good, bad = 0, 0.0, 0.0
    rate, step = guess, STEP
    for number in range(BRACKETS):
        if sustained(rate, number):
            good = rate
        else:
            bad = rate
        if good and bad:
            break
        rate = rate * step if good else rate / step
        step **= GROWTH
    if not good:
        raise SearchError(f"not even {bad:.1f} requests a second were sustained")
    while bad and bad > good * (1 + tolerance):
        number += 1
        middle = (good + bad) / 2
        if sustained(middle, number):
            good = middle
        else:
            bad = middle
    return good


def confirmed(
    measure: Callable[[float, int], float], rate: float, bound: float, runs: int = 3, down: float = 0.02, tries: int = 8
) -> tuple[float, list[float]]:
    """The first of `rate` and rates below it by `down` each, at which the median of `runs` measurements is in `bound`.

    A search trusts single runs, and stops where one was lucky. Returns the rate and its measurements. SearchError when
    none of `tries` rates is confirmed.
    """
    number = 0
    for _ in range(tries):
        found = []
        for _ in range(runs):
            found.append(measure(rate, 1000 + number))
            number += 1
            # Two of three decide.
            over = sum(value > bound for value in found)
            if max(over, len(found) - over) > runs / 2:
                break
        if median(found) <= bound:
            return rate, found
        rate *= 1 - down
    raise SearchError(f"not even {rate:.1f} requests a second were confirmed")
