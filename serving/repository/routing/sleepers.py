"""Puts models to sleep that nobody asks for, and wakes them. On the event loop; `idle` says which and when.

A model that sleeps has no version in memory and counts as ready: its next request loads it again (`waking`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping

from serving.core.errors import ErrorKind, ServingError
from serving.repository.control.events import History, Kind
from serving.repository.loads.lifecycle import Lifecycle
from serving.repository.loads.memory import Spare
from serving.repository.model import Model
from serving.repository.routing import idle
from serving.repository.routing.idle import Usage

log = logging.getLogger(__name__)


class Sleepers:
    """
    Args:
        models: all that are known, by name.
        act: brings a model in line with what is wanted of it, and publishes the result.
        idle_unload_s: how long a model must not have been asked for; None: none is ever put to sleep.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        lifecycle: Lifecycle,
        history: History,
        act: Callable[[Model], None],
        idle_unload_s: float | None,
    ) -> None:
        self._models = models
        self._lifecycle = lifecycle
        self._history = history
        self._act = act
        self._idle_unload_s = idle_unload_s
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """From now on, what is due is put to sleep."""
        if self._idle_unload_s is not None:
            self._watching = asyncio.create_task(self._watch(idle.look_s(self._idle_unload_s)))

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self, look_s: float) -> None:
        while True:
            await asyncio.sleep(look_s)
            self.look()

    def look(self) -> None:
        """Puts to sleep what is due now."""
        if self._idle_unload_s is not None:
            for name in idle.due(self._usages(), self._idle_unload_s):
                self._put_to_sleep(name, f"nobody asked for it in {self._idle_unload_s:g} s")

    def spare(self) -> list[Spare]:
        """See `Memory.spare`."""
        if self._idle_unload_s is None:
            return []
        return [Spare(usage.model, usage.bytes) for usage in idle.spare(self._usages(), self._idle_unload_s)]

    async def sleep(self, names: Collection[str]) -> None:
        """See `Memory.sleep`."""
        for name in names:
            self._put_to_sleep(name, "another model needs its memory")
        for name in names:
            await self._lifecycle.unloads_ended(name)

    async def wake(self, name: str) -> None:
        """Loads a model that sleeps, and waits for the result. Does nothing to any other.

        Raises:
            ServingError: UNAVAILABLE: it sleeps on; the reason is in the message.
        """
        model = self._models.get(name)
        if model is None or not model.asleep:
            return
        model.waking = True
        self._act(model)
        await self._lifecycle.loads_ended(name)
        if not model.live and self._models.get(name) is model and not model.order.kept_out:
            raise ServingError(
                ErrorKind.UNAVAILABLE, f"'{name}' was unloaded while it was idle, and cannot be loaded: {_why(model)}"
            )

    def _usages(self) -> Iterator[Usage]:
        now = time.monotonic()
        for model in self._models.values():
            if not model.live or model.coming or model.needed or model.order.kept_out or model.gone:
                continue
            versions = model.live.values()
            for version in versions:
                if version.leases:
                    version.used_at = now
            idle_s = now - max(version.used_at for version in versions)
            yield Usage(model.name, idle_s, sum(version.memory_bytes or 0 for version in versions))

    def _put_to_sleep(self, name: str, why: str) -> None:
        model = self._models[name]
        model.asleep = frozenset(model.live)
        self._history.add(Kind.ASLEEP, name, text=why)
        for version in list(model.live.values()):
            self._lifecycle.retire(model, version)
        self._act(model)


def _why(model: Model) -> str:
    if model.failed:
        return model.failed[max(model.failed)].reason
    return "its files are still being written" if model.unsettled else "it has no versions on disk any more"
