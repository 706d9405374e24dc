"""Puts together what a server tells of itself, as its settings ask for it, and ends it."""

import platform
from collections.abc import Callable
from importlib import metadata

from serving import __version__
from serving.config import Settings
from serving.core.metrics import Metrics
from serving.core.scrape import BUILD, exporter
from serving.engine import Engine
from serving.observe import gpu, other_names
from serving.observe.access_log import AccessLog
from serving.observe.lag import Lag
from serving.protocols import record
from serving.protocols.record import Sink, Watch

TFS_PATH = "/monitoring/prometheus/metrics"  # where TensorFlow Serving has its metrics
EXTRA = "pip install 'serving[tracing]'"


class ObservationError(Exception):
    """Something cannot be told as asked for; the message is one line that says why."""


class Observation:
    """From now on requests are noted, as far as settings ask for it. To be made on the event loop.

    Attributes:
        watch: for the listeners.

    Raises:
        ObservationError: a file that cannot be written, or a library that is not there.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        metrics = engine.metrics
        self._closing: list[Callable[[], None]] = []
        sinks: list[Sink] = []
        sample = None
        try:
            if settings.otlp_endpoint is not None:
                from serving.observe import tracing  # needs the extra

                exports = tracing.otlp(settings.otlp_endpoint)
                scheme = "http" if settings.tls_cert is None else "https"
                traces = tracing.Tracing(exports, settings.trace_sample_rate, settings.server_name, scheme)
                sample = traces.sample
                sinks.append(traces.add)
                self._closing.append(traces.close)
                metrics.dropped["trace"] = lambda: traces.dropped
            if settings.access_log is not None:
                lines = AccessLog(settings.access_log, settings.log_format)
                sinks.append(lines.add)
                self._closing.append(lines.close)
                metrics.dropped["access_log"] = lambda: lines.dropped
        except ImportError as error:
            raise ObservationError(
                f"--otlp-endpoint needs libraries that are not installed ({error}): {EXTRA}"
            ) from None
        except OSError as error:
            self.close()
            raise ObservationError(f"--access-log: '{settings.access_log}': {error.strerror}") from None
        self.watch = Watch(every=settings.access_log is not None, sample=sample, sinks=sinks)
        if self.watch.on:
            engine.observe(record.answered)
        self._closing.append(Lag(metrics.loop_lag).close)

    def close(self) -> None:
        """Writes and sends what waits. Blocks for some seconds at most."""
        for close in self._closing:
            close()


def metrics_text(settings: Settings, engine: Engine) -> Callable[[], bytes]:
    """A function that gives the text of a scrape, under the names that settings ask for."""
    _tell_what_is_fixed(settings, engine.metrics)
    gpus = gpu.find()
    names = settings.metrics_names
    texts = []
    if "triton" in names:
        texts.append(other_names.triton(engine))
    if "tensorflow-serving" in names:
        texts.append(other_names.tensorflow_serving(engine))
    return exporter(engine.metrics, ours="serving" in names, more=[gpus] if gpus is not None else [], texts=texts)


def metrics_path(settings: Settings) -> str:
    """Where metrics are, besides at `/metrics`."""
    named = "tensorflow-serving" in settings.metrics_names and settings.metrics_path == "/metrics"
    return TFS_PATH if named else settings.metrics_path


def _tell_what_is_fixed(settings: Settings, metrics: Metrics) -> None:
    libraries = {name: _version(name) for name in BUILD if name not in ("version", "python")}
    metrics.build = {"version": __version__, "python": platform.python_version(), **libraries}
    limits = {
        "http_connections": settings.http_max_connections,
        "http_body_bytes": settings.http_max_input_size,
        "grpc_connections": settings.grpc_max_connections,
        "grpc_message_bytes": settings.grpc_max_message_size,
        "concurrent_requests": settings.max_concurrent_requests,
        "concurrent_runs": settings.max_concurrent_runs,
        "memory_bytes": (settings.memory_limit_mb or 0) * 1_000_000,
    }
    metrics.limits = {name: float(limit) for name, limit in limits.items() if limit}  # 0: there is none


def _version(library: str) -> str:
    """Empty: it is not installed."""
    for name in (library, f"{library}-gpu", f"{library}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""
