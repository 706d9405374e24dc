"""Gives a test control of the batcher's threads, and runs it on an event loop."""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from serving.batching.batcher import Batcher
from serving.batching.settings import BatchSettings
from serving.core.types import DEFAULT_SIGNATURE, Tensors

PATIENCE_S = 10.0  # after which a test that hangs fails


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Makes a plain test of a coroutine: it runs on a loop of its own, and nothing may go wrong there unseen."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def watched() -> None:
            unseen: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(context))
            async with asyncio.timeout(2 * PATIENCE_S):
                await test(*args, **kwargs)
            assert unseen == []

        asyncio.run(watched())

    return run


def tenfold(x: np.ndarray) -> np.ndarray:
    return x * 10


def after(seconds: float) -> Callable[[np.ndarray], np.ndarray]:
    """A model that takes so long and gives its input back."""

    def answer(x: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return x

    return answer


class Gate:
    """A model that is under the test's control: each run waits until the test lets it through.

    Args:
        answer: what the model makes of `x`; may raise.
    """

    def __init__(self, answer: Callable[[np.ndarray], np.ndarray] = tenfold) -> None:
        self.answer = answer
        self.batches: list[list[float]] = []  # the first value of each row, run by run
        self._entered: SimpleQueue[list[float]] = SimpleQueue()
        self._permits = threading.Semaphore(0)
        self._open = False

    def __call__(self, inputs: Tensors, outputs: tuple[str, ...], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        x = inputs["x"]
        rows = [float(row.flat[0]) for row in x] if x.ndim else [float(x)]
        self.batches.append(rows)
        self._entered.put(rows)
        if not self._open and not self._permits.acquire(timeout=PATIENCE_S):
            raise TimeoutError("nobody let this run through")
        return {name: self.answer(x) for name in outputs}

    async def entered(self) -> list[float]:
        """The rows of the next run, when it has begun."""
        try:
            return await asyncio.to_thread(self._entered.get, timeout=PATIENCE_S)
        except Empty:
            raise AssertionError("no run began") from None

    def let(self, runs: int = 1) -> None:
        self._permits.release(runs)

    def open(self) -> None:
        """Lets every run through from now on."""
        self._open = True
        self._permits.release(1000)


@asynccontextmanager
async def batching(gate: Gate, **policy: Any) -> AsyncIterator[Batcher]:
    """A batcher whose instances all wait for work; what still runs at the end is let through."""
    batcher = Batcher("m/1", gate, BatchSettings(**policy), asyncio.get_running_loop())
    try:
        await all_idle(batcher)
        yield batcher
    finally:
        gate.open()
        await batcher.close()


async def all_idle(batcher: Batcher) -> None:
    instances = batcher.settings.instances
    while f"idle={instances}/{instances}>" not in repr(batcher):  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.001)


def rows(*values: float) -> np.ndarray:
    """One row of one column for each value."""
    return np.array(values, np.float32).reshape(-1, 1)


async def ask(
    batcher: Batcher, *values: float, lane: Hashable | None = (), deadline: float | None = None
) -> list[float]:
    """Does what the engine does for one request; gives the first value of each row of the answer."""
    x = rows(*values)
    item = batcher.submit({"x": x}, ("y",), len(x), lane, deadline)
    try:
        outputs, _timing = await item.reply
    except asyncio.CancelledError:
        batcher.cancel(item)
        raise
    return [float(value) for value in outputs["y"][:, 0]]


async def turns(number: int = 3) -> None:
    """Lets the loop turn, so that tasks begin and callbacks run."""
    for _ in range(number):
        await asyncio.sleep(0)
