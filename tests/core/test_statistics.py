"""Counting what a version has done."""

from serving.core.statistics import Duration, Statistics
from serving.core.types import Timing


def test_a_request_counts_once_with_its_phases() -> None:
    seen = Statistics()
    seen.answered(3, 0.010, Timing(queue_s=0.001, compute_s=0.006, input_s=0.002, run_s=0.003, output_s=0.001))
    seen.answered(1, 0.010, Timing(run_s=0.5))
    assert (seen.rows, seen.success, seen.fail) == (4, Duration(2, 20_000_000), Duration())
    assert (seen.queue, seen.input) == (Duration(2, 1_000_000), Duration(2, 2_000_000))
    assert (seen.run, seen.output) == (Duration(2, 503_000_000), Duration(2, 1_000_000))
    assert seen.last_inference_ms > 1_600_000_000_000
    assert seen.runs == 0 and seen.batches == {}


def test_a_request_that_failed_is_no_answer() -> None:
    seen = Statistics()
    seen.failed(0.25)
    assert (seen.fail, seen.success, seen.rows, seen.last_inference_ms) == (Duration(1, 250_000_000), Duration(), 0, 0)


def test_a_run_counts_under_its_rows() -> None:
    seen = Statistics()
    for rows in (4, 1, 4):
        seen.ran(rows, 0.001, 0.002, 0.003)
    assert seen.runs == 3 and seen.rows == 0
    assert {rows: batch.run.count for rows, batch in seen.batches.items()} == {4: 2, 1: 1}
    four = seen.batches[4]
    assert (four.input, four.run, four.output) == (
        Duration(2, 2_000_000),
        Duration(2, 4_000_000),
        Duration(2, 6_000_000),
    )
