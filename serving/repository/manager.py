"""Brings what is loaded in line with what is on disk, and publishes the result.

Runs on the event loop; scans and loads run in threads and come back to it, so all state here is touched by one thread.
Every change ends in a new `Catalog`. A version is published when it is READY; only then is what it replaces drained.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from types import MappingProxyType
from weakref import WeakValueDictionary

from serving.core.errors import ServingError, invalid
from serving.core.metrics import LiveVersion, Metrics
from serving.core.spec import ModelSpec, SpecError
from serving.repository import listing, loading, upload
from serving.repository.catalog import Catalog
from serving.repository.jobs import Jobs
from serving.repository.layout import Kind
from serving.repository.model import Model
from serving.repository.orders import Order, Orders, Wanted
from serving.repository.policy import made_of, plan
from serving.repository.policy import wanted as wanted_versions
from serving.repository.survey import Finding, survey
from serving.repository.survey import Source as Source
from serving.repository.version import State, Version
from serving.repository.watch import Watch

log = logging.getLogger(__name__)

_LOADERS = 2  # versions that load at the same time
_UNSETTLED_CHECK_S = 0.25


class Manager:
    """The repository side of the server.

    Args:
        sources: what to serve from.
        publish: gets each new catalog, on the loop.
        settle_s: how long a version's files must have been left alone before they are read.
        poll_s: how often directories are read when no file event came.
        watch: False: nothing is picked up by itself, only by `load`.
        allow_upload: whether `load` may bring files along.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        publish: Callable[[Catalog], None],
        metrics: Metrics,
        *,
        settle_s: float = 1.0,
        poll_s: float = 5.0,
        watch: bool = True,
        allow_upload: bool = False,
    ) -> None:
        self._sources = tuple(sources)
        self._publish_catalog = publish
        self._metrics = metrics
        self._settle_s = settle_s
        self._poll_s = poll_s
        self._watched = watch
        self._models: dict[str, Model] = {}
        self._orders = Orders()
        self._uploads = upload.Uploads(allow_upload)
        self._kinds: dict[Source, Kind] = {}
        self._complaints: dict[Source, frozenset[str]] = {}
        self._started = False
        self._closing = False
        self._jobs = Jobs()
        self._watching: asyncio.Task[None] | None = None
        self._reconciling = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # of loads by hand, by model
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        metrics.states = tuple(state.value for state in State)
        metrics.live = self._live

    # What the engine sees

    async def start(self) -> None:
        """Loads what is wanted and returns when every load has ended, well or badly; then watches."""
        await self.reconcile(settle_s=0.0)
        await self._jobs.ended("load ")
        self._started = True
        if self._watched:
            self._watching = asyncio.create_task(self._watch())

    async def load(self, name: str, spec: ModelSpec | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Reconciles one model now, whatever was decided about it before, and waits for the result.

        Args:
            spec: the settings that it was given count instead of those in `model.yaml`, until the next load.
            files: instead of the model's directory, until the next load; see `upload.check_files`. With settings or
                files that fail, the model is served as it was before.

        Raises:
            ServingError: INVALID: not in any repository, or a wanted version failed; the reason is in the message.
                FORBIDDEN: files are not allowed here.
        """
        _check_name(name)
        if files is not None:
            self._uploads.check(name, files)
        await self._jobs.run(f"the load of '{name}'", self._load(name, spec, files))

    async def _load(self, name: str, spec: ModelSpec | None, files: Mapping[str, bytes] | None) -> None:
        # One at a time, so that each finds out how its own went, and gives way to what was there before it.
        async with self._turns.setdefault(name, asyncio.Lock()):
            await self._load_now(name, spec, files)

    async def _load_now(self, name: str, spec: ModelSpec | None, files: Mapping[str, bytes] | None) -> None:
        sent = None
        if files is not None:
            sent = Source(await asyncio.to_thread(self._uploads.write, name, files), name, Kind.MODEL)
        try:
            async with self._reconciling:
                before, order = self._orders.of(name), self._orders.loaded(name, spec, sent)
                findings = await self._survey(order.place)
                listing.find(findings, name, order.place, self._sources)
                self._orders.give(name, order)
                self._take_in(findings, settle_s=0.0, only=name, retry=True)
            try:
                await self._served(name)
            except ServingError:
                if spec is not None or sent is not None:
                    await self._take_back(name, order, before)
                raise
        finally:
            if sent is not None:
                self._uploads.hold(sent.path)
            self._sweep()

    async def _take_back(self, name: str, order: Order, before: Order) -> None:
        """An order that failed gives way to the one that it replaced, unless a newer one is there."""
        async with self._reconciling:
            if self._orders.of(name) is order:
                findings = await self._survey(before.place)
                self._orders.give(name, before)
                self._take_in(findings, settle_s=0.0, only=name)

    async def unload(self, name: str) -> None:
        """Takes a model out of service until `load`. When it returns, no new request can reach it."""
        _check_name(name, "unload")
        if name in self._models:  # otherwise there is nothing to remember: clients may make up names
            self._orders.give(name, self._orders.unloaded(name))
            self._act(self._models[name])

    async def apply(self, models: Sequence[Wanted]) -> None:
        """Serves these models and no others: all earlier loads and unloads are forgotten. Waits for the result.

        Raises:
            ServingError: INVALID, FORBIDDEN or PRECONDITION: the list cannot be had (see `listing`), and nothing has
                changed; or INVALID: a version failed, and the others of the list are served.
        """
        for wanted in models:
            _check_name(wanted.name)
        await self._jobs.run("the change to another list of models", self._apply(models))

    async def _apply(self, models: Sequence[Wanted]) -> None:
        try:
            async with self._reconciling:
                placed = await asyncio.to_thread(listing.places, models, self._sources)
                findings = await self._survey(*(place for _, place in placed))
                listing.check(placed, findings, self._sources)
                self._orders.replace(placed)
                self._take_in(findings, settle_s=0.0, retry=True)
                for model in list(self._models.values()):
                    if self._orders.of(model.name).kept_out:  # also where its source could not be read
                        self._act(model)
            for wanted in models:
                listing.check_labels(wanted, await self._served(wanted.name))
        finally:
            self._sweep()

    async def _served(self, name: str) -> Mapping[int, Version]:
        """What serves of a model when all of its loads have ended.

        Raises:
            ServingError: INVALID: one failed, or there was nothing to load.
        """
        await self._jobs.ended(f"load {name}/")
        model = self._models.get(name)
        if model is None:  # taken away meanwhile
            return {}
        if not model.spec_error and not wanted_versions(model.found.versions, model.spec):
            raise listing.none_of(name, model.spec.versions, model.found)
        if model.failed:
            number, failed = max(model.failed.items())
            raise invalid(f"load failed for model '{name}': version {number} is at UNAVAILABLE state: {failed.reason};")
        return model.live

    def hurry(self) -> None:
        """The server is about to stop: no request waits for company any more."""
        for model in self._models.values():
            for version in (*model.live.values(), *(v for v in model.leaving if v.state is State.DRAINING)):
                version.batcher.hurry()

    @property
    def loading(self) -> bool:
        """Whether a version loads; its thread cannot be stopped, also not by `close`."""
        return self._jobs.under_way("load ")

    async def close(self) -> None:
        """Unloads everything. Loads that are under way are left to end by themselves."""
        self._closing = True
        try:
            if self._watching is not None:
                self._watching.cancel()
                await asyncio.gather(self._watching, return_exceptions=True)
            self._loaders.shutdown(wait=False, cancel_futures=True)
            self._orders.replace([])
            for model in list(self._models.values()):
                self._act(model)
            await self._jobs.ended("unload ")
        finally:
            self._uploads.close()

    # Reconciling

    async def reconcile(self, settle_s: float | None = None) -> None:
        """Reads the sources and starts what has to be done; does not wait for loads."""
        async with self._reconciling:
            findings = await self._survey(*self._orders.places())
            self._take_in(findings, self._settle_s if settle_s is None else settle_s)

    async def _survey(self, *places: Source | None) -> list[Finding]:
        """Reads these places and all sources, each once."""
        sources = dict.fromkeys(filter(None, (*places, *self._sources)))
        return await asyncio.to_thread(survey, tuple(sources), dict(self._kinds))

    def _take_in(
        self, findings: Sequence[Finding], settle_s: float, only: str | None = None, retry: bool = False
    ) -> None:
        """What was found, of one model or of all, becomes what is known, and is acted on.

        Args:
            retry: what failed before is tried again.
        """
        for finding in findings:
            for name in self._news_of(finding):
                if only in (None, name):
                    self._update(name, finding, settle_s, retry)
        for name, model in list(self._models.items()):
            if only in (None, name) and not model.gone and self._owner(name) is None:  # the place that it had has ended
                model.gone = True
                self._act(model)

    def _news_of(self, finding: Finding) -> list[str]:
        """The models on which this source has a say: those that it holds, and those that it held. None if it is not to
        be trusted: what cannot be read, or was emptied as a whole, changes nothing."""
        source = finding.source
        if finding.problem:
            self._complain(source, [finding.problem])
            return []
        if finding.kind is not None and source in self._sources:
            self._kinds[source] = finding.kind
        known = {name for name, model in self._models.items() if not model.gone and self._owner(name) == source}
        if not finding.models and known:
            self._complain(source, [f"'{source.path}' is empty; its models stay as they are"])
            return []
        others = {name for name in finding.models if self._owner(name) not in (None, source)}
        self._complain(
            source,
            [
                f"model '{name}' of '{source.path}' is served from another path already"
                for name in sorted(others)
                if self._owner(name) in self._sources
            ],
        )
        return sorted((finding.models.keys() - others) | known)

    def _update(self, name: str, finding: Finding, settle_s: float, retry: bool) -> None:
        found = finding.models.get(name)
        model = self._models.get(name)
        if found is not None and model is None:
            model = self._models[name] = Model(name, finding.source, found, finding.specs[name])
        if model is None:
            return
        model.gone = found is None
        if found is not None:
            if not found.versions and model.found.versions:
                log.warning("model '%s' has no versions on disk any more; what is loaded stays", name)
            model.source, model.found, model.read_spec = finding.source, found, finding.specs[name]
        if retry:
            self._forget_failed(model)
        self._act(model, settle_s)

    def _owner(self, name: str) -> Source | None:
        """The one source that may say what this model is; None: the first that has it."""
        place = self._orders.of(name).place
        if place is not None:
            return place
        model = self._models.get(name)
        return model.source if model and not model.gone and model.source in self._sources else None

    def _act(self, model: Model, settle_s: float | None = None) -> None:
        """Does what the plan for one model says."""
        model.order = self._orders.of(model.name)
        if model.gone or model.order.kept_out:
            for version in list(model.live.values()):
                self._retire(model, version)
            if model.gone:
                self._forget_failed(model)
                if not any(model.versions()):
                    del self._models[model.name]
            self._publish()
            return
        settled = model.settled(self._settle_s if settle_s is None else settle_s, time.monotonic(), time.time())
        candidates = {number: made_of(found, model.spec) for number, found in settled.items()}
        todo = plan(candidates, model.found.versions.keys(), model.held(), model.spec)
        for number in todo.forget:
            model.failed.pop(number).to(State.END)
        for number in todo.load:
            version = Version(model.name, settled[number], model.spec)
            model.coming[number] = version
            self._jobs.start(f"load {version}", self._bring_up(model, version))
        for number in todo.unload:
            self._retire(model, model.live[number])
        self._publish()

    def _sweep(self) -> None:
        """Removes uploaded files that no order and no version needs any more."""
        needed = {place.path for place in self._orders.places()}
        needed |= {v.found.path.parent for model in self._models.values() for v in model.versions()}
        if stale := self._uploads.release_all_but(needed):
            self._jobs.start("removal of uploads", asyncio.to_thread(upload.remove, stale))

    async def _bring_up(self, model: Model, version: Version) -> None:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        session = None
        spec_error = model.spec_error
        version.to(State.LOADING)
        self._publish()
        try:
            if spec_error:
                raise SpecError(spec_error)
            session = await loop.run_in_executor(self._loaders, loading.load, model.name, version.found, version.spec)
            version.to(State.WARMING)
            loaded = await loop.run_in_executor(
                self._loaders, loading.warm_up, model.name, version.found, version.spec, session
            )
            version.equip(loaded, self._metrics, loop)
        except Exception as error:  # whatever a runtime raises: it must not take the server down
            if session is not None:
                session.close()
            if self._closing:
                return
            reason = self._uploads.without_paths(str(error).strip()) or type(error).__name__
            if isinstance(error, MemoryError):
                reason = "not enough memory to load it"
            version.to(State.FAILED, reason)
            if self._started:  # before that, whoever starts the server tells
                log.error("%s failed to load: %s", version, reason)
            del model.coming[version.number]
            model.failed[version.number] = version
            self._metrics.loaded(model.name, "failed", time.monotonic() - started)
        else:
            self._enter(model, version)
            self._metrics.loaded(model.name, "ok", time.monotonic() - started)
        self._act(model)

    def _enter(self, model: Model, version: Version) -> None:
        """A version becomes READY and takes the place of an older copy of the same number."""
        version.to(State.READY)
        self._metrics.revive(model.name, str(version.number))
        older = model.live.get(version.number)
        del model.coming[version.number]
        model.live[version.number] = version
        self._publish()  # from here on requests reach it
        if older is not None:
            self._leave(model, older)

    def _retire(self, model: Model, version: Version) -> None:
        del model.live[version.number]
        self._leave(model, version)

    def _leave(self, model: Model, version: Version) -> None:
        version.to(State.DRAINING)
        model.leaving.add(version)
        self._jobs.start(f"unload {version}", self._take_down(model, version))

    async def _take_down(self, model: Model, version: Version) -> None:
        await version.unleased()
        version.to(State.UNLOADING)
        await version.batcher.close()
        if version.session is not None:
            await asyncio.to_thread(version.session.close)
            version.session = None
        version.to(State.END)
        model.leaving.discard(version)
        if version.number not in model.live:
            self._metrics.retire(model.name, str(version.number))
        if model.gone and not any(model.versions()):
            self._models.pop(model.name, None)
        self._sweep()
        self._publish()

    def _forget_failed(self, model: Model) -> None:
        for version in model.failed.values():
            version.to(State.END)
        model.failed.clear()

    # Watching

    async def _watch(self) -> None:
        directories = await asyncio.to_thread(lambda: [s.path for s in self._sources if s.path.is_dir()])
        async for _ in Watch(directories, self._poll_s, self._wait_s).changes():
            try:
                await self.reconcile()
            except Exception:  # a bug here must not end the watch
                log.exception("reading the model repository failed; the next attempt is in %g s", self._poll_s)

    def _wait_s(self) -> float:
        unsettled = any(model.unsettled for model in self._models.values())
        return min(self._poll_s, _UNSETTLED_CHECK_S) if unsettled else self._poll_s

    def _complain(self, source: Source, texts: Sequence[str]) -> None:
        """Says what is wrong with a source now; what was said the last time is not said again."""
        before = self._complaints.pop(source, frozenset())
        for text in texts:
            if text not in before:
                log.warning("%s", text)
        if texts:
            self._complaints[source] = frozenset(texts)

    # Publishing

    def _publish(self) -> None:
        models = {name: m.in_catalog() for name, m in sorted(self._models.items()) if not (m.gone and not m.live)}
        index = tuple(entry for name in models for entry in self._models[name].in_index())
        wanted = [m for m in self._models.values() if not m.order.kept_out and not m.gone and m.found.versions]
        self._publish_catalog(Catalog(MappingProxyType(models), index, all(m.live for m in wanted)))

    def _live(self) -> Iterator[LiveVersion]:
        return chain.from_iterable(model.live_versions() for model in self._models.values())


def _check_name(name: str, what: str = "load") -> None:
    """Raises: ServingError: INVALID: no directory that is taken for a model's can have this name."""
    if not name.isprintable() or not 0 < len(name) <= 255 or "/" in name or "\\" in name or name in (".", ".."):
        raise invalid(f"failed to {what} '{name[:100]}': not a model name")
