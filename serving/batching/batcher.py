"""Runs what waits: one queue, and one thread per instance that takes from it the moment it is free.

Threads: `submit`, `cancel` and `close` belong to the event loop. An instance thread takes a batch, merges, runs and
splits, and hands the finished batch back to the loop with one call. The queue is shared, behind a lock that is held for
microseconds. A batch is formed by the instance that will run it, so it stays open to new rows until then.

Knows nothing of models, versions or protocols: it gets a function to run.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from serving.batching.merge import merge, split
from serving.batching.queue import BatchQueue, Item
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import Tensors, Timing

log = logging.getLogger(__name__)

Run = Callable[[Tensors, tuple[str, ...]], Tensors]
Reply = asyncio.Future[tuple[Tensors, Timing]]


@dataclass(frozen=True)
class BatchPolicy:
    """How one version's requests are batched. `max_batch_size` 0: each request runs alone, whatever its shape."""

    max_batch_size: int = 64
    max_queue_rows: int = 4096
    max_queue_delay_s: float = 0.0
    instances: int = 1


@dataclass(slots=True)
class _Done:
    """A batch on its way back to the loop; each outcome is the item's outputs or its error."""

    items: list[Item]
    outcomes: list[Tensors | ServingError]
    started: float
    finished: float


class Batcher:
    """The batcher of one ready version.

    Args:
        name: names the threads and appears in errors, such as `digits/1`.
        run: called from instance threads with merged inputs and output names.
        on_batch: called on the loop after each run with its rows and its seconds.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        policy: BatchPolicy,
        loop: asyncio.AbstractEventLoop,
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self._run = run
        self._batched = policy.max_batch_size > 0
        self._queue = BatchQueue(max(policy.max_batch_size, 1), policy.max_queue_rows, policy.max_queue_delay_s)
        self._lock = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._idle = 0  # instances that wait for a wake token; guarded by the lock
        self._closed = False
        self._loop = loop
        self._on_batch = on_batch
        self._kick_planned = False
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = 0.0
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}#{i}", daemon=True) for i in range(policy.instances)
        ]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        return f"<Batcher {self.name} {self._queue!r} idle={self._idle}/{len(self._threads)}>"

    @property
    def queued_rows(self) -> int:
        return self._queue.rows

    def submit(
        self,
        inputs: Tensors,
        outputs: tuple[str, ...],
        rows: int,
        lane: Hashable = (),
        deadline: float | None = None,
    ) -> Item:
        """Queues a request. `item.reply` is a future of its outputs and timing; await it, and `cancel` if you give up.

        Raises:
            ServingError: refused at admission (see `BatchQueue.add`), or UNAVAILABLE after `close`.
        """
        item = Item(inputs, outputs, rows, lane, deadline, self._loop.create_future())
        now = time.monotonic()
        with self._lock:
            if self._closed:
                raise ServingError(ErrorKind.UNAVAILABLE, f"'{self.name}' is stopping")
            self._queue.add(item, now)
            idle = self._idle
        if idle and not self._kick_planned:
            # Not at once: what else arrived in this turn of the loop shall share the run.
            self._kick_planned = True
            self._loop.call_soon(self._kick)
        if deadline is not None and (self._expiry is None or deadline < self._expiry_at):
            self._plan_expiry(deadline, now)
        return item

    def cancel(self, item: Item) -> None:
        """The caller no longer waits: the item is dropped if it has not been taken, and its answer is discarded."""
        with self._lock:
            self._queue.cancel(item)
        item.reply.cancel()

    async def close(self) -> None:
        """Refuses new work, fails what waits, lets running batches finish, and ends the threads."""
        with self._lock:
            self._closed = True
            left = self._queue.drain()
        for _ in self._threads:
            self._wake.put(None)
        for item in left:
            self._fail(item, ServingError(ErrorKind.UNAVAILABLE, f"'{self.name}' is stopping"))
        if self._expiry is not None:
            self._expiry.cancel()
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    # Loop side

    def _kick(self) -> None:
        """Wakes as many idle instances as there are batches to run."""
        self._kick_planned = False
        with self._lock:
            batches = max(self._queue.lanes, -(-self._queue.rows // self._queue.max_batch_rows))
            tokens = min(self._idle, batches)
            self._idle -= tokens
        for _ in range(tokens):
            self._wake.put(None)

    def _deliver(self, done: _Done) -> None:
        compute_s = done.finished - done.started
        for item, outcome in zip(done.items, done.outcomes, strict=True):
            if item.reply.done():  # cancelled while it ran
                continue
            if isinstance(outcome, ServingError):
                item.reply.set_exception(outcome)
            else:
                item.reply.set_result((outcome, Timing(done.started - item.enqueued, compute_s)))
        if self._on_batch is not None:
            self._on_batch(sum(item.rows for item in done.items), compute_s)

    def _fail(self, item: Item, error: ServingError) -> None:
        if not item.reply.done():
            item.reply.set_exception(error)

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
            self._fail(item, ServingError(ErrorKind.EXPIRED, "Request timeout expired"))
        if upcoming is not None:
            self._plan_expiry(upcoming, now)

    # Instance threads

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            started = time.monotonic()
            outcomes = self._outcomes(batch)
            done = _Done(batch, outcomes, started, time.monotonic())
            try:
                self._loop.call_soon_threadsafe(self._deliver, done)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del batch, outcomes, done  # an idle instance holds no tensors

    def _next_batch(self) -> list[Item] | None:
        """Blocks until there is a batch to run; None when the batcher closes."""
        while True:
            with self._lock:
                now = time.monotonic()
                batch = self._queue.take(now)
                if batch:
                    return batch
                if self._closed:
                    return None
                due = self._queue.due()
                self._idle += 1
            try:
                self._wake.get(timeout=None if due is None else max(due - now, 0.0))
            except Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        continue
                self._wake.get()  # woken in the same moment: the token is ours and must not wake another

    def _outcomes(self, batch: list[Item]) -> list[Tensors | ServingError]:
        try:
            return list(self._run_together(batch))
        except Exception as error:
            if len(batch) == 1:
                return [self._as_error(error)]
        # One bad request must not take its batch mates down.
        return [self._outcomes([item])[0] for item in batch]

    def _run_together(self, batch: list[Item]) -> Sequence[Tensors]:
        outputs = self._run(merge(batch), batch[0].outputs)
        return split(batch, outputs) if self._batched else [outputs]

    def _as_error(self, error: Exception) -> ServingError:
        if isinstance(error, ServingError):
            return error
        log.warning("%s: the model failed: %s", self.name, error)
        return ServingError(
            ErrorKind.MODEL,
            f"Failed to process the request(s) for model '{self.name}', message: {type(error).__name__}: {error}",
        )
