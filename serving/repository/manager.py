"""Brings what is loaded in line with what is on disk, and publishes the result.

Runs on the event loop; scans and loads run in threads and come back to it, so all state here is touched by one thread.
Every change ends in a new `Catalog`. A version is published when it is READY; only then is what it replaces drained.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from watchfiles import awatch

from serving.batching.batcher import Batcher, BatchPolicy
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.metrics import LiveVersion, Metrics
from serving.core.spec import ModelSpec, SpecError, parse_spec
from serving.repository import loading
from serving.repository.catalog import Catalog
from serving.repository.layout import FoundModel, Kind, LayoutError, kind_of, scan
from serving.repository.model import Model
from serving.repository.policy import Held, plan
from serving.repository.version import State, Version

log = logging.getLogger(__name__)

_LOADERS = 2  # versions that load at the same time
_UNSETTLED_CHECK_S = 0.25


@dataclass(frozen=True)
class Source:
    """A path to serve from. `name` overrides the model's name where the path is one model."""

    path: Path
    name: str | None = None


class Manager:
    """The repository side of the server.

    Args:
        sources: what to serve from.
        publish: gets each new catalog, on the loop.
        settle_s: how long a version's files must have been left alone before they are read.
        poll_s: how often directories are read when no file event came.
        watch: False: nothing is picked up by itself, only by `load`.
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
    ) -> None:
        self._sources = tuple(sources)
        self._publish_catalog = publish
        self._metrics = metrics
        self._settle_s = settle_s
        self._poll_s = poll_s
        self._watch = watch
        self._models: dict[str, Model] = {}
        self._by_source: dict[Source, frozenset[str]] = {}
        self._kinds: dict[Source, Kind] = {}
        self._complaints: dict[Source, frozenset[str]] = {}
        self._started = False
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._reconciling = asyncio.Lock()
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        metrics.states = tuple(state.value for state in State)
        metrics.live = self._live

    # What the engine sees

    async def start(self) -> None:
        """Loads what is wanted and returns when every load has ended, well or badly; then watches."""
        await self.reconcile(settle_s=0.0)
        await self._loads_ended()
        self._started = True
        if self._watch:
            self._background = [
                asyncio.create_task(self._reconcile_for_ever()),
                asyncio.create_task(self._listen()),
            ]

    async def load(self, name: str) -> None:
        """Reconciles one model now, whatever was decided about it before, and waits for the result.

        Raises:
            ServingError: INVALID: not in any repository, or a wanted version failed; the reason is in the message.
        """
        _check_name(name)
        if name in self._models:
            self._models[name].kept_out = False
            self._forget_failed(self._models[name])
        await self.reconcile(settle_s=0.0, only=name)
        model = self._models.get(name)
        if model is None or model.gone or not model.found.versions:
            raise invalid(f"failed to load '{name}', failed to poll from model repository")
        await self._loads_ended(model)
        if model.failed:
            number, failed = max(model.failed.items())
            raise invalid(f"load failed for model '{name}': version {number} is at UNAVAILABLE state: {failed.reason};")

    async def unload(self, name: str) -> None:
        """Takes a model out of service until `load`. When it returns, no new request can reach it."""
        _check_name(name)
        model = self._models.get(name)
        if model is not None:
            model.kept_out = True
            await self._act(model)

    def hurry(self) -> None:
        """The server is about to stop: no request waits for company any more."""
        for model in self._models.values():
            for version in (*model.live.values(), *(v for v in model.leaving if v.state is State.DRAINING)):
                version.batcher.hurry()

    async def close(self) -> None:
        """Unloads everything. Loads that are under way are left to end by themselves."""
        self._closing = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._loaders.shutdown(wait=False, cancel_futures=True)
        for model in self._models.values():
            model.kept_out = True
            for version in list(model.live.values()):
                self._retire(model, version)
        self._publish()
        leaving = [t for t in self._tasks if t.get_name().startswith("unload")]
        await asyncio.gather(*leaving, return_exceptions=True)

    # Reconciling

    async def reconcile(self, settle_s: float | None = None, only: str | None = None) -> None:
        """Reads the sources and starts what has to be done; does not wait for loads."""
        settle_s = self._settle_s if settle_s is None else settle_s
        async with self._reconciling:
            for source in self._sources:
                await self._reconcile_source(source, settle_s, only)

    async def _reconcile_source(self, source: Source, settle_s: float, only: str | None) -> None:
        try:
            kind, found, specs = await asyncio.to_thread(_read, source, self._kinds.get(source))
        except LayoutError as error:
            self._complain(source, [str(error)])  # and change nothing
            return
        self._kinds[source] = kind
        known = self._by_source.get(source, frozenset())
        if not found and known:
            self._complain(source, [f"'{source.path}' is empty; its models stay as they are"])
            return
        taken = {name for other, names in self._by_source.items() if other != source for name in names}
        self._complain(
            source,
            [
                f"model '{name}' of '{source.path}' is served from another path already"
                for name in sorted(found.keys() & taken)
            ],
        )
        names = found.keys() - taken
        if only is not None:
            names = names & {only} | known
        self._by_source[source] = frozenset(names)
        for name in sorted(names | known if only is None else (names | known) & {only}):
            if name in found:
                model = self._models.get(name)
                if model is None:
                    model = self._models[name] = Model(name, found[name], specs[name])
                model.gone = False
                self._take_in(model, found[name], specs[name])
                await self._act(model, settle_s)
            elif name in self._models:
                self._models[name].gone = True
                await self._act(self._models[name], settle_s)

    def _take_in(self, model: Model, found: FoundModel, spec: ModelSpec | SpecError) -> None:
        if not found.versions and model.found.versions:
            log.warning("model '%s' has no versions on disk any more; what is loaded stays", model.name)
        model.found, model.read_spec = found, spec

    async def _act(self, model: Model, settle_s: float | None = None) -> None:
        """Does what the plan for one model says."""
        if model.gone or model.kept_out:
            for version in list(model.live.values()):
                self._retire(model, version)
            if model.gone:
                self._forget_failed(model)
                if not any(model.versions()):
                    del self._models[model.name]
            self._publish()
            return
        settled = model.settled(self._settle_s if settle_s is None else settle_s, time.monotonic(), time.time())
        held = [
            Held(v.number, v.found.fingerprint, v.state is State.READY, v.state is State.FAILED)
            for v in model.versions()
            if v not in model.leaving
        ]
        todo = plan(settled, model.found.versions.keys(), held, model.spec)
        for number in todo.forget:
            model.failed.pop(number).to(State.END)
        for number in todo.load:
            version = Version(model.name, settled[number], model.spec)
            model.coming[number] = version
            self._spawn(self._bring_up(model, version), f"load {version}")
        for number in todo.unload:
            self._retire(model, model.live[number])
        self._publish()

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
            self._equip(version, loaded, loop)
        except Exception as error:  # whatever a runtime raises: it must not take the server down
            if session is not None:
                session.close()
            if self._closing:
                return
            reason = str(error).strip() or type(error).__name__
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
        await self._act(model)

    def _equip(self, version: Version, loaded: loading.Loaded, loop: asyncio.AbstractEventLoop) -> None:
        """Gives a loaded version its batcher and all else that requests need."""
        spec, session = version.spec, loaded.session
        rows = self._metrics.batches(version.model, str(version.number))
        policy = BatchPolicy(
            loaded.contract.max_batch_size, spec.max_queue_rows, spec.max_queue_delay_ms / 1000, spec.instances
        )
        version.batcher = Batcher(str(version), session.run, policy, loop, lambda n, _seconds: rows.observe(n))
        version.session = session
        version.contract = loaded.contract
        version.unbatched_because = loaded.unbatched_because
        version.platform = session.platform
        version.sample = loaded.sample

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
        self._spawn(self._take_down(model, version), f"unload {version}")

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
        self._publish()

    def _forget_failed(self, model: Model) -> None:
        for version in model.failed.values():
            version.to(State.END)
        model.failed.clear()

    async def _loads_ended(self, model: Model | None = None) -> None:
        while True:
            prefix = f"load {model.name}/" if model else "load "
            loads = [t for t in self._tasks if t.get_name().startswith(prefix)]
            if not loads:
                return
            await asyncio.wait(loads)  # a caller that is cancelled does not take the loads with it

    def _spawn(self, work: "asyncio._CoroutineLike[None]", name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Watching

    async def _reconcile_for_ever(self) -> None:
        while True:
            unsettled = any(m.unsettled for m in self._models.values())
            wait_s = min(self._poll_s, _UNSETTLED_CHECK_S) if unsettled else self._poll_s
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self.reconcile()
            except Exception:  # a bug here must not end the watch
                log.exception("reading the model repository failed; the next attempt is in %g s", self._poll_s)

    async def _listen(self) -> None:
        directories = [s.path for s in self._sources if s.path.is_dir()]
        if not directories:
            return
        try:
            async for _ in awatch(*directories, debounce=200, step=50, rust_timeout=0):
                self._news.set()
        except OSError as error:
            log.warning("no file events (%s): directories are read every %g s instead", error, self._poll_s)

    def _complain(self, source: Source, texts: Sequence[str]) -> None:
        """Says what is wrong with a source now; what was said the last time is not said again."""
        for text in texts:
            if text not in self._complaints.get(source, frozenset()):
                log.warning("%s", text)
        self._complaints[source] = frozenset(texts)

    # Publishing

    def _publish(self) -> None:
        models = {name: m.in_catalog() for name, m in sorted(self._models.items()) if not (m.gone and not m.live)}
        index = tuple(entry for name in models for entry in self._models[name].in_index())
        wanted = [m for m in self._models.values() if not m.kept_out and not m.gone and m.found.versions]
        self._publish_catalog(Catalog(MappingProxyType(models), index, all(m.live for m in wanted)))

    def _live(self) -> Iterator[LiveVersion]:
        return chain.from_iterable(model.live_versions() for model in self._models.values())


def _read(source: Source, kind: Kind | None) -> tuple[Kind, dict[str, FoundModel], dict[str, ModelSpec | SpecError]]:
    kind = kind or kind_of(source.path)
    found = scan(source.path, source.name, kind)
    return kind, found, {name: read_spec(model) for name, model in found.items()}


def read_spec(model: FoundModel) -> ModelSpec | SpecError:
    """The model's settings: those of its `model.yaml`, or what is wrong with it."""
    if model.spec_file is None:
        return ModelSpec()
    try:
        return parse_spec(model.spec_file.read_text(), str(model.spec_file))
    except SpecError as error:
        return error
    except (OSError, UnicodeDecodeError) as error:
        return SpecError(f"{model.spec_file}: cannot be read: {error}")


def _check_name(name: str) -> None:
    if not name or "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
        raise ServingError(ErrorKind.INVALID, f"failed to load '{name}': not a model name")
