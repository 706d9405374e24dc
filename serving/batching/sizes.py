"""Batch sizes that a model allows: how many rows a run really has. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from serving.batching.cost import Cost


def at_least(rows: int, allowed: Sequence[int]) -> int:
    """The smallest size that holds so many rows.

    Args:
        rows: at most the largest that is allowed.
        allowed: in ascending order; none: any.
    """
    return allowed[bisect_left(allowed, rows)] if allowed else rows


def fit(rows: int, allowed: Sequence[int], cost: Cost) -> int:
    """The size at which waiting rows are run: the next larger one, padded, or the next smaller one if that makes more
    rows per second; what is left shares its run with those who come meanwhile. Arguments as of `at_least`."""
    up = at_least(rows, allowed)
    if up == rows or rows < allowed[0]:
        return up
    down = allowed[bisect_right(allowed, rows) - 1]
    return down if down * cost.estimate(up) > rows * cost.estimate(down) else up
