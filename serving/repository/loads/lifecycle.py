"""Brings single versions up and takes them down, beside the requests. On the event loop; loads run in threads.

A version comes up in this course: not in quarantine -> tried in a process of its own -> there is memory for it ->
loaded here -> warm -> not slower than allowed -> READY. Where that ends early, it has FAILED: until its content
changes, if that is to blame (quarantine), or until it is tried again.

Which versions, and when, is the manager's to say. A version is published when it is READY; only then is what it
replaces drained, and it is unloaded when its last lease is given back.
"""

import asyncio
import logging
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

from serving.backends.base import Session
from serving.batching.fair import Devices
from serving.core.errors import LoadError
from serving.core.metrics import Metrics
from serving.core.spec import ModelSpec, SpecError
from serving.repository.control.events import History, Kind
from serving.repository.jobs import Jobs
from serving.repository.loads import execution, heap, huge_pages, latency, loading, memory
from serving.repository.loads.calibration import SINGLE
from serving.repository.loads.loading import Loaded
from serving.repository.loads.memory import Memory, NoRoomError
from serving.repository.loads.quarantine import Quarantine
from serving.repository.loads.trial import OutOfMemoryError, Report, Trials
from serving.repository.model import Model
from serving.repository.policy import pause_s
from serving.repository.policy import wanted as wanted_versions
from serving.repository.version import State, Version

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOADERS = 2  # versions that load at the same time
_TRIALS = 2  # that go on at the same time
_PATIENCE_S = 30.0  # with a trial, before another one may begin beside it: it may hang
_MOST_TRIALS = 8


class _QuarantinedError(Exception):
    """It has been found to be bad before; the message says what is wrong with it."""


