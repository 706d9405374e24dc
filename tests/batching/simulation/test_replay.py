"""What becomes of a trace: examples worked out by hand, a formula of queueing theory, and what always holds."""

import random
from collections import Counter
from itertools import pairwise

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.item import Batch, Closed
from serving.batching.policies import POLICIES
from serving.batching.queue import BatchQueue
from serving.batching.settings import BatchSettings
from serving.batching.simulation.latency import Linear, Noisy
from serving.batching.simulation.replay import Cut, Replay, Request, replay
from serving.core.errors import ErrorKind


def arrivals(*moments: float) -> list[Request]:
    return [Request(at) for at in moments]


def spans(result: Replay) -> list[tuple[float, float, tuple[int, ...]]]:
    return [(run.began_s, run.ended_s, run.requests) for run in result.runs]


# Worked out by hand: a run takes 4 s, and 1 s for each row


def test_what_arrives_while_an_instance_is_busy_shares_its_next_run() -> None:
    result = replay(arrivals(0, 1, 2, 3, 4, 4.5), BatchSettings(max_batch_size=4), Linear(4, 1))
    assert spans(result) == [(0, 5, (0,)), (5, 13, (1, 2, 3, 4)), (13, 18, (5,))]
    assert [answer.latency_s for answer in result.answers] == [5, 12, 11, 10, 9, 13.5]
    assert [run.closed for run in result.runs] == [Closed.FREE, Closed.FULL, Closed.FREE]


def test_what_arrives_the_moment_a_run_ends_is_in_the_next() -> None:
    assert spans(replay(arrivals(0, 1, 5), BatchSettings(max_batch_size=4), Linear(4, 1))) == [
        (0, 5, (0,)),
        (5, 11, (1, 2)),
    ]


def test_a_delay_ends_when_it_is_over_or_the_batch_is_full() -> None:
    result = replay(arrivals(0, 1, 20, 21, 22), BatchSettings(max_batch_size=3, max_queue_delay_s=10.0), Linear(4, 1))
    assert spans(result) == [(10, 16, (0, 1)), (22, 29, (2, 3, 4))]


def test_two_instances_share_the_work() -> None:
    result = replay(arrivals(0, 0, 0, 0, 1), BatchSettings(max_batch_size=2, instances=2), Linear(4, 1))
    assert [(run.instance, run.began_s, run.requests) for run in result.runs] == [
        (0, 0, (0, 1)),
        (1, 0, (2, 3)),
        (0, 6, (4,)),
    ]


def test_padding_is_run_too() -> None:
    (run,) = replay(arrivals(0, 0, 0), BatchSettings(max_batch_size=8, allowed_sizes=(4, 8)), Linear(4, 1)).runs
    assert (run.rows, run.size, run.seconds) == (3, 4, 8)


def test_a_request_of_more_rows_than_a_run_is_answered_when_all_of_them_were_run() -> None:
    trace = [Request(0, rows=5), Request(1)]
    result = replay(trace, BatchSettings(max_batch_size=4, max_request_rows=8), Linear(4, 1))
    assert spans(result) == [(0, 8, (0,)), (8, 14, (0, 1))]
    assert [answer.told_s for answer in result.answers] == [14, 14]


def test_the_more_urgent_overtake() -> None:
    trace = [Request(0), Request(1, priority=2), Request(2, priority=1)]
    result = replay(trace, BatchSettings(max_batch_size=1, priority_levels=2, default_level=2), Linear(4, 1))
    assert spans(result) == [(0, 5, (0,)), (5, 10, (2,)), (10, 15, (1,))]


