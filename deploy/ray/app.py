"""The application: replicas of this server's engine in Ray actors.

    serve run deploy.ray.app:build model_repo=/models

or in a Serve configuration (serve.yaml beside this file), which has the gRPC proxies too. A replica loads what is in
the repository as `serving start` does, and batches by itself: Ray is told to hand it enough requests at once.
"""

import gc
import logging
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from deploy.ray.calls import Calls, Message, one
from deploy.ray.front import Front
from deploy.ray.metrics import Pieces, scraped
from deploy.ray.shared import OneOfMany, Slot
from serving import config, logs
from serving.config import Settings
from serving.observe.observation import metrics_path
from serving.repository.remote import is_url
from serving.server import Parts, Server

log = logging.getLogger(__name__)

NAME = "Replica"

# Settings of `serving start` that a replica goes by. The others are of listeners, which are Ray's here, or would hold
# in one replica of many.
SETTINGS = frozenset(
    (
        *(
            "model_name",
            "server_name",
            "mode",
            "load_model",
            "model_defaults",
            "allow_unsafe_ops",
            "max_concurrent_runs",
        ),
        *("trial_load", "trial_limit_s", "retry_limit_s", "memory_limit_mb", "memory_pressure", "idle_unload_s"),
        *("settle_s", "poll_s", "remote_poll_s", "cache_dir", "http_max_input_size", "tfs_rest_timeout_s"),
        *("api_key", "api_keys", "cors_origins", "metrics_path", "metrics_names", "log_format", "log_level"),
    )
)
_SCRAPE_LIMIT_S = 5.0
_CACHE_DIR = Path("~/.cache/serving/ray")


class Arguments(BaseModel):
    """What the application is built from. Numbers of replicas and requests are Ray's, by its names for them."""

    model_config = ConfigDict(extra="forbid")

    model_repo: str = Field(
        description="repository: a directory that every node has, or a URL such as s3://bucket/models"
    )
    settings: dict[str, Any] = Field({}, description="settings of `serving start`, by their long names")

    min_replicas: int = Field(1, ge=0, description="replicas that are always there")
    max_replicas: int = Field(4, ge=1, description="and at most")
    target_ongoing_requests: float = Field(
        32, gt=0, description="requests at once that one replica should have: more of them are started above it"
    )
    max_ongoing_requests: int = Field(
        512, ge=1, description="requests at once that a replica gets: what its batcher can choose from"
    )
    max_queued_requests: int = Field(
        1024, ge=-1, description="requests that wait in one proxy when all replicas have that many; others are refused"
    )
    max_replicas_per_node: int | None = Field(None, ge=1, description="so that a node's end does not take all")
    upscale_delay_s: float = Field(5, ge=0, description="how long there must be too many requests")
    downscale_delay_s: float = Field(120, ge=0, description="how long there must be too few")
    num_cpus: float = Field(1, ge=0, description="cores that Ray counts for a replica")
    num_gpus: float = Field(0, ge=0, description="GPUs that a replica gets")
    drain_limit_s: float = Field(30, ge=0, description="how long requests under way may take when a replica stops")
    health_check_period_s: float = Field(5, gt=0, description="how often a replica is asked whether it is ready")


def build(arguments: Arguments) -> Application:
    """The application. Raises: ConfigError: a setting that is wrong, or none of a replica."""
    return deployment(arguments).bind(_settings(arguments))


def deployment(arguments: Arguments) -> serve.Deployment:
    more: dict[str, Any] = {}
    if arguments.max_replicas_per_node is not None:
        more["max_replicas_per_node"] = arguments.max_replicas_per_node
    return Replica.options(  # type: ignore[attr-defined]
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": max(arguments.min_replicas, arguments.max_replicas),
            "target_ongoing_requests": arguments.target_ongoing_requests,
            "upscale_delay_s": arguments.upscale_delay_s,
            "downscale_delay_s": arguments.downscale_delay_s,
        },
        max_ongoing_requests=arguments.max_ongoing_requests,
        max_queued_requests=arguments.max_queued_requests,
        ray_actor_options={"num_cpus": arguments.num_cpus, "num_gpus": arguments.num_gpus},
        graceful_shutdown_timeout_s=arguments.drain_limit_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=arguments.health_check_period_s,
        health_check_timeout_s=30,
        **more,
    )


