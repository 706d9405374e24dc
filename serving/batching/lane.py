"""Requests that wait and may share a run. Pure; `queue` keeps one for each kind."""

import math
from collections import deque
from collections.abc import Hashable, Iterator, Sequence

from serving.batching.item import Item, ItemState

# How many items that have left it may still hold, besides as many as wait.
SLACK = 16


class Lane:
    """Items of one kind, by priority and in order of arrival.

    Large ones stand apart, and were cut when small ones wait (see `BatchQueue`): each run takes one of them, then the
    small ones, and more large ones only if very many wait. So a small item waits for its kind and for a part of a large
    one; and large ones, each of which is many, still move on with each run.

    Items that have left stay until they reach the head.

    Args:
        backlog: rows of large items, above which these take what room small ones leave.
    """

    __slots__ = ("backlog", "deadline", "key", "large_rows", "levels", "rows", "size", "stale")

    def __init__(self, key: Hashable, backlog: int = 0) -> None:
        self.key = key
        self.backlog = backlog
        self.levels: dict[tuple[int, bool], deque[Item]] = {}  # by priority and whether large; each has a waiting head
        self.rows = 0  # of waiting items
        self.large_rows = 0  # of those that are large
        self.size = 0  # number of waiting items
        self.stale = 0  # of items that have left, and are still held
        self.deadline = math.inf  # the earliest that any of its items had since it was empty

    def add(self, item: Item) -> None:
        level = self.levels.get((item.priority, item.large))
        if level is None:
            level = self._new_level(item)
        level.append(item)
        self.size += 1
        self.rows += item.rows
        if item.large:
            self.large_rows += item.rows
        if item.deadline is not None and item.deadline < self.deadline:
            self.deadline = item.deadline

    def replace(self, item: Item, parts: Sequence[Item]) -> None:
        """Puts parts where an item was that is the first of its level."""
        level = self.levels[item.priority, item.large]
        level.popleft()
        level.extendleft(reversed(parts))
        self.size += len(parts) - 1

    def leave(self, item: Item, state: ItemState) -> None:
        """A waiting item leaves."""
        item.state = state
        self.size -= 1
        self.rows -= item.rows
        if item.large:
            self.large_rows -= item.rows
        key = item.priority, item.large
        level = self.levels[key]
        if level[0] is not item:
            self.stale += 1
            if self.stale > self.size + SLACK:
                self._tidy()
            return
        level.popleft()
        while level and level[0].state is not ItemState.WAITING:
            level.popleft()
            self.stale -= 1
        if not level:
            del self.levels[key]

    @property
    def head(self) -> Item:
        """The oldest of the most urgent ones."""
        (priority, large), level = next(iter(self.levels.items()))
        if not large and (others := self.levels.get((priority, True))) and others[0].enqueued < level[0].enqueued:
            return others[0]
        return level[0]

    @property
    def oldest(self) -> float:
        if len(self.levels) == 1:
            return self.head.enqueued
        return min(level[0].enqueued for level in self.levels.values())

    def rows_by(self, time: float) -> int:
        return sum(item.rows for item in self if item.enqueued <= time)

    def __iter__(self) -> Iterator[Item]:
        """Those that wait, in no order that counts."""
        for level in self.levels.values():
            for item in level:
                if item.state is ItemState.WAITING:
                    yield item

    def in_the_way(self) -> Item | None:
        """The first large item, if small ones of its priority wait."""
        for priority, large in self.levels:
            if large and (priority, False) in self.levels:
                return self.levels[priority, True][0]
        return None

    def first(self, limit: int, but: Sequence[Item] = ()) -> tuple[list[Item], int]:
        """The first items that have at most `limit` rows together, or just the first of all; and their rows."""
        items: list[Item] = []
        rows = 0
        left_out = {item.number for item in but} if but else ()
        for item in self._in_order() if self.large_rows else self:
            if left_out and item.number in left_out:
                continue
            if items and rows + item.rows > limit:
                break
            items.append(item)
            rows += item.rows
        return items, rows

    def only_large_left(self, items: Sequence[Item]) -> bool:
        """Whether all that waits besides these, which come first, is large ones that had to wait their turn."""
        if not 0 < self.large_rows <= self.backlog:
            return False
        return self.rows - self.large_rows == sum(item.rows for item in items if not item.large)

    def _in_order(self) -> Iterator[Item]:
        for (priority, large), level in self.levels.items():
            beside = (priority, not large) in self.levels
            if beside and not large:
                yield self.levels[priority, True][0]
            if not (beside and large) or self.large_rows > self.backlog:
                first = level[0] if beside and large else None  # it came before the small ones
                for item in level:
                    if item.state is ItemState.WAITING and item is not first:
                        yield item

    def _new_level(self, item: Item) -> deque[Item]:
        level: deque[Item] = deque()
        self.levels[item.priority, item.large] = level
        if len(self.levels) > 1:
            self.levels = dict(sorted(self.levels.items()))
        return level

    def _tidy(self) -> None:
        self.levels = {
            key: deque(item for item in level if item.state is ItemState.WAITING) for key, level in self.levels.items()
        }
        self.stale = 0
