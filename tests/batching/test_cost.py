"""What a run takes is learned from runs."""

import random

import pytest

from serving.batching.cost import Cost


def learned(*runs: tuple[int, float]) -> Cost:
    cost = Cost()
    for rows, seconds in runs:
        cost.observe(rows, seconds)
    return cost


def test_nothing_is_known_at_first() -> None:
    cost = Cost()
    assert not cost
    assert cost.estimate(8) == 0.0
    assert repr(cost) == "<Cost unknown>"


def test_what_was_seen_is_expected() -> None:
    cost = learned(*[(8, 0.010)] * 5)
    assert cost
    assert cost.estimate(8) == pytest.approx(0.010)
    assert repr(cost) == "<Cost 8 rows 10 ms>"


@pytest.mark.parametrize(("rows", "seconds"), [(1, 0.002), (4, 0.005), (8, 0.009), (16, 0.017)])
def test_between_and_beyond_is_a_straight_line(rows: int, seconds: float) -> None:
    assert learned((1, 0.002), (8, 0.009)).estimate(rows) == pytest.approx(seconds)


def test_of_one_size_alone_larger_ones_take_longer_in_proportion_and_smaller_ones_as_long() -> None:
    cost = learned((8, 0.010))
    assert cost.estimate(32) == pytest.approx(0.040)
    assert cost.estimate(1) == pytest.approx(0.010)


def test_more_rows_never_take_less() -> None:
    cost = learned((1, 0.010), (8, 0.004), (64, 0.020))
    assert cost.estimate(8) == cost.estimate(1)


def test_a_change_is_followed_and_one_stall_hardly_counts() -> None:
    cost = learned(*[(8, 0.010)] * 50)
    cost.observe(8, 10.0)
    assert cost.estimate(8) < 0.015
    for _ in range(100):
        cost.observe(8, 0.050)
    assert cost.estimate(8) == pytest.approx(0.050, rel=0.02)


def test_what_is_sure_is_hardly_ever_exceeded() -> None:
    rng = random.Random(1)
    times = [rng.gauss(0.010, 0.001) for _ in range(500)]
    cost = learned(*((8, seconds) for seconds in times))
    assert cost.estimate(8) < cost.estimate(8, sure=True) < 0.020
    assert sum(seconds > cost.estimate(8, sure=True) for seconds in times) < 10


@pytest.mark.parametrize(("seconds", "rows"), [(0.001, 1), (0.002, 1), (0.0055, 4), (0.009, 8), (1.0, 64)])
def test_rows_that_fit_into_a_time(seconds: float, rows: int) -> None:
    assert learned((1, 0.002), (8, 0.009)).rows_within(seconds, 64) == rows


def test_nothing_known_keeps_nobody_small() -> None:
    assert Cost().rows_within(0.001, 64) == 64
