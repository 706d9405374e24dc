"""The Prometheus form of what `metrics` counts: every family of ours, by name. On the event loop, when a scrape comes.

`docs/metrics.md` lists the same names, and a test holds the two against each other.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from serving.core.metrics import OK, PHASES, Histogram, Metrics

Labels = tuple[str, ...]
Text = Callable[[], bytes]

VERSION = ("model", "version")
REQUEST = (*VERSION, "protocol")
BUILD = ("version", "python", "onnxruntime", "tensorflow")

# Those of `Metrics.limits`, and what each one bounds.
LIMITS = {
    "http_connections": "HTTP connections that may be open.",
    "http_body_bytes": "Bytes that one HTTP body may have.",
    "grpc_connections": "gRPC connections that may be open.",
    "grpc_message_bytes": "Bytes that one gRPC message may have.",
    "concurrent_requests": "Requests that may be under way at once.",
    "concurrent_runs": "Runs of all models that may be under way at once on one device.",
    "memory_bytes": "Bytes of memory that the server may use.",
}


def exporter(
    metrics: Metrics, *, ours: bool = True, more: Iterable[Collector] = (), texts: Iterable[Text] = ()
) -> Text:
    """A function that gives the text of a scrape: our families, and those of the process and the interpreter.

    Args:
        ours: whether our own are in it.
        more: give further ones.
        texts: give what comes after all families, in the same form.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    if ours:
        registry.register(_Adapter(metrics))
    for each in more:
        registry.register(each)
    behind = tuple(texts)
    return lambda: b"".join((generate_latest(registry), *(text() for text in behind)))


