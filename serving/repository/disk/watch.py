"""Says when directories should be read again: at once after a file event, and now and then without one.

On the event loop; file events come from a thread of watchfiles. Those are of a directory, not of a path: when another
one takes its place, or a link leads elsewhere, the watch begins anew there.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from watchfiles import awatch

from serving.repository.disk.sources import Identity, identity

log = logging.getLogger(__name__)

_FIRST_S = 1.0  # after it has begun to listen: what happened until then is no event


class Watch:
    """Waits for changes below `directories`.

    Args:
        poll_s: how long to wait for an event, in seconds, as a rule.
        wait_s: how long this time; asked before each wait.
    """

    def __init__(self, directories: Sequence[Path], poll_s: float, wait_s: Callable[[], float]) -> None:
        self._directories = tuple(directories)
        self._poll_s = poll_s
        self._wait_s = wait_s
        self._news = asyncio.Event()

    async def changes(self) -> AsyncIterator[None]:
        """Yields for ever, each time that it is worth while to look."""
        watched = await asyncio.to_thread(_identities, self._directories)
        listening = asyncio.create_task(self._listen(watched))
        most_s = _FIRST_S
        try:
            while True:
                try:
                    async with asyncio.timeout(min(self._wait_s(), most_s)):
                        await self._news.wait()
                except TimeoutError:
                    pass
                self._news.clear()
                most_s = math.inf
                there = await asyncio.to_thread(_identities, self._directories)
                if there != watched:
                    await _ended(listening)
                    watched = there
                    listening = asyncio.create_task(self._listen(watched))
                    most_s = _FIRST_S
                yield
        finally:
            await _ended(listening)

    async def _listen(self, watched: dict[Path, Identity]) -> None:
        there = [path for path, which in watched.items() if which is not None]
        if not there:
            return
        try:
            async for _ in awatch(*there, debounce=200, step=50, rust_timeout=0):
                self._news.set()
        except OSError as error:
            log.warning("no file events (%s): directories are read every %g s instead", error, self._poll_s)


def _identities(directories: Sequence[Path]) -> dict[Path, Identity]:
    """Blocking."""
    return {path: identity(path) for path in directories}


async def _ended(listening: "asyncio.Task[None]") -> None:
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
