"""Shows a test what outlives its use: what is freed only when the garbage collector comes, which counts objects and
not bytes, can be a lot of memory."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Marker:
    """A thing without meaning, to be held where a request's bytes are held: those cannot be watched."""


class Watched:
    """Things that shall be freed as soon as nobody needs them."""

    def __init__(self) -> None:
        self._things: list[weakref.ref[Any]] = []

    def add(self, thing: Any) -> None:
        self._things.append(weakref.ref(thing))

    def marker(self) -> Marker:
        made = Marker()
        self.add(made)
        return made

    async def freed(self) -> None:
        """Returns when all are; the test's own limit ends the wait."""
        assert self._things
        while any(thing() is not None for thing in self._things):  # noqa: ASYNC110  (what is waited for sets no event)
            await asyncio.sleep(0.005)


@contextmanager
def without_collector() -> Iterator[Watched]:
    """Within, only what is in no cycle of references is freed."""
    gc.collect()
    gc.disable()
    try:
        yield Watched()
    finally:
        gc.enable()
