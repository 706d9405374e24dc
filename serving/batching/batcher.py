"""Runs what waits: one queue, and one thread per instance that takes from it when it is free.

Threads: `submit`, `cancel` and `close` belong to the event loop, and so does the decision to wake an idle instance. An
instance thread takes a batch, merges, runs and splits, and hands the finished batch back to the loop with one call; if
enough waits by then, it takes the next at once. The queue is shared, behind a lock that is held for microseconds. A
batch is formed by the instance that will run it, so it stays open to new rows until then.

One kind of run is made on the loop itself: that of a request which is alone, of a model that is known to need less time
for it than waking a thread and being woken by it would take (`_brief`).

Knows nothing of models, versions or protocols: it gets a function to run.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

from serving.batching import oversize
from serving.batching.explaining.account import Account, Refused
from serving.batching.fair import Device
from serving.batching.gather import LONG_RUN_S, Gather
from serving.batching.item import Batch, Closed, Item
from serving.batching.merge import merge, split
from serving.batching.queue import BatchQueue
from serving.batching.settings import BatchSettings
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import DEFAULT_SIGNATURE, Tensors, Timing

log = logging.getLogger(__name__)

_BRIEF_S = 0.0003  # a run that takes this at most but for rare cases may hold up the loop; so does reading some JSON
_NOT_BRIEF_S = 0.002  # a run that was to be brief and took this long was not; a machine that is busy looks the same
_DISTRUST_S = 10.0  # how long the loop leaves all runs to threads after that
_NICE = 10  # of threads in the background: beside others they get about a tenth of a processor

Run = Callable[[Tensors, tuple[str, ...], str], Tensors]


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that gave an answer: its rows, and the seconds it took to join them, to run, and to cut them apart."""

    rows: int
    input_s: float
    run_s: float
    output_s: float
    padded: int = 0  # rows besides, for nothing
    closed: Closed = Closed.FREE


@dataclass(slots=True)
class _Done:
    """A batch on its way back to the loop; each outcome is the item's outputs and the run that made them, or its error.

    As a rule there is one run; if that failed, there is one for each item that can be answered.
    """

    items: list[Item]
    outcomes: list[tuple[Tensors, Ran] | ServingError]
    runs: list[Ran]
    started: float
    finished: float
    rows: int
    size: int  # rows of the run, with those that were padding
    idle: bool = False  # the instance has not taken another batch