class Lifecycle:
    """
    Args:
        changed: is told of a model whose version has come up, failed or gone, to act and publish.
        publish: publishes the catalog, without acting.
        worded: makes the text of an error fit for operators.
        history: is told what becomes of versions.
        quarantine: has a say before each load, and is told of versions that are bad.
        retry_limit_s: the longest pause before what failed through no fault of its own is tried again.
        trials: where versions are tried out first; None: they are not.
        memory: has a say before a version is loaded; None: nobody asks.
        devices: what versions share.
    """

    def __init__(
        self,
        metrics: Metrics,
        jobs: Jobs,
        *,
        changed: Callable[[Model], None],
        publish: Callable[[], None],
        worded: Callable[[str], str],
        history: History,
        quarantine: Quarantine,
        retry_limit_s: float = 60.0,
        trials: Trials | None = None,
        memory: Memory | None = None,
        devices: Devices | None = None,
    ) -> None:
        self._metrics = metrics
        self._jobs = jobs
        self._changed = changed
        self._publish = publish
        self._worded = worded
        self._history = history
        self._quarantine = quarantine
        self._retry_limit_s = retry_limit_s
        self._trials = trials
        self._memory = memory
        self._devices = devices or Devices()
        self._tried: set[Version] = set()  # in trial now, or when it closed
        self._turns = asyncio.Semaphore(_TRIALS)
        self.starting = True  # nobody is being served yet
        self._closing = False
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        self._triers = ThreadPoolExecutor(_MOST_TRIALS, thread_name_prefix="trial")

    @property
    def loading(self) -> bool:
        """Whether a version loads; its thread cannot be stopped, also not by `close`."""
        return self._jobs.under_way("load ")

    async def loads_ended(self, model: str = "") -> None:
        """Returns when no version loads, of one model or of all."""
        await self._jobs.ended(f"load {model}/" if model else "load ")

    async def trials_ended(self) -> None:
        """Returns when versions that were being tried at `close` have been given up."""
        for version in self._tried:
            await self._jobs.ended(f"load {version}")

    async def unloads_ended(self, model: str = "") -> None:
        """Returns when no version is on its way out, of one model or of all."""
        await self._jobs.ended(f"unload {model}/" if model else "unload ")

    def close(self) -> None:
        """No load begins any more. Trials are ended; what loads in this process is left to end by itself."""
        self._closing = True
        if self._trials is not None:
            self._trials.close()
        for pool in (self._triers, self._loaders):
            pool.shutdown(wait=False, cancel_futures=True)

    def bring_up(self, model: Model, version: Version, *, force: bool = False) -> None:
        """Starts to load a new version.

        Args:
            force: whether or not it is in quarantine, and however slow it is.
        """
        model.coming[version.number] = version
        self._jobs.start(f"load {version}", self._bring_up(model, version, force))

    def retire(self, model: Model, version: Version) -> None:
        """Takes a ready version out of the catalog's sight, and unloads it when no request needs it."""
        del model.live[version.number]
        self._leave(model, version)

    async def _bring_up(self, model: Model, version: Version, force: bool) -> None:
        started = time.monotonic()
        spec_error = model.spec_error
        version.to(State.LOADING)
        self._publish()
        try:
            if spec_error:
                raise SpecError(spec_error)
            if not force and (why := await self._quarantine.reason(version)) is not None:
                raise _QuarantinedError(why)
            self._history.add(Kind.LOADING, model.name, version.number)
            loaded = await self._load(model, version, force)
            try:
                device = self._devices.of(version.spec.providers[0])
                version.equip(loaded, self._metrics, asyncio.get_running_loop(), device)
            except BaseException:
                await asyncio.to_thread(_release, loaded.session)
                raise
        except Exception as error:  # whatever a runtime raises: it must not take the server down
            if self._closing:
                return
            await self._fail(model, version, error)
            if not isinstance(error, _QuarantinedError):
                self._metrics.loaded(model.name, "failed", time.monotonic() - started)
        else:
            self._enter(model, version)
            self._metrics.loaded(model.name, "ok", time.monotonic() - started)
        self._changed(model)

    async def _load(self, model: Model, version: Version, force: bool) -> Loaded:
        scratch = Path(await asyncio.to_thread(mkdtemp, prefix="serving-load-"))
        try:
            made_of, known = model.proven.get(version.number, (None, None))
            tried = None if known and made_of == version.made_of else await self._try(model, version, scratch)
            report = tried or known
            loaded = await self._take_in(model, version, scratch, report, verified=tried is not None)
            if tried is not None:
                proven = {number: it for number, it in model.proven.items() if number in model.found.versions}
                model.proven = {**proven, version.number: (version.made_of, tried)}
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        limit, serving = version.spec.latency_limit, model.default
        if limit is not None and serving is not None and not force:
            try:
                await latency.refuse_slower(loaded, serving, limit, self._in_loader)
            except BaseException:
                await asyncio.to_thread(_release, loaded.session)
                raise
        return loaded

    async def _take_in(
        self, model: Model, version: Version, scratch: Path, report: Report | None, *, verified: bool
    ) -> Loaded:
        """Loads into this process, and warms up."""
        peak_bytes = report.peak_bytes if report else sum(size for _, size, _, _ in version.found.fingerprint)
        async with self._room(model, version, peak_bytes):
            before_bytes, began = memory.resident(), time.monotonic()
            serving = model.default.execution if model.default is not None else None
            chosen = execution.settled(version.spec, report.execution if report else None, serving)
            spec = execution.with_execution(version.spec, chosen)
            if chosen.reason:
                level = logging.DEBUG if chosen.setting == SINGLE else logging.INFO
                log.log(level, "%s: %s", version, chosen.note["parallel"])
            session = await self._in_loader(partial(_load, version, spec, scratch, verified=verified))
            try:
                version.to(State.WARMING)
                loaded = await self._in_loader(partial(_warm_up, version, session, hurry=model.waking))
            except BaseException:
                await asyncio.to_thread(_release, session)
                raise
            version.memory_bytes = report.resident_bytes if report else max(0, memory.resident() - before_bytes)
            version.load_s = (report.seconds if report else 0.0) + time.monotonic() - began
        return replace(loaded, execution=chosen)

    async def _try(self, model: Model, version: Version, scratch: Path) -> Report | None:
        """Raises: LoadError: it must not be loaded here."""
        await asyncio.to_thread(_must_be_as_found, version)
        if self._trials is None:
            return None
        trial = partial(self._trials.run, model.name, version.found, version.spec, scratch, hurry=self.starting)
        self._tried.add(version)
        version.trying = True
        try:
            return await self._in_turn(trial)
        except OutOfMemoryError as error:
            if self._memory is None or not error.needed_bytes:
                raise
            async with self._room(model, version, error.needed_bytes, exceeded=True):
                pass  # what it may take now is found out when it begins
            try:
                return await self._in_turn(trial)
            except OutOfMemoryError as again:
                raise NoRoomError(str(again)) from None
        finally:
            version.trying = False
            if not self._closing:
                self._tried.discard(version)

    async def _in_turn(self, trial: Callable[[], Report]) -> Report:
        """A trial, when those before it have ended, or take so long that they may hang."""
        await self._turns.acquire()
        gives_way = asyncio.get_running_loop().call_later(_PATIENCE_S, self._turns.release)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._triers, trial)
        finally:
            if gives_way.when() > asyncio.get_running_loop().time():
                gives_way.cancel()
                self._turns.release()

    @asynccontextmanager
    async def _room(
        self, model: Model, version: Version, peak_bytes: int, *, exceeded: bool = False
    ) -> AsyncIterator[None]:
        """Memory for a load, while it goes on."""
        if self._memory is None:
            yield
            return
        replaced, make_way = partial(_replaced, model, version), partial(self._make_way, model, version)
        async with self._memory.room(version, peak_bytes, replaced, make_way, exceeded=exceeded):
            yield

    async def _make_way(self, model: Model, version: Version) -> None:
        """Takes out what a version is to replace, and waits until that is gone."""
        for other in _replaced(model, version):
            self.retire(model, other)
        self._publish()
        await self.unloads_ended(model.name)

    async def _in_loader(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loaders, work)

    async def _fail(self, model: Model, version: Version, error: Exception) -> None:
        """Decides what becomes of a version that did not come up."""
        name, number = model.name, version.number
        if not isinstance(error, SpecError | _QuarantinedError):
            error = await asyncio.to_thread(_fault, version, error)
        reason = self._worded(str(error).strip()) or type(error).__name__
        kind = Kind.FAILED
        if isinstance(error, LoadError):
            version.quarantined = not error.retry and await self._quarantine.add(version, reason)
            if not version.quarantined:
                version.no_room = isinstance(error, NoRoomError)
                kind = Kind.REFUSED if version.no_room else kind
                self._plan_retry(model, version)
        version.quarantined |= isinstance(error, _QuarantinedError)
        version.to(State.FAILED, f"quarantined: {reason}" if version.quarantined else reason)
        del model.coming[number]
        model.failed[number] = version
        if isinstance(error, _QuarantinedError):
            log.info("%s is still what it was when it was put into quarantine: %s", version, reason)
        else:
            self._history.add(Kind.QUARANTINED if version.quarantined else kind, name, number, reason)

    def _plan_retry(self, model: Model, version: Version) -> None:
        made_of, attempts = model.attempts.get(version.number, (None, 0))
        version.attempts = attempts + 1 if made_of == version.made_of else 1
        model.attempts[version.number] = (version.made_of, version.attempts)
        version.retry_at = time.monotonic() + pause_s(version.attempts, self._retry_limit_s, random.random())

    def _enter(self, model: Model, version: Version) -> None:
        """A version becomes READY and takes the place of an older copy of the same number."""
        version.to(State.READY)
        self._metrics.revive(model.name, str(version.number))
        older = model.live.get(version.number)
        del model.coming[version.number]
        model.live[version.number] = version
        model.attempts.pop(version.number, None)
        self._history.add(Kind.READY, model.name, version.number, _in_words(version))
        self._publish()  # from here on requests reach it
        if older is not None:
            self._leave(model, older)

    def _leave(self, model: Model, version: Version) -> None:
        version.to(State.DRAINING)
        model.leaving.add(version)
        self._jobs.start(f"unload {version}", self._take_down(model, version))

    async def _take_down(self, model: Model, version: Version) -> None:
        await version.unleased()
        version.to(State.UNLOADING)
        await version.batcher.close()
        if version.session is not None:
            await asyncio.to_thread(_release, version.session)
            version.session = None
        version.to(State.END)
        model.leaving.discard(version)
        self._history.add(Kind.UNLOADED, model.name, version.number)
        if version.number not in model.live:
            self._metrics.retire(model.name, str(version.number))
        self._changed(model)


