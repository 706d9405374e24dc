"""Any interleaving on the real batcher, with threads and a real loop: every request is answered exactly once, with its
own rows, or with an error that it had to expect."""

import asyncio
import time
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batching.batcher import Batcher
from serving.batching.item import Item
from serving.batching.settings import BatchSettings
from serving.core.errors import ErrorKind, ServingError
from tests.batching.control import Gate, on_loop, turns

# What a row of a request asks of the model, besides its number.
GOOD, BAD, LOSES_A_ROW = 0.0, 1.0, 2.0


@dataclass(frozen=True)
class Arrive:
    rows: int
    lane: str
    manner: float = GOOD
    allowance_s: float | None = None


@dataclass(frozen=True)
class Cancel:
    which: int


@dataclass(frozen=True)
class Let:
    runs: int


@dataclass(frozen=True)
class Turn:
    pause_s: float = 0.0  # other threads may go on meanwhile


EVENTS = st.lists(
    st.one_of(
        st.builds(
            Arrive,
            rows=st.integers(1, 3),
            lane=st.sampled_from("ab"),
            manner=st.sampled_from([GOOD, GOOD, GOOD, BAD, LOSES_A_ROW]),
            allowance_s=st.sampled_from([None, None, None, 0.0, 0.001]),
        ),
        st.builds(Cancel, which=st.integers(0, 50)),
        st.builds(Let, runs=st.integers(1, 3)),
        st.builds(Turn, pause_s=st.sampled_from([0.0, 0.0, 0.001])),
    ),
    min_size=1,
    max_size=25,
)


def model(x: np.ndarray) -> np.ndarray:
    """Rows are [number of the request, number of the row, manner]."""
    if (x[:, 2] == BAD).any():
        raise ValueError("a bad row")
    return x[:-1] * 10 if (x[:, 2] == LOSES_A_ROW).any() else x * 10


@dataclass
class Asked:
    event: Arrive
    x: np.ndarray
    item: Item
    cancelled: bool = False


def allowed(asked: Asked, closed_early: bool) -> set[str]:
    """How a request may end; several ways, because threads and deadlines race."""
    ends = {"answered" if asked.event.manner == GOOD else "model"}
    if asked.cancelled:
        ends.add("cancelled")
    if asked.event.allowance_s is not None:
        ends.add("expired")
    if closed_early:
        ends.add("unavailable")
    return ends


def end_of(asked: Asked) -> str:
    reply: asyncio.Future = asked.item.reply  # type: ignore[type-arg]
    assert reply.done()
    if reply.cancelled():
        return "cancelled"
    error = reply.exception()
    if error is not None:
        assert isinstance(error, ServingError)
        return error.kind.value
    outputs, timing = reply.result()
    np.testing.assert_array_equal(outputs["y"], asked.x * 10)
    assert timing.queue_s >= 0 and timing.compute_s >= 0
    return "answered"


@settings(max_examples=150)
@given(
    events=EVENTS,
    instances=st.integers(1, 3),
    max_batch_size=st.integers(3, 6),
    delay_s=st.sampled_from([0.0, 0.0, 0.002]),
    closed_early=st.booleans(),
)
@on_loop
async def test_everyone_is_answered_once_with_his_own_rows(
    events: list[object], instances: int, max_batch_size: int, delay_s: float, closed_early: bool
) -> None:
    gate = Gate(model)
    policy = BatchSettings(max_batch_size, max_queue_rows=20, max_queue_delay_s=delay_s, instances=instances)
    batcher = Batcher("m/1", gate, policy, asyncio.get_running_loop())
    everyone: list[Asked] = []
    for event in events:
        match event:
            case Arrive(rows, lane, manner, allowance_s):
                number = len(everyone) + 1
                x = np.array([[number, row, manner] for row in range(rows)], np.float32)
                deadline = None if allowance_s is None else time.monotonic() + allowance_s
                refusals = {ErrorKind.QUEUE_FULL} if deadline is None else {ErrorKind.QUEUE_FULL, ErrorKind.EXPIRED}
                try:
                    everyone.append(Asked(event, x, batcher.submit({"x": x}, ("y",), rows, lane, deadline)))
                except ServingError as refused:
                    if refused.kind not in refusals:
                        raise
            case Cancel(which) if everyone:
                asked = everyone[which % len(everyone)]
                asked.cancelled = asked.cancelled or not asked.item.reply.done()
                batcher.cancel(asked.item)
            case Let(runs):
                gate.let(runs)
            case Turn(pause_s):
                await asyncio.sleep(pause_s)
    if closed_early:
        closing = asyncio.ensure_future(batcher.close())
        await turns()
        gate.open()
        await closing
    else:
        gate.open()
        await asyncio.gather(*(asked.item.reply for asked in everyone), return_exceptions=True)
        await batcher.close()
    for asked in everyone:
        assert end_of(asked) in allowed(asked, closed_early)
    assert batcher.queued_rows == 0
