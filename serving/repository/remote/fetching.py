"""What the server needs of its remote repositories, and that this is brought here in time. On the event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial

from serving.core.spec import ModelSpec, SpecError
from serving.repository.control.orders import Order, Orders
from serving.repository.disk.reading import Reading
from serving.repository.model import Model, pinned_by
from serving.repository.remote.mirror import Mirror
from serving.repository.remote.needs import needed


class Fetching:
    """
    Args:
        models: by name.
        say: is told what is wrong with a remote repository.
    """

    def __init__(
        self, mirrors: Sequence[Mirror], orders: Orders, models: Mapping[str, Model], say: Callable[[str], object]
    ) -> None:
        self._mirrors = tuple(mirrors)
        self._orders = orders
        self._models = models
        for mirror in self._mirrors:
            mirror.say = say

    async def start(self, reading: Reading) -> None:
        """Raises: MirrorError: a remote repository cannot be had, and was not before."""
        await asyncio.gather(*(mirror.start(self._needs, reading) for mirror in self._mirrors))

    def keep_up(self, changed: Callable[[], Awaitable[None]]) -> None:
        """From here on they are listed now and then; `changed` is called after something has come or gone."""
        for mirror in self._mirrors:
            mirror.keep_up(self._needs, changed)

    @property
    def busy(self) -> bool:
        """Whether a thread works that cannot be stopped."""
        return any(mirror.busy for mirror in self._mirrors)

    async def close(self) -> None:
        await asyncio.gather(*(mirror.close() for mirror in self._mirrors))

    async def fetch(self, name: str, order: Order | None = None) -> str:
        """Brings what is needed of one model here. Returns what went wrong; empty: nothing did.

        Args:
            order: as it is going to be.
        """
        problems = [await mirror.refresh(name, partial(self._needs, order=order)) for mirror in self._mirrors]
        return "; ".join(filter(None, problems))

    def _needs(
        self,
        name: str,
        read: ModelSpec | SpecError,
        there: Collection[int],
        here: Collection[int],
        order: Order | None = None,
    ) -> set[int]:
        """See `remote.mirror.Needs`."""
        order = order or self._orders.of(name)
        if order.kept_out:
            return set(here)
        model = self._models.get(name)
        rollout = self._orders.rollout(name)
        spec = order.settings(read)
        if isinstance(spec, SpecError):
            spec = model.spec if model else ModelSpec()
        pinned = pinned_by(spec, rollout) | set(rollout.before[-1:])
        if model is None:
            return needed(there, spec, pinned=pinned)
        return needed(there, spec, pinned=pinned | model.pinned, failed=model.failed, live={*model.live, *model.asleep})