class Batcher:
    """The batcher of one ready version.

    Args:
        name: names the threads and appears in errors, such as `digits/1`.
        run: called from instance threads with merged inputs, output names and the signature's name.
        on_run: called on the loop for each run that gave an answer, right behind these.
        device: what its runs share with those of others; None: they need not wait for anybody.
        background: its threads give way to all others, as far as the system can do that. Times of its runs are then of
            the processor: the clock would say how busy the machine is.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        settings: BatchSettings,
        loop: asyncio.AbstractEventLoop,
        on_run: Callable[[Ran], None] | None = None,
        *,
        device: Device | None = None,
        background: bool = False,
    ) -> None:
        self.name = name
        self.settings = settings
        self.account = Account(settings.instances)
        self._background = background
        self._clock = time.thread_time if background else time.monotonic
        self._run = run
        self._turn = device.member(settings.share) if device is not None else None
        self._queue = BatchQueue.of(settings, partial(oversize.cut, cancel=self.cancel))
        self._lock = threading.Lock()
        self._gather = Gather()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._idle = settings.instances  # instances that wait for a wake token; the loop's own count
        self._closed = False
        self._loop = loop
        self._on_run = on_run
        self._dispatch_planned = False
        self._distrust_until = 0.0
        self._delay: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = 0.0
        self._running: list[tuple[float, int] | None] = [None] * settings.instances  # since when, and how many rows
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"{name}#{i}", daemon=True)
            for i in range(settings.instances)
        ]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        return f"<Batcher {self.name} {self._queue!r} idle={self._idle}/{len(self._threads)}>"

    @property
    def queued_rows(self) -> int:
        return self._queue.rows

    @property
    def queued_requests(self) -> int:
        """Requests that wait, or parts of large ones."""
        return len(self._queue)

    @property
    def busy(self) -> int:
        """Instances that run something now."""
        return sum(run is not None for run in self._running)

    def submit(
        self,
        inputs: Tensors,
        outputs: tuple[str, ...],
        rows: int,
        lane: Hashable = (),
        deadline: float | None = None,
        signature: str = DEFAULT_SIGNATURE,
        priority: int = 0,
    ) -> Item:
        """Queues a request; `lane` None: it runs alone. `item.reply` is a future of its outputs and timing; await it,
        and `cancel` if you give up.

        Raises:
            ServingError: refused at admission (see `BatchQueue.add`), or UNAVAILABLE after `close`.
        """
        level = self.settings.level(priority) if self.settings.priority_levels else 0
        item = Item(inputs, outputs, rows, lane, deadline, self._loop.create_future(), signature, level)
        now = time.monotonic()
        try:
            with self._lock:
                if self._closed:
                    raise ServingError(ErrorKind.UNAVAILABLE, f"'{self.name}' is stopping")
                self._queue.add(item, now, self._free_at() if deadline is not None else now)
        except ServingError as error:
            self._refused(error)
            raise
        if self._idle:
            self._plan_dispatch()
        if deadline is not None and (self._expiry is None or deadline < self._expiry_at):
            self._plan_expiry(deadline, now)
        return item

    def cancel(self, item: Item) -> None:
        """The caller no longer waits: the item is dropped if it has not been taken, and its answer is discarded."""
        with self._lock:
            waited = [each for each in item.pieces() if self._queue.cancel(each)]
        if waited:
            self.account.refused(Refused.CANCELLED)
        item.reply.cancel()

    def hurry(self) -> None:
        """Requests no longer wait for company."""
        with self._lock:
            self._queue.hurried = True
        self._plan_dispatch()

    async def close(self) -> None:
        """Refuses new work, fails what waits, lets running batches finish, and ends the threads."""
        with self._lock:
            self._closed = True
            left = self._queue.drain()
        for _ in self._threads:
            self._wake.put(None)
        for item in left:
            self._fail(item, ServingError(ErrorKind.UNAVAILABLE, f"'{self.name}' is stopping"))
        for timer in (self._expiry, self._delay):
            if timer is not None:
                timer.cancel()
        await asyncio.to_thread(self._join)
        self._queue.forget()  # `cancel`: only a full collection would find a cycle, which may be hours away

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def estimate(self, rows: int) -> float:
        """Seconds that a run of so many rows takes, as far as is known; 0: nothing is."""
        with self._lock:
            return self._queue.cost.estimate(rows)

    # Loop side

    def _free_at(self) -> float:
        """When an instance will have ended its run; in the past: one is free. Under the lock."""
        if self._idle:
            return 0.0
        cost = self._queue.cost
        return min((run[0] + cost.estimate(run[1]) if run else 0.0 for run in self._running), default=0.0)

    def _refused(self, error: ServingError) -> None:
        if error.kind is ErrorKind.QUEUE_FULL:
            self.account.refused(Refused.FULL)
        elif error.kind is ErrorKind.EXPIRED:
            self.account.refused(Refused.EXPIRED if error.retry_after_s is None else Refused.HOPELESS)

    def _plan_dispatch(self) -> None:
        """Not at once: what else arrives in this turn of the loop shall share the run."""
        if not self._dispatch_planned:
            self._dispatch_planned = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Wakes as many idle instances as there are batches to run, or comes back when it is time to."""
        self._dispatch_planned = False
        now = time.monotonic()
        with self._lock:
            waiting, lanes, rows, due = len(self._queue), self._queue.lanes, self._queue.rows, self._queue.due()
        if not self._idle or due is None:
            return
        if due > now:
            self._plan_delayed(due - now)
            return
        if self._gather.wait(waiting, now):
            self._plan_dispatch()
            return
        if waiting == 1 and self._brief(rows, now):
            self._run_here()
            return
        batches = max(lanes, -(-rows // self._queue.max_batch_rows))
        for _ in range(min(self._idle, batches)):
            self._idle -= 1
            self._wake.put(None)

    def _brief(self, rows: int, now: float) -> bool:
        """Whether the loop may run these itself: nothing else of this version runs, and it will not take long."""
        settings = self.settings
        if not settings.even or self._idle < settings.instances or self._turn is not None or self._background:
            return False
        if now < self._distrust_until:
            return False
        with self._lock:
            return 0 < self._queue.cost.estimate(rows, sure=True) <= _BRIEF_S

    def _run_here(self) -> None:
        """On the loop. Two hand-offs between threads, there and back, would take longer than the run."""
        with self._lock:
            batch = self._begin(0)
        if batch.late:
            self._late(batch.late)
        if batch.items:
            done = self._execute(batch, 0)
            if done.finished - done.started > _NOT_BRIEF_S:
                self._distrust_until = done.finished + _DISTRUST_S
            self._deliver(done)
        elif len(self._queue):
            self._plan_dispatch()

    def _plan_delayed(self, delay_s: float) -> None:
        if self._delay is not None:
            self._delay.cancel()
        self._delay = self._loop.call_later(delay_s, self._dispatch)

    def _instance_idle(self) -> None:
        self._idle += 1
        if len(self._queue):
            self._plan_dispatch()

    def _deliver(self, done: _Done) -> None:
        compute_s = done.finished - done.started
        for item, outcome in zip(done.items, done.outcomes, strict=True):
            if item.reply.done():  # cancelled while it ran
                continue
            if isinstance(outcome, ServingError):
                item.reply.set_exception(outcome)
            else:
                outputs, ran = outcome
                timing = Timing(done.started - item.enqueued, compute_s, ran.input_s, ran.run_s, ran.output_s, ran.rows)
                item.reply.set_result((outputs, timing))
        self._loop.call_soon(self._record, done)  # behind the answers, which are on their way now
        if done.idle:
            self._instance_idle()

    def _record(self, done: _Done) -> None:
        if len(done.runs) == 1 and done.runs[0].rows == done.rows:
            with self._lock:
                self._queue.ran(done.size, done.finished - done.started)
        for ran in done.runs:
            if len(done.runs) == 1 and ran.rows == done.rows:
                items = done.items
            else:  # the run of all of them failed, and this is of one
                items = [i for i, outcome in zip(done.items, done.outcomes, strict=True) if _is_of(outcome, ran)]
            queue_s = len(items) * done.started - sum([item.enqueued for item in items])
            self.account.ran(
                len(items),
                ran.rows,
                ran.padded,
                ran.closed,
                queue_s,
                done.started - min([item.enqueued for item in items]),
                ran.input_s,
                ran.run_s,
                ran.output_s,
            )
            if self._on_run is not None:
                self._on_run(ran)

    def _fail(self, item: Item, error: ServingError) -> None:
        if not item.reply.done():
            item.reply.set_exception(error)

    def _late(self, items: list[Item]) -> None:
        """They would not have been ready in time."""
        for item in items:
            self.account.refused(Refused.HOPELESS)
            self._fail(item, ServingError(ErrorKind.EXPIRED, "Request timeout expired: it would not be ready in time"))

    def _plan_expiry(self, deadline: float, now: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry_at = deadline
        self._expiry = self._loop.call_later(max(deadline - now, 0.0), self._expire)

    def _expire(self) -> None:
        self._expiry = None
        now = time.monotonic()
        with self._lock:
            expired = self._queue.expire(now)
            upcoming = self._queue.next_deadline()
        for item in expired:
            self.account.refused(Refused.EXPIRED)
            self._fail(item, ServingError(ErrorKind.EXPIRED, "Request timeout expired"))
        if upcoming is not None:
            self._plan_expiry(upcoming, now)

    # Instance threads

    def _work(self, index: int) -> None:
        if self._background:
            _give_way()
        run = self._run_on if self._turn is None else self._run_in_turn
        while True:
            self._wake.get()
            if not run(index) or self._closed:
                return

    def _run_on(self, index: int) -> bool:
        """Runs one batch after the other while enough waits. False: nobody waits any more."""
        batch = self._take(index)
        while batch.items:
            done = self._execute(batch, index)
            batch = self._take_next(index, done.finished - done.started)
            done.idle = not batch.items
            if not self._tell(self._deliver, done):
                return False
            del done  # an idle instance holds no tensors
        return True

    def _run_in_turn(self, index: int) -> bool:
        """The same when the device has time for it; what has come until then may be in the batch."""
        assert self._turn is not None
        with self._turn:
            batch = self._take(index)
            while batch.items:
                done = self._execute(batch, index)
                done.idle = not (len(self._queue) and self._turn.again())
                if not self._tell(self._deliver, done):
                    return False
                if done.idle:
                    return True
                batch = self._take(index)
        return True

    def _take(self, index: int) -> Batch:
        """The batch that this instance was woken for; if others were faster, the loop hears that it is idle again."""
        with self._lock:
            batch = self._begin(index)
            left = len(self._queue) > 0
        if not batch.items:
            self._tell(self._instance_idle)
        elif left and self.settings.instances > 1:
            self._tell(self._plan_dispatch)  # what did not fit is another instance's
        if batch.late:
            self._tell(self._late, batch.late)
        return batch

    def _take_next(self, index: int, last_run_s: float) -> Batch:
        """What waits when a run ends: a full group, or anything if runs are long. Otherwise the loop gathers first."""
        with self._lock:
            if last_run_s < LONG_RUN_S and not self._gather.enough(len(self._queue)):
                return Batch()
            batch = self._begin(index)
        if batch.late:
            self._tell(self._late, batch.late)
        return batch

    def _begin(self, index: int) -> Batch:
        """Takes what is due. Under the lock."""
        now = time.monotonic()
        batch = self._queue.take(now)
        if batch.items:
            self._gather.took(len(batch.items))
            self._running[index] = (now, batch.size)
        return batch

    def _execute(self, batch: Batch, index: int) -> _Done:
        started = time.monotonic()
        runs: list[Ran] = []
        outcomes = self._outcomes(batch, runs)
        self._running[index] = None
        return _Done(batch.items, outcomes, runs, started, time.monotonic(), batch.rows, batch.size)

    def _tell(self, callback: Callable[..., None], *args: object) -> bool:
        """Calls back on the loop; False if it is closed, and nobody waits any more."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return False
        return True

    def _outcomes(self, batch: Batch, runs: list[Ran]) -> list[tuple[Tensors, Ran] | ServingError]:
        try:
            parts, ran = self._run_together(batch)
        except BaseException as error:  # of any kind: an instance that dies leaves its callers waiting for ever
            if len(batch.items) == 1:
                return [self._as_error(error)]
        else:
            runs.append(ran)
            return [(part, ran) for part in parts]
        # One bad request must not take its batch mates down.
        return [self._outcomes(self._queue.alone(item), runs)[0] for item in batch.items]

    def _run_together(self, batch: Batch) -> tuple[Sequence[Tensors], Ran]:
        items, size, clock, padding = batch.items, batch.size, self._clock, self.settings.padding
        first, rows = items[0], batch.rows
        started = clock()
        inputs = merge(items) if first.alone else merge(items, size, padding)
        merged = clock()
        outputs = self._run(inputs, first.outputs, first.signature)
        ran = clock()
        parts = [outputs] if first.alone else split(items, outputs, size, padding)
        return parts, Ran(rows, merged - started, ran - merged, clock() - ran, size - rows, batch.closed)

    def _as_error(self, error: BaseException) -> ServingError:
        if isinstance(error, ServingError):
            # without the frames in between, which hold the batch
            return ServingError(error.kind, error.message, error.retry_after_s)
        text = f"{type(error).__name__}: {error}"
        log.warning("%s: the model failed: %s", self.name, text)
        return ServingError(
            ErrorKind.MODEL, f"Failed to process the request(s) for model '{self.name}', message: {text}"
        )


def _is_of(outcome: tuple[Tensors, Ran] | ServingError, ran: Ran) -> bool:
    return not isinstance(outcome, ServingError) and outcome[1] is ran


def _give_way() -> None:
    """Lowers the priority of the calling thread, for good: only a privileged process could raise it again."""
    if sys.platform == "linux":  # elsewhere a priority is of the whole process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
