"""Work that goes on beside requests: loads, unloads and what operators asked for, as tasks with names. On the event
loop."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Jobs:
    """Every job is held until it has ended, so none is lost to the garbage collector."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Waits for the job's end. It goes on if the caller is cancelled; how it failed is then only logged."""
        task = self.start(name, work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    def under_way(self, prefix: str) -> bool:
        """Is there a job with a name that begins with `prefix`?"""
        return any(task.get_name().startswith(prefix) for task in self._tasks)

    async def ended(self, prefix: str) -> None:
        """Returns when no job has a name that begins with `prefix`, those that begin meanwhile included."""
        while jobs := [task for task in self._tasks if task.get_name().startswith(prefix)]:
            await asyncio.wait(jobs)  # a caller that is cancelled does not take the jobs with it


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.warning("%s, whose caller has left: %s", task.get_name(), error)