class _Adapter(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return families(self._metrics)


def families(metrics: Metrics) -> Iterator[Metric]:
    """All of them, in the order of the document."""
    yield from _requests(metrics)
    yield from _listeners(metrics)
    yield from _runs(metrics)
    yield from _versions(metrics)
    yield from _models(metrics)
    yield from _shadows(metrics)
    yield from _syncs(metrics)
    yield from _server(metrics)


def _counter(name: str, text: str, labels: Labels, rows: Iterable[tuple[Labels, float]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _gauge(name: str, text: str, labels: Labels, rows: Iterable[tuple[Labels, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _histogram(name: str, text: str, labels: Labels, rows: Iterable[tuple[Labels, Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in rows:
        family.add_metric(values, histogram.buckets(), histogram.total)
    return family


def _requests(metrics: Metrics) -> Iterator[Metric]:
    asked = metrics.of_requests.items()
    answered = [(key, of) for key, of in asked if OK in of.outcomes]
    yield _counter(
        "serving_requests",
        "Inference requests that were answered, or refused by a model's queue or checks.",
        (*REQUEST, "outcome"),
        (((*key, outcome), count) for key, of in asked for outcome, count in of.outcomes.items()),
    )
    yield _histogram(
        "serving_request_seconds",
        "Time of an answered request, from its arrival as a whole to its answer.",
        REQUEST,
        ((key, of.whole) for key, of in answered),
    )
    yield _histogram(
        "serving_request_phase_seconds",
        "Time of an answered request by phase.",
        (*REQUEST, "phase"),
        (((*key, phase), getattr(of, phase)) for key, of in answered for phase in PHASES),
    )


def _listeners(metrics: Metrics) -> Iterator[Metric]:
    yield _counter(
        "serving_refused",
        "Requests and connections that were refused before any model was asked.",
        ("protocol", "reason"),
        metrics.refusals.items(),
    )
    yield _gauge(
        "serving_connections",
        "Connections that are open.",
        ("protocol",),
        (((protocol,), count()) for protocol, count in metrics.connections.items()),
    )
    expires = metrics.certificate_expiry()
    if expires is not None:
        yield _gauge(
            "serving_tls_certificate_expiry_timestamp_seconds",
            "When the server's certificate expires, in seconds since the epoch.",
            (),
            [((), expires)],
        )


def _runs(metrics: Metrics) -> Iterator[Metric]:
    yield _histogram("serving_batch_rows", "Rows per executed batch.", VERSION, metrics.of_batches.items())
    yield _histogram(
        "serving_model_load_seconds",
        "Time to load and warm up a version.",
        ("model", "outcome"),
        metrics.of_loads.items(),
    )


def _versions(metrics: Metrics) -> Iterator[Metric]:
    """Of those that exist now; each is asked once."""
    live = [((version.model, version.version), version) for version in metrics.live()]
    equipped = [(key, version) for key, version in live if version.instances]
    yield _gauge(
        "serving_queue_rows", "Rows that wait for an instance.", VERSION, ((key, v.queued_rows) for key, v in live)
    )
    yield _gauge(
        "serving_queue_capacity_rows",
        "Rows that may wait; a request that finds no room is refused.",
        VERSION,
        ((key, v.queue_capacity_rows) for key, v in equipped),
    )
    yield _gauge(
        "serving_in_flight_requests",
        "Requests between arrival and answer.",
        VERSION,
        ((key, v.in_flight) for key, v in live),
    )
    yield _gauge(
        "serving_instances",
        "Copies of a model that can run at the same time, by what they do now.",
        (*VERSION, "state"),
        (
            ((*key, state), count)
            for key, v in equipped
            for state, count in (("busy", v.busy), ("idle", v.instances - v.busy))
        ),
    )
    yield _counter(
        "serving_run_seconds",
        "Time that instances spent on runs that gave an answer, since the version was loaded.",
        VERSION,
        ((key, v.run_seconds) for key, v in equipped),
    )
    yield _counter(
        "serving_padded_rows",
        "Rows that were run for nothing, to fill up a batch, since the version was loaded.",
        VERSION,
        ((key, v.padded_rows) for key, v in equipped),
    )
    yield _gauge(
        "serving_model_state",
        "1 for the state a version is in.",
        (*VERSION, "state"),
        (((*key, state), float(state == v.state)) for key, v in live for state in metrics.states),
    )
    yield _gauge(
        "serving_traffic_share",
        "What a version gets of the requests that name none.",
        VERSION,
        ((key, v.share) for key, v in live),
    )
    yield _gauge(
        "serving_model_memory_bytes",
        "Memory that a version took when it was loaded.",
        VERSION,
        ((key, v.memory_bytes) for key, v in live if v.memory_bytes is not None),
    )
    yield _gauge(
        "serving_quarantined",
        "1 for a version that is not tried again before its content changes.",
        VERSION,
        ((key, 1.0) for key, v in live if v.quarantined),
    )


def _models(metrics: Metrics) -> Iterator[Metric]:
    yield _counter("serving_events", "What has happened to models.", ("model", "kind"), metrics.events.items())
    yield _gauge("serving_ready", "1 if every wanted model has a ready version.", (), [((), float(metrics.ready()))])


def _shadows(metrics: Metrics) -> Iterator[Metric]:
    shadows = metrics.of_shadows.items()
    yield _counter(
        "serving_shadow_requests",
        "Copies of requests by what became of them.",
        (*VERSION, "outcome"),
        (
            ((*key, outcome), getattr(shadow, outcome))
            for key, shadow in shadows
            for outcome in ("same", "different", "failed", "dropped")
        ),
    )
    yield _histogram(
        "serving_shadow_difference",
        "The largest difference between an answer and that to its copy, absolute or relative to the answer.",
        (*VERSION, "kind"),
        (((*key, kind), getattr(shadow, kind)) for key, shadow in shadows for kind in ("absolute", "relative")),
    )


def _syncs(metrics: Metrics) -> Iterator[Metric]:
    syncs, labels = metrics.of_syncs.items(), ("source",)
    if not syncs:
        return
    yield _counter(
        "serving_repository_sync_failures",
        "Looks at a remote repository that failed.",
        labels,
        (((source,), sync.failures) for source, sync in syncs),
    )
    yield _counter(
        "serving_repository_fetched_bytes",
        "Bytes that were fetched from a remote repository.",
        labels,
        (((source,), sync.fetched_bytes) for source, sync in syncs),
    )
    yield _gauge(
        "serving_repository_last_sync_timestamp_seconds",
        "When all that is needed of a remote repository was last here; 0: never.",
        labels,
        (((source,), sync.synced_at) for source, sync in syncs),
    )


def _server(metrics: Metrics) -> Iterator[Metric]:
    yield _histogram(
        "serving_event_loop_lag_seconds",
        "How late the event loop was, looked at regularly.",
        (),
        [((), metrics.loop_lag)],
    )
    yield _counter(
        "serving_dropped_records",
        "Records of requests that were lost, since too many waited to be written or sent.",
        ("kind",),
        (((kind,), count()) for kind, count in metrics.dropped.items()),
    )
    free = metrics.memory_free_bytes()
    if free is not None:
        yield _gauge("serving_memory_free_bytes", "Memory that loads of models may still take.", (), [((), free)])
    for name, text in LIMITS.items():
        if name in metrics.limits:
            yield _gauge(f"serving_limit_{name}", text, (), [((), metrics.limits[name])])
    yield _gauge(
        "serving_build_info",
        "1, with the versions of the server and of what it runs on.",
        BUILD,
        [(tuple(metrics.build.get(name, "") for name in BUILD), 1.0)],
    )
