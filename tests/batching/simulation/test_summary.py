"""What a replay comes to, counted by hand."""

import math

import pytest

from serving.batching.settings import BatchSettings
from serving.batching.simulation.latency import Linear
from serving.batching.simulation.replay import Request, replay
from serving.batching.simulation.summary import summary


def test_figures_are_those_of_the_example() -> None:
    """Runs of 2 rows and of 3, in a size of 4: 0 to 8, 8 to 16. At 2 the queue is full; 9 is too late."""
    trace = [
        Request(0, rows=2),
        Request(1, rows=2, timeout_s=15),
        Request(1, rows=1),
        Request(2, rows=2),
        Request(9, rows=1, timeout_s=1),
    ]
    settings = BatchSettings(max_batch_size=4, max_queue_rows=4, allowed_sizes=(4,))
    found = summary(replay(trace, settings, Linear(4, 1)), bound_s=10)
    assert (found.requests, found.answered, found.refused, found.expired) == (5, 3, 1, 1)
    assert found.span_s == 16
    assert found.offered_rows_s == pytest.approx(8 / 9)
    assert (found.throughput_s, found.throughput_rows_s) == (3 / 16, 5 / 16)
    assert (found.goodput_s, found.in_time) == (1 / 16, 1 / 5)  # the second took 15 s, which it had, and more than 10
    assert (found.mean_batch_rows, found.padded) == (2.5, 3 / 8)
    assert found.utilisation == 1
    assert (found.mean_s, found.p50_s, found.max_s) == (38 / 3, 15, 15)
    assert summary(replay(trace, settings, Linear(4, 1))).in_time == 3 / 5


def test_of_several_instances_each_one_counts() -> None:
    found = summary(replay([Request(0), Request(0)], BatchSettings(max_batch_size=1, instances=4), Linear(2, 0)))
    assert found.utilisation == 0.5


def test_of_nothing_there_are_no_rates() -> None:
    found = summary(replay([], BatchSettings(), Linear(1, 1)))
    assert (found.requests, found.span_s) == (0, 0)
    assert all(map(math.isnan, (found.goodput_s, found.p99_s, found.mean_batch_rows, found.utilisation)))
