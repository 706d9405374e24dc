"""Searches for the highest rate, with servers that are simulated."""

import numpy as np
import pytest

from loadtests.openloop.arrivals import poisson
from loadtests.openloop.search import SearchError, confirmed, highest, within


@pytest.mark.parametrize("limit", [3, 480, 1000, 1001, 1400, 7900])
def test_it_ends_just_below_the_limit(limit: float) -> None:
    asked: list[float] = []

    def sustained(rate: float, number: int) -> bool:
        assert number == len(asked)
        asked.append(rate)
        return rate <= limit

    if limit == 3:
        with pytest.raises(SearchError):
            highest(sustained, 1000)
        return
    found = highest(sustained, 1000, tolerance=0.02)
    assert found in asked and limit / 1.02 <= found <= limit
    assert len(asked) <= 14


def test_a_good_guess_needs_few_runs() -> None:
    asked: list[float] = []

    def sustained(rate: float, _: int) -> bool:
        asked.append(rate)
        return rate <= 1030

    assert highest(sustained, 1000, tolerance=0.02) == pytest.approx(1025, rel=0.02)
    assert len(asked) <= 5


def test_a_limit_that_is_never_met_ends_too() -> None:
    assert highest(lambda rate, _: True, 100) > 1000


def p99_s(rate: float, seed: int, seconds: float = 10, service_s: float = 1e-3) -> float:
    """Of a queue with one server that takes a fixed time for each: the wait of Lindley's equation, and the service."""
    due_s = poisson(rate, seconds, [1], seed).due_s
    free, latencies = 0.0, []
    for at in due_s.tolist():
        free = max(free, at) + service_s
        latencies.append(free - at)
    return float(np.quantile(latencies, 0.99))


def test_a_queue_with_poisson_arrivals() -> None:
    # For such a queue (M/D/1) a 99th percentile of 10 services is reached at a load of about 0.79.
    found = highest(lambda rate, number: p99_s(rate, number) <= 10e-3, 600)
    rate, p99s = confirmed(lambda rate, number: p99_s(rate, number, seconds=20), found, 10e-3)
    assert rate == pytest.approx(790, rel=0.06)
    assert sorted(p99s)[len(p99s) // 2] <= 10e-3 < p99_s(1.1 * rate, 1, seconds=20)


def test_a_disturbance_does_not_decide() -> None:
    values = {0: 70.0, 500: 40.0, 1: 70.0, 501: 61.0, 2: 301.0, 3: 60.0}
    asked: list[int] = []

    def measure(_: float, number: int) -> float:
        asked.append(number)
        return values[number]

    sustained = within(measure, 60, near=5)
    assert [sustained(100, number) for number in range(4)] == [True, False, False, True]
    assert asked == [0, 500, 1, 501, 2, 3]


def test_a_lucky_rate_is_not_confirmed() -> None:
    asked: list[float] = []

    def measure(rate: float, _: int) -> float:
        asked.append(rate)
        return rate / 10

    rate, values = confirmed(measure, 1000, bound=97, runs=3, down=0.02)
    assert rate == pytest.approx(1000 * 0.98**2) and values == [rate / 10] * 2
    assert len(asked) == 6  # two that agree are enough


def test_the_majority_decides() -> None:
    values = iter([1.0, 9.0, 1.0])
    assert confirmed(lambda *_: next(values), 100, bound=5) == (100, [1.0, 9.0, 1.0])


def test_nothing_confirmed_is_an_error() -> None:
    with pytest.raises(SearchError, match="confirmed"):
        confirmed(lambda *_: 9.0, 100, bound=5, tries=3)
