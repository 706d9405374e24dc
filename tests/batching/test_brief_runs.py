"""Runs that the event loop makes itself: which, and what it leaves to threads."""

import asyncio
import threading
import time

import numpy as np
import pytest

from serving.batching import batcher as module
from serving.batching.batcher import Batcher
from serving.batching.fair import Device
from serving.batching.settings import BatchSettings
from serving.core.errors import ServingError
from serving.core.types import Tensors
from tests.batching.control import ask, on_loop

EVEN = BatchSettings(even=True)


class Model:
    """Gives ten times its input; notes for each run how many rows it had, and whether a thread of the batcher made it.

    Its first value is what it sleeps, in milliseconds; -1: it fails.
    """

    def __init__(self) -> None:
        self.runs: list[tuple[int, str]] = []

    def __call__(self, inputs: Tensors, outputs: tuple[str, ...], _signature: str) -> Tensors:
        x = inputs["x"]
        here = threading.current_thread() is threading.main_thread()
        self.runs.append((len(x), "loop" if here else "thread"))
        if x[0, 0] < 0:
            raise ValueError("not so")
        time.sleep(float(x[0, 0]) / 1000)
        return {name: x * np.float32(10) for name in outputs}


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes any run look long; what is long in these tests is longer than this."""
    monkeypatch.setattr(module, "_BRIEF_S", 0.1)
    monkeypatch.setattr(module, "_NOT_BRIEF_S", 0.1)


async def asked(model: Model, batcher: Batcher, *values: float) -> list[tuple[int, str]]:
    """The runs that requests of one value each make, one after the other."""
    before = len(model.runs)
    for value in values:
        assert await ask(batcher, value) == [10 * value]
    return model.runs[before:]


@on_loop
async def test_the_loop_runs_what_is_alone_and_known_to_be_brief() -> None:
    model = Model()
    batcher = Batcher("m/1", model, EVEN, asyncio.get_running_loop())
    assert await asked(model, batcher, 0) == [(1, "thread")]  # nothing is known yet
    await _idle(batcher)
    assert await asked(model, batcher, 0, 0, 0) == [(1, "loop")] * 3
    await asyncio.sleep(0)  # runs are counted behind their answers
    assert batcher.account.snapshot().total.tally.runs == 4
    await batcher.close()


@on_loop
async def test_what_comes_together_is_one_run_of_a_thread() -> None:
    model = Model()
    batcher = Batcher("m/1", model, EVEN, asyncio.get_running_loop())
    await asked(model, batcher, 0)
    await _idle(batcher)
    assert await asyncio.gather(ask(batcher, 0), ask(batcher, 1), ask(batcher, 0)) == [[0], [10], [0]]
    assert model.runs[1:] == [(3, "thread")]
    await batcher.close()


@on_loop
async def test_a_thread_runs_what_may_take_long() -> None:
    model = Model()
    batcher = Batcher("m/1", model, EVEN, asyncio.get_running_loop())
    await asked(model, batcher, 150)
    await _idle(batcher)
    assert await asked(model, batcher, 0) == [(1, "thread")]
    await batcher.close()


@on_loop
async def test_a_run_that_took_longer_than_it_should_have_is_the_last_for_a_while() -> None:
    model = Model()
    batcher = Batcher("m/1", model, EVEN, asyncio.get_running_loop())
    await asked(model, batcher, 0)
    for _ in range(20):  # so that one run changes little of what is known
        await _idle(batcher)
        await asked(model, batcher, 0)
    assert await asked(model, batcher, 150, 0, 0) == [(1, "loop"), (1, "thread"), (1, "thread")]
    await batcher.close()


@pytest.mark.parametrize("case", ["rows differ in what they cost", "a device is shared", "in the background"])
@on_loop
async def test_never(case: str) -> None:
    model = Model()
    settings = BatchSettings(even=case != "rows differ in what they cost")
    device = Device(1) if case == "a device is shared" else None
    loop = asyncio.get_running_loop()
    batcher = Batcher("m/1", model, settings, loop, device=device, background=case == "in the background")
    for _ in range(3):
        assert await asked(model, batcher, 0) == [(1, "thread")]
        await _idle(batcher)
    await batcher.close()


@on_loop
async def test_a_failure_is_answered_and_harms_nobody() -> None:
    model = Model()
    batcher = Batcher("m/1", model, EVEN, asyncio.get_running_loop())
    await asked(model, batcher, 0)
    await _idle(batcher)
    with pytest.raises(ServingError, match="ValueError: not so"):
        await ask(batcher, -1)
    assert await asked(model, batcher, 0) == [(1, "loop")]
    assert model.runs[1] == (1, "loop")
    await batcher.close()


async def _idle(batcher: Batcher) -> None:
    """The instance has said so, after its answer."""
    while "idle=1/1>" not in repr(batcher):  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.001)
