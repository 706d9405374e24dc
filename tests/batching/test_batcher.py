"""Instances that pull merged batches: who shares a run, who is answered with what, and what never harms others."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable

import numpy as np
import pytest

from serving.batching.batcher import Batcher, Ran
from serving.batching.explaining.account import Refused
from serving.batching.fair import Device
from serving.batching.item import Closed
from serving.batching.settings import BatchSettings
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import Tensors
from tests.batching.control import PATIENCE_S, Gate, after, ask, batching, on_loop, rows, turns


def start(*asked: Awaitable[list[float]]) -> list["asyncio.Future[list[float]]"]:
    return [asyncio.ensure_future(each) for each in asked]


async def refusal(answer: Awaitable[list[float]]) -> ServingError:
    with pytest.raises(ServingError) as error:
        await answer
    return error.value


async def busy(gate: Gate, batcher: Batcher) -> "asyncio.Future[list[float]]":
    """A request that holds the only instance, so that what comes now waits."""
    (held,) = start(ask(batcher, 0))
    assert await gate.entered() == [0]
    return held


async def runs(gate: Gate, batcher: Batcher, number: int) -> None:
    """So many, one after the other, so that it is known what they take."""
    gate.let(number)
    for n in range(number):
        await ask(batcher, n)
        await gate.entered()


# Cancellation


@pytest.mark.parametrize("leaver", range(4))
@on_loop
async def test_cancelling_one_of_four_in_a_running_batch_leaves_the_others_answered(leaver: int) -> None:
    gate = Gate()
    async with batching(gate) as batcher:
        callers = start(*(ask(batcher, n) for n in range(4)))
        assert await gate.entered() == [0, 1, 2, 3]
        callers[leaver].cancel()
        await turns()
        gate.let()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(answers.pop(leaver), asyncio.CancelledError)
        assert answers == [[n * 10] for n in range(4) if n != leaver]


@pytest.mark.parametrize("leaver", range(4))
@on_loop
async def test_cancelling_one_of_four_that_wait_leaves_the_others_answered(leaver: int) -> None:
    gate = Gate()
    async with batching(gate) as batcher:
        held = await busy(gate, batcher)
        callers = start(*(ask(batcher, n) for n in (1, 2, 3, 4)))
        await turns()
        left = callers.pop(leaver)
        left.cancel()
        await turns()
        assert batcher.queued_rows == 3
        gate.let(2)
        assert await gate.entered() == [n for n in (1, 2, 3, 4) if n != leaver + 1]
        assert await held == [0]
        assert await asyncio.gather(*callers) == [[n * 10] for n in (1, 2, 3, 4) if n != leaver + 1]
        assert left.cancelled()


@on_loop
async def test_when_all_callers_leave_nothing_runs_and_the_next_is_served() -> None:
    gate = Gate()
    async with batching(gate) as batcher:
        held = await busy(gate, batcher)
        callers = start(ask(batcher, 1), ask(batcher, 2))
        await turns()
        for caller in callers:
            caller.cancel()
        await turns()
        gate.open()
        await held
        assert await ask(batcher, 3) == [30]
        assert gate.batches == [[0], [3]]


@on_loop
async def test_an_instance_that_is_woken_for_nothing_can_be_woken_again() -> None:
    """The caller leaves between the wake-up and the look into the queue."""
    gate = Gate()
    gate.open()
    async with batching(gate, instances=2) as batcher:
        for _ in range(10):
            item = batcher.submit({"x": rows(1)}, ("y",), 1)
            await turns(1)  # an instance is woken
            batcher.cancel(item)
            await asyncio.sleep(0.001)  # it finds nothing
        assert await ask(batcher, 2) == [20]


@on_loop
async def test_a_caller_that_leaves_twice_or_too_late_does_no_harm() -> None:
    gate = Gate()
    gate.open()
    async with batching(gate) as batcher:
        item = batcher.submit({"x": rows(1)}, ("y",), 1)
        await item.reply
        batcher.cancel(item)
        batcher.cancel(item)
        assert await ask(batcher, 2) == [20]


# Who shares a run


@on_loop
async def test_requests_of_one_turn_of_the_loop_share_a_run() -> None:
    gate = Gate()
    gate.open()
    async with batching(gate) as batcher:
        answers = await asyncio.gather(*start(ask(batcher, 1), ask(batcher, 2, 3), ask(batcher, 4)))
        assert answers == [[10], [20, 30], [40]]
        assert gate.batches == [[1, 2, 3, 4]]


@on_loop
async def test_what_arrives_while_the_instance_is_busy_shares_the_next_run() -> None:
    gate = Gate()
    async with batching(gate) as batcher:
        callers = [await busy(gate, batcher)]
        for n in (1, 2, 3):
            callers += start(ask(batcher, n))
            await turns()
        assert batcher.queued_rows == 3
        gate.open()
        assert await asyncio.gather(*callers) == [[0], [10], [20], [30]]
        assert gate.batches == [[0], [1, 2, 3]]


@on_loop
async def test_a_run_holds_no_more_rows_than_are_allowed() -> None:
    gate = Gate()
    async with batching(gate, max_batch_size=3) as batcher:
        callers = [await busy(gate, batcher), *start(ask(batcher, 1, 2), ask(batcher, 3, 4), ask(batcher, 5))]
        await turns()
        gate.open()
        assert await asyncio.gather(*callers) == [[0], [10, 20], [30, 40], [50]]
        assert gate.batches == [[0], [1, 2], [3, 4, 5]]


@on_loop
async def test_lanes_do_not_share_a_run() -> None:
    gate = Gate()
    async with batching(gate) as batcher:
        held = await busy(gate, batcher)
        callers = start(ask(batcher, 1, lane="a"), ask(batcher, 2, lane="b"), ask(batcher, 3, lane="a"))
        await turns()
        gate.open()
        assert await asyncio.gather(held, *callers) == [[0], [10], [20], [30]]
        assert gate.batches == [[0], [1, 3], [2]]


@on_loop
async def test_without_a_batch_axis_each_request_runs_alone_and_whole() -> None:
    gate = Gate(lambda x: x.sum())  # not one row for each that went in
    async with batching(gate, max_batch_size=0) as batcher:
        held = batcher.submit({"x": rows(0)}, ("y",), 1, None)
        await gate.entered()
        items = [batcher.submit({"x": x}, ("y",), 1, None) for x in (rows(1, 2, 3), np.full((), 4, np.float32))]
        gate.open()
        answers = [(await item.reply)[0]["y"] for item in (held, *items)]
        assert [float(y) for y in answers] == [0, 6, 4]
        assert gate.batches == [[0], [1, 2, 3], [4]]


@on_loop
async def test_what_runs_alone_and_what_shares_a_run_go_through_one_queue() -> None:
    gate = Gate()
    async with batching(gate) as batcher:
        held = await busy(gate, batcher)
        callers = start(*(ask(batcher, n, lane=lane) for n, lane in ((1, None), (2, ()), (3, None), (4, ()))))
        await turns()
        gate.open()
        assert await asyncio.gather(held, *callers) == [[0], [10], [20], [30], [40]]
        assert sorted(gate.batches) == [[0], [1], [2, 4], [3]]


@on_loop
async def test_a_run_is_for_the_signature_of_its_requests() -> None:
    seen = []

    def run(inputs: Tensors, outputs: tuple[str, ...], signature: str) -> Tensors:
        seen.append((signature, len(inputs["x"])))
        return {"y": inputs["x"]}

    batcher = Batcher("m/1", run, BatchSettings(), asyncio.get_running_loop())
    x = rows(1)
    items = [batcher.submit({"x": x}, ("y",), 1, (name,), signature=name) for name in ("a", "b", "a")]
    for item in items:
        await item.reply
    await batcher.close()
    assert sorted(seen) == [("a", 2), ("b", 1)]


# Instances


@on_loop
async def test_instances_run_at_the_same_time() -> None:
    gate = Gate()
    async with batching(gate, instances=2) as batcher:
        callers = [await busy(gate, batcher), *start(ask(batcher, 1))]
        assert await gate.entered() == [1]  # though the first still runs
        callers += start(ask(batcher, 2))
        await turns()
        assert batcher.queued_rows == 1  # there is no third
        gate.open()
        assert await asyncio.gather(*callers) == [[0], [10], [20]]


@pytest.mark.parametrize(
    ("asked", "lanes"),
    [
        ([5, 5, 5], "aaa"),
        ([1, 1, 1], "abc"),
        ([3, 3, 3], "aaa"),  # rows enough for two runs, but no two of these fit into one
        ([5, 1, 1], "aab"),
    ],
)
@on_loop
async def test_no_instance_is_idle_while_there_is_a_batch_for_it(asked: list[int], lanes: str) -> None:
    gate = Gate()
    async with batching(gate, instances=3, max_batch_size=5) as batcher:
        callers = start(*(ask(batcher, *[n] * size, lane=lanes[n]) for n, size in enumerate(asked)))
        begun = [await gate.entered() for _ in asked]
        assert sorted(begun) == [[n] * size for n, size in enumerate(asked)]
        gate.open()
        await asyncio.gather(*callers)


# Delay


@on_loop
async def test_a_free_instance_waits_for_company_and_runs_at_once_when_the_batch_is_full() -> None:
    gate = Gate()
    gate.open()
    async with batching(gate, max_batch_size=3, max_queue_delay_s=3600) as batcher:
        callers = start(ask(batcher, 1))
        await turns(20)  # it has decided to wait
        assert batcher.queued_rows == 1
        callers += start(ask(batcher, 2))
        await turns(20)
        assert gate.batches == []
        callers += start(ask(batcher, 3))
        assert await asyncio.gather(*callers) == [[10], [20], [30]]
        assert gate.batches == [[1, 2, 3]]


@on_loop
async def test_a_free_instance_waits_no_longer_than_the_delay() -> None:
    gate = Gate()
    gate.open()
    async with batching(gate, max_batch_size=64, max_queue_delay_s=0.02, instances=2) as batcher:
        item = batcher.submit({"x": rows(1)}, ("y",), 1)
        _, timing = await item.reply
        assert timing.queue_s >= 0.0199


@on_loop
async def test_in_a_hurry_nobody_waits_for_company() -> None:
    gate = Gate()
    gate.open()
    async with batching(gate, max_queue_delay_s=3600) as batcher:
        (waiting,) = start(ask(batcher, 1))
        await turns(20)
        batcher.hurry()
        assert await waiting == [10]
        assert await ask(batcher, 2) == [20]


# Failures


def unless_negative(x: np.ndarray) -> np.ndarray:
    if (x < 0).any():
        raise ValueError("below zero")
    return x * 10


@pytest.mark.parametrize("bad", range(3))
@on_loop
async def test_a_bad_request_fails_alone(bad: int) -> None:
    gate = Gate(unless_negative)
    async with batching(gate) as batcher:
        held = await busy(gate, batcher)
        values = [-n if n == bad + 1 else n for n in (1, 2, 3)]
        callers = start(*(ask(batcher, value) for value in values))
        await turns()
        gate.open()
        error = await refusal(callers.pop(bad))
        assert error.kind is ErrorKind.MODEL
        assert error.message.startswith("Failed to process the request(s) for model 'm/1', message: ValueError: below")
        assert [await caller for caller in callers] == [[value * 10] for value in values if value > 0]
        assert await held == [0]
        assert gate.batches[1] == values  # they had been merged


@on_loop
async def test_an_error_for_the_client_reaches_the_one_who_caused_it_as_it_is() -> None:
    def picky(x: np.ndarray) -> np.ndarray:
        if (x < 0).any():
            raise ServingError(ErrorKind.INVALID, "input 'x' element 0 is not UTF-8")
        return x * 10

    gate = Gate(picky)
    gate.open()
    async with batching(gate) as batcher:
        good, bad = start(ask(batcher, 1), ask(batcher, -1))
        error = await refusal(bad)
        assert (error.kind, error.message) == (ErrorKind.INVALID, "input 'x' element 0 is not UTF-8")
        assert await good == [10]


@pytest.mark.parametrize(
    ("wrong", "shape"), [(lambda x: x[:-1], r"\[1, 1\]"), (lambda x: x.sum(), r"\[\]")], ids=["a row less", "a scalar"]
)
@on_loop
async def test_a_wrong_number_of_rows_is_an_error(wrong: object, shape: str) -> None:
    gate = Gate(wrong)  # type: ignore[arg-type]
    gate.open()
    async with batching(gate) as batcher:
        for answer in start(ask(batcher, 1, 2), ask(batcher, 3, 4)):
            with pytest.raises(ServingError, match=rf"output 'y' of shape {shape} for a batch of 2 rows") as error:
                await answer
            assert error.value.kind is ErrorKind.MODEL


@on_loop
async def test_the_batch_after_one_that_failed_is_answered() -> None:
    gate = Gate(unless_negative)
    async with batching(gate) as batcher:
        (failing,) = start(ask(batcher, -1))
        await gate.entered()
        (good,) = start(ask(batcher, 2))
        await turns()
        gate.open()
        assert (await refusal(failing)).kind is ErrorKind.MODEL
        assert await good == [20]
        assert await ask(batcher, 3) == [30]


class Panic(BaseException):
    """Bindings to other languages raise such things."""


@pytest.mark.parametrize("failure", [SystemExit(1), Panic("no more stack")], ids=repr)
@on_loop
async def test_no_exception_of_a_model_ends_an_instance(failure: BaseException) -> None:
    def panics(x: np.ndarray) -> np.ndarray:
        if (x < 0).any():
            raise failure
        return x * 10

    gate = Gate(panics)
    gate.open()
    async with batching(gate) as batcher:
        async with asyncio.timeout(5):  # its callers would wait for ever
            assert (await refusal(ask(batcher, -1))).kind is ErrorKind.MODEL
            assert await ask(batcher, 2) == [20]


# Expiry and admission


@on_loop
async def test_a_request_that_waits_too_long_is_answered_when_it_expires() -> None:
    gate = Gate()
    async with batching(gate) as batcher:
        held = await busy(gate, batcher)
        now = time.monotonic()
        late, soon, patient = start(
            ask(batcher, 1, deadline=now + 3600), ask(batcher, 2, deadline=now + 0.01), ask(batcher, 3)
        )
        later = start(ask(batcher, 4, deadline=now + 0.02))[0]
        for answer in (soon, later):
            error = await refusal(answer)
            assert (error.kind, error.message) == (ErrorKind.EXPIRED, "Request timeout expired")
        assert not held.done()  # the instance is still busy
        gate.open()
        assert await asyncio.gather(*[held, late, patient]) == [[0], [10], [30]]
        assert gate.batches == [[0], [1, 3]]


@on_loop
async def test_a_full_queue_answers_at_once_and_takes_more_when_there_is_room() -> None:
    gate = Gate()
    async with batching(gate, max_queue_rows=3) as batcher:
        held = await busy(gate, batcher)
        callers = start(ask(batcher, 1, 2), ask(batcher, 3))
        await turns()
        error = await refusal(ask(batcher, 4))
        assert error.kind is ErrorKind.QUEUE_FULL and error.message.startswith("Exceeds maximum queue size")
        callers.pop().cancel()
        await turns()
        callers += start(ask(batcher, 5))
        await turns()
        gate.open()
        assert await asyncio.gather(held, *callers) == [[0], [10, 20], [50]]


@on_loop
async def test_a_request_that_would_be_late_is_refused_while_the_instance_is_busy() -> None:
    """It is known by then that a run takes 50 ms."""
    gate = Gate(after(0.05))
    async with batching(gate, max_batch_size=1) as batcher:
        await runs(gate, batcher, 3)
        held = await busy(gate, batcher)
        error = await refusal(ask(batcher, 1, deadline=time.monotonic() + 0.02))
        assert error.kind is ErrorKind.EXPIRED and error.retry_after_s is not None
        assert batcher.account.snapshot().total.tally.refused == {Refused.HOPELESS: 1}
        gate.open()
        assert await held == [0]


@on_loop
async def test_a_request_that_has_waited_too_long_to_be_ready_in_time_is_not_run() -> None:
    gate = Gate(after(0.05))
    async with batching(gate, max_batch_size=1) as batcher:
        await runs(gate, batcher, 3)
        held = await busy(gate, batcher)
        # Admitted with time for a run that begins at once; but the one before it does not end.
        late, other = start(ask(batcher, 8, deadline=time.monotonic() + 0.6), ask(batcher, 9))
        await asyncio.sleep(0.58)
        gate.let(2)
        error = await refusal(late)
        assert error.kind is ErrorKind.EXPIRED
        assert await held == [0] and await other == [9]
        assert [8.0] not in gate.batches


@on_loop
async def test_runs_are_put_into_the_account() -> None:
    gate = Gate()
    async with batching(gate, max_batch_size=8, allowed_sizes=(4, 8)) as batcher:
        gate.open()
        assert await asyncio.gather(*(ask(batcher, n) for n in range(3))) == [[0], [10], [20]]
        await turns()
        tally = batcher.account.snapshot().total.tally
        assert (tally.runs, tally.items, tally.rows, tally.padded) == (1, 3, 3, 1)
        assert list(tally.closed) == [Closed.FREE]
        assert gate.batches == [[0, 1, 2, 2]]


@on_loop
async def test_on_a_shared_device_a_batch_is_formed_when_its_turn_comes() -> None:
    device, gate = Device(1), Gate()
    other = device.member()
    batcher = Batcher("m/1", gate, BatchSettings(), asyncio.get_running_loop(), device=device)
    try:
        gate.open()
        with other:
            first, second = start(ask(batcher, 1), ask(batcher, 2))
            while not device._waiting:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
            (third,) = start(ask(batcher, 3))
            await turns()
        assert [await answer for answer in (first, second, third)] == [[10], [20], [30]]
        assert gate.batches == [[1, 2, 3]]
    finally:
        await batcher.close()


@on_loop
async def test_priorities_that_do_not_exist_are_the_default() -> None:
    gate = Gate()
    async with batching(gate, max_batch_size=1, priority_levels=2, default_level=2) as batcher:
        held = await busy(gate, batcher)
        asked = [batcher.submit({"x": rows(n)}, ("y",), 1, priority=p) for n, p in ((1, 0), (2, 9), (3, 1))]
        gate.open()
        await asyncio.gather(held, *(item.reply for item in asked))
        assert gate.batches == [[0], [3], [1], [2]]


@on_loop
async def test_what_can_never_run_is_refused() -> None:
    gate = Gate()
    async with batching(gate, max_batch_size=2) as batcher:
        assert (await refusal(ask(batcher, 1, 2, 3))).kind is ErrorKind.INVALID
        assert (await refusal(ask(batcher, 1, deadline=time.monotonic()))).kind is ErrorKind.EXPIRED
        assert gate.batches == []


# Closing


@on_loop
async def test_close_fails_what_waits_and_lets_running_batches_finish() -> None:
    gate = Gate()
    async with batching(gate, instances=2) as batcher:
        running = [await busy(gate, batcher)]
        running += start(ask(batcher, 1))
        await gate.entered()
        waiting = start(ask(batcher, 2), ask(batcher, 3))
        await turns()
        closing = asyncio.ensure_future(batcher.close())
        for answer in waiting:
            error = await refusal(answer)
            assert (error.kind, error.message) == (ErrorKind.UNAVAILABLE, "'m/1' is stopping")
        assert (await refusal(ask(batcher, 4))).kind is ErrorKind.UNAVAILABLE
        assert not closing.done()
        gate.let(2)
        await closing
        assert await asyncio.gather(*running) == [[0], [10]]
        assert gate.batches == [[0], [1]]
        assert [t for t in threading.enumerate() if t.name.startswith("m/1#")] == []


@pytest.mark.parametrize("delay", [0.0, 3600.0])
@on_loop
async def test_close_wakes_idle_instances(delay: float) -> None:
    gate = Gate()
    async with batching(gate, instances=3, max_queue_delay_s=delay) as batcher:
        if delay:
            (waiting,) = start(ask(batcher, 1))
            await turns(20)
        await batcher.close()
        if delay:
            assert (await refusal(waiting)).kind is ErrorKind.UNAVAILABLE
        assert [t for t in threading.enumerate() if t.name.startswith("m/1#")] == []


def test_an_instance_ends_when_the_loop_has_gone_under_it() -> None:
    gate = Gate()

    async def leave_running() -> list[threading.Thread]:
        batcher = Batcher("gone/1", gate, BatchSettings(), asyncio.get_running_loop())
        batcher.submit({"x": rows(1)}, ("y",), 1)
        await gate.entered()
        return [t for t in threading.enumerate() if t.name.startswith("gone/1#")]

    threads = asyncio.run(leave_running())
    assert len(threads) == 1
    gate.open()
    threads[0].join(10)
    assert not threads[0].is_alive()


# What others see


@on_loop
async def test_each_run_is_reported_with_its_rows_and_each_request_with_its_times() -> None:
    gate, seen = Gate(), list[Ran]()
    batcher = Batcher("m/1", gate, BatchSettings(), asyncio.get_running_loop(), seen.append)
    held = await busy(gate, batcher)
    items = [batcher.submit({"x": rows(1, 2)}, ("y",), 2), batcher.submit({"x": rows(3)}, ("y",), 1)]
    gate.open()
    timings = [(await item.reply)[1] for item in items]
    await held
    await batcher.close()
    assert [ran.rows for ran in seen] == [1, 3]
    ran = seen[1]
    for timing in timings:
        assert (timing.input_s, timing.run_s, timing.output_s) == (ran.input_s, ran.run_s, ran.output_s)
        assert timing.compute_s == timings[0].compute_s >= ran.input_s + ran.run_s + ran.output_s
    assert ran.run_s > 0 and min(ran.input_s, ran.output_s) >= 0
    assert timings[0].queue_s >= timings[1].queue_s > 0


@on_loop
async def test_of_a_batch_that_failed_only_the_runs_that_gave_an_answer_are_reported() -> None:
    def refuse_two(x: np.ndarray) -> np.ndarray:
        if 2 in x:
            raise ValueError("two")
        return x

    gate, seen = Gate(refuse_two), list[Ran]()
    batcher = Batcher("m/1", gate, BatchSettings(), asyncio.get_running_loop(), seen.append)
    held = await busy(gate, batcher)
    items = [batcher.submit({"x": rows(*values)}, ("y",), len(values)) for values in ((1, 1), (2,), (3, 3, 3))]
    gate.open()
    await asyncio.gather(held, *(item.reply for item in items), return_exceptions=True)
    await batcher.close()
    assert [ran.rows for ran in seen] == [1, 2, 3]  # that which was under way, and the two that are well


@on_loop
async def test_repr_shows_what_waits_and_who_is_idle() -> None:
    gate = Gate()
    async with batching(gate, instances=2) as batcher:
        assert repr(batcher) == "<Batcher m/1 <BatchQueue 0 items, 0 rows, 0 lanes> idle=2/2>"
        callers = [await busy(gate, batcher), *start(ask(batcher, 1))]
        await gate.entered()
        callers += start(ask(batcher, 2, 3))
        await turns()
        assert repr(batcher) == "<Batcher m/1 <BatchQueue 1 items, 2 rows, 1 lanes> idle=0/2>"
        assert batcher.queued_rows == 2
        gate.open()
        await asyncio.gather(*callers)
        assert sorted(t.name for t in threading.enumerate() if t.name.startswith("m/1#")) == ["m/1#0", "m/1#1"]


@on_loop
async def test_a_closed_one_is_gone_without_a_collection() -> None:
    gate = Gate()
    gate.open()
    gc.disable()
    try:
        async with batching(gate, max_batch_size=2, max_request_rows=3) as batcher:
            await asyncio.gather(*(ask(batcher, n) for n in range(3)), ask(batcher, 1, 2, 3))
            gone = weakref.ref(batcher)
        del batcher
        await turns()
        assert gone() is None
    finally:
        gc.enable()


@on_loop
async def test_an_idle_instance_holds_no_tensors() -> None:
    held: list[weakref.ref[np.ndarray]] = []

    def run(inputs: Tensors, outputs: tuple[str, ...], signature: str) -> Tensors:
        y = inputs["x"] * 10
        held.extend(map(weakref.ref, (inputs["x"], y)))
        return {"y": y}

    batcher = Batcher("m/1", run, BatchSettings(), asyncio.get_running_loop())
    await batcher.submit({"x": rows(1)}, ("y",), 1).reply
    async with asyncio.timeout(PATIENCE_S):  # the instance lets go a moment after the loop has heard of it
        while any(ref() is not None for ref in held):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
    await batcher.close()


@on_loop
async def test_times_of_a_batcher_in_the_background_are_of_the_processor() -> None:
    """While it waits for its turn the clock goes on; here it waits for something else."""
    seen: list[Ran] = []
    gate = Gate()
    batcher = Batcher("m/1", gate, BatchSettings(), asyncio.get_running_loop(), seen.append, background=True)
    item = batcher.submit({"x": rows(1, 2)}, ("y",), 2)
    await gate.entered()
    await asyncio.sleep(0.3)
    gate.open()
    _, timing = await item.reply
    await batcher.close()
    assert seen[0].run_s < 0.2 < timing.compute_s  # it computes for microseconds
    assert (timing.run_s, timing.rows) == (seen[0].run_s, 2)
