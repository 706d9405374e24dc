"""Work in slices: all of it is done, in order, and never much of it in one turn of the loop."""

import asyncio
import time

import pytest

from serving.transport.slices import Slices
from tests.transport.raw import on_loop, until


@pytest.mark.parametrize("pause_s", [0.0, 0.001])
@on_loop
async def test_a_turn_does_no_more_than_it_may(pause_s: float) -> None:
    turns: list[list[int]] = [[]]
    slices = Slices(asyncio.get_running_loop(), lambda number: turns[-1].append(number), 3, pause_s)
    slices.add(range(4))
    slices.add(range(4, 8))
    assert len(slices) == 8 and turns == [[]]  # not in the turn of who adds
    while slices:
        await asyncio.sleep(0)
        turns.append([])
    assert [turn for turn in turns if turn] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    slices.add([8])
    await until(lambda: not slices)
    assert turns[-1] == [8]


@on_loop
async def test_slow_work_ends_a_turn_early() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        time.sleep(0.001)
        done.append(number)

    slices = Slices(asyncio.get_running_loop(), work, 100)
    slices.add(range(3))
    await asyncio.sleep(0)
    assert done == [0]
    await until(lambda: not slices)
    assert done == [0, 1, 2]


@on_loop
async def test_work_that_adds_to_itself_has_one_turn_at_a_time() -> None:
    """Each of two that go on would plan a turn of its own, and each of those another one."""
    loop = asyncio.get_running_loop()
    done = 0

    def work(left: int) -> None:
        nonlocal done
        done += 1
        if left:
            slices.add([left - 1])

    slices = Slices(loop, work, most=1)
    slices.add([50, 50])
    for turn in range(20):
        assert done == turn
        await asyncio.sleep(0)
    await until(lambda: not slices)
    assert done == 102


@on_loop
async def test_work_that_fails_stops_no_other() -> None:
    loop = asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    done: list[int] = []

    def work(number: int) -> None:
        if number == 1:
            raise ValueError("one")
        done.append(number)

    slices = Slices(loop, work, 10)
    slices.add(range(3))
    await until(lambda: not slices)
    slices.add([3])
    await until(lambda: len(done) == 3)
    assert done == [0, 2, 3] and [str(failure) for failure in failures] == ["one"]
