"""The real batcher under a trace, told in the words of a simulation. How long anything takes is not asked."""

import asyncio

import pytest

from loadtests.simulate.validate import COMPARED, arrived, measured, ratios, run_real
from serving.batching.settings import BatchSettings
from serving.batching.simulation.latency import Linear, Noisy
from serving.batching.simulation.replay import Replay, Request, replay
from serving.batching.simulation.summary import summary
from serving.core.errors import ErrorKind


def real(*trace: Request, **settings: int) -> Replay:
    return asyncio.run(run_real(trace, BatchSettings(**settings), Linear(0.002, 0.0001)))


def test_what_the_batcher_did_is_told_whole() -> None:
    trace = [Request(number / 2000, rows=1 + number % 3, lane="ab"[number % 2]) for number in range(60)]
    result = real(*trace, max_batch_size=8, instances=2)
    assert result.instances == 2 and {run.instance for run in result.runs} <= {0, 1}
    assert [(r.rows, r.lane) for r in arrived(result)] == [(r.rows, r.lane) for r in trace]
    assert all(request.at_s >= planned.at_s for request, planned in zip(arrived(result), trace, strict=True))
    ran = [number for run in result.runs for number in run.requests]
    assert sorted(ran) == list(range(60))
    for run in result.runs:
        assert run.rows == sum(trace[number].rows for number in run.requests) == run.size <= 8
        assert len({trace[number].lane for number in run.requests}) == 1
        for number in run.requests:
            answer = result.answers[number]
            assert answer.error is None
            assert answer.request.at_s <= run.began_s < run.ended_s <= answer.told_s


def test_padding_and_parts_are_seen() -> None:
    result = real(Request(0, rows=3), max_batch_size=4, max_request_rows=9)
    assert [(run.rows, run.size) for run in result.runs] == [(3, 3)]
    result = asyncio.run(
        run_real([Request(0, rows=9)], BatchSettings(4, max_request_rows=9, allowed_sizes=(4,)), Linear(0, 0))
    )
    assert [(run.requests, run.rows, run.size) for run in result.runs] == [((0,), 4, 4), ((0,), 4, 4), ((0,), 1, 4)]


def test_who_was_refused_has_his_reason() -> None:
    result = real(Request(0), Request(0, rows=4), Request(0, timeout_s=0.0), Request(0), max_queue_rows=3)
    kinds = [answer.error for answer in result.answers]
    assert kinds == [None, ErrorKind.INVALID, ErrorKind.EXPIRED, None]


def test_a_simulation_of_itself_agrees_with_itself() -> None:
    settings = BatchSettings(max_batch_size=4)
    result = replay([Request(n / 100) for n in range(50)], settings, Noisy(Linear(0.01, 0.02), 0.3, 1))
    again = replay(arrived(result), settings, measured(result))
    assert [run.requests for run in again.runs] == [run.requests for run in result.runs]
    assert [run.ended_s for run in again.runs] == pytest.approx([run.ended_s for run in result.runs])
    assert ratios(summary(again), summary(result)) == pytest.approx(dict.fromkeys(COMPARED, 1.0))
