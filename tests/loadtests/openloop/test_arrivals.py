"""Schedules: the same from the same seed, and Poisson."""

import numpy as np
import pytest

from loadtests.openloop.arrivals import poisson


def test_the_same_seed_gives_the_same_schedule_and_another_one_another() -> None:
    one, again, other = (poisson(500, 4, [99, 1], seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.due_s, again.due_s)
    np.testing.assert_array_equal(one.kinds, again.kinds)
    assert len(one) != len(other) or (one.due_s != other.due_s).any()


def test_arrivals_are_in_order_within_the_time_and_as_many_as_asked_for() -> None:
    found = poisson(1000, 20, [1], seed=1)
    assert (np.diff(found.due_s) >= 0).all() and found.due_s[0] >= 0 and found.due_s[-1] < 20
    assert len(found) == pytest.approx(20_000, abs=5 * 20_000**0.5)


def test_gaps_are_exponential() -> None:
    gaps_s = np.diff(poisson(1000, 50, [1], seed=2).due_s)
    # As long as the mean is the standard deviation, and 1/e of all gaps are longer.
    assert gaps_s.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps_s.std() == pytest.approx(1e-3, rel=0.03)
    assert (gaps_s > 1e-3).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert (gaps_s > 3e-3).mean() == pytest.approx(np.exp(-3), abs=0.005)


def test_kinds_come_as_often_as_their_weights_say() -> None:
    kinds = poisson(5000, 10, [98, 0, 2], seed=3).kinds
    assert (kinds == 2).mean() == pytest.approx(0.02, abs=0.004)
    assert (kinds == 1).sum() == 0


@pytest.mark.parametrize(("rate", "seconds", "weights"), [(0, 1, [1]), (1, 0, [1]), (1, 1, [0]), (1, 1, [2, -1])])
def test_what_is_no_schedule(rate: float, seconds: float, weights: list[float]) -> None:
    with pytest.raises(ValueError, match="no schedule"):
        poisson(rate, seconds, weights, seed=0)
