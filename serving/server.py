"""Puts the parts together, and takes them apart in the right order."""

import asyncio
import gc
import logging
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import __version__, logs
from serving.backends import optimized
from serving.backends.registry import KNOWN_ARTIFACTS
from serving.config import Settings
from serving.core.errors import ServingError
from serving.core.metrics import Metrics, exporter
from serving.core.spec import ModelSpec
from serving.engine import Engine, Wanted
from serving.protocols import examples
from serving.protocols.grpc import Service
from serving.protocols.health import Health
from serving.protocols.manage import Manage
from serving.protocols.offload import Offload
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.oip.metadata import ServerIdentity
from serving.protocols.oip.pbtxt import READERS
from serving.protocols.oip.rest import OipRest
from serving.protocols.oip.settings import Logs
from serving.protocols.oip.shared_memory import SharedMemory
from serving.protocols.oip.trace import Tracer
from serving.protocols.reflection import reflections
from serving.protocols.tfs.grpc import ModelService, PredictionService
from serving.protocols.tfs.rest import TfsRest
from serving.repository.catalog import Catalog
from serving.repository.control import listing
from serving.repository.control.state import StateError, Store
from serving.repository.disk.layout import LayoutError, scan
from serving.repository.disk.reading import Reading
from serving.repository.loads.memory import MB, Memory
from serving.repository.loads.remembered import Remembered
from serving.repository.loads.trial import Trials
from serving.repository.manager import Manager, Source
from serving.repository.remote import Mirror, MirrorError, is_url
from serving.repository.remote.store import redacted
from serving.repository.routing.waking import Waking
from serving.repository.version import State
from serving.transport.app import HttpApp
from serving.transport.connection import HttpLimits
from serving.transport.grpc import GrpcLimits, GrpcListener
from serving.transport.http import HttpListener

log = logging.getLogger(__name__)


class StartError(Exception):
    """The server cannot start; the message is one line that says why."""


@dataclass(frozen=True)
class Running:
    """Where a started server listens, and what it serves. A port of 0: it does not listen there."""

    host: str
    http_port: int
    grpc_port: int
    catalog: Catalog