def _replaced(model: Model, version: Version) -> list[Version]:
    """What serves of a model and makes way for a version. Nothing else would: it would only come back, and push this
    one out in turn."""
    wanted = wanted_versions(model.found.versions, model.spec) | model.pinned
    return [v for v in model.live.values() if v.number == version.number or v.number not in wanted]


# In threads


def _load(version: Version, spec: ModelSpec, scratch: Path, *, verified: bool) -> Session:
    with heap.returned_at_once(), huge_pages.for_what_comes():
        return loading.load(version.model, version.found, spec, scratch, verified=verified)


def _warm_up(version: Version, session: Session, *, hurry: bool) -> Loaded:
    """Args: hurry: requests wait for this."""
    budget_s = 0.0 if hurry else loading.WARM_UP_S
    with heap.returned_at_once():
        loaded = loading.warm_up(version.model, version.found, version.spec, session, budget_s)
        heap.trim()  # what the load has left
        return loaded


def _release(session: Session) -> None:
    with heap.returned_at_once():
        session.close()
        heap.trim()


def _must_be_as_found(version: Version) -> None:
    """Raises: LoadError: to load it would be in vain."""
    if changed := loading.how_changed(version.found):
        raise LoadError(changed, retry=True)


def _fault(version: Version, error: Exception) -> LoadError:
    """Whose fault it is that a version did not come up. What this server does not know is not the version's: that has
    come up in its trial."""
    if changed := loading.how_changed(version.found):
        return LoadError(changed, retry=True)
    if isinstance(error, LoadError):
        return error
    if isinstance(error, MemoryError):
        return LoadError("not enough memory to load it", retry=True)
    return LoadError(str(error).strip() or type(error).__name__, retry=True)


def _in_words(version: Version) -> str:
    took = f"in {version.load_s:.3g} s" if version.load_s is not None else ""
    return f"{took}, {version.memory_bytes / 1e6:.0f} MB" if version.memory_bytes is not None else took
