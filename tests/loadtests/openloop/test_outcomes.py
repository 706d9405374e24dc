"""Figures of a run: latencies from when requests were due, by kind, and when the generator is not to be trusted."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtests.openloop.arrivals import Schedule
from loadtests.openloop.outcomes import Generator, Latency, Outcomes, Verdict, bottleneck, plain

NAN = float("nan")
IDLE = Generator(end_s=5.0, cpu_share=0.2, connections=32, held=0)
# Due every second, the last one twice as large. The second was sent 0.5 s late; the fourth was never answered.
RUN = Outcomes(
    Schedule(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 0, 0, 1], np.int16)),
    ("1 row", "64 rows"),
    np.array([0.0, 1.5, 2.0, 3.0, 4.0]),
    np.array([0.1, 1.7, 2.01, NAN, 4.9]),
    np.array([Verdict.ANSWERED, Verdict.ANSWERED, Verdict.REFUSED, Verdict.PENDING, Verdict.ANSWERED], np.int8),
    IDLE,
)


def test_latencies_count_from_when_a_request_was_due() -> None:
    np.testing.assert_allclose(RUN.latencies_s(Verdict.ANSWERED), [0.1, 0.7, 0.9])
    np.testing.assert_allclose(RUN.lag_s, [0, 0.5, 0, 0, 0])


def test_each_kind_has_its_own() -> None:
    np.testing.assert_allclose(RUN.latencies_s(Verdict.ANSWERED, "1 row"), [0.1, 0.7])
    np.testing.assert_allclose(RUN.latencies_s(Verdict.ANSWERED, "64 rows"), [0.9])
    by_kind = RUN.summary().by_kind
    assert {name: one.count for name, one in by_kind.items()} == {"1 row": 2, "64 rows": 1}
    assert by_kind["64 rows"].p99_ms == pytest.approx(900)


def test_a_summary_counts_all_that_was_due() -> None:
    found = RUN.summary()
    assert (found.answered, found.refused, found.failed, found.unanswered) == (3, 1, 0, 1)
    assert found.offered_per_s == pytest.approx(5 / 4)
    assert found.refusals.p50_ms == pytest.approx(10)
    assert found.latency.p50_ms == pytest.approx(700) and found.latency.max_ms == pytest.approx(900)
    assert found.warning is not None and "late" in found.warning


def test_only_answers_within_the_deadline_are_good() -> None:
    # One of them, in the 3.2 s from the first deadline to when the last request was due.
    assert RUN.goodput(0.8) == pytest.approx(1 / 3.2)
    assert RUN.goodput(0.05) == 0


def test_what_is_answered_when_no_more_comes_is_no_goodput() -> None:
    # As many as were due in each second, but the last ten of them after the end.
    due_s, verdicts = np.arange(100) / 10, np.full(100, Verdict.ANSWERED, np.int8)
    schedule = Schedule(due_s, np.zeros(100, np.int16))
    run = Outcomes(schedule, ("1 row",), due_s, due_s + 0.95, verdicts, IDLE)
    assert run.goodput(1) == pytest.approx(10, rel=0.02)


def test_quantiles_are_times_that_were_seen() -> None:
    found = Latency.of(np.array([0.001] * 98 + [0.5, 1.0]))
    assert (found.p50_ms, found.p90_ms, found.p99_ms, found.max_ms) == (1, 1, 500, 1000)
    assert Latency.of(np.array([0.001] * 99 + [1.0])).p999_ms == 1000


def test_quantiles_of_nothing_are_none() -> None:
    found = Latency.of(np.array([]))
    assert found.count == 0 and math.isnan(found.p99_ms)


def test_within_a_bound_means_every_request() -> None:
    good = replace(RUN, verdicts=np.full(5, Verdict.ANSWERED, np.int8), done_s=RUN.schedule.due_s + 0.05)
    assert good.summary().within(51) and not good.summary().within(49)
    one_refused = replace(good, verdicts=np.array([1, 1, 1, 1, Verdict.REFUSED], np.int8))
    assert not one_refused.summary().within(51)


def latency(p99_ms: float) -> Latency:
    return Latency.of(np.array([p99_ms / 1e3]))


@pytest.mark.parametrize(
    ("p99_ms", "lag_ms", "generator", "part"),
    [
        (50, 0.9, IDLE, None),
        (50, 4.9, IDLE, None),
        (50, 5.1, IDLE, "sent late: 5.1 ms"),
        (2, 1.1, IDLE, "sent late"),
        (50, 0.1, replace(IDLE, cpu_share=0.9), "busy for 90%"),
        (50, 30, replace(IDLE, held=7), "7 requests waited for one of 32 connections"),
    ],
)
def test_a_generator_that_was_the_bottleneck_says_so(
    p99_ms: float, lag_ms: float, generator: Generator, part: str | None
) -> None:
    warning = bottleneck(latency(p99_ms), latency(lag_ms), generator)
    assert warning is None if part is None else part in str(warning)


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    run = replace(RUN, failure="refused")
    run.save(tmp_path / "run.npz")
    read = Outcomes.load(tmp_path / "run.npz")
    assert (read.names, read.generator, read.failure) == (run.names, run.generator, "refused")
    for one, other in ((read.sent_s, run.sent_s), (read.done_s, run.done_s), (read.schedule.due_s, run.schedule.due_s)):
        np.testing.assert_array_equal(one, other)
    assert read.summary() == run.summary()


def test_documents_hold_no_nan() -> None:
    value = {"a": NAN, "b": [1.0, (NAN, "x")], "c": {"d": 2}}
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {"a": None, "b": [1.0, [None, "x"]], "c": {"d": 2}}