class Server:
    """One server in one process.

    Order of stop: not ready -> grace for load balancers -> close listeners -> wait for requests under way, up to the
    drain limit -> unload. A second signal skips to the end.
    """

    def __init__(
        self,
        settings: Settings,
        models: Sequence[Wanted] = (),
        changes: AsyncIterator[Sequence[Wanted]] | None = None,
    ) -> None:
        """
        Args:
            models: to serve besides the paths of the settings, from wherever they are.
            changes: gives other lists in place of `models`, for as long as the server runs.

        Raises:
            StartError: what is to be served is not there, or the state directory cannot be used.
        """
        self._settings = settings
        self._changes = changes
        self._metrics = Metrics()
        self._engine = Engine(self._metrics)
        self._mirrors = mirrors = _mirrors(settings, models, self._metrics)
        listed, wanted = self._operators(models)
        self._empty_list = changes is not None and not models and not settings.paths  # clients may give another one
        self._sources = [] if self._empty_list else _sources(settings, mirrors, wanted)
        sources = [*self._sources, *listed]
        limit_mb = settings.memory_limit_mb
        memory = Memory(None if limit_mb is None else limit_mb * MB, settings.memory_pressure)
        try:
            self._store = Store(settings.state_dir)
        except StateError as error:
            raise StartError(str(error)) from None
        try:
            _find_room_for_temporary_files(settings.state_dir)
            self._manager = Manager(
                sources,
                self._engine.publish,
                self._metrics,
                mode=settings.mode,
                load_model=settings.load_model,
                settle_s=settings.settle_s,
                poll_s=settings.poll_s,
                allow_upload=settings.allow_model_upload,
                retry_limit_s=settings.retry_limit_s,
                store=self._store,
                memory=memory,
                idle_unload_s=settings.idle_unload_s,
                max_concurrent_runs=settings.max_concurrent_runs,
                reading=Reading(READERS, settings.model_defaults, wanted),
                roots=[path.absolute() for path in settings.reload_roots],
                trials=_trials(settings, memory),
                mirrors=tuple(mirrors.values()),
            )
        except (StateError, StartError) as error:
            self._store.close()
            raise StartError(str(error)) from None
        self._engine.waking = Waking(self._manager.wake)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self.abandoned = False  # True after `run` if a model did not load or end in time; its threads still run

    async def run(self, on_ready: Callable[[Running], None]) -> int:
        """Serves until it is told to stop; returns the exit code, 0 if no request was lost.

        Raises:
            StartError: a port is taken, or nothing could be loaded.
        """
        try:
            return await self._run(on_ready)
        finally:
            await asyncio.to_thread(self._store.close)

    async def _run(self, on_ready: Callable[[Running], None]) -> int:
        settings, engine = self._settings, self._engine
        _raise_file_limit()
        self._catch_signals()
        offload = Offload()
        tracer = Tracer(engine, settings.trace_file)
        http, grpc = self._listeners(offload, tracer)
        # Ports first: a probe may ask while models load, and a port that is taken is known before a long load.
        try:
            http_port = grpc_port = 0
            if settings.http:
                problem = f"HTTP: cannot listen on {settings.host}:{settings.http_port}"
                http_port = await _listen(problem, http.listen(settings.host, settings.http_port))
            if settings.grpc or settings.grpc_socket:
                port = settings.grpc_port if settings.grpc else None
                where = f"{settings.host}:{port}" if settings.grpc else f"'{settings.grpc_socket}'"
                listening = grpc.listen(settings.host, port, settings.grpc_socket)
                grpc_port = await _listen(f"gRPC: cannot listen on {where}", listening)
            await self._load()
        except StartError:
            await self._end(http, grpc, limit_s=0.0)
            offload.close()
            raise
        if not self._stop.is_set():
            _freeze_heap()
            engine.started = True
            on_ready(Running(settings.host, http_port, grpc_port, engine.catalog))
        following = asyncio.create_task(self._follow())
        await self._stop.wait()
        following.cancel()
        engine.stopping = True
        log.info("stopping: no longer ready")
        await self._wait_or_hurry(settings.stop_grace_s)
        self._manager.hurry()
        clean = await self._end(http, grpc, 0.0 if self._hurry.is_set() else settings.drain_limit_s)
        offload.close()
        tracer.close()
        log.info("stopped")
        return 0 if clean else 1

    def _listeners(self, offload: Offload, tracer: Tracer) -> tuple[HttpListener, GrpcListener]:
        """Every protocol on the same engine."""
        settings, engine, control = self._settings, self._engine, self._manager
        identity = ServerIdentity(settings.server_name, __version__)
        memory = SharedMemory(settings.allow_client_shm)
        log_lines = Logs(logs.settings(settings.log_level), logs.apply)
        shared: Any = {"memory": memory, "tracer": tracer, "logs": log_lines}  # the same over REST and gRPC
        max_body_bytes = settings.http_max_input_size
        app = HttpApp(
            OipRest(engine, control, identity, offload=offload, max_body_bytes=max_body_bytes, **shared),
            TfsRest(engine, offload, max_body_bytes, settings.tfs_rest_timeout_s),
            Manage(control),
            exporter(self._metrics),
            lambda: examples.infer_examples(engine.catalog),
            settings.metrics_path,
        )
        models: list[Service] = [
            OipGrpc(engine, control, identity, **shared),
            PredictionService(engine),
            ModelService(engine, control),
        ]
        health = Health(engine, [service.service for service in models])
        services = [*models, health, *reflections([service.service for service in (*models, health)])]
        return (
            HttpListener(app, HttpLimits(max_body_bytes=max_body_bytes, max_connections=settings.http_max_connections)),
            GrpcListener(services, GrpcLimits(max_message_bytes=settings.grpc_max_message_size)),
        )

    async def _load(self) -> None:
        """Loads what there is, unless a signal comes first."""
        starting = asyncio.ensure_future(self._manager.start())
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starting.done():
            starting.cancel()
            self.abandoned = True
            return
        try:
            await starting
        except ServingError as error:
            raise StartError(error.message) from None
        except MirrorError as error:
            raise StartError(str(error)) from None
        catalog = self._engine.catalog
        # Operators can still load something in explicit mode, or what they have unloaded before the restart.
        orderly = self._empty_list or self._settings.mode == "explicit"
        orderly = orderly or any(entry.state is State.END for entry in catalog.index)
        if not orderly and not any(model.latest for model in catalog.models.values()):
            failed = [f"{e.model}/{e.number}: {e.reason}" for e in catalog.index if e.state is State.FAILED]
            raise StartError("; ".join(failed) if failed else "nothing to serve: no model has a version")

    async def _follow(self) -> None:
        """Serves other lists of models as they come."""
        if self._changes is None:
            return
        async for models in self._changes:
            try:
                sources, wanted = self._operators(models)
                await self._manager.serve([*self._sources, *sources], wanted)
            except (StartError, ServingError) as error:
                log.error("another list of models does not count: %s", error)
            else:
                log.info("another list of models: %s", ", ".join(model.name for model in models) or "none")

    def _operators(self, models: Sequence[Wanted]) -> tuple[list[Source], dict[str, ModelSpec]]:
        """What an operator's own list comes to. Raises: StartError: a URL that was not there at the start."""
        new = [model.path for model in models if is_url(model.path) and model.path not in self._mirrors]
        if new:
            raise StartError(f"'{redacted(new[0])}' is served after a restart only")
        sources, wanted = listing.of_operator(models)
        return [
            self._mirrors[model.path].source if is_url(model.path) else source
            for model, source in zip(models, sources, strict=True)
        ], wanted

    async def _end(self, http: HttpListener, grpc: GrpcListener, limit_s: float) -> bool:
        draining = asyncio.gather(http.stop(limit_s), grpc.stop(limit_s))
        hurried = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        clean = False
        if draining.done():
            clean = all(draining.result())
        else:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
        try:
            async with asyncio.timeout(5.0 if clean else 0.5):
                await self._manager.close()
        except TimeoutError:  # a model that hangs must not keep the process
            log.warning("a model did not finish; leaving it")
            self.abandoned = True
        if self._manager.loading:
            log.warning("a model was still loading; leaving it")
            self.abandoned = True
        return clean

    async def _wait_or_hurry(self, seconds: float) -> None:
        if seconds:
            try:
                async with asyncio.timeout(seconds):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()