def _settings(arguments: Arguments) -> Settings:
    wrong = sorted(arguments.settings.keys() - SETTINGS)
    if wrong:
        raise config.ConfigError(
            f"settings: '{wrong[0]}' is none of a replica; there are {', '.join(sorted(SETTINGS))}"
        )
    repo = arguments.model_repo if is_url(arguments.model_repo) else str(Path(arguments.model_repo).absolute())
    return config.load({"paths": (repo,), **arguments.settings}, {})


@serve.deployment(name=NAME)
@serve.ingress()
class Replica:
    """One replica: the server without its listeners. Lives on the loop that Ray runs user code on.

    Ray calls it as an ASGI application, and by `unary`, `follow` and `stream` for gRPC (proxy.py).
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # as Ray has it
        """Returns when the models are loaded. Raises: StartError; RuntimeError: one of them did not load."""
        logs.configure(settings.log_format, settings.log_level)  # into the log files of Ray's worker
        self._stack = AsyncExitStack()
        try:
            if any(map(is_url, settings.paths)):
                slot = Slot(settings.cache_dir or _CACHE_DIR)
                self._stack.callback(slot.close)
                settings = settings.model_copy(update={"cache_dir": slot.directory})
            server = Server(settings)
            parts = await self._stack.enter_async_context(server.embedded(OneOfMany(server.control)))
            self._engine = parts.engine
            await self.check_health()
        except BaseException:
            await self._stack.aclose()
            raise
        self._name = serve.get_replica_context().replica_id.unique_id
        self._calls = Calls(parts.services, parts.doors.grpc(management=False)["door"])
        self._metrics = Pieces(parts.metrics_text)
        self._front = self._front_of(parts, settings)
        gc.collect()
        gc.freeze()  # libraries and models stay for good

    def _front_of(self, parts: Parts, settings: Settings) -> Front:
        path = metrics_path(settings)
        door = parts.doors.http(parts.app, management=False, metrics_path=path)
        paths = frozenset(("/metrics", "/metrics/", path))
        return Front(door["app"], settings.http_max_input_size, self._all_metrics, paths, door["admit"])

    def __serve_build_asgi_app__(self) -> Front:
        return self._front

    async def check_health(self) -> None:
        """Raises: RuntimeError: the replica is not ready, and says which version is not; Ray replaces it."""
        engine = self._engine
        if not engine.ready:
            reasons = [f"{e.model}/{e.number}: {e.reason}" for e in engine.catalog.index if e.reason]
            raise RuntimeError("not ready: " + ("; ".join(reasons) or "a model has no version"))

    async def unary(self, data: bytes, grpc_context: Any) -> Message:
        return await self._calls.unary(data, grpc_context)

    async def follow(self, data: bytes, grpc_context: Any) -> Any:
        async for message in self._calls.stream(one(data), grpc_context):
            yield message

    async def stream(self, requests: Any, grpc_context: Any) -> Any:
        async for message in self._calls.stream(requests, grpc_context):
            yield message

    async def metrics(self, scrape: str, number: int) -> tuple[str, bytes, int]:
        """The name of this replica, a piece of its metrics, and how many pieces there are."""
        return self._name, *self._metrics.piece(scrape, number)

    async def _all_metrics(self) -> bytes:
        here = serve.get_replica_context()
        handle = serve.get_deployment_handle(here.deployment, here.app_name)

        async def ask(scrape: str, number: int) -> list[tuple[str, bytes, int]]:
            asked = handle.broadcast("metrics", scrape, number)
            answers = await asked.results_async(timeout_s=_SCRAPE_LIMIT_S, return_exceptions=True)
            return [answer for answer in answers if not isinstance(answer, BaseException)]

        return (await scraped(uuid.uuid4().hex, ask)).encode()

    async def __del__(self) -> None:
        """Ray calls this when the requests under way are answered, or the drain limit has passed."""
        await self._stack.aclose()
