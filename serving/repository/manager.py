"""What can be asked of the repository: to start, to change what is served, to say how things stand, to end.

On the event loop. What operators change is kept in the state directory: a call returns when its change is on the disk
and in force, and one that fails leaves both as they were. How that comes about is the reconciler's.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from serving.batching.fair import Devices
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.metrics import Metrics
from serving.core.spec import ModelSpec
from serving.core.traffic import Traffic
from serving.repository.catalog import Catalog
from serving.repository.control import listing
from serving.repository.control.commands import Commands
from serving.repository.control.events import Event, History, Kind
from serving.repository.control.orders import Orders, Rollout, Wanted, dump_rollout
from serving.repository.control.rollouts import Rollouts
from serving.repository.control.state import Store
from serving.repository.disk import upload
from serving.repository.disk.reading import Reading
from serving.repository.disk.sources import Sources
from serving.repository.disk.survey import Source as Source
from serving.repository.disk.watch import Watch
from serving.repository.jobs import Jobs
from serving.repository.loads.lifecycle import Lifecycle
from serving.repository.loads.memory import Memory
from serving.repository.loads.quarantine import Quarantine
from serving.repository.loads.trial import Trials
from serving.repository.model import Model
from serving.repository.reconciler import UNSETTLED_CHECK_S, Reconciler
from serving.repository.remote import Mirror
from serving.repository.remote.fetching import Fetching
from serving.repository.routing.sleepers import Sleepers
from serving.repository.status import ModelStatus, status_of, unknown
from serving.repository.version import State

log = logging.getLogger(__name__)

Mode = Literal["watched", "explicit", "fixed"]


class Manager:
    """The repository side of the server.

    Args:
        sources: what to serve from.
        publish: gets each new catalog, on the loop.
        mode: watched: what is there is served, and changes to it; explicit: what was asked for is served, and
            directories are read only then; fixed: what is there at the start is served, and nothing can be changed.
        load_model: explicit mode: what is asked for at the start; `*`: all.
        settle_s: how long a version's files must have been left alone before they are read.
        poll_s: how often directories are read when no file event came.
        watch: False: nothing is picked up by itself in watched mode either, only by `reconcile`.
        allow_upload: whether `load` may bring files along.
        retry_limit_s: the longest pause before what failed through no fault of its own is tried again.
        store: keeps what operators have decided; by default nothing outlives the manager.
        history: gets an event for each decision.
        quarantine: of versions that are bad until they change.
        trials: where versions are tried out before they are loaded; None: they are not.
        reading: how the settings of models come about.
        roots: directories that are not served, and from which `apply` may serve models all the same.
        mirrors: bring remote repositories to those `sources` that are their local copies.
        memory: what there is for versions; None: nobody asks.
        idle_unload_s: how long a model that nobody asks for stays loaded; None: as long as it is wanted.
        max_concurrent_runs: of all models, on one device; 0: any number.

    Raises:
        StateError: what the store has cannot be understood.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        publish: Callable[[Catalog], None],
        metrics: Metrics,
        *,
        mode: Mode = "watched",
        load_model: Sequence[str] = (),
        settle_s: float = 1.0,
        poll_s: float = 5.0,
        watch: bool = True,
        allow_upload: bool = False,
        retry_limit_s: float = 60.0,
        store: Store | None = None,
        history: History | None = None,
        quarantine: Quarantine | None = None,
        trials: Trials | None = None,
        reading: Reading | None = None,
        roots: Sequence[Path] = (),
        mirrors: Sequence[Mirror] = (),
        memory: Memory | None = None,
        idle_unload_s: float | None = None,
        max_concurrent_runs: int = 0,
    ) -> None:
        self._mode = mode
        self._asked = tuple(load_model) if mode == "explicit" else ()
        self._poll_s = poll_s
        self._watched = watch and mode == "watched"
        self._store = store or Store()
        self._history = history or History(self._store)
        self._quarantine = quarantine or Quarantine(self._store)
        self._sources = Sources(sources, self._history, reading)
        self._orders = self._restored(Orders(explicit=mode == "explicit", asked=self._asked), roots)
        self._uploads = upload.Uploads(allow_upload)
        self._jobs = Jobs()
        self._lifecycle = Lifecycle(
            metrics,
            self._jobs,
            changed=self._changed,
            publish=lambda: self._reconciler.publish(),
            worded=self._uploads.without_paths,
            history=self._history,
            quarantine=self._quarantine,
            retry_limit_s=retry_limit_s,
            trials=trials,
            memory=memory,
            devices=Devices(max_concurrent_runs),
        )
        self._reconciler = Reconciler(self._sources, self._orders, self._lifecycle, self._history, publish, settle_s)
        self._models = self._reconciler.models
        self._rollouts = Rollouts(
            self._orders,
            self._history,
            self._jobs,
            models=self._models.get,
            wake=lambda name: self._sleepers.wake(name),
            look=self._look,
            loaded=self._lifecycle.loads_ended,
            save=self._keep_rollout,
            act=self._reconciler.act,
        )
        self._reconciler.condemned = self._rollouts.condemn
        self._reconciler.may_sleep = idle_unload_s is not None
        self._sleepers = Sleepers(self._models, self._lifecycle, self._history, self._reconciler.act, idle_unload_s)
        if memory is not None:
            memory.spare, memory.sleep = self._sleepers.spare, self._sleepers.sleep
        self._fetching = Fetching(
            mirrors, self._orders, self._models, lambda text: self._history.add(Kind.REPOSITORY, "", text=text)
        )
        self._commands = Commands(
            self._sources,
            self._orders,
            self._reconciler,
            self._store,
            self._quarantine,
            self._jobs,
            self._uploads,
            self._fetching.fetch,
            roots,
        )
        self._watching: asyncio.Task[None] | None = None
        metrics.states = tuple(state.value for state in State)
        metrics.live = self._reconciler.live_versions
        metrics.events = self._history.counts

    def _restored(self, orders: Orders, roots: Sequence[Path]) -> Orders:
        """With those that earlier servers have kept. Raises: StateError."""
        saved = self._store.saved
        try:
            left = orders.restore(
                saved.list,
                saved.orders,
                saved.rollouts,
                lambda place: listing.is_served(place, self._sources, roots),
            )
        except ValueError as error:
            raise self._store.damaged(str(error)) from None
        for model in left:
            text = "it was served from a path that is not among those of this server; its order does not count"
            self._history.add(Kind.REPOSITORY, model, text=text)
        return orders

    # Start and end

    async def start(self) -> None:
        """Loads what is wanted and returns when every load has ended, well or badly; then watches.

        Raises:
            ServingError: NOT_FOUND: a model that was asked for is not there.
            MirrorError: a remote repository cannot be had, and was not before.
        """
        await self._fetching.start(self._sources.reading)
        await self.reconcile(settle_s=0.0)
        for name in self._asked:
            if name != "*" and name not in self._models and not self._orders.of(name).kept_out:
                raise unknown(name, self._models)
        await self._lifecycle.loads_ended()
        self._lifecycle.starting = self._reconciler.starting = False
        self._sleepers.start()
        if self._watched:
            self._watching = asyncio.create_task(self._watch())
            self._fetching.keep_up(self.reconcile)

    async def reconcile(self, settle_s: float | None = None) -> None:
        """Reads the sources and starts what has to be done; does not wait for loads."""
        await self._reconciler.reconcile(settle_s)

    async def _watch(self) -> None:
        directories = await asyncio.to_thread(lambda: [s.path for s in self._sources if s.path.is_dir()])
        async for _ in Watch(directories, self._poll_s, self._wait_s).changes():
            try:
                await self.reconcile()
            except Exception:  # a bug here must not end the watch
                log.exception("reading the model repository failed; the next attempt is in %g s", self._poll_s)

    def _wait_s(self) -> float:
        return min(self._poll_s, UNSETTLED_CHECK_S) if self._reconciler.unsettled else self._poll_s

    def hurry(self) -> None:
        """The server is about to stop: no request waits any more, for company or for an event."""
        self._history.hurry()
        for model in self._models.values():
            for version in (*model.live.values(), *(v for v in model.leaving if v.state is State.DRAINING)):
                version.batcher.hurry()

    @property
    def loading(self) -> bool:
        """Whether a thread works that cannot be stopped, also not by `close`."""
        return self._lifecycle.loading or self._fetching.busy

    async def close(self) -> None:
        """Unloads everything. Loads that are under way are left to end by themselves."""
        try:
            if self._watching is not None:
                self._watching.cancel()
                await asyncio.gather(self._watching, return_exceptions=True)
            await self._fetching.close()
            await self._sleepers.close()
            self._lifecycle.close()
            self._reconciler.close()
            self._orders.replace({})  # of this server only: what is kept on disk stays
            for model in list(self._models.values()):
                self._reconciler.act(model)
            await self._lifecycle.trials_ended()
            await self._lifecycle.unloads_ended()
        finally:
            self._uploads.close()

    # How things stand

    async def wake(self, name: str) -> None:
        """Loads a model that was unloaded while it was idle. Raises: ServingError: UNAVAILABLE: it cannot be."""
        await self._jobs.run(f"the wake-up of '{name}'", self._sleepers.wake(name))

    def status(self, name: str = "") -> list[ModelStatus]:
        """How a model stands, or all of them by name. Raises: ServingError: NOT_FOUND."""
        if name and name not in self._models:
            raise unknown(name, self._models)
        now = time.monotonic()
        return [status_of(model, now) for key, model in sorted(self._models.items()) if name in ("", key)]

    async def events(self, after: int = 0, model: str = "", limit: int = 100, wait_s: float = 0.0) -> list[Event]:
        """See `History.after`."""
        return await self._history.after(after, model, limit, wait_s)

    # What operators order

    async def load(
        self,
        name: str,
        spec: ModelSpec | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        force: bool = False,
    ) -> None:
        """Reads one model now, whatever was decided about it before, and waits for the result.

        Args:
            spec: the settings that it was given count instead of those in `model.yaml`, until the next load.
            files: instead of the model's directory, until the next load or the end of the server; see
                `upload.check_files`. With settings or files that fail, the model is served as it was before.
            force: what is in quarantine is tried again, and a version that is slower than allowed is taken.

        Raises:
            ServingError: INVALID: not in any repository, or a wanted version failed; the reason is in the message.
                FORBIDDEN: files, or any changes, are not allowed here. UNAVAILABLE: the order cannot be kept.
        """
        self._check(name, "load")
        await self._told(self._commands.load(name, spec, files, force))

    async def unload(self, name: str) -> None:
        """Takes a model out of service until `load`. When it returns, no new request can reach it.

        Raises:
            ServingError: FORBIDDEN: changes are not allowed here. UNAVAILABLE: the order cannot be kept.
        """
        self._check(name, "unload")
        await self._told(self._commands.unload(name))

    async def apply(self, models: Sequence[Wanted]) -> None:
        """Serves these models and no others: all that was ordered before is forgotten. Waits for the result.

        Raises:
            ServingError: INVALID, FORBIDDEN, PRECONDITION or UNAVAILABLE: the list cannot be had (see `listing`) or
                kept, and nothing has changed; or INVALID: a version failed, and the others of the list are served.
        """
        self._check_mode("change the list of models")
        for wanted in models:
            self._check(wanted.name, "load")
        await self._told(self._commands.apply(models))

    async def serve(self, sources: Sequence[Source], wanted: Mapping[str, ModelSpec]) -> None:
        """Serves from these sources instead, under the settings that the operator wants of each model: a list that
        clients have given ends. Does not wait for loads.

        Raises:
            ServingError: FORBIDDEN: changes are not allowed here. UNAVAILABLE: that cannot be kept.
        """
        self._check_mode("change what is served")
        await self._commands.serve(sources, wanted)
        await self.reconcile(None if self._watched else 0.0)

    # How requests are shared out; see `Rollouts`

    async def label(self, name: str, label: str, number: int | None) -> None:
        self._check(name, "label")
        await self._told(self._jobs.run(f"the label of '{name}'", self._rollouts.label(name, label, number)))

    async def share(self, name: str, traffic: Traffic | None) -> None:
        self._check(name, "share the traffic of")
        await self._told(self._jobs.run(f"the traffic of '{name}'", self._rollouts.share(name, traffic)))

    async def promote(self, name: str, version: str = "") -> None:
        self._check(name, "promote")
        await self._told(self._jobs.run(f"the promotion of '{name}'", self._rollouts.promote(name, version)))

    async def rollback(self, name: str, version: str = "") -> None:
        self._check(name, "roll back")
        await self._told(self._jobs.run(f"the rollback of '{name}'", self._rollouts.rollback(name, version)))

    async def _told(self, work: Awaitable[None]) -> None:
        """What has come of it is in the history when this returns, on the disk too."""
        await work
        await self._store.flush()

    async def _keep_rollout(self, name: str, rollout: Rollout) -> None:
        """On the disk, for servers to come. Raises: ServingError: UNAVAILABLE."""
        await self._store.save_rollout(name, dump_rollout(rollout))

    def _check(self, name: str, what: str) -> None:
        """Raises: ServingError: FORBIDDEN: nothing may change. INVALID: no directory that is taken for a model's can
        have this name."""
        if not name.isprintable() or not 0 < len(name) <= 255 or "/" in name or "\\" in name or name in (".", ".."):
            raise invalid(f"failed to {what} '{name[:100]}': not a model name")
        self._check_mode(f"{what} '{name}'")

    def _check_mode(self, what: str) -> None:
        """Raises: ServingError: FORBIDDEN: nothing may change."""
        if self._mode == "fixed":
            text = f"failed to {what}: this server was started in fixed mode, in which what is served does not change"
            raise ServingError(ErrorKind.FORBIDDEN, text)

    # What becomes of models

    async def _look(self, name: str) -> None:
        """Reads a model's directory, after what is wanted of it was fetched."""
        model = self._models.get(name)
        if model is not None and not model.pinned <= model.found.versions.keys():
            await self._fetching.fetch(name)
        await self._reconciler.reconcile(only=name)

    def _changed(self, model: Model) -> None:
        """A version of this model has come up, failed or gone."""
        self._commands.sweep()
        self._reconciler.act(model)
