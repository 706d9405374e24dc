"""What operators do to whole models: loads, unloads, and lists of all that shall be served.

On the event loop. Each returns when its change is on the disk and in force, and one that fails leaves both as they
were. A load is in force first, since only that shows whether it can be had, and on the disk when it has succeeded; what
cannot fail any more goes to the disk first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from serving.core.errors import ServingError, invalid
from serving.core.spec import ModelSpec
from serving.repository.control import listing
from serving.repository.control.orders import Order, Orders, Wanted, dump_list, dump_rollout, of_list
from serving.repository.control.state import Store
from serving.repository.disk import upload
from serving.repository.disk.layout import Kind
from serving.repository.disk.sources import Sources
from serving.repository.disk.survey import Source
from serving.repository.jobs import Jobs
from serving.repository.loads.quarantine import Quarantine
from serving.repository.reconciler import Reconciler


class Commands:
    """
    Args:
        fetch: brings what a model will need under an order here, where its repository is a remote one; returns what
            went wrong, or an empty text.
        roots: directories that are not served, and from which lists may serve models all the same.
    """

    def __init__(
        self,
        sources: Sources,
        orders: Orders,
        reconciler: Reconciler,
        store: Store,
        quarantine: Quarantine,
        jobs: Jobs,
        uploads: upload.Uploads,
        fetch: Callable[[str, Order], Awaitable[str]],
        roots: Sequence[Path],
    ) -> None:
        self._sources = sources
        self._orders = orders
        self._reconciler = reconciler
        self._models = reconciler.models
        self._store = store
        self._quarantine = quarantine
        self._jobs = jobs
        self._uploads = uploads
        self._fetch = fetch
        self._roots = tuple(roots)
        self._ordering = asyncio.Lock()  # held while an order goes to the disk and comes into force
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # of loads, by model

    async def load(self, name: str, spec: ModelSpec | None, files: Mapping[str, bytes] | None, force: bool) -> None:
        """Reads one model now, whatever was decided about it before, and waits for the result.

        Args:
            spec: the settings that it was given count instead of those in its file, until the next load.
            files: instead of the model's directory, until the next load or the end of the server; see
                `upload.check_files`. With settings or files that fail, the model is served as it was before.
            force: what is in quarantine is tried again, and a version that is slower than allowed is taken.

        Raises:
            ServingError: INVALID: not in any repository, or a wanted version failed; the reason is in the message.
                FORBIDDEN: files are not allowed here. UNAVAILABLE: the order cannot be kept.
        """
        if files is not None:
            self._uploads.check(name, files)
        await self._jobs.run(f"the load of '{name}'", self._load(name, spec, files, force))

    async def _load(self, name: str, spec: ModelSpec | None, files: Mapping[str, bytes] | None, force: bool) -> None:
        # One at a time, so that each finds out how its own went, and gives way to what was there before it.
        async with self._turns.setdefault(name, asyncio.Lock()):
            sent = None
            if files is not None:
                sent = Source(await asyncio.to_thread(self._uploads.write, name, files), name, Kind.MODEL)
            try:
                await self._load_from(name, spec, sent, force)
            finally:
                if sent is not None:
                    self._uploads.hold(sent.path)
                self.sweep()

    async def _load_from(self, name: str, spec: ModelSpec | None, sent: Source | None, force: bool) -> None:
        missed = "" if sent else await self._fetch(name, self._orders.loaded(name, spec))
        async with self._reconciler.turn:
            before, order = self._orders.of(name), self._orders.loaded(name, spec, sent)
            findings = await self._sources.survey(order.place)
            try:
                listing.find(findings, name, order.place, self._sources)
            except ServingError as error:
                raise invalid(f"{error.message}; {missed}") if missed else error from None
            if force:
                await self._quarantine.release(name)
            self._orders.give(name, order)
            self._reconciler.take_in(findings, settle_s=0.0, only=name, retry=True, force=force)
        passing = spec is not None or sent is not None
        try:
            await self._reconciler.served(name, passing)
        except ServingError:
            if passing:
                await self._take_back(name, order, before)
            raise
        try:
            await self._keep(name, order)
        except ServingError:
            await self._take_back(name, order, before)
            raise

    async def _keep(self, name: str, order: Order) -> None:
        """On the disk, for servers to come, if no newer order is there. Raises: ServingError: UNAVAILABLE."""
        async with self._ordering:
            if self._orders.of(name) is order:
                await self._store.save_order(name, self._orders.dump(name, order))

    async def _take_back(self, name: str, order: Order, before: Order) -> None:
        """An order that failed gives way to the one that it replaced, unless a newer one is there."""
        async with self._reconciler.turn:
            if self._orders.of(name) is order:
                for number in list(self._models[name].failed) if name in self._models else ():
                    await self._quarantine.release(name, number)  # it was bad with this order
                findings = await self._sources.survey(before.place)
                self._orders.give(name, before)
                self._reconciler.take_in(findings, settle_s=0.0, only=name)

    async def unload(self, name: str) -> None:
        """Takes a model out of service until `load`. When it returns, no new request can reach it.

        Raises:
            ServingError: UNAVAILABLE: the order cannot be kept.
        """
        if name in self._models:  # otherwise there is nothing to remember: clients may make up names
            await self._jobs.run(f"the unload of '{name}'", self._unload(name))

    async def _unload(self, name: str) -> None:
        async with self._ordering:
            order = self._orders.unloaded(name)
            await self._store.save_order(name, self._orders.dump(name, order))
            self._orders.give(name, order)
            if name in self._models:
                self._reconciler.act(self._models[name])

    async def apply(self, models: Sequence[Wanted]) -> None:
        """Serves these models and no others: all that was ordered before is forgotten. Waits for the result.

        Raises:
            ServingError: INVALID, FORBIDDEN, PRECONDITION or UNAVAILABLE: the list cannot be had (see `listing`) or
                kept, and nothing has changed; or INVALID: a version failed, and the others of the list are served.
        """
        await self._jobs.run("the change to another list of models", self._apply(models))

    async def _apply(self, models: Sequence[Wanted]) -> None:
        for wanted in models:
            await self._fetch(wanted.name, Order(wanted=wanted))
        try:
            async with self._reconciler.turn:
                placed = await asyncio.to_thread(listing.places, models, self._sources, self._roots)
                findings = await self._sources.survey(*(place for _, place in placed))
                listing.check(placed, findings, self._sources)
                async with self._ordering:
                    listed = of_list(placed)
                    await self._store.save_list(dump_list(listed), self._rollouts_under(listed))
                    self._orders.replace(listed)
                self._reconciler.take_in(findings, settle_s=0.0, retry=True)
                for model in list(self._models.values()):
                    if self._orders.of(model.name).kept_out:  # also where its source could not be read
                        self._reconciler.act(model)
            for wanted in models:
                listing.check_labels(wanted, await self._reconciler.served(wanted.name))
        finally:
            self.sweep()

    async def serve(self, sources: Sequence[Source], wanted: Mapping[str, ModelSpec]) -> None:
        """From here on these are the sources, under the settings that the operator wants of each model; a list that
        clients have given ends. They are not read yet.

        Raises:
            ServingError: UNAVAILABLE: that cannot be kept.
        """
        async with self._reconciler.turn, self._ordering:
            if self._orders.is_list:
                await self._store.save_list(None, self._rollouts_under({}))
                self._orders.end_list()
            self._sources.replace(sources, replace(self._sources.reading, wanted=wanted))

    def _rollouts_under(self, listed: Mapping[str, Order]) -> dict[str, str]:
        dumped = {model: dump_rollout(each) for model, each in self._orders.rollouts_under(listed).items()}
        return {model: text for model, text in dumped.items() if text is not None}

    def sweep(self) -> None:
        """Removes uploaded files that no order and no version needs any more."""
        needed = {place.path for place in self._orders.places()}
        needed |= {v.found.path.parent for model in self._models.values() for v in model.versions()}
        if stale := self._uploads.release_all_but(needed):
            self._jobs.start("removal of uploads", asyncio.to_thread(upload.remove, stale))
