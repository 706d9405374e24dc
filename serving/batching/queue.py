"""Which requests run next, and which never will. Pure: no threads, no clock; the caller passes `now` and holds a lock.

Items wait in lanes: only items of one lane may share a run. Of the lanes whose time has come, the one with the most
urgent item goes first, then the one whose head has waited longest. Inside a lane, more urgent items go first, and those
of one priority in the order of arrival, so nothing is overtaken by what could have waited with it.
"""

import heapq
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Self

from serving.batching import policies, sizes
from serving.batching.cost import Cost
from serving.batching.item import Batch, Closed, Item, ItemState
from serving.batching.lane import SLACK, Lane
from serving.batching.policies import Continuous, Policy, PolicySettings
from serving.batching.settings import BatchSettings
from serving.core.errors import ErrorKind, ServingError, invalid

_PARTS = 5  # of a run: the room that one large item may take beside small ones
_WORTH_CUTTING = 16  # rows: a run of fewer is short anyway
_BACKLOG = 8  # runs: if large items have more rows than that, they take all the room that is left


class BatchQueue:
    """Waiting items of one version.

    Args:
        max_batch_rows: rows that one run may hold.
        max_queue_rows: rows that may wait.
        max_delay_s: how long a free instance may let an item wait for company; 0: not at all.
        max_item_rows: rows that one item may have, where that is more than `max_batch_rows`; such an item runs alone.
        allowed_sizes: rows that a run may have, in ascending order; none: any number.
        instances: runs that may be under way at the same time.
        slo_s: what the policy holds a request's time below, as far as that is in its power.
        policy: makes the policy.
        cut: makes items of at most so many rows out of one; None: one of more than `max_batch_rows` runs alone, and
            none is cut to let small ones pass.
    """

    def __init__(
        self,
        max_batch_rows: int,
        max_queue_rows: int,
        max_delay_s: float = 0.0,
        max_item_rows: int = 0,
        *,
        allowed_sizes: Sequence[int] = (),
        instances: int = 1,
        slo_s: float | None = None,
        policy: Callable[[PolicySettings], Policy] = Continuous,
        cut: Callable[[Item, int], list[Item]] | None = None,
    ) -> None:
        self._allowed = tuple(size for size in allowed_sizes if size <= max_batch_rows)
        self.max_batch_rows = self._allowed[-1] if self._allowed else max_batch_rows
        self.max_item_rows = max(max_item_rows, max_batch_rows)
        self.max_queue_rows = max_queue_rows
        self.rows = 0  # waiting, over all lanes
        self._rows_of: dict[int, int] = {}  # the same, by priority
        self.cost = Cost()
        self.hurried = False  # nobody waits for company any more
        self._policy = policy(PolicySettings(self.max_batch_rows, max_delay_s, slo_s))
        self._instances = instances
        self._cut = cut
        self._part = self.max_batch_rows // _PARTS if cut is not None and self.max_batch_rows >= _WORTH_CUTTING else 0
        self._size = 0
        self._next_number = 0
        self._lanes: dict[Hashable, Lane] = {}
        self._deadlines: list[tuple[float, int, Item]] = []

    @classmethod
    def of(cls, settings: BatchSettings, cut: Callable[[Item, int], list[Item]] | None = None) -> Self:
        """
        Raises:
            ValueError: there is no such policy.
        """
        return cls(
            max(settings.max_batch_size, 1),
            settings.max_queue_rows,
            settings.max_queue_delay_s,
            settings.max_request_rows,
            allowed_sizes=settings.allowed_sizes,
            instances=settings.instances,
            slo_s=settings.slo_s,
            policy=policies.find(settings.policy),
            cut=cut,
        )

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<BatchQueue {self._size} items, {self.rows} rows, {len(self._lanes)} lanes>"

    @property
    def lanes(self) -> int:
        return len(self._lanes)

    def add(self, item: Item, now: float, free_at: float = 0.0) -> None:
        """Admits an item, or, if it was cut, its parts.

        Args:
            free_at: when an instance will have ended what it runs, as far as that can be told; a time that has passed:
                one is free now.

        Raises:
            ServingError: INVALID if it could never be scheduled, QUEUE_FULL if there is no room, EXPIRED if its
                deadline has passed or will have when it is ready. The queue is as before.
        """
        if item.rows > self.max_item_rows:
            raise invalid(f"inference request batch-size must be <= {self.max_item_rows}, got {item.rows} rows")
        if item.deadline is not None or self.rows + item.rows > self.max_queue_rows:
            self._admit(item.rows, item.priority, item.deadline, now, free_at)
        if self._cut is not None and item.rows > self.max_batch_rows and not item.alone:
            item.parts = self._cut(item, self.max_batch_rows)
            for part in item.parts:
                self._put(part, now)
        else:
            self._put(item, now)

    def _put(self, item: Item, now: float) -> None:
        item.enqueued = now
        self._number(item)
        lane = self._lanes.get(item.lane)
        if lane is None:
            lane = self._lanes[item.lane] = Lane(item.lane, _BACKLOG * self.max_batch_rows)
        if 0 < self._part < item.rows and not item.alone:
            item.large = True
        lane.add(item)
        self.rows += item.rows
        self._rows_of[item.priority] = self._rows_of.get(item.priority, 0) + item.rows
        self._size += 1

    def _number(self, item: Item) -> None:
        item.number = self._next_number
        self._next_number += 1
        if item.deadline is not None:
            heapq.heappush(self._deadlines, (item.deadline, item.number, item))

    def _admit(self, rows: int, priority: int, deadline: float | None, now: float, free_at: float) -> None:
        """Raises: ServingError: see `add`."""
        if rows > self.max_queue_rows:
            raise invalid(f"a request of {rows} rows can never wait where {self.max_queue_rows} rows may")
        if self.rows + rows > self.max_queue_rows:
            raise ServingError(
                ErrorKind.QUEUE_FULL,
                f"Exceeds maximum queue size: {self.rows} of {self.max_queue_rows} rows are waiting",
                self._seconds_for(self.rows + rows - self.max_queue_rows),
            )
        if deadline is None:
            return
        if deadline <= now:
            raise ServingError(ErrorKind.EXPIRED, "Request timeout expired")
        late_s = self._ready_at(rows, priority, now, free_at) - deadline
        if late_s > 0:
            raise ServingError(
                ErrorKind.EXPIRED,
                f"Request timeout expired: it was not run, since behind the {self.rows} rows that wait it would be "
                f"ready {math.ceil(1000 * late_s)} ms too late",
                late_s,
            )

    def _ready_at(self, rows: int, priority: int, now: float, free_at: float) -> float:
        """When rows that came now would be ready. If an instance is free it is now: what such a run takes may be known
        wrongly, and is learned only by running."""
        if free_at <= now and not self.rows:
            return now
        ahead = sum([rows for level, rows in self._rows_of.items() if level <= priority])
        # A doubt for each run ahead would add up to refusing what is in time, and keep the batches small for ever.
        full, rest = divmod(ahead + rows - 1, self.max_batch_rows)
        runs = full * self.cost.estimate(self.max_batch_rows) / self._instances
        runs += self.cost.estimate(rest + 1, sure=True)
        return max(now, free_at) + runs

    def _seconds_for(self, rows: int) -> float:
        """How long it takes until so many rows have left."""
        return -(-rows // self.max_batch_rows) * self.cost.estimate(self.max_batch_rows) / self._instances

    def ran(self, rows: int, seconds: float) -> None:
        """A run has ended: what the next ones will take is known better."""
        self.cost.observe(rows, seconds)
        self._policy.ran(rows, seconds)

    def take(self, now: float) -> Batch:
        """The next batch: at most `max_batch_rows` rows of one lane, or one item that has more or runs alone anyway;
        nothing if nothing waits or the delay still runs."""
        lane = self._next_lane(now)
        if lane is None or self._due(lane) > now:
            return Batch()
        head = lane.head
        if head.alone:
            self._leave(lane, [head], ItemState.TAKEN)
            return Batch([head], head.rows, Closed.ALONE)
        limit = min(self._policy.rows(lane, self.cost), self.max_batch_rows)
        if lane.large_rows and (item := lane.in_the_way()) is not None and item.rows > self._part:
            self._cut_up(lane, item)
        batch = Batch()
        if lane.deadline < math.inf:
            self._choose_in_time(lane, limit, now, batch)
        else:
            self._choose(lane, limit, batch)
        for item in batch.late:
            self.cancel(item)
        if batch.items:
            self._leave(lane, batch.items, ItemState.TAKEN)
        return batch

    def _cut_up(self, lane: Lane, item: Item) -> None:
        """So that small ones need not wait for all of it."""
        assert self._cut is not None  # or there were no large ones
        item.state = ItemState.GONE
        item.parts = self._cut(item, self._part)
        for part in item.parts:
            part.enqueued, part.large = item.enqueued, True
            self._number(part)
        lane.replace(item, item.parts)
        self._size += len(item.parts) - 1

    def _choose(self, lane: Lane, limit: int, batch: Batch) -> None:
        """Fills the batch with the first that wait, but for those that are late already."""
        waiting = lane.size - len(batch.late)
        items, rows = lane.first(limit, batch.late)
        size = sizes.fit(rows, self._allowed, self.cost) if rows <= self.max_batch_rows else rows
        if size < rows:
            smaller, fewer = lane.first(size, batch.late)
            if fewer <= size:
                batch.items, batch.size, batch.closed = smaller, size, Closed.SIZE
                return
            size = sizes.at_least(rows, self._allowed)
        batch.items, batch.size = items, size
        if rows >= self.max_batch_rows:
            batch.closed = Closed.FULL
        elif len(items) < waiting:
            if limit < self.max_batch_rows:
                batch.closed = Closed.SLO
            else:
                batch.closed = Closed.LARGE if lane.only_large_left(items) else Closed.FULL
        elif len(self._lanes) > 1:
            batch.closed = Closed.LANE
        else:
            batch.closed = Closed.DELAY if self._policy.start(lane) > lane.oldest else Closed.FREE

    def _choose_in_time(self, lane: Lane, limit: int, now: float, batch: Batch) -> None:
        """The same, without those that would not be ready by their deadlines. If that is all of them, one is run whose
        time is not up yet: what runs take is learned only by running, and may be less by now."""
        while len(batch.late) < lane.size:
            self._choose(lane, limit, batch)
            ready = now + self.cost.estimate(batch.size)
            missed = [item for item in batch.items if item.deadline is not None and item.deadline < ready]
            if not missed:
                return
            if len(batch.items) + len(batch.late) == lane.size and self._would_do_alone(missed, now):
                batch.items, batch.closed = missed, Closed.DEADLINE
                batch.size = sizes.at_least(batch.rows, self._allowed)
                return
            batch.late.extend(missed)
        last = max(batch.late, key=lambda item: item.deadline or 0.0)
        if last.deadline is not None and last.deadline <= now:
            batch.items, batch.size = [], 0
            return
        batch.late.remove(last)
        batch.items, batch.closed = [last], Closed.DEADLINE
        batch.size = sizes.at_least(last.rows, self._allowed)

    def _would_do_alone(self, items: list[Item], now: float) -> bool:
        """Whether they would be ready in time if the others, who can wait, let them go first."""
        rows = sizes.at_least(sum(item.rows for item in items), self._allowed)
        ready = now + self.cost.estimate(rows)
        return all(item.deadline is None or item.deadline >= ready for item in items)

    def alone(self, item: Item) -> Batch:
        """A batch of one item that has been in another."""
        return Batch([item], max(item.rows, sizes.at_least(min(item.rows, self.max_batch_rows), self._allowed)))

    def due(self) -> float | None:
        """When `take` would give a batch if nothing else happens; None if nothing waits."""
        return min((self._due(lane) for lane in self._lanes.values()), default=None)

    def cancel(self, item: Item) -> bool:
        """Takes a waiting item out; False if it was taken or gone already."""
        if item.state is not ItemState.WAITING:
            return False
        self._leave(self._lanes[item.lane], [item], ItemState.GONE)
        item.inputs = {}  # the item may stay in its lane for a while, its tensors need not
        return True

    def expire(self, now: float) -> list[Item]:
        """Takes out and returns the waiting items whose deadline has passed."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            item = heapq.heappop(self._deadlines)[2]
            if self.cancel(item):
                expired.append(item)
        return expired

    def next_deadline(self) -> float | None:
        """The earliest deadline of a waiting item."""
        while self._deadlines and self._deadlines[0][2].state is not ItemState.WAITING:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def drain(self) -> list[Item]:
        """Takes out and returns everything that waits, oldest first."""
        waiting = [item for lane in self._lanes.values() for item in lane]
        for item in waiting:
            self.cancel(item)
        return sorted(waiting, key=lambda i: i.number)

    def forget(self) -> None:
        """How requests are cut; nothing may be added from here on."""
        self._cut = None

    def _leave(self, lane: Lane, items: Sequence[Item], state: ItemState) -> None:
        for item in items:
            lane.leave(item, state)
            self.rows -= item.rows
            self._rows_of[item.priority] -= item.rows
        self._size -= len(items)
        if not lane.size:
            del self._lanes[lane.key]
        if len(self._deadlines) > 2 * self._size + SLACK:
            self._deadlines = [entry for entry in self._deadlines if entry[2].state is ItemState.WAITING]
            heapq.heapify(self._deadlines)

    def _next_lane(self, now: float) -> Lane | None:
        """Of those that are due, the one with the most urgent item, and of several, the one whose head came first; if
        none is, the one that will be due first."""
        if len(self._lanes) == 1:
            (lane,) = self._lanes.values()
            return lane

        def order(lane: Lane) -> tuple[float, int, float, int]:
            due, head = self._due(lane), lane.head
            return max(due, now), head.priority, due, head.number

        return min(self._lanes.values(), key=order, default=None)

    def _due(self, lane: Lane) -> float:
        if self.hurried or lane.head.alone:
            return lane.oldest
        start = self._policy.start(lane)
        if lane.deadline < start:  # or they would wait for company until it is too late
            start = min(start, lane.deadline - self.cost.estimate(min(lane.rows, self.max_batch_rows), sure=True))
        return start
