"""Requests are really sent to a real batcher; what the model does is under the test's control."""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.batcher import Batcher
from serving.tuning.offered import OfferedError, Submit, arrivals, offer, saturate, typical_p99
from tests.batching.control import Gate, batching, on_loop, rows

LONG_S = 30.0  # a bound that holds whatever else the machine does


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@asynccontextmanager
async def model(**settings: Any) -> AsyncIterator[tuple[Gate, Batcher, Submit]]:
    gate = Gate()
    async with batching(gate, **settings) as batcher:
        yield gate, batcher, lambda: batcher.submit({"x": rows(1.0)}, ("y",), 1)


@on_loop
async def test_all_is_answered() -> None:
    async with model() as (gate, batcher, submit):
        gate.open()
        trial = await offer(batcher, submit, 1000, 0.1, LONG_S, rng())
    assert (trial.rate, trial.sent, trial.answered) == (1000, 100, 100)
    assert 0 < trial.p50_ms <= trial.p99_ms < math.inf and trial.holds(1000 * LONG_S)
    assert sum(map(len, gate.batches)) == 100
    assert trial.rows_per_run == 100 / len(gate.batches)


@on_loop
async def test_a_trial_has_a_few_requests_in_any_case() -> None:
    async with model() as (gate, batcher, submit):
        gate.open()
        trial = await offer(batcher, submit, 100, 0.001, LONG_S, rng())
    assert trial.sent == trial.answered == 20


@on_loop
async def test_what_is_refused_is_not_answered() -> None:
    """The first run lasts until all have been sent; one may wait meanwhile."""
    async with model(max_batch_size=1, max_queue_rows=1) as (gate, batcher, _submit):
        sent = 0

        def submit() -> Any:
            nonlocal sent
            sent += 1
            if sent == 20:
                gate.open()
            return batcher.submit({"x": rows(1.0)}, ("y",), 1)

        trial = await offer(batcher, submit, 100_000, 0.0, LONG_S, rng())
    assert trial.sent == 20 and trial.answered < 20 and trial.p99_ms == math.inf
    assert not trial.holds(math.inf)


@on_loop
async def test_a_trial_without_hope_is_ended() -> None:
    """Nothing is ever answered; nothing waits in the batcher afterwards."""
    async with model() as (_gate, batcher, submit):
        trial = await offer(batcher, submit, 10_000, 0.01, 0.01, rng())
        assert trial.answered == 0 and trial.p99_ms == math.inf
        assert batcher.queued_rows == 0


def fails(_x: np.ndarray) -> np.ndarray:
    raise ValueError("no such thing")


@on_loop
async def test_a_model_that_fails() -> None:
    gate = Gate(fails)
    gate.open()
    async with batching(gate) as batcher:
        with pytest.raises(OfferedError, match="no such thing"):
            await offer(batcher, submit_to(batcher), 1000, 0.05, LONG_S, rng())
        with pytest.raises(OfferedError, match="no such thing"):
            await saturate(submit_to(batcher), 4, 0.05)


def submit_to(batcher: Batcher) -> Callable[[], Any]:
    return lambda: batcher.submit({"x": rows(1.0)}, ("y",), 1)


@on_loop
async def test_saturation_keeps_as_many_in_flight_as_were_asked_for() -> None:
    async with model(max_batch_size=4) as (gate, batcher, submit):
        gate.open()
        per_s = await saturate(submit, 8, 0.05)
        assert per_s > 0 and batcher.queued_rows == 0
    assert max(map(len, gate.batches)) == 4


@on_loop
async def test_saturation_of_what_refuses() -> None:
    async with model(max_queue_rows=2) as (_gate, _batcher, submit):
        with pytest.raises(OfferedError, match="maximum queue size"):
            await saturate(submit, 100, 0.05)


def test_arrivals_are_a_poisson_process() -> None:
    times = arrivals(100, 200, rng())
    gaps = np.diff(times)
    assert len(times) == 20_000 and (gaps >= 0).all()
    assert 0.97 < 100 * gaps.mean() < 1.03  # the mean of an exponential distribution
    assert 0.95 < 100 * gaps.std() < 1.05  # which is its deviation, too
    assert arrivals(100, 200, rng()) == times


class TestTypicalP99:
    def test_a_single_stall_decides_nothing(self) -> None:
        took: list[float | None] = [0.001] * 300
        took[10:20] = [0.5] * 10
        assert typical_p99(took) == 1.0
        assert typical_p99(took[:200]) == 500.0  # with too few requests for parts

    def test_a_queue_that_grows_is_seen(self) -> None:
        assert typical_p99([i / 1000 for i in range(600)]) > 390

    def test_what_is_not_answered_takes_for_ever(self) -> None:
        assert typical_p99([0.001] * 50 + [None]) == math.inf

    @given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=500))
    def test_is_one_of_them(self, took: list[float]) -> None:
        assert typical_p99(took) in [1000 * each for each in took]
