"""When a version on trial has to go: as soon as a limit is passed for certain, and never without a reason."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.traffic import Limits
from serving.repository.routing.judge import Judge, Verdict


def judged(*trials: int, **limits: float) -> tuple[Judge, list[Verdict]]:
    """A judge of these versions against version 1."""
    verdicts: list[Verdict] = []
    return Judge(Limits.model_validate(limits), 1, trials or (2,), verdicts.append), verdicts


@pytest.mark.parametrize(
    ("error_rate", "requests", "fatal"),
    [(0.1, 100, 11), (0.01, 100, 2), (0, 100, 1), (0.29, 100, 30), (0.07, 100, 8), (0.5, 3, 2), (0.9, 10, 10)],
)
def test_the_error_that_is_one_too_many(error_rate: float, requests: int, fatal: int) -> None:
    judge, verdicts = judged(error_rate=error_rate, requests=requests)
    for _ in range(fatal - 1):
        judge.failed(2)
    assert not verdicts
    judge.failed(2)
    (verdict,) = verdicts
    assert verdict.version == 2
    assert verdict.reason == (
        f"it failed on {fatal} of {fatal} requests; allowed are {error_rate * 100:.4g} % of {requests}"
    )


def test_a_verdict_is_given_once() -> None:
    judge, verdicts = judged(error_rate=0, different_rate=0)
    for _ in range(3):
        judge.failed(2)
        judge.compared(2, False)
        judge.answered(2, 1.0, 1)
    assert len(verdicts) == 1


def test_versions_are_judged_apart() -> None:
    judge, verdicts = judged(2, 3, error_rate=0.1, requests=10)
    judge.failed(2)
    judge.failed(3)
    assert not verdicts
    judge.failed(3)
    assert [v.version for v in verdicts] == [3]
    judge.failed(2)
    assert [v.version for v in verdicts] == [3, 2]


def test_without_a_limit_nothing_counts() -> None:
    judge, verdicts = judged()
    for _ in range(10):
        judge.answered(1, 0.001, 1)
    for _ in range(200):
        judge.failed(2)
        judge.answered(2, 100.0, 1)
        judge.compared(2, False)
    assert not verdicts


def test_what_is_not_on_trial_is_not_judged() -> None:
    judge, verdicts = judged(error_rate=0, different_rate=0, latency_ratio=1)
    for version in (1, 7):
        judge.failed(version)
        judge.answered(version, 9.0, 1)
    judge.compared(7, False)
    assert not verdicts


@given(
    st.integers(1, 30), st.fractions(0, Fraction(99, 100), max_denominator=100), st.lists(st.booleans(), max_size=120)
)
def test_it_is_the_latest_requests_that_count(requests: int, rate: Fraction, bad: list[bool]) -> None:
    """Against a plain recount: the first request at which more than the rate of the last `requests` are bad."""
    judge, verdicts = judged(error_rate=float(rate), requests=requests)
    expected = None
    for i, failed in enumerate(bad):
        if failed:
            judge.failed(2)
        else:
            judge.answered(2, 0.001, 1)
        if expected is None and Fraction(sum(bad[max(0, i + 1 - requests) : i + 1]), requests) > rate:
            expected = i
        assert bool(verdicts) == (expected is not None), i


def test_errors_that_the_default_version_makes_too_are_not_held_against_a_trial() -> None:
    judge, verdicts = judged(error_rate=0.1, requests=100)
    for i in range(100):  # every fifth request is one that no version can take
        judge.failed(1) if i % 5 == 0 else judge.answered(1, 0.001, 1)
    for i in range(100):
        judge.failed(2) if i % 5 == 0 else judge.answered(2, 0.001, 1)
    assert not verdicts
    for _ in range(14):  # in place of the oldest, 3 of which had failed
        assert not verdicts
        judge.failed(2)
    (verdict,) = verdicts
    assert verdict.reason.endswith("allowed are 10 % of 100 beyond the 20 % of version 1")


def runs(judge: Judge, version: int, *run_s: float, rows: int = 1) -> None:
    for one in run_s:
        judge.answered(version, one, rows)


def test_the_median_run_that_takes_too_long() -> None:
    judge, verdicts = judged(latency_ratio=2, requests=10)
    runs(judge, 1, *[0.010] * 10)
    runs(judge, 2, 0.021, 0.019, 0.5, 0.020, 0.5, 0.001, 0.5, 0.5)  # 5 of 8 are slow
    assert not verdicts
    runs(judge, 2, 0.021)
    (verdict,) = verdicts
    assert verdict.reason == (
        "its runs took 21 ms where those of version 1 take 10 ms (medians), "
        "and more than 2 times as long in 6 of 9 requests"
    )


def test_half_of_the_runs_may_be_slow() -> None:
    judge, verdicts = judged(latency_ratio=2, requests=10)
    runs(judge, 1, *[0.010] * 10)
    runs(judge, 2, *[0.010, 1.0] * 50)
    assert not verdicts


def test_runs_are_held_against_runs_of_as_many_rows() -> None:
    """A version with a small share gets small batches, which would hide how slow it is."""
    judge, verdicts = judged(latency_ratio=2, requests=10)
    runs(judge, 1, *[0.100] * 50, rows=60)
    runs(judge, 1, *[0.010] * 5, rows=1)
    runs(judge, 2, *[0.190] * 20, rows=64 - 1)
    assert not verdicts
    runs(judge, 2, *[0.030] * 10, rows=1)
    assert len(verdicts) == 1


def test_runs_of_more_rows_stand_in_where_none_had_as_many() -> None:
    judge, verdicts = judged(latency_ratio=2, requests=10)
    runs(judge, 1, *[0.010] * 5, rows=8)
    runs(judge, 2, *[0.019] * 10, rows=1)
    assert not verdicts
    runs(judge, 2, *[0.500] * 10, rows=16)  # these may well take longer
    assert not verdicts
    runs(judge, 2, *[0.021] * 6, rows=1)
    assert len(verdicts) == 1


def test_a_few_runs_of_the_default_version_make_no_median() -> None:
    judge, verdicts = judged(latency_ratio=2, requests=3)
    runs(judge, 1, *[0.001] * 4)
    runs(judge, 2, *[1.0] * 10)
    assert not verdicts
    runs(judge, 1, 0.001)
    runs(judge, 2, 1.0, 1.0)
    assert len(verdicts) == 1


def test_the_difference_that_is_one_too_many() -> None:
    judge, verdicts = judged(different_rate=0.02, requests=100)
    for same in (True, False, True, False, True, True):
        judge.compared(2, same)
    assert not verdicts
    judge.compared(2, False)
    (verdict,) = verdicts
    assert verdict.reason == ("its answers differ from those of version 1 in 3 of 7 requests; allowed are 2 % of 100")