def test_who_cannot_be_in_time_is_told_at_once_and_who_is_late_when_he_is() -> None:
    """Nothing is known of runs before the first has ended, at 5; then that one row takes 5 s, or 15 s to be sure."""
    trace = [
        Request(0),
        Request(1, timeout_s=20),
        Request(2, timeout_s=4),
        Request(7, timeout_s=9),
        Request(8, timeout_s=30),
    ]
    result = replay(trace, BatchSettings(max_batch_size=1), Linear(4, 1))
    assert spans(result) == [(0, 5, (0,)), (5, 10, (1,)), (10, 15, (4,))]
    assert [(answer.told_s, answer.error) for answer in result.answers] == [
        (5, None),
        (10, None),
        (6, ErrorKind.EXPIRED),
        (7, ErrorKind.EXPIRED),
        (15, None),
    ]


def test_a_full_queue_refuses() -> None:
    result = replay(arrivals(0, 1, 1, 1), BatchSettings(max_batch_size=1, max_queue_rows=2), Linear(4, 1))
    assert [answer.error for answer in result.answers] == [None, None, None, ErrorKind.QUEUE_FULL]
    assert result.answers[3].told_s == 1


def test_an_empty_trace_is_nothing() -> None:
    assert replay([], BatchSettings(max_batch_size=4), Linear(4, 1)) == Replay([], [], 1)


def test_a_queue_that_keeps_what_is_due_is_found_out() -> None:
    class Keeping(BatchQueue):
        def take(self, now: float) -> Batch:
            return Batch()

    with pytest.raises(RuntimeError, match=r"a batch was due at 1\.0 s"):
        replay(arrivals(1), BatchSettings(), Linear(4, 1), lambda _settings, _cut: Keeping(4, 100))


# Theory


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_mean_wait_of_single_requests_follows_pollaczek_and_khinchine(load: float) -> None:
    """M/D/1: Poisson arrivals, runs of one row that all take as long."""
    run_s, rng = 0.01, random.Random(7)
    now, trace = 0.0, []
    for _ in range(20_000):
        now += rng.expovariate(load / run_s)
        trace.append(Request(now))
    result = replay(trace, BatchSettings(max_batch_size=1, max_queue_rows=10**6), Linear(run_s, 0))
    waited = sum(answer.latency_s - run_s for answer in result.answers) / len(trace)
    assert waited == pytest.approx(load * run_s / (2 * (1 - load)), rel=0.06)
    assert sum(run.seconds for run in result.runs) / now == pytest.approx(load, rel=0.02)


# What always holds

moments = st.integers(0, 40).map(lambda n: n / 2)  # requests meet each other, and ends of runs


def requests(timeouts: bool) -> st.SearchStrategy[list[Request]]:
    return st.lists(
        st.builds(
            Request,
            at_s=moments,
            rows=st.integers(1, 6),
            lane=st.sampled_from(["a", "b", None]),
            timeout_s=st.none() | st.integers(1, 20).map(float) if timeouts else st.none(),
            priority=st.integers(0, 2),
        ),
        max_size=25,
    ).map(lambda trace: sorted(trace, key=lambda request: request.at_s))


@st.composite
def set_ups(draw: st.DrawFn) -> BatchSettings:
    allowed = draw(st.sampled_from([(), (1, 4, 8), (2, 3, 5)]))
    return BatchSettings(
        max_batch_size=allowed[-1] if allowed else draw(st.integers(1, 8)),
        max_queue_rows=draw(st.integers(4, 40)),
        max_queue_delay_s=draw(st.sampled_from([0.0, 2.0])),
        instances=draw(st.integers(1, 3)),
        max_request_rows=draw(st.sampled_from([0, 6])),
        allowed_sizes=allowed,
        slo_s=draw(st.sampled_from([None, 3.0, 12.0])),
        policy=draw(st.sampled_from(sorted(POLICIES))),
        priority_levels=2,
        default_level=draw(st.sampled_from([1, 2])),
    )


latencies = st.builds(Linear, st.sampled_from([0.0, 0.5, 3.0]), st.sampled_from([0.25, 1.0]))


