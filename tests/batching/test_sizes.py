"""Padding up or batching down, whichever makes more rows per second."""

import pytest

from serving.batching import sizes
from serving.batching.cost import Cost


def linear(per_run: float, per_row: float) -> Cost:
    cost = Cost()
    for rows in (1, 2, 4, 8, 16, 32, 64):
        cost.observe(rows, per_run + per_row * rows)
    return cost


def test_any_size_is_allowed_unless_told_otherwise() -> None:
    assert sizes.fit(7, (), Cost()) == 7
    assert sizes.at_least(7, ()) == 7


@pytest.mark.parametrize(("rows", "size"), [(1, 4), (4, 4), (5, 16), (16, 16)])
def test_next_larger_one_while_nothing_is_known(rows: int, size: int) -> None:
    assert sizes.fit(rows, (4, 16), Cost()) == size


@pytest.mark.parametrize(("rows", "size"), [(17, 16), (47, 16), (63, 16), (3, 4), (15, 4)])
def test_smaller_ones_where_rows_are_what_costs(rows: int, size: int) -> None:
    """What is left over shares its run with those who come meanwhile."""
    assert sizes.fit(rows, (4, 16, 64), linear(0.0001, 0.001)) == size


def test_larger_ones_where_runs_are_what_costs() -> None:
    assert sizes.fit(17, (4, 16, 64), linear(1.0, 0.001)) == 64
