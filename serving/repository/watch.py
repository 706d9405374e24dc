"""Says when directories should be read again: at once after a file event, and now and then without one.

On the event loop; file events come from a thread of watchfiles.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from watchfiles import awatch

log = logging.getLogger(__name__)


class Watch:
    """Waits for changes below `directories`.

    Args:
        poll_s: how long to wait for an event, in seconds, as a rule.
        wait_s: how long this time; asked before each wait.
    """

    def __init__(self, directories: Sequence[Path], poll_s: float, wait_s: Callable[[], float]) -> None:
        self._directories = directories
        self._poll_s = poll_s
        self._wait_s = wait_s
        self._news = asyncio.Event()

    async def changes(self) -> AsyncIterator[None]:
        """Yields for ever, each time that it is worth while to look."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                try:
                    async with asyncio.timeout(self._wait_s()):
                        await self._news.wait()
                except TimeoutError:
                    pass
                self._news.clear()
                yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self) -> None:
        if not self._directories:
            return
        try:
            async for _ in awatch(*self._directories, debounce=200, step=50, rust_timeout=0):
                self._news.set()
        except OSError as error:
            log.warning("no file events (%s): directories are read every %g s instead", error, self._poll_s)
