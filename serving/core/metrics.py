"""Counters and histograms of the server, and their Prometheus form.

Everything here is written on the event loop only, so it needs no locks: a histogram is a list and a bisection, a sixth
of the cost of prometheus-client's own (0.2 against 1.3 us), at four observations per request. What exists as state
elsewhere (queue depth, model states) is read when a scrape comes, so it cannot drift.

Label values are bounded: a model or version that the server does not know is counted under an empty label.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from serving.core.types import Timing

PHASES = ("decode", "queue", "compute", "encode")
SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
LOAD_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
DIFFERENCES = (0.0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)

OK = "ok"
KEEP_RETIRED = 64
_FAR = 1e6  # stands for all that is farther: one infinite difference would spoil every sum


class Histogram:
    """Counts of values by upper bound. Not thread-safe."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them."""
        result, running = [], 0
        for bound, count in zip((*map(repr, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            result.append((bound, float(running)))
        return result


class RequestMetrics:
    """Of one model, version and protocol."""

    __slots__ = ("compute", "decode", "encode", "outcomes", "queue")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.decode = Histogram(SECONDS)
        self.queue = Histogram(SECONDS)
        self.compute = Histogram(SECONDS)
        self.encode = Histogram(SECONDS)

    def answered(self, decode_s: float, timing: Timing, encode_s: float) -> None:
        self.outcomes[OK] = self.outcomes.get(OK, 0) + 1
        self.decode.observe(decode_s)
        self.queue.observe(timing.queue_s)
        self.compute.observe(timing.compute_s)
        self.encode.observe(encode_s)

    def failed(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class ShadowMetrics:
    """Of the copies of requests that one version got.

    Attributes:
        same, different: how its answers were, within the tolerance.
        failed: the model failed on the copy, or does not take such requests.
        dropped: too many waited, or one waited too long; these say nothing of the version.
    """

    __slots__ = (
        "absolute",
        "different",
        "dropped",
        "failed",
        "largest_absolute",
        "largest_relative",
        "relative",
        "same",
    )

    def __init__(self) -> None:
        self.same = self.different = self.failed = self.dropped = 0
        self.largest_absolute = self.largest_relative = 0.0
        self.absolute = Histogram(DIFFERENCES)  # of each answer, the largest
        self.relative = Histogram(DIFFERENCES)

    def compared(self, same: bool, absolute: float, relative: float) -> None:
        """
        Args:
            absolute, relative: the largest difference, which may be infinite.
        """
        if same:
            self.same += 1
        else:
            self.different += 1
        absolute, relative = min(absolute, _FAR), min(relative, _FAR)
        self.absolute.observe(absolute)
        self.relative.observe(relative)
        self.largest_absolute = max(self.largest_absolute, absolute)
        self.largest_relative = max(self.largest_relative, relative)


@dataclass(frozen=True)
class LiveVersion:
    """What a scrape reads of a version that exists now."""

    model: str
    version: str
    state: str
    queued_rows: int
    in_flight: int
    quarantined: bool = False
    share: float = 0.0  # of the requests that name no version
    memory_bytes: int | None = None


@dataclass
class SyncMetrics:
    """Of one remote source: looks that failed, bytes fetched, when it was last in line (seconds since the epoch)."""

    failures: int = 0
    fetched_bytes: int = 0
    synced_at: float = 0.0


@dataclass
class Metrics:
    """All metrics of one server. `live`, `ready` and `events` (counts by model and kind) are asked at each scrape."""

    states: tuple[str, ...] = ()
    live: Callable[[], Iterable[LiveVersion]] = tuple
    ready: Callable[[], bool] = bool
    events: Mapping[tuple[str, str], int] = field(default_factory=dict)
    _requests: dict[tuple[str, str, str], RequestMetrics] = field(default_factory=dict)
    _batches: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    _loads: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    _shadows: dict[tuple[str, str], ShadowMetrics] = field(default_factory=dict)
    _syncs: dict[str, SyncMetrics] = field(default_factory=dict)
    _retired: dict[tuple[str, str], None] = field(default_factory=dict)  # in the order in which they ended

    def requests(self, model: str, version: str, protocol: str) -> RequestMetrics:
        key = (model, version, protocol)
        found = self._requests.get(key)
        if found is None:
            found = self._requests[key] = RequestMetrics()
        return found

    def batches(self, model: str, version: str) -> Histogram:
        """Rows per executed batch."""
        return self._batches.setdefault((model, version), Histogram(ROWS))

    def shadow(self, model: str, version: str) -> ShadowMetrics:
        return self._shadows.setdefault((model, version), ShadowMetrics())

    def loaded(self, model: str, outcome: str, seconds: float) -> None:
        self._loads.setdefault((model, outcome), Histogram(LOAD_SECONDS)).observe(seconds)

    def sync(self, source: str) -> SyncMetrics:
        return self._syncs.setdefault(source, SyncMetrics())

    def retire(self, model: str, version: str) -> None:
        """A version is no more. Its series stay for the next scrapes, and go when many others have ended since."""
        self._retired.pop((model, version), None)
        self._retired[model, version] = None
        if len(self._retired) > KEEP_RETIRED:
            oldest = next(iter(self._retired))
            del self._retired[oldest]
            for key in [k for k in self._requests if k[:2] == oldest]:
                del self._requests[key]
            self._batches.pop(oldest, None)
            self._shadows.pop(oldest, None)

    def revive(self, model: str, version: str) -> None:
        """A version of this number serves again."""
        self._retired.pop((model, version), None)

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_requests()
        yield from self._collect_batches()
        yield from self._collect_shadows()
        yield from self._collect_live()
        yield from self._collect_syncs()

    def _collect_requests(self) -> Iterator[Metric]:
        labels = ("model", "version", "protocol")
        requests = CounterMetricFamily(
            "serving_requests", "Inference requests that were answered.", labels=(*labels, "outcome")
        )
        phases = HistogramMetricFamily(
            "serving_request_phase_seconds",
            "Time of an answered request by phase.",
            labels=(*labels, "phase"),
        )
        for key, metrics in self._requests.items():
            for outcome, count in metrics.outcomes.items():
                requests.add_metric((*key, outcome), count)
            if OK in metrics.outcomes:
                for phase in PHASES:
                    histogram: Histogram = getattr(metrics, phase)
                    phases.add_metric((*key, phase), histogram.buckets(), histogram.total)
        yield requests
        yield phases

    def _collect_batches(self) -> Iterator[Metric]:
        rows = HistogramMetricFamily("serving_batch_rows", "Rows per executed batch.", labels=("model", "version"))
        for key, histogram in self._batches.items():
            rows.add_metric(key, histogram.buckets(), histogram.total)
        yield rows
        loads = HistogramMetricFamily(
            "serving_model_load_seconds", "Time to load and warm up a version.", labels=("model", "outcome")
        )
        for key, histogram in self._loads.items():
            loads.add_metric(key, histogram.buckets(), histogram.total)
        yield loads

    def _collect_shadows(self) -> Iterator[Metric]:
        labels = ("model", "version")
        copies = CounterMetricFamily(
            "serving_shadow_requests", "Copies of requests by what became of them.", labels=(*labels, "outcome")
        )
        differences = HistogramMetricFamily(
            "serving_shadow_difference",
            "The largest difference between an answer and that to its copy, absolute or relative to the answer.",
            labels=(*labels, "kind"),
        )
        for key, shadow in self._shadows.items():
            for outcome in ("same", "different", "failed", "dropped"):
                copies.add_metric((*key, outcome), getattr(shadow, outcome))
            for kind in ("absolute", "relative"):
                histogram: Histogram = getattr(shadow, kind)
                differences.add_metric((*key, kind), histogram.buckets(), histogram.total)
        yield copies
        yield differences

    def _collect_live(self) -> Iterator[Metric]:
        labels = ("model", "version")
        queued = GaugeMetricFamily("serving_queue_rows", "Rows that wait for an instance.", labels=labels)
        flying = GaugeMetricFamily("serving_in_flight_requests", "Requests between arrival and answer.", labels=labels)
        states = GaugeMetricFamily("serving_model_state", "1 for the state a version is in.", labels=(*labels, "state"))
        shares = GaugeMetricFamily(
            "serving_traffic_share", "What a version gets of the requests that name none.", labels=labels
        )
        memory = GaugeMetricFamily(
            "serving_model_memory_bytes", "Memory that a version took when it was loaded.", labels=labels
        )
        quarantined = GaugeMetricFamily(
            "serving_quarantined", "1 for a version that is not tried again before its content changes.", labels=labels
        )
        for version in self.live():
            key = (version.model, version.version)
            shares.add_metric(key, version.share)
            if version.memory_bytes is not None:
                memory.add_metric(key, version.memory_bytes)
            queued.add_metric(key, version.queued_rows)
            flying.add_metric(key, version.in_flight)
            if version.quarantined:
                quarantined.add_metric(key, 1.0)
            for state in self.states:
                states.add_metric((*key, state), float(state == version.state))
        yield queued
        yield flying
        yield states
        yield shares
        yield memory
        yield quarantined
        events = CounterMetricFamily("serving_events", "What has happened to models.", labels=("model", "kind"))
        for event, count in self.events.items():
            events.add_metric(event, count)
        yield events
        ready = GaugeMetricFamily("serving_ready", "1 if every wanted model has a ready version.")
        ready.add_metric((), float(self.ready()))
        yield ready

    def _collect_syncs(self) -> Iterator[Metric]:
        labels = ("source",)
        failures = CounterMetricFamily(
            "serving_repository_sync_failures", "Looks at a remote repository that failed.", labels=labels
        )
        fetched = CounterMetricFamily(
            "serving_repository_fetched_bytes", "Bytes that were fetched from a remote repository.", labels=labels
        )
        synced = GaugeMetricFamily(
            "serving_repository_last_sync_timestamp_seconds",
            "When all that is needed of a remote repository was last here; 0: never.",
            labels=labels,
        )
        for source, sync in self._syncs.items():
            failures.add_metric((source,), sync.failures)
            fetched.add_metric((source,), sync.fetched_bytes)
            synced.add_metric((source,), sync.synced_at)
        if self._syncs:
            yield from (failures, fetched, synced)


class _Adapter(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.collect()


def exporter(metrics: Metrics) -> Callable[[], bytes]:
    """A function that gives the text of a scrape, our metrics and those of the process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(_Adapter(metrics))
    return lambda: generate_latest(registry)
