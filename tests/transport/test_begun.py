import asyncio
from contextvars import ContextVar

import pytest

from serving.transport.begun import begin
from tests.transport.raw import on_loop

number: ContextVar[int] = ContextVar("number", default=0)


@on_loop
async def test_what_needs_not_wait_is_done_at_once() -> None:
    done = []

    async def work() -> None:
        done.append(1)

    assert begin(asyncio.get_running_loop(), work()) is None
    assert done == [1]


@on_loop
async def test_what_waits_goes_on_as_a_task() -> None:
    loop = asyncio.get_running_loop()
    gates = [loop.create_future() for _ in range(3)]
    seen: list[object] = []

    async def work() -> None:
        for gate in gates:
            seen.append(await gate)
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    task = begin(loop, work())
    assert task is not None and seen == []
    gates[1].set_result("b")  # in any order
    gates[0].set_result("a")
    await asyncio.sleep(0.01)
    assert seen == ["a", "b"]
    gates[2].set_result("c")
    await task
    assert seen == ["a", "b", "c", task]


@on_loop
async def test_what_it_waits_for_may_have_happened_before_the_task_begins() -> None:
    loop = asyncio.get_running_loop()
    gate, seen = loop.create_future(), []

    async def work() -> None:
        seen.append(await gate)

    task = begin(loop, work())
    gate.set_result("a")
    assert task is not None
    await task
    assert seen == ["a"]


@on_loop
async def test_an_error_is_the_tasks_or_the_callers() -> None:
    loop = asyncio.get_running_loop()

    async def fail(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        raise ValueError(turns)

    with pytest.raises(ValueError, match="0"):
        begin(loop, fail(0))
    for turns in (1, 2):
        task = begin(loop, fail(turns))
        assert task is not None
        with pytest.raises(ValueError, match=str(turns)):
            await task


@pytest.mark.parametrize("turns", [0, 1, 2])
@on_loop
async def test_it_can_be_cancelled_at_any_time(turns: int) -> None:
    loop = asyncio.get_running_loop()
    gate, seen = loop.create_future(), []

    async def work() -> None:
        try:
            await gate
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("ended")
            raise

    task = begin(loop, work())
    assert task is not None
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled", "ended"]


@on_loop
async def test_what_it_sets_is_its_own() -> None:
    loop = asyncio.get_running_loop()
    seen = []

    async def work() -> None:
        number.set(7)
        await asyncio.sleep(0)
        seen.append(number.get())

    task = begin(loop, work())
    assert task is not None and number.get() == 0
    await task
    assert seen == [7] and number.get() == 0
