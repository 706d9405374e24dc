"""Requests for a model that sleeps: it is woken once, and each of them hears of it."""

import asyncio
import gc
import time

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.repository.routing.waking import Waking
from tests.batching.control import on_loop, turns


class Bed:
    """Wakes models when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.up = asyncio.Event()
        self.failure: Exception | None = None
        self.waking = Waking(self._wake)

    async def _wake(self, model: str) -> None:
        self.begun.append(model)
        await self.up.wait()
        if self.failure is not None:
            raise self.failure

    def ask(self, model: str = "m", most: int = 10, deadline: float | None = None) -> "asyncio.Task[None]":
        return asyncio.create_task(self.waking.awake(model, most, deadline))


@on_loop
async def test_many_requests_wake_a_model_once() -> None:
    bed = Bed()
    asked = [bed.ask() for _ in range(9)]
    other = bed.ask("n")
    await turns()
    assert sorted(bed.begun) == ["m", "n"] and not any(task.done() for task in asked)
    bed.up.set()
    await asyncio.gather(other, *asked)
    await bed.ask()  # it slept again meanwhile
    assert sorted(bed.begun) == ["m", "m", "n"]


@on_loop
async def test_no_more_wait_than_may() -> None:
    bed = Bed()
    asked = [bed.ask(most=2) for _ in range(3)]
    await turns()
    with pytest.raises(ServingError, match="'m' is being loaded, and 2 requests wait for it already") as error:
        await asked[2]
    assert error.value.kind is ErrorKind.QUEUE_FULL
    asked[0].cancel()
    await turns()
    asked[0] = bed.ask(most=2)  # there is room again
    bed.up.set()
    await asyncio.gather(*asked[:2])
    await bed.ask(most=1)


@on_loop
async def test_a_deadline_counts_while_its_request_waits() -> None:
    bed = Bed()
    patient = bed.ask()
    for deadline in (time.monotonic() - 1, time.monotonic() + 0.01):
        with pytest.raises(ServingError, match="Request timeout expired") as error:
            await bed.ask(deadline=deadline)
        assert error.value.kind is ErrorKind.EXPIRED
    bed.up.set()
    await patient
    assert bed.begun == ["m"]


@on_loop
async def test_each_hears_why_it_failed() -> None:
    bed = Bed()
    bed.failure = ServingError(ErrorKind.UNAVAILABLE, "no memory")
    asked = [bed.ask() for _ in range(3)]
    await turns()
    bed.up.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [repr(answer) for answer in answers] == ["ServingError(unavailable: no memory)"] * 3
    assert len({id(answer) for answer in answers}) == 3


@on_loop
async def test_it_goes_on_when_all_have_left_and_its_failure_is_nobodys() -> None:
    bed = Bed()
    bed.failure = ServingError(ErrorKind.UNAVAILABLE, "no memory")
    asked = bed.ask()
    await turns()
    asked.cancel()
    await turns()
    bed.up.set()
    await turns()
    del asked
    gc.collect()  # an exception that nobody has asked for would be told to the loop now
    assert bed.begun == ["m"]
