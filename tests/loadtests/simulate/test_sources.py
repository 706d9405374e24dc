"""Made traces: as much and as often as asked for, and what is wrong with a description."""

from dataclasses import replace
from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from loadtests.simulate.sources import Recorded, Shape, generated
from serving.batching.simulation.replay import Request


def gaps(trace: list[Request]) -> list[float]:
    return [after.at_s - before.at_s for before, after in pairwise(trace)]


@pytest.mark.parametrize("kind", ["poisson", "periodic", "bursts", "mixed"])
def test_as_many_come_as_were_asked_for_in_their_time(kind: str) -> None:
    trace = generated(f"{kind}:500,seconds=20").requests()
    assert len(trace) == pytest.approx(10_000, rel=0.05)
    moments = [request.at_s for request in trace]
    assert moments == sorted(moments) and moments[0] >= 0 and moments[-1] < 20
    assert trace == generated(f"{kind}:500,seconds=20").requests()


def test_gaps_of_poisson_arrivals_vary_as_much_as_their_mean_and_periodic_ones_not() -> None:
    poisson = gaps(generated("poisson:100,seconds=100").requests())
    assert (fmean(poisson), pstdev(poisson)) == pytest.approx((0.01, 0.01), rel=0.05)
    assert gaps(generated("periodic:100,seconds=1").requests()) == pytest.approx([0.01] * 99)


def test_between_bursts_nobody_comes() -> None:
    trace = generated("bursts:100,seconds=50,on_s=0.2,off_s=0.3").requests()
    assert all(request.at_s % 0.5 <= 0.2 + 1e-9 for request in trace)
    without, poisson = (generated(text).requests() for text in ("bursts:100,off_s=0", "poisson:100"))
    assert [request.at_s for request in without] == pytest.approx([request.at_s for request in poisson])


def test_one_request_in_a_hundred_is_large() -> None:
    rows = [request.rows for request in generated("mixed:1000").requests()]
    assert set(rows) == {1, 64}
    assert rows.count(64) / len(rows) == pytest.approx(0.01, rel=0.2)


def test_lanes_priorities_and_timeouts_are_as_they_were_told() -> None:
    trace = generated("poisson:1000,seconds=4,lanes=2,urgent_share=0.25,timeout_ms=40,rows=3").requests()
    assert {(request.lane, request.rows, request.timeout_s) for request in trace} == {("0", 3, 0.04), ("1", 3, 0.04)}
    assert [request.priority for request in trace].count(1) / len(trace) == pytest.approx(0.25, rel=0.1)
    (plain, *_) = generated("poisson:1000").requests()
    assert plain == Request(plain.at_s)


def test_at_another_speed_as_many_come_in_another_time() -> None:
    source = generated("poisson:100,seconds=10,timeout_ms=5")
    assert [r.at_s for r in source.requests(2)] == pytest.approx([r.at_s / 2 for r in source.requests()])
    assert {r.timeout_s for r in source.requests(2)} == {0.005}
    bursts = generated("bursts:100,seconds=40,on_s=0.2,off_s=0.2").requests(4)
    assert bursts[-1].at_s < 10
    assert all(request.at_s % 0.4 <= 0.2 + 1e-9 for request in bursts)  # no shorter than they were


def test_a_recorded_trace_at_another_speed() -> None:
    trace = (Request(1, rows=2, timeout_s=3), Request(4))
    assert Recorded("r", trace).requests(2) == [Request(0.5, rows=2, timeout_s=3), Request(2)]


def test_a_description_is_named_by_what_it_says() -> None:
    source = generated("bursts:2e3,on_s=0.05,seconds=20")
    assert source.name == "bursts:2000,on_s=0.05"
    assert generated(source.name) == source
    assert generated("mixed:5").shape == replace(Shape(), large_share=0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weibull:5", "no kind of arrivals 'weibull': there are poisson, periodic, bursts, mixed"),
        ("poisson:fast", "the rate of 'poisson' is a number, got 'fast'"),
        ("poisson:0", "'rate' is more than 0, got 0"),
        ("poisson:nan", "'rate' is more than 0, got nan"),
        ("poisson:5,speed=2", "no setting 'speed' of 'poisson': there are seconds, "),
        ("poisson:5,rows", "'rows' is a number, got ''"),
        ("poisson:5,rows=0.5", "'rows' is more than 0, got 0"),
        ("poisson:5,timeout_ms=-1", "'timeout_ms' is not negative, got -1"),
        ("poisson:5,large_share=2", "'large_share' is between 0 and 1, got 2"),
    ],
)
def test_what_is_wrong_with_a_description_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generated(text)
