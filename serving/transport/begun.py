"""Starts a coroutine at once, and makes a task of it only where it has to wait.

`create_task` would start it in the next turn of the loop. To a request that comes alone a turn is a twentieth of its
time, and to others it means that what arrived together is queued together.
"""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any


def begin(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None] | None":
    """Runs a coroutine as far as it gets, in a context of its own; None: to its end.

    Until it waits for the first time it has no current task, so `asyncio.timeout` is nothing for it there.
    """
    context = copy_context()
    try:
        waits_for = context.run(coroutine.send, None)
    except StopIteration:
        return None
    return loop.create_task(_Begun(coroutine, waits_for), context=context)


class _Begun(Coroutine[Any, Any, None]):
    """The rest of a coroutine; `waits_for` is what it has yielded last, and the task has not seen yet."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def send(self, value: Any) -> Any:
        if self._waits_for is not None:
            waits_for, self._waits_for = self._waits_for, None
            return waits_for
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        self._waits_for = None
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise NotImplementedError("it is for a task")
