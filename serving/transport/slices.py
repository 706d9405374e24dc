"""Work on many things, a little in each turn of the event loop, so that requests have theirs in between."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

SLICE_S = 0.0003  # less than a request takes

T = TypeVar("T")


class Slices(Generic[T]):
    """Does `work` on everything that was added, in that order. On the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Callable[[T], None], most: int, pause_s: float = 0.0
    ) -> None:
        """
        Args:
            most: that are worked on in one turn, however quick that is: work may leave more of it to the loop.
            pause_s: from one turn to the next, for work that is in no hurry and makes clients do more.
        """
        self._loop = loop
        self._work = work
        self._most = most
        self._pause_s = pause_s
        self._left: deque[T] = deque()
        self._planned = False

    def __len__(self) -> int:
        """How many are left to do."""
        return len(self._left)

    def add(self, things: Iterable[T]) -> None:
        """They are worked on from the next turn of the loop on."""
        self._left.extend(things)
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        until = time.perf_counter() + SLICE_S  # the time of uvloop's own clock is that of when its turn began
        try:
            for _ in range(min(self._most, len(self._left))):
                self._work(self._left.popleft())
                if time.perf_counter() > until:
                    break
        finally:  # whatever became of one, the others are still to do
            self._planned = bool(self._left)
            if self._left and self._pause_s:
                self._loop.call_later(self._pause_s, self._turn)
            elif self._left:
                self._loop.call_soon(self._turn)
