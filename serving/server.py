"""Puts the parts together, and takes them apart in the right order."""

import asyncio
import gc
import logging
import os
import resource
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import __version__, logs, startup
from serving.capture.recorder import CaptureError, capturing
from serving.config import Settings
from serving.core.errors import ErrorKind, ServingError
from serving.core.metrics import Metrics
from serving.core.spec import ModelSpec
from serving.engine import Control, Engine, Wanted
from serving.observe.observation import Observation, ObservationError, metrics_path, metrics_text
from serving.protocols import examples
from serving.protocols.grpc import Service
from serving.protocols.health import Health
from serving.protocols.manage import Manage
from serving.protocols.offload import Offload
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.oip.metadata import ServerIdentity
from serving.protocols.oip.pbtxt import READERS
from serving.protocols.oip.rest import OipRest
from serving.protocols.oip.settings import Logs, LogSettings
from serving.protocols.oip.shared_memory import SharedMemory
from serving.protocols.oip.trace import Tracer
from serving.protocols.record import Watch
from serving.protocols.reflection import reflections
from serving.protocols.tfs.grpc import ModelService, PredictionService
from serving.protocols.tfs.rest import TfsRest
from serving.repository.catalog import Catalog
from serving.repository.control import listing
from serving.repository.control.state import StateError, Store
from serving.repository.disk.reading import Reading
from serving.repository.loads.memory import MB, Memory
from serving.repository.manager import Manager, Source
from serving.repository.remote import MirrorError, is_url
from serving.repository.remote.store import redacted
from serving.repository.routing.waking import Waking
from serving.repository.version import State
from serving.startup import StartError
from serving.transport.access.doors import Doors
from serving.transport.admission import Admission
from serving.transport.app import HttpApp
from serving.transport.grpc import GrpcListener
from serving.transport.http import HttpListener

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """Where a started server listens, and what it serves. A port of 0: it does not listen there."""

    host: str
    http_port: int
    grpc_port: int
    catalog: Catalog
    scheme: str = "http"
    management: "Address | None" = None  # where management and metrics are, if they have an address of their own


@dataclass(frozen=True)
class Address:
    """A port of 0: it does not listen there."""

    host: str
    http_port: int
    grpc_port: int


