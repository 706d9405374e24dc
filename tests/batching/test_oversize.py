"""A request of more rows than a run may hold gets one answer, out of several runs."""

import asyncio
import gc
import weakref

import numpy as np
import pytest

from serving.core.errors import ErrorKind, ServingError
from tests.batching.control import Gate, after, ask, batching, on_loop, rows, turns

LIMITS = {"max_batch_size": 4, "max_request_rows": 100}


@on_loop
async def test_rows_come_back_in_order() -> None:
    gate = Gate()
    async with batching(gate, **LIMITS) as batcher:
        gate.open()
        assert await ask(batcher, *range(10)) == [10 * n for n in range(10)]
        assert gate.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@on_loop
async def test_last_part_has_room_for_others() -> None:
    gate = Gate()
    async with batching(gate, **LIMITS) as batcher:
        large, small = asyncio.ensure_future(ask(batcher, *range(6))), asyncio.ensure_future(ask(batcher, 7))
        gate.open()
        assert await small == [70] and await large == [0, 10, 20, 30, 40, 50]
        assert gate.batches == [[0, 1, 2, 3], [4, 5, 7]]


@on_loop
async def test_without_a_batch_axis_it_runs_whole() -> None:
    gate = Gate()
    async with batching(gate, **LIMITS) as batcher:
        gate.open()
        assert await ask(batcher, *range(6), lane=None) == [10 * n for n in range(6)]
        assert gate.batches == [[0, 1, 2, 3, 4, 5]]


@on_loop
async def test_beyond_the_limit_it_is_refused_as_a_whole() -> None:
    async with batching(Gate(), max_batch_size=4, max_request_rows=100, max_queue_rows=8) as batcher:
        with pytest.raises(ServingError, match="100") as refused:
            batcher.submit({"x": rows(*range(101))}, ("y",), 101)
        assert refused.value.kind is ErrorKind.INVALID
        with pytest.raises(ServingError, match="9 rows can never wait where 8 rows may"):
            batcher.submit({"x": rows(*range(9))}, ("y",), 9)
        assert batcher.queued_rows == 0


@on_loop
async def test_when_one_part_fails_the_others_are_not_run() -> None:
    def strict(x: np.ndarray) -> np.ndarray:
        if x[0, 0] == 4:
            raise ValueError("no fours")
        return x

    gate = Gate(strict)
    async with batching(gate, **LIMITS) as batcher:
        answer = asyncio.ensure_future(ask(batcher, *range(12)))
        assert await gate.entered() == [0, 1, 2, 3]
        gate.let()
        assert await gate.entered() == [4, 5, 6, 7]
        gate.open()
        with pytest.raises(ServingError, match="no fours"):
            await answer
        await asyncio.sleep(0.01)
        assert batcher.queued_rows == 0
        assert await ask(batcher, 1) == [1]
        assert all(batch[0] in (0, 1, 4, 8) for batch in gate.batches)


@on_loop
async def test_a_caller_that_leaves_takes_all_parts_along() -> None:
    gate = Gate()
    async with batching(gate, **LIMITS) as batcher:
        answer = asyncio.ensure_future(ask(batcher, *range(12)))
        assert await gate.entered() == [0, 1, 2, 3]
        answer.cancel()
        await turns()
        assert batcher.queued_rows == 0
        gate.open()
        assert await ask(batcher, 5) == [50]
        assert gate.batches == [[0, 1, 2, 3], [5]]


@on_loop
async def test_times_are_of_all_runs() -> None:
    gate = Gate(after(0.01))
    async with batching(gate, **LIMITS) as batcher:
        gate.open()
        item = batcher.submit({"x": rows(*range(8))}, ("y",), 8)
        _, timing = await item.reply
        assert timing.rows == 4 and timing.run_s >= 0.02


@on_loop
async def test_nothing_is_kept_for_the_garbage_collector() -> None:
    gate = Gate()
    async with batching(gate, **LIMITS) as batcher:
        gate.open()
        gc.disable()
        try:
            x = rows(*range(8))
            seen = weakref.ref(x)
            item = batcher.submit({"x": x}, ("y",), 8)
            await item.reply
            del x, item
            await turns()
            await asyncio.sleep(0.01)
            assert seen() is None
        finally:
            gc.enable()


@on_loop
async def test_small_ones_do_not_wait_for_all_of_a_large_one() -> None:
    gate = Gate()
    async with batching(gate, max_batch_size=20) as batcher:
        held = asyncio.ensure_future(ask(batcher, 99))
        assert await gate.entered() == [99]
        large = asyncio.ensure_future(ask(batcher, *range(16)))
        small = [asyncio.ensure_future(ask(batcher, n)) for n in (20, 21)]
        await turns()
        gate.let()
        assert await gate.entered() == [0, 1, 2, 3, 20, 21]
        gate.let()
        assert [await answer for answer in (held, *small)] == [[990], [200], [210]]
        gate.open()
        assert await large == [10 * n for n in range(16)]
        assert gate.batches[2:] == [list(range(4, 16))]


@on_loop
async def test_a_caller_that_leaves_when_his_request_was_cut_takes_the_rest_along() -> None:
    gate = Gate()
    async with batching(gate, max_batch_size=20) as batcher:
        held = asyncio.ensure_future(ask(batcher, 99))
        assert await gate.entered() == [99]
        large, small = asyncio.ensure_future(ask(batcher, *range(16))), asyncio.ensure_future(ask(batcher, 20))
        await turns()
        gate.let()
        assert await gate.entered() == [0, 1, 2, 3, 20]
        large.cancel()
        await turns()
        assert batcher.queued_rows == 0
        gate.open()
        assert await held == [990] and await small == [200]
        assert len(gate.batches) == 2
