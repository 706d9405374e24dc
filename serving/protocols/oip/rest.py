"""The REST endpoints of the Open Inference Protocol. Bodies in, replies out; no sockets."""

import time
from collections.abc import Iterable
from functools import partial

from serving.core.errors import ServingError, invalid
from serving.engine import Control, Engine
from serving.protocols import jsonio
from serving.protocols.answer import Heavy, answer
from serving.protocols.asks import of_headers
from serving.protocols.http import Headers, HttpReply, add_timing, json_reply, route_key
from serving.protocols.offload import Offload
from serving.protocols.oip import explain, generate, metadata, model_config, settings, shared_memory, statistics
from serving.protocols.oip import repository as repository_parameters
from serving.protocols.oip.inference import PROTOCOL, Inference, Means, refused
from serving.protocols.oip.parameters import parse_version
from serving.protocols.oip.rest_codec import Reader, Writer
from serving.protocols.oip.settings import Logs
from serving.protocols.oip.shared_memory import SharedMemory
from serving.protocols.oip.stream import WHILE_RUNNING
from serving.protocols.oip.trace import Tracer

__all__ = ["PROTOCOL", "OipRest"]


class OipRest:
    """The endpoints. Each returns a reply; a `ServingError` that one raises is for `error_reply`.

    Args:
        memory: regions that clients share with the server, the same for REST and gRPC; by default there are none.
        tracer: trace settings, the same for REST and gRPC; by default there is no file, so nothing can be traced.
        logs: log settings, the same for REST and gRPC; by default they change nothing.
        offload: where large bodies are read and written; by default on the event loop.
        max_body_bytes: how large a compressed body may become.
    """

    def __init__(
        self,
        engine: Engine,
        control: Control,
        identity: metadata.ServerIdentity,
        *,
        memory: SharedMemory | None = None,
        tracer: Tracer | None = None,
        logs: Logs | None = None,
        offload: Offload | None = None,
        max_body_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._engine = engine
        self._control = control
        self._identity = identity
        self._memory = memory or SharedMemory(allowed=False)
        self._means = Means(engine, Reader(self._memory), Writer(), offload, max_body_bytes)
        self._tracer = tracer or Tracer(engine)
        self._logs = logs or Logs()
        self._offload = offload

    def inference(self, model: str, version: str | None, headers: Headers) -> Inference:
        """Answers inference requests to this model that have these headers.

        Args:
            headers: all of them, names in lower case. Inference-Header-Content-Length is the size of the JSON at the
                start of the body before that was compressed, with raw tensors behind it. Without it all is JSON.
        """
        return Inference(self._means, model, version, headers)

    async def infer(self, model: str, version: str | None, body: bytes, headers: Headers | None = None) -> HttpReply:
        """Answers one of them; an error is raised."""
        return await self.inference(model, version, headers or []).answer(body)

    async def generate(
        self,
        model: str,
        version: str | None,
        body: bytes,
        encoding: bytes | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        stream: bool,
    ) -> HttpReply:
        """Answers a flat JSON object with one, or with an event that holds one.

        Args:
            encoding: the value of Content-Encoding.
            headers: all of them, names in lower case.
            stream: the answer is `text/event-stream`. So is an error of the model's run; any other is raised.
        """
        started, arrived = time.perf_counter(), time.monotonic()
        try:
            if encoding not in (None, b"", b"identity"):
                raise invalid("Unsupported content-encoding, only 'identity' is supported.")
            asks = of_headers(headers)
            if self._engine.catalog.asleep:
                await self._engine.awake(model, asks.deadline)
            key = route_key(self._engine.catalog, model, headers)
            found = self._engine.catalog.route(model, parse_version(version), key)
        except ServingError as error:
            refused(self._engine, model, version, error)
            raise
        heavy = None
        if self._offload is not None:
            heavy = Heavy(self._offload, jsonio.is_heavy_to_read(body), generate.is_heavy_to_write)
        read = partial(generate.decode, model, version, body, generate.signatures(found), arrived)
        write = partial(generate.encode, stream=stream)
        try:
            return await answer(
                self._engine,
                PROTOCOL,
                model,
                read,
                write,
                started,
                heavy=heavy,
                version=found,
                deadline=asks.deadline,
                timed=add_timing if asks.timing else None,
            )
        except ServingError as error:
            if stream and error.kind in WHILE_RUNNING:
                return generate.error_event(error)
            raise

    def shm_status(self, kind: str, region: str | None) -> HttpReply:
        """The regions of one kind, `system` or `cuda`; `region`: that one."""
        if kind == "cuda":
            shared_memory.find_cuda(region or "")
            return json_reply([])
        return json_reply(self._memory.status(region or ""))

    def shm_register(self, kind: str, region: str, body: bytes) -> HttpReply:
        self._memory.check_allowed()
        value = jsonio.parse(body)
        if kind == "cuda":
            raise shared_memory.no_cuda(self._memory)
        self._memory.register(region, *shared_memory.read_registration(value))
        return HttpReply(200, b"")

    def shm_unregister(self, kind: str, region: str | None) -> HttpReply:
        self._memory.check_allowed()
        if kind == "system":
            self._memory.unregister(region or "")
        return HttpReply(200, b"")

    def live(self) -> HttpReply:
        return json_reply({"live": True})

    def ready(self) -> HttpReply:
        ready = self._engine.ready
        return json_reply({"ready": ready}, 200 if ready else 400)

    def model_ready(self, model: str, version: str | None) -> HttpReply:
        if metadata.model_ready(self._engine, model, parse_version(version)):
            return json_reply({"name": model, "ready": True})
        raise invalid("Model version not ready")

    def server_metadata(self) -> HttpReply:
        return json_reply(metadata.server_metadata(self._identity, self._memory.allowed))

    async def model_metadata(self, model: str, version: str | None) -> HttpReply:
        await self._engine.awake(model)
        return json_reply(metadata.model_metadata(self._engine, model, parse_version(version)))

    def repository_index(self, body: bytes) -> HttpReply:
        value = jsonio.parse(body) if body.strip() else {}
        only_ready = value.get("ready", False) if isinstance(value, dict) else None
        if not isinstance(only_ready, bool):
            raise invalid("Invalid value for 'ready': expected a boolean in a JSON object")
        return json_reply(metadata.repository_index(self._engine, only_ready))

    async def load(self, model: str, body: bytes, repository: str | None = None) -> HttpReply:
        repository_parameters.check_repository(repository)
        if self._offload is not None and jsonio.is_heavy_to_read(body):
            parameters = await self._offload.run(repository_parameters.of_json, model, body)
        else:
            parameters = repository_parameters.of_json(model, body)
        await repository_parameters.load(self._control, model, parameters)
        return HttpReply(200, b"")

    async def unload(self, model: str, body: bytes = b"", repository: str | None = None) -> HttpReply:
        repository_parameters.check_repository(repository)
        repository_parameters.check_unload(repository_parameters.of_json(model, body))
        await self._control.unload(model)
        return HttpReply(200, b"")

    async def model_config(self, model: str, version: str | None) -> HttpReply:
        await self._engine.awake(model)
        return json_reply(model_config.of_version(self._engine.catalog.resolve(model, parse_version(version))))

    def statistics(self, model: str | None, version: str | None) -> HttpReply:
        """Of all models, if `model` is None."""
        stats = statistics.model_statistics(self._engine, model, parse_version(version))
        return json_reply({"model_stats": stats})

    def explain(self, model: str, version: str | None) -> HttpReply:
        return json_reply(explain.of_model(self._engine, model, parse_version(version)))

    def trace_settings(self, model: str | None) -> HttpReply:
        """Those of all models, if `model` is None."""
        return json_reply(self._tracer.values(model or ""))

    def change_trace_settings(self, model: str | None, body: bytes) -> HttpReply:
        return json_reply(self._tracer.change(model or "", settings.of_json(body)))

    def log_settings(self) -> HttpReply:
        return json_reply(self._logs.values())

    def change_log_settings(self, body: bytes) -> HttpReply:
        return json_reply(self._logs.change(settings.of_json(body)))
