"""Which requests run next, and which never will. Pure: no threads, no clock; the caller passes `now` and holds a lock.

Items wait in lanes: only items of one lane may share a run. The lane whose head has waited longest goes first, and
inside a lane the order of arrival is kept, so nothing is overtaken by what could have waited with it.
"""

import heapq
from collections import deque
from collections.abc import Hashable
from enum import Enum
from typing import Any

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import DEFAULT_SIGNATURE, Tensors

# How many items that have left a lane or the deadlines may still hold, besides as many as wait.
_SLACK = 16


class ItemState(Enum):
    WAITING = "waiting"
    TAKEN = "taken"  # an instance runs it, or has run it
    GONE = "gone"  # cancelled or expired while it waited


class Item:
    """One request in the batcher. `lane` None: it runs alone, whatever its shape, and its outputs are not cut.

    `reply` belongs to whoever submitted the item (a future, in the server); nothing here touches it.
    """

    __slots__ = (
        "deadline",
        "enqueued",
        "inputs",
        "lane",
        "number",
        "outputs",
        "priority",
        "reply",
        "rows",
        "signature",
        "state",
    )

    def __init__(
        self,
        inputs: Tensors,
        outputs: tuple[str, ...],
        rows: int,
        lane: Hashable = (),
        deadline: float | None = None,
        reply: Any = None,
        signature: str = DEFAULT_SIGNATURE,
        priority: int = 0,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.lane = lane
        self.deadline = deadline
        self.reply = reply
        self.signature = signature
        self.priority = priority
        self.state = ItemState.WAITING
        self.enqueued = 0.0
        self.number = 0

    @property
    def alone(self) -> bool:
        return self.lane is None

    def __repr__(self) -> str:
        return f"<Item {self.number} {self.state.value} rows={self.rows}>"


class _Lane:
    """Items that may share a run, in order of arrival. Items that are gone stay until they reach the head."""

    __slots__ = ("items", "rows", "size")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.rows = 0  # of waiting items
        self.size = 0  # number of waiting items

    @property
    def head(self) -> Item:
        """The oldest waiting item; a lane without one is never kept."""
        while self.items[0].state is ItemState.GONE:
            self.items.popleft()
        return self.items[0]


class BatchQueue:
    """Waiting items of one version.

    Args:
        max_batch_rows: rows that one run may hold.
        max_queue_rows: rows that may wait.
        max_delay_s: how long a free instance may let an item wait for company; 0: not at all.
        max_item_rows: rows that one item may have, where that is more than `max_batch_rows`; such an item runs alone.
    """

    def __init__(
        self, max_batch_rows: int, max_queue_rows: int, max_delay_s: float = 0.0, max_item_rows: int = 0
    ) -> None:
        self.max_batch_rows = max_batch_rows
        self.max_item_rows = max(max_item_rows, max_batch_rows)
        self.max_queue_rows = max_queue_rows
        self.max_delay_s = max_delay_s
        self.rows = 0  # waiting, over all lanes
        self._size = 0
        self._next_number = 0
        self._lanes: dict[Hashable, _Lane] = {}
        self._deadlines: list[tuple[float, int, Item]] = []

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<BatchQueue {self._size} items, {self.rows} rows, {len(self._lanes)} lanes>"

    @property
    def lanes(self) -> int:
        return len(self._lanes)

    def add(self, item: Item, now: float) -> None:
        """Admits an item.

        Raises:
            ServingError: INVALID if it could never be scheduled, QUEUE_FULL if there is no room, EXPIRED if its
                deadline has passed. The queue is as before.
        """
        if item.rows > self.max_item_rows:
            raise invalid(f"inference request batch-size must be <= {self.max_item_rows}, got {item.rows} rows")
        if item.rows > self.max_queue_rows:
            raise invalid(f"a request of {item.rows} rows can never wait where {self.max_queue_rows} rows may")
        if self.rows + item.rows > self.max_queue_rows:
            raise ServingError(
                ErrorKind.QUEUE_FULL,
                f"Exceeds maximum queue size: {self.rows} of {self.max_queue_rows} rows are waiting",
            )
        if item.deadline is not None and item.deadline <= now:
            raise ServingError(ErrorKind.EXPIRED, "Request timeout expired")
        item.number = self._next_number
        item.enqueued = now
        self._next_number += 1
        if item.deadline is not None:
            heapq.heappush(self._deadlines, (item.deadline, item.number, item))
        lane = self._lanes.get(item.lane)
        if lane is None:
            lane = self._lanes[item.lane] = _Lane()
        lane.items.append(item)
        lane.rows += item.rows
        lane.size += 1
        self.rows += item.rows
        self._size += 1

    def take(self, now: float) -> list[Item]:
        """The next batch: at most `max_batch_rows` rows of one lane, or one item that has more or runs alone anyway;
        empty if nothing waits or the delay still runs."""
        lane = self._next_lane()
        if lane is None or self._due(lane) > now:
            return []
        batch: list[Item] = []
        room = self.max_batch_rows
        while lane.size and ((head := lane.head).rows <= room or not batch):
            lane.items.popleft()
            self._leave(head, ItemState.TAKEN)
            room -= head.rows
            batch.append(head)
            if head.alone:
                break
        return batch

    def due(self) -> float | None:
        """When `take` would give a batch if nothing else happens; None if nothing waits."""
        lane = self._next_lane()
        return None if lane is None else self._due(lane)

    def cancel(self, item: Item) -> bool:
        """Takes a waiting item out; False if it was taken or gone already."""
        if item.state is not ItemState.WAITING:
            return False
        self._leave(item, ItemState.GONE)
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
        waiting = [i for lane in self._lanes.values() for i in lane.items if i.state is ItemState.WAITING]
        for item in waiting:
            self.cancel(item)
        return sorted(waiting, key=lambda i: i.number)

    def _leave(self, item: Item, state: ItemState) -> None:
        item.state = state
        self.rows -= item.rows
        self._size -= 1
        lane = self._lanes[item.lane]
        lane.rows -= item.rows
        lane.size -= 1
        if not lane.size:
            del self._lanes[item.lane]
        elif len(lane.items) > 2 * lane.size + _SLACK:
            lane.items = deque(i for i in lane.items if i.state is ItemState.WAITING)
        if len(self._deadlines) > 2 * self._size + _SLACK:
            self._deadlines = [entry for entry in self._deadlines if entry[2].state is ItemState.WAITING]
            heapq.heapify(self._deadlines)

    def _next_lane(self) -> _Lane | None:
        """The lane that is due first; of several, the one whose head came first. Without a delay: the oldest head."""
        if len(self._lanes) == 1:
            (lane,) = self._lanes.values()
            return lane
        return min(self._lanes.values(), key=lambda lane: (self._due(lane), lane.head.number), default=None)

    def _due(self, lane: _Lane) -> float:
        full = lane.head.alone or lane.rows >= self.max_batch_rows
        return lane.head.enqueued + (0.0 if full else self.max_delay_s)
