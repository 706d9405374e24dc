"""Puts the parts together, and takes them apart in the right order."""

import asyncio
import gc
import logging
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving import __version__, logs
from serving.backends.registry import KNOWN_ARTIFACTS
from serving.config import Settings
from serving.core.metrics import Metrics, exporter
from serving.engine import Engine
from serving.protocols import examples
from serving.protocols.grpc import Service
from serving.protocols.health import Health
from serving.protocols.offload import Offload
from serving.protocols.oip.grpc import OipGrpc
from serving.protocols.oip.metadata import ServerIdentity
from serving.protocols.oip.rest import OipRest
from serving.protocols.oip.settings import Logs
from serving.protocols.oip.shared_memory import SharedMemory
from serving.protocols.oip.trace import Tracer
from serving.protocols.reflection import reflections
from serving.protocols.tfs.grpc import ModelService, PredictionService
from serving.protocols.tfs.rest import TfsRest
from serving.repository.catalog import Catalog
from serving.repository.layout import LayoutError, scan
from serving.repository.manager import Manager, Source
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
    """Where a started server listens, and what it serves."""

    host: str
    http_port: int
    grpc_port: int
    catalog: Catalog


class Server:
    """One server in one process.

    Order of stop: not ready -> grace for load balancers -> close listeners -> wait for requests under way, up to the
    drain limit -> unload. A second signal skips to the end.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._engine = Engine(self._metrics)
        sources = _sources(settings)
        self._manager = Manager(
            sources,
            self._engine.publish,
            self._metrics,
            settle_s=settings.settle_s,
            poll_s=settings.poll_s,
            watch=settings.watch,
            allow_upload=settings.allow_model_upload,
        )
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self.abandoned = False  # True after `run` if a model did not load or end in time; its threads still run

    async def run(self, on_ready: Callable[[Running], None]) -> int:
        """Serves until it is told to stop; returns the exit code, 0 if no request was lost.

        Raises:
            StartError: a port is taken, or nothing could be loaded.
        """
        settings, engine = self._settings, self._engine
        _raise_file_limit()
        self._catch_signals()
        offload = Offload()
        tracer = Tracer(engine, settings.trace_file)
        http, grpc = self._listeners(offload, tracer)
        # Ports first: a probe may ask while models load, and a port that is taken is known before a long load.
        try:
            http_port = await _listen("HTTP", http, settings.host, settings.http_port)
            grpc_port = await _listen("gRPC", grpc, settings.host, settings.grpc_port)
            await self._load()
        except StartError:
            await self._end(http, grpc, limit_s=0.0)
            offload.close()
            raise
        if not self._stop.is_set():
            _freeze_heap()
            engine.started = True
            on_ready(Running(settings.host, http_port, grpc_port, engine.catalog))
        await self._stop.wait()
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
            TfsRest(engine, offload, max_body_bytes),
            exporter(self._metrics),
            lambda: examples.infer_examples(engine.catalog),
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
        await starting
        catalog = self._engine.catalog
        if not any(model.latest for model in catalog.models.values()):
            failed = [f"{e.model}/{e.number}: {e.reason}" for e in catalog.index if e.state is State.FAILED]
            raise StartError("; ".join(failed) if failed else "nothing to serve: no model has a version")
        for entry in catalog.index:
            if entry.state is State.FAILED:
                log.error("%s/%s failed to load: %s", entry.model, entry.number, entry.reason)

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


def _sources(settings: Settings) -> list[Source]:
    """The paths to serve, looked at once so that a mistake ends the start at once.

    Raises:
        StartError: a path that is not there, or holds no model.
    """
    if not settings.paths:
        raise StartError("nothing to serve: name a repository, a model directory or a model file")
    if settings.model_name is not None and len(settings.paths) > 1:
        raise StartError("--model-name names one model, but several paths are given")
    owners: dict[str, object] = {}
    for path in settings.paths:
        try:
            found = scan(path, settings.model_name)
        except LayoutError as error:
            raise StartError(str(error)) from None
        if not any(model.versions for model in found.values()):
            looked_for = f"<name>/<version>/ with {KNOWN_ARTIFACTS}"
            raise StartError(f"nothing to serve: '{path}' holds no model (looked for {looked_for})")
        for name in found:
            if name in owners:
                raise StartError(f"model '{name}' is in both '{owners[name]}' and '{path}'")
            owners[name] = path
    return [Source(path.absolute(), settings.model_name) for path in settings.paths]


async def _listen(what: str, listener: HttpListener | GrpcListener, host: str, port: int) -> int:
    try:
        return await listener.listen(host, port)
    except OSError as error:
        number = error.errno or 0  # negative: of getaddrinfo, with a text of its own
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        hint = "choose another port, or stop what has it"
        raise StartError(f"{what}: cannot listen on {host}:{port}: {reason}; {hint}") from None


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