def _mirrors(settings: Settings, models: Sequence[Wanted], metrics: Metrics) -> dict[str, Mirror]:
    """What brings those paths here that are URLs; each is looked at when the server starts.

    Raises:
        StartError: there is no place for what they have; or one URL is listed twice.
    """
    names = {path: settings.model_name for path in settings.paths if is_url(path)}
    for model in models:
        if is_url(model.path):
            if model.path in names:
                raise StartError(f"'{redacted(model.path)}' is served twice")
            names[model.path] = model.name
    return {
        url: Mirror(url, _cache_dir(settings), metrics, name=name, poll_s=settings.remote_poll_s)
        for url, name in names.items()
    }


def _trials(settings: Settings, memory: Memory) -> Trials | None:
    """Also says where optimized graphs are kept, in trials and here."""
    remembered = None
    with suppress(StartError):  # there is no place: each start measures anew
        cache_dir = _cache_dir(settings)
        remembered, optimized.directory = Remembered(cache_dir / "execution"), cache_dir / "graphs"
    if not settings.trial_load:
        return None
    return Trials(settings.trial_limit_s, memory.free_bytes, remembered=remembered)


def _cache_dir(settings: Settings) -> Path:
    if settings.cache_dir is not None:
        return settings.cache_dir.absolute()
    if settings.state_dir is not None:
        return settings.state_dir.absolute() / "cache"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "serving"
    except RuntimeError:  # a user without a home
        raise StartError("no place for models of remote repositories: name one with --cache-dir") from None


def _sources(settings: Settings, mirrors: Mapping[str, Mirror], listed: Collection[str]) -> list[Source]:
    """The paths to serve, looked at once so that a mistake ends the start at once.

    Args:
        listed: models that come from elsewhere.

    Raises:
        StartError: a path that is not there, or holds no model.
    """
    if not settings.paths and not listed:
        raise StartError("nothing to serve: name a repository, a model directory or a model file")
    if settings.model_name is not None and len(settings.paths) > 1:
        raise StartError("--model-name names one model, but several paths are given")
    if settings.load_model and settings.mode != "explicit":
        raise StartError(f"--load-model is for explicit mode, and this is {settings.mode} mode; add --mode explicit")
    owners: dict[str, object] = dict.fromkeys(listed, "the list of models")
    for path in (Path(path) for path in settings.paths if path not in mirrors):
        try:
            found = scan(path, settings.model_name)
        except LayoutError as error:
            raise StartError(str(error)) from None
        if settings.mode != "explicit" and not any(model.versions for model in found.values()):
            looked_for = f"<name>/<version>/ with {KNOWN_ARTIFACTS}"
            raise StartError(f"nothing to serve: '{path}' holds no model (looked for {looked_for})")
        for name in found:
            if name in owners:
                raise StartError(f"model '{name}' is in both '{owners[name]}' and '{path}'")
            owners[name] = path
    return [
        mirrors[path].source if path in mirrors else Source(Path(path).absolute(), settings.model_name)
        for path in dict.fromkeys(settings.paths)
    ]


def _find_room_for_temporary_files(state_dir: Path | None) -> None:
    """Where the system has no place that can be written, they are below the state directory, for child processes too.
    What an earlier server has left there goes.

    Raises:
        StartError: there is no place at all.
    """
    try:
        tempfile.gettempdir()
        return
    except FileNotFoundError:
        if state_dir is None:
            raise StartError("no directory for temporary files can be written; name one with --state-dir") from None
    directory = state_dir.absolute() / "tmp"
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise StartError(f"'{directory}' cannot be made: {error.strerror}") from None
    tempfile.tempdir = os.environ["TMPDIR"] = str(directory)


async def _listen(problem: str, listening: Awaitable[int]) -> int:
    try:
        return await listening
    except OSError as error:
        number = error.errno or 0  # negative: of getaddrinfo, with a text of its own
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        hint = "choose another port, or stop what has it"
        raise StartError(f"{problem}: {reason}; {hint}") from None


def _freeze_heap() -> None:
    """Takes what exists at start out of the garbage collector's sight: libraries and models stay for good, and looking
    through them again and again stops every thread for some 40 ms."""
    gc.collect()
    gc.freeze()


def _raise_file_limit() -> None:
    """Each connection is a file; the soft limit of a shell is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.debug("the limit of open files stays at %d: %s", soft, error)
