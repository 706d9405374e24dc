"""How late the event loop is: a timer that is looked at when it fires. On the event loop."""

import asyncio

from serving.core.metrics import Histogram

_EVERY_S = 0.5


class Lag:
    """Measures until it is closed.

    Args:
        histogram: gets the seconds by which each look was late.
    """

    def __init__(self, histogram: Histogram, every_s: float = _EVERY_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._histogram = histogram
        self._every_s = every_s
        self._plan()

    def _plan(self) -> None:
        self._due = self._loop.time() + self._every_s
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._histogram.observe(max(self._loop.time() - self._due, 0.0))
        self._plan()

    def close(self) -> None:
        self._timer.cancel()
