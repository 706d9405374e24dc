"""Slopes and their limits."""

import numpy as np
import pytest

from loadtests.soak.trend import Trend, of_periods, slope, student


def test_a_line_is_found_exactly() -> None:
    x = np.arange(20.0)
    found = slope(x, 3 * x + 5)
    assert found.slope == pytest.approx(3)
    assert found.low == pytest.approx(3) and found.high == pytest.approx(3)
    assert found.hours == 19 and found.means == 20


@pytest.mark.parametrize(("degrees", "known"), [(5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)])
def test_students_t(degrees: int, known: float) -> None:
    assert student(degrees) == pytest.approx(known, rel=0.01)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_limits_hold_zero_about_as_often_as_they_say(correlation: float) -> None:
    rng = np.random.default_rng(0)
    x, hits = np.arange(60.0) / 60, 0
    for _ in range(400):
        y, noise = np.empty(60), rng.normal(size=60)
        y[0] = noise[0]
        for i in range(1, 60):
            y[i] = correlation * y[i - 1] + noise[i]
        found = slope(x, y)
        hits += found.low <= 0 <= found.high
    assert 0.9 * 400 < hits < 0.99 * 400


def test_a_sawtooth_of_swaps_is_no_trend_and_a_leak_in_it_is() -> None:
    at_s = np.arange(0, 3600, 2.0)
    tooth = 20 * ((at_s % 60) / 60)
    noise = np.random.default_rng(0).normal(0, 1, len(at_s))
    assert of_periods(list(at_s), list(150 + tooth + noise), 60).verdict(5) == "not distinguishable from zero"
    leak = of_periods(list(at_s), list(150 + tooth + noise + 20 * at_s / 3600), 60)
    assert leak.grows(5) and leak.slope == pytest.approx(20, rel=0.1)


def test_verdicts() -> None:
    assert Trend(2, 1, 3, 30, 1).verdict(5) == "below 5 MB an hour"
    assert Trend(-2, -3, -1, 30, 1).verdict(5) == "falls"
    assert Trend(8, 4, 12, 30, 1).verdict(5) == "grows"
    assert "too short" in Trend(8, 4, 12, 5, 1).verdict(5)
    assert "too short" in Trend(8, 4, 12, 30, 0.1).verdict(5)
    assert of_periods([], [], 60).means == 0
