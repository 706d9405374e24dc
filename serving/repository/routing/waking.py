"""Requests that wait for models which sleep: each model is woken once, whoever asks for it. On the event loop."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from serving.core.errors import ErrorKind, ServingError


class Waking:
    """
    Args:
        wake: loads a model that sleeps; returns when it serves. Raises ServingError.
    """

    def __init__(self, wake: Callable[[str], Awaitable[None]]) -> None:
        self._wake = wake
        self._under_way: dict[str, asyncio.Future[None]] = {}
        self._waiting: Counter[str] = Counter()

    async def awake(self, model: str, most: int, deadline: float | None) -> None:
        """Returns when the model serves.

        Args:
            most: how many may wait for it.
            deadline: of this request, on the monotonic clock.

        Raises:
            ServingError: QUEUE_FULL: too many wait; EXPIRED: it took too long for this one; or why the model does not
                wake. It is not stopped from waking by what becomes of those who wait.
        """
        if self._waiting[model] >= most:
            text = f"'{model}' is being loaded, and {most} requests wait for it already"
            raise ServingError(ErrorKind.QUEUE_FULL, text)
        waking = self._under_way.get(model)
        if waking is None:
            waking = self._under_way[model] = asyncio.ensure_future(self._woken(model))
            waking.add_done_callback(_seen)
        self._waiting[model] += 1
        try:
            limit_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not (await asyncio.wait((waking,), timeout=limit_s))[0]:
                raise ServingError(ErrorKind.EXPIRED, "Request timeout expired")
            await waking
        except ServingError as error:  # one for all who wait, and each adds its own trace to it
            raise ServingError(error.kind, error.message) from None
        finally:
            self._waiting[model] -= 1
            if not self._waiting[model]:
                del self._waiting[model]

    async def _woken(self, model: str) -> None:
        try:
            await self._wake(model)
        finally:
            del self._under_way[model]


def _seen(waking: "asyncio.Future[None]") -> None:
    """Its failure may have nobody left to tell."""
    if not waking.cancelled():
        waking.exception()
