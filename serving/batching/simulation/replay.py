"""Lets the requests of a trace arrive at a queue, and instances take batches from it, in simulated time. Pure.

What happens at one moment happens in this order: runs end, requests arrive, requests expire, free instances take what
is due. So what arrives the moment an instance becomes free shares its run, and what expires then is not run.

It is the batcher without what the machine adds: handing over between threads takes no time, and an instance takes a
batch the moment it is free and the batch is due.
"""

import heapq
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial

from serving.batching import oversize
from serving.batching.item import Closed, Item
from serving.batching.queue import BatchQueue
from serving.batching.settings import BatchSettings
from serving.batching.simulation.latency import Latency
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import Timing

Cut = Callable[[Item, int], list[Item]]


@dataclass(frozen=True, slots=True)
class Request:
    """One line of a trace.

    `at_s`: when it arrives, from the trace's beginning. `timeout_s`: how long after that its answer is of use; the
    queue knows it as the deadline. `lane` and `priority`: as in `Item`; a lane of None runs alone.
    """

    at_s: float
    rows: int = 1
    lane: Hashable = ""
    timeout_s: float | None = None
    priority: int = 0

    @property
    def deadline_s(self) -> float:
        return math.inf if self.timeout_s is None else self.at_s + self.timeout_s


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request, and when it was told. `error` None: all of its rows were run."""

    request: Request
    told_s: float
    error: ErrorKind | None = None

    @property
    def latency_s(self) -> float:
        return self.told_s - self.request.at_s

    def of_use(self, bound_s: float = math.inf) -> bool:
        """Answered in time: before its own deadline, and within `bound_s`."""
        return self.error is None and self.told_s <= self.request.deadline_s and self.latency_s <= bound_s


@dataclass(frozen=True, slots=True)
class Run:
    """By which instance, of which requests (indices into the answers), with how many rows, `size` with padding."""

    instance: int
    requests: tuple[int, ...]
    rows: int
    size: int
    closed: Closed | None  # None: not known
    began_s: float
    ended_s: float

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s


@dataclass(frozen=True)
class Replay:
    """What happened: an answer for each request of the trace, in its order, and the runs in the order they began."""

    answers: list[Answer]
    runs: list[Run]
    instances: int


def replay(
    trace: Iterable[Request],
    settings: BatchSettings,
    latency: Latency,
    queue: Callable[[BatchSettings, Cut], BatchQueue] = BatchQueue.of,
) -> Replay:
    """Replays `trace` in order of arrival, and as it stands where requests arrive together.

    Args:
        latency: asked once for each run, in the order in which they begin.
        queue: makes the queue, an empty one.

    Raises:
        RuntimeError: the queue keeps what it says is due.
    """
    return _Course(sorted(trace, key=lambda r: r.at_s), settings, latency, queue).run()


class _Course:
    def __init__(
        self,
        trace: list[Request],
        settings: BatchSettings,
        latency: Latency,
        queue: Callable[[BatchSettings, Cut], BatchQueue],
    ) -> None:
        self.now = -math.inf
        self._trace = trace
        self._settings = settings
        self._latency = latency
        self._queue = queue(settings, partial(oversize.cut, cancel=self._cancel))
        self._arrived = 0
        self._replies: list[_Reply] = []
        self._runs: list[Run] = []
        self._free = list(range(settings.instances))  # a heap: of the free instances the first takes the batch
        self._running: list[tuple[float, int, list[Item]]] = []  # a heap: when runs end, their index, what they run

    def run(self) -> Replay:
        while (now := self._next()) < math.inf:
            self.now = now
            self._end_runs()
            self._arrive()
            self._expire(self._queue.expire(now))
            self._begin_runs()
        answers = [reply.answer for reply in self._replies if reply.answer is not None]
        return Replay(answers, self._runs, self._settings.instances)

    def _next(self) -> float:
        """When something happens next; infinity: nothing ever will."""
        due = self._queue.due() if self._free else None
        if due is not None and due <= self.now:  # time would stand still
            raise RuntimeError(f"a batch was due at {due} s and is not given at {self.now} s: {self._queue!r}")
        moments = (
            due,
            self._trace[self._arrived].at_s if self._arrived < len(self._trace) else None,
            self._running[0][0] if self._running else None,
            self._queue.next_deadline(),
        )
        return min((at for at in moments if at is not None), default=math.inf)

    def _end_runs(self) -> None:
        while self._running and self._running[0][0] <= self.now:
            _, index, items = heapq.heappop(self._running)
            run = self._runs[index]
            for item in items:
                if not item.reply.done():
                    timing = Timing(run.began_s - item.enqueued, run.seconds, 0.0, run.seconds, 0.0, run.rows)
                    item.reply.set_result(({}, timing))
            self._queue.ran(run.size, run.seconds)
            heapq.heappush(self._free, run.instance)

    def _arrive(self) -> None:
        while self._arrived < len(self._trace) and (request := self._trace[self._arrived]).at_s <= self.now:
            number, self._arrived = self._arrived, self._arrived + 1
            deadline = None if request.timeout_s is None else request.deadline_s
            reply = _Reply(self, request, number)
            level = self._settings.level(request.priority)
            item = Item({}, (), request.rows, request.lane, deadline, reply, priority=level)
            self._replies.append(reply)
            try:
                self._queue.add(item, self.now, self._free_at())
            except ServingError as error:
                reply.set_exception(error)

    def _cancel(self, item: Item) -> None:
        self._queue.cancel(item)

    def _free_at(self) -> float:
        """When an instance will be free, as far as the batcher can know: from what runs have cost until now."""
        if self._free:
            return 0.0
        runs = (self._runs[index] for _, index, _ in self._running)
        return min(run.began_s + self._queue.cost.estimate(run.size) for run in runs)

    def _expire(self, items: Iterable[Item]) -> None:
        for item in items:
            if not item.reply.done():
                item.reply.set_exception(ServingError(ErrorKind.EXPIRED, "too late"))

    def _begin_runs(self) -> None:
        while self._free and (batch := self._queue.take(self.now)).items:
            self._expire(batch.late)
            instance = heapq.heappop(self._free)
            ended_s = self.now + self._latency(batch.size)
            heapq.heappush(self._running, (ended_s, len(self._runs), batch.items))
            requests = tuple(oversize.owner(item.reply).number for item in batch.items)
            self._runs.append(Run(instance, requests, batch.rows, batch.size, batch.closed, self.now, ended_s))


class _Reply:
    """Stands where a request of a server has its future."""

    def __init__(self, course: _Course, request: Request, number: int) -> None:
        self.answer: Answer | None = None
        self.number = number
        self._course = course
        self._request = request

    def done(self) -> bool:
        return self.answer is not None

    def set_result(self, _result: object) -> None:
        self.answer = Answer(self._request, self._course.now)

    def set_exception(self, error: BaseException) -> None:
        kind = error.kind if isinstance(error, ServingError) else ErrorKind.INTERNAL
        self.answer = Answer(self._request, self._course.now, kind)
