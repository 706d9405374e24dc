"""Any interleaving of arrivals, cancellations, deadlines, runs and failures, on the pure parts with a made-up clock:
every request is answered exactly once, with its own rows. A plain list of what waits is the model."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.batching.item import Item
from serving.batching.merge import merge, split
from serving.batching.queue import BatchQueue
from serving.core.errors import ErrorKind, ServingError

pick = st.integers(0, 1000)  # one of several, whatever their number


class QueueMachine(RuleBasedStateMachine):
    @initialize(
        max_rows=st.integers(1, 6),
        room=st.integers(6, 20),
        delay=st.sampled_from([0.0, 2.0]),
        max_item_rows=st.sampled_from([0, 6]),
    )
    def begin(self, max_rows: int, room: int, delay: float, max_item_rows: int) -> None:
        self.queue = BatchQueue(max_rows, room, delay, max_item_rows)
        self.delay = delay
        self.earliest: dict[object, float] = {}  # deadline in a lane since it was empty
        self.now = 0.0
        self.waiting: list[Item] = []  # oldest first
        self.running: list[list[Item]] = []
        self.admitted: dict[int, Item] = {}
        self.answers: dict[int, list[object]] = {}
        self.sent: dict[int, np.ndarray] = {}

    # What happens

    @rule(
        rows=st.integers(1, 7),
        lane=st.sampled_from("abc"),
        allowance=st.none() | st.integers(0, 5),
        priority=st.integers(1, 3),
    )
    def arrive(self, rows: int, lane: str, allowance: int | None, priority: int) -> None:
        deadline = None if allowance is None else self.now + allowance
        number = len(self.admitted)
        x = np.array([[number, row] for row in range(rows)], np.float64)
        item = Item({"x": x}, ("y",), rows, lane, deadline, priority=priority)
        expected = self._refusal(rows, allowance)
        if expected is not None:
            with pytest.raises(ServingError) as refused:
                self.queue.add(item, self.now)
            assert refused.value.kind is expected
            return
        self.queue.add(item, self.now)
        assert item.number == number
        self.admitted[number], self.sent[number], self.answers[number] = item, x, []
        self.waiting.append(item)
        if deadline is not None:
            self.earliest[lane] = min(deadline, self.earliest.get(lane, deadline))

    def _refusal(self, rows: int, allowance: int | None) -> ErrorKind | None:
        if rows > self.queue.max_item_rows:
            return ErrorKind.INVALID
        if sum(i.rows for i in self.waiting) + rows > self.queue.max_queue_rows:
            return ErrorKind.QUEUE_FULL
        return ErrorKind.EXPIRED if allowance == 0 else None

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.admitted)
    @rule(which=pick)
    def cancel(self, which: int) -> None:
        """Of any request, also of one that runs or was answered."""
        item = self.admitted[which % len(self.admitted)]
        was_waiting = item in self.waiting
        assert self.queue.cancel(item) == was_waiting
        if was_waiting:
            self._leave(item, "cancelled")

    @rule()
    def expire(self) -> None:
        due = [i for i in self.waiting if i.deadline is not None and i.deadline <= self.now]
        assert self.queue.expire(self.now) == sorted(due, key=lambda i: (i.deadline, i.number))
        for item in due:
            self._leave(item, "expired")

    @rule()
    def take(self) -> None:
        expected, late = self._next_batch()
        batch = self.queue.take(self.now)
        assert (batch.items, batch.late) == (expected, late)
        assert batch.size == sum(item.rows for item in expected)
        for item in late:
            self._leave(item, "late")
        for item in expected:
            self._leave(item)
        if expected:
            self.running.append(expected)

    @precondition(lambda self: self.running)
    @rule(which=pick)
    def complete(self, which: int) -> None:
        batch = self.running.pop(which % len(self.running))
        outputs = {"y": merge(batch)["x"] * 10}
        for item, part in zip(batch, split(batch, outputs), strict=True):
            self.answers[item.number].append(part["y"])

    @precondition(lambda self: self.running)
    @rule(which=pick, excess=st.sampled_from([-1, 1]))
    def fail(self, which: int, excess: int) -> None:
        """The model gives a row too few or too many."""
        batch = self.running.pop(which % len(self.running))
        wrong = np.zeros((sum(i.rows for i in batch) + excess, 2))
        with pytest.raises(ServingError):
            split(batch, {"y": wrong})
        for item in batch:
            self.answers[item.number].append("failed")

    @rule()
    def drain(self) -> None:
        assert self.queue.drain() == self.waiting
        for item in list(self.waiting):
            self._leave(item, "stopped")

    # What must hold

    @invariant()
    def counters_are_sums_over_what_waits(self) -> None:
        assert self.queue.rows == sum(i.rows for i in self.waiting) <= self.queue.max_queue_rows
        assert len(self.queue) == len(self.waiting)
        assert self.queue.lanes == len({i.lane for i in self.waiting})

    @invariant()
    def times_are_those_of_what_waits(self) -> None:
        assert self.queue.next_deadline() == min(
            (i.deadline for i in self.waiting if i.deadline is not None), default=None
        )
        lanes = self._lanes()
        assert self.queue.due() == min((self._due(lane) for lane in lanes), default=None)

    @invariant()
    def nobody_is_answered_twice_or_while_waiting(self) -> None:
        assert all(len(answers) <= 1 for answers in self.answers.values())
        assert all(self.answers[i.number] == [] for i in self.waiting)

    def teardown(self) -> None:
        """In the end everyone is answered, and who was not cancelled, expired or failed has his own rows."""
        if not hasattr(self, "queue"):
            return
        self.drain()
        while self.running:
            self.complete(0)
        for number, answers in self.answers.items():
            (answer,) = answers
            if isinstance(answer, np.ndarray):
                np.testing.assert_array_equal(answer, self.sent[number] * 10)

    # The model

    def _leave(self, item: Item, how: str = "") -> None:
        self.waiting.remove(item)
        if how:
            self.answers[item.number].append(how)
        if all(other.lane != item.lane for other in self.waiting):
            self.earliest.pop(item.lane, None)

    def _lanes(self) -> list[list[Item]]:
        """Each in the order in which its items are taken."""
        lanes: dict[object, list[Item]] = {}
        for item in self.waiting:
            lanes.setdefault(item.lane, []).append(item)
        return [sorted(lane, key=lambda item: (item.priority, item.number)) for lane in lanes.values()]

    def _due(self, lane: list[Item]) -> float:
        full = sum(i.rows for i in lane) >= self.queue.max_batch_rows
        start = min(i.enqueued for i in lane) + (0.0 if full else self.delay)
        return min(start, self.earliest.get(lane[0].lane, start))

    def _next_batch(self) -> tuple[list[Item], list[Item]]:
        """What is run, and what is not any more: while nothing is known of runs, they take no time."""

        def order(lane: list[Item]) -> tuple[float, int, float, int]:
            return max(self._due(lane), self.now), lane[0].priority, self._due(lane), lane[0].number

        lane = min(self._lanes(), key=order, default=[])
        if not lane or self._due(lane) > self.now:
            return [], []
        late: list[Item] = []
        while len(late) < len(lane):
            batch = self._first([item for item in lane if item not in late])
            missed = [item for item in batch if item.deadline is not None and item.deadline < self.now]
            if not missed:
                return batch, late
            late += missed
        return [], late

    def _first(self, items: list[Item]) -> list[Item]:
        batch: list[Item] = []
        for item in items:
            if batch and sum(i.rows for i in batch) + item.rows > self.queue.max_batch_rows:
                break
            batch.append(item)
        return batch


TestQueue: Callable[..., object] = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=200, stateful_step_count=40)  # type: ignore[attr-defined]