@given(requests(timeouts=True), set_ups(), latencies)
def test_nobody_is_lost_and_rows_are_kept(trace: list[Request], settings: BatchSettings, latency: Linear) -> None:
    made: list[BatchQueue] = []

    def queue(settings: BatchSettings, cut: Cut) -> BatchQueue:
        made.append(BatchQueue.of(settings, cut))
        return made[0]

    result = replay(trace, settings, latency, queue)
    (left,) = made
    assert [answer.request for answer in result.answers] == trace
    assert (len(left), left.rows) == (0, 0)
    most = settings.max_batch_size
    parts = Counter(number for run in result.runs for number in run.requests)
    for number, answer in enumerate(result.answers):
        cut = answer.request.lane is not None and answer.request.rows > most
        whole = -(-answer.request.rows // most) if cut else 1
        assert parts[number] == whole if answer.error is None else parts[number] < whole
    rows = sum(answer.request.rows for answer in result.answers if answer.error is None)
    wasted = any(parts[number] for number, answer in enumerate(result.answers) if answer.error is not None)
    assert sum(run.rows for run in result.runs) == rows or wasted
    for run in result.runs:
        members = [trace[number] for number in run.requests]
        assert run.rows <= run.size <= most or (len(members) == 1 and members[0].lane is None)
        assert len({request.lane for request in members}) == 1
        assert len(members) == 1 or members[0].lane is not None


@given(requests(timeouts=True), set_ups(), latencies)
def test_everything_happens_in_its_time(trace: list[Request], settings: BatchSettings, latency: Linear) -> None:
    result = replay(trace, settings, latency)
    ended = dict.fromkeys(range(len(trace)), 0.0)
    for run in result.runs:
        assert run.seconds == pytest.approx(latency(run.size))
        for number in run.requests:
            assert trace[number].at_s <= run.began_s < trace[number].deadline_s
            ended[number] = max(ended[number], run.ended_s)
    for instance in range(settings.instances):
        own = [run for run in result.runs if run.instance == instance]
        assert all(before.ended_s <= after.began_s for before, after in pairwise(own))
    for number, answer in enumerate(result.answers):
        if answer.error is None:
            assert answer.told_s == ended[number]
        elif answer.error is ErrorKind.EXPIRED:
            assert answer.request.at_s <= answer.told_s <= answer.request.deadline_s
        else:
            assert answer.told_s == answer.request.at_s


@given(requests(timeouts=False), set_ups(), latencies)
def test_requests_of_a_kind_run_in_order(trace: list[Request], settings: BatchSettings, latency: Linear) -> None:
    """Those of one lane and priority."""
    begun: dict[tuple[object, int], int] = {}
    for run in replay(trace, settings, latency).runs:
        for number in run.requests:
            kind = (trace[number].lane, settings.level(trace[number].priority))
            assert begun.get(kind, 0) <= number
            begun[kind] = number


@hypothesis.settings(max_examples=200)
@given(requests(timeouts=True), set_ups(), latencies)
def test_no_instance_is_idle_while_somebody_has_waited_for_the_delay(
    trace: list[Request], settings: BatchSettings, latency: Linear
) -> None:
    result = replay(trace, settings, latency)
    left = [answer.told_s for answer in result.answers]
    for run in reversed(result.runs):
        for number in run.requests:
            left[number] = run.began_s  # of several parts the first: the others are run as soon as they can be, too
    moments = {run.began_s for run in result.runs} | {run.ended_s for run in result.runs} | {r.at_s for r in trace}
    for now in moments:
        busy = sum(run.began_s <= now < run.ended_s for run in result.runs)
        waiting = [request for request, gone in zip(trace, left, strict=True) if request.at_s <= now < gone]
        patient = all(now < request.at_s + settings.max_queue_delay_s for request in waiting)
        assert busy == settings.instances or patient


@given(requests(timeouts=True), set_ups(), st.integers(0, 5))
def test_a_seed_decides_everything(trace: list[Request], settings: BatchSettings, seed: int) -> None:
    def once() -> Replay:
        return replay(trace, settings, Noisy(Linear(1, 0.5), 0.3, seed))

    assert once() == once()