@dataclass(frozen=True)
class Parts:
    """Every protocol on one engine, for whoever listens: an ASGI application, and gRPC services.

    `doors` say who may ask them.
    """

    engine: Engine
    doors: Doors
    metrics_text: Callable[[], bytes]
    app: HttpApp
    services: Sequence[Service]


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
        self._doors = startup.doors(settings, self._metrics.refused)
        self._metrics.certificate_expiry = lambda: self._doors.certificate_expiry
        self._engine = Engine(self._metrics)
        self._mirrors = mirrors = startup.mirrors(settings, models, self._metrics)
        listed, wanted = self._operators(models)
        self._empty_list = changes is not None and not models and not settings.paths  # clients may give another one
        self._sources = [] if self._empty_list else startup.sources(settings, mirrors, wanted)
        sources = [*self._sources, *listed]
        limit_mb = settings.memory_limit_mb
        memory = Memory(None if limit_mb is None else limit_mb * MB, settings.memory_pressure)
        self._metrics.memory_free_bytes = memory.free_bytes
        try:
            self._store = Store(settings.state_dir)
        except StateError as error:
            raise StartError(str(error)) from None
        try:
            startup.find_room_for_temporary_files(settings.state_dir)
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
                trials=startup.trials(settings, memory),
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
        observation = None
        try:
            observation = Observation(self._settings, self._engine)
            with capturing(self._engine, startup.capture(self._settings)):
                return await self._run(on_ready, observation.watch)
        except (ObservationError, CaptureError) as error:
            raise StartError(str(error)) from None
        finally:
            if observation is not None:
                observation.close()
            await asyncio.to_thread(self._store.close)

    @property
    def control(self) -> Control:
        return self._manager

    @asynccontextmanager
    async def embedded(self, control: Control) -> AsyncIterator[Parts]:
        """Serves without listeners and signals, for a process that has its own, until the context is left. Requests
        must have been answered by then.

        Args:
            control: what clients may change: this server's own, or one in front of it.

        Raises:
            StartError: nothing could be loaded.
        """
        offload = Offload()
        tracer = Tracer(self._engine, self._settings.trace_file)
        try:
            parts = self._parts(offload, tracer, control, _refuse_log_settings)
            await self._load()
            self._engine.started = True
            following = [asyncio.create_task(self._follow()), asyncio.create_task(self._doors.follow())]
            try:
                yield parts
            finally:
                for task in following:
                    task.cancel()
                self._engine.stopping = True
        finally:
            await self._close_models(limit_s=5.0)
            offload.close()
            tracer.close()
            await asyncio.to_thread(self._store.close)

    async def _run(self, on_ready: Callable[[Running], None], watch: Watch) -> int:
        settings, engine = self._settings, self._engine
        _raise_file_limit()
        self._catch_signals()
        offload = Offload()
        tracer = Tracer(engine, settings.trace_file)
        sides = self._listeners(offload, tracer, watch)
        guarding = asyncio.create_task(self._doors.follow())
        # Ports first: a probe may ask while models load, and a port that is taken is known before a long load.
        try:
            ports = [await side.open() for side in sides]
            for host in dict.fromkeys(side.host for side in sides):
                if exposed := self._doors.exposed(host):
                    log.warning("%s", exposed)
            await self._load()
        except StartError:
            guarding.cancel()
            await self._end(sides, limit_s=0.0)
            offload.close()
            raise
        if not self._stop.is_set():
            _freeze_heap()
            engine.started = True
            http_port, grpc_port = ports[0]
            scheme = "http" if self._doors.tls is None else "https"
            management = Address(sides[1].host, *ports[1]) if len(sides) > 1 else None
            on_ready(Running(settings.host, http_port, grpc_port, engine.catalog, scheme, management))
        following = asyncio.create_task(self._follow())
        await self._stop.wait()
        following.cancel()
        guarding.cancel()
        engine.stopping = True
        log.info("stopping: no longer ready")
        await self._wait_or_hurry(settings.stop_grace_s)
        self._manager.hurry()
        clean = await self._end(sides, 0.0 if self._hurry.is_set() else settings.drain_limit_s)
        offload.close()
        tracer.close()
        log.info("stopped")
        return 0 if clean else 1

    def _listeners(self, offload: Offload, tracer: Tracer, watch: Watch) -> list["Side"]:
        """Those for requests, and those that management has to itself if it has."""
        settings, parts = self._settings, self._parts(offload, tracer, self._manager, logs.apply)
        admission = Admission(settings.max_concurrent_requests or None, self._metrics.refused)

        if self._doors.has_keys:
            watch.key_of = self._doors.name_of

        def side(management: bool, host: str, *where: Any) -> Side:
            door = self._doors.http(parts.app, management=management, metrics_path=metrics_path(settings))
            http = HttpListener(limits=startup.http_limits(settings), admission=admission, watch=watch, **door)
            door = self._doors.grpc(management=management)
            grpc = GrpcListener(parts.services, startup.grpc_limits(settings), admission, watch, **door)
            return Side(http, grpc, host, *where)

        http_port, grpc_port = settings.http_port if settings.http else None, settings.grpc_port
        sides = [side(False, settings.host, http_port, grpc_port if settings.grpc else None, settings.grpc_socket)]
        if startup.separate(settings):
            host = settings.manage_host or settings.host
            sides.append(side(True, host, settings.manage_port, settings.manage_grpc_port))
        self._metrics.connections["http"] = lambda: sum(side.http.connections for side in sides)
        return sides

    def _parts(
        self, offload: Offload, tracer: Tracer, control: Control, apply_logs: Callable[[LogSettings], None]
    ) -> Parts:
        settings, engine = self._settings, self._engine
        identity = ServerIdentity(settings.server_name, __version__)
        memory = SharedMemory(settings.allow_client_shm)
        log_lines = Logs(logs.settings(settings.log_level), apply_logs)
        shared: Any = {"memory": memory, "tracer": tracer, "logs": log_lines}  # the same over REST and gRPC
        max_body_bytes = settings.http_max_input_size
        text = metrics_text(settings, engine)
        app = HttpApp(
            OipRest(engine, control, identity, offload=offload, max_body_bytes=max_body_bytes, **shared),
            TfsRest(engine, offload, max_body_bytes, settings.tfs_rest_timeout_s),
            Manage(control),
            text,
            examples.Examples(lambda: engine.catalog),
            metrics_path(settings),
            settings.cors_origins,
        )
        models: list[Service] = [
            OipGrpc(engine, control, identity, **shared),
            PredictionService(engine),
            ModelService(engine, control),
        ]
        health = Health(engine, [service.service for service in models])
        services = [*models, health, *reflections([service.service for service in (*models, health)])]
        return Parts(engine, self._doors, text, app, services)

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

    async def _end(self, sides: Sequence["Side"], limit_s: float) -> bool:
        draining = asyncio.gather(*(listener.stop(limit_s) for side in sides for listener in (side.http, side.grpc)))
        hurried = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        clean = False
        if draining.done():
            clean = all(draining.result())
        else:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
        await self._close_models(limit_s=5.0 if clean else 0.5)
        return clean

    async def _close_models(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._manager.close()
        except TimeoutError:  # a model that hangs must not keep the process
            log.warning("a model did not finish; leaving it")
            self.abandoned = True
        if self._manager.loading:
            log.warning("a model was still loading; leaving it")
            self.abandoned = True

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


@dataclass(frozen=True)
class Side:
    """The listeners of one address. A port that is None: it does not listen there."""

    http: HttpListener
    grpc: GrpcListener
    host: str
    http_port: int | None
    grpc_port: int | None
    grpc_socket: Path | None = None

    async def open(self) -> tuple[int, int]:
        """The ports; 0: none. Raises: StartError."""
        http_port = grpc_port = 0
        if self.http_port is not None:
            problem = f"HTTP: cannot listen on {self.host}:{self.http_port}"
            http_port = await _listen(problem, self.http.listen(self.host, self.http_port))
        if self.grpc_port is not None or self.grpc_socket is not None:
            where = f"'{self.grpc_socket}'" if self.grpc_port is None else f"{self.host}:{self.grpc_port}"
            listening = self.grpc.listen(self.host, self.grpc_port, self.grpc_socket)
            grpc_port = await _listen(f"gRPC: cannot listen on {where}", listening)
        return http_port, grpc_port


async def _listen(problem: str, listening: Awaitable[int]) -> int:
    try:
        return await listening
    except OSError as error:
        number = error.errno or 0  # negative: of getaddrinfo, with a text of its own
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        hint = "choose another port, or stop what has it"
        raise StartError(f"{problem}: {reason}; {hint}") from None


def _refuse_log_settings(_: LogSettings) -> None:
    raise ServingError(ErrorKind.FORBIDDEN, "log settings belong to the process that this server is part of")


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
