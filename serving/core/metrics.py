"""Counters and histograms of the server. `scrape` gives them their Prometheus form.

Everything here is written on the event loop only, so it needs no locks: a histogram is a list and a bisection, a sixth
of the cost of prometheus-client's own (0.2 against 1.3 us), at five observations per request. What exists as state
elsewhere (queue depth, model states) is read when a scrape comes, so it cannot drift.

Label values are bounded: a model or version that the server does not know is counted under an empty label.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

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

    __slots__ = ("_times", "compute", "decode", "encode", "outcomes", "queue", "whole")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.whole = Histogram(SECONDS)  # from the arrival to the answer
        self.decode = Histogram(SECONDS)
        self.queue = Histogram(SECONDS)
        self.compute = Histogram(SECONDS)
        self.encode = Histogram(SECONDS)
        self._times = (self.decode, self.queue, self.compute, self.encode, self.whole)

    def answered(self, decode_s: float, timing: Timing, encode_s: float, whole_s: float) -> None:
        self.outcomes[OK] = self.outcomes.get(OK, 0) + 1
        for histogram, seconds in zip(
            self._times, (decode_s, timing.queue_s, timing.compute_s, encode_s, whole_s), strict=True
        ):  # as `observe`, without the calls
            histogram.counts[bisect_left(SECONDS, seconds)] += 1
            histogram.total += seconds

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
    """What a scrape reads of a version that exists now.

    Attributes:
        busy: instances that run something, of `instances`.
        padded_rows, run_seconds: what its runs came to since it was loaded: rows that were run for nothing, and time.
    """

    model: str
    version: str
    state: str
    queued_rows: int
    in_flight: int
    quarantined: bool = False
    share: float = 0.0  # of the requests that name no version
    memory_bytes: int | None = None
    queue_capacity_rows: int = 0
    instances: int = 0
    busy: int = 0
    padded_rows: int = 0
    run_seconds: float = 0.0


@dataclass
class SyncMetrics:
    """Of one remote source: looks that failed, bytes fetched, when it was last in line (seconds since the epoch)."""

    failures: int = 0
    fetched_bytes: int = 0
    synced_at: float = 0.0


def _never() -> None:
    """Nothing is known."""


@dataclass
class Metrics:
    """All metrics of one server.

    Attributes that are asked at each scrape:
        live, ready: the versions that exist; whether the server is ready.
        events: how often something has happened, by model and kind.
        connections: how many are open, by protocol.
        certificate_expiry: of the server, in seconds since the epoch; None: there is none.
        dropped: records of requests that were lost, by kind (`access_log`, `trace`, `capture`): too many waited.
        limits: what the server allows itself, by name (see `scrape.LIMITS`).
        memory_free_bytes: what may still be used; None: nobody knows.

    `build` holds versions of the server and its libraries by name, `loop_lag` how late the event loop was.
    """

    states: tuple[str, ...] = ()
    live: Callable[[], Iterable[LiveVersion]] = tuple
    ready: Callable[[], bool] = bool
    events: Mapping[tuple[str, str], int] = field(default_factory=dict)
    connections: dict[str, Callable[[], int]] = field(default_factory=dict)
    certificate_expiry: Callable[[], float | None] = _never
    dropped: dict[str, Callable[[], int]] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    memory_free_bytes: Callable[[], int | None] = _never
    build: dict[str, str] = field(default_factory=dict)
    loop_lag: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    refusals: dict[tuple[str, str], int] = field(default_factory=dict)
    of_requests: dict[tuple[str, str, str], RequestMetrics] = field(default_factory=dict)
    of_batches: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    of_loads: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    of_shadows: dict[tuple[str, str], ShadowMetrics] = field(default_factory=dict)
    of_syncs: dict[str, SyncMetrics] = field(default_factory=dict)
    _retired: dict[tuple[str, str], None] = field(default_factory=dict)  # in the order in which they ended

    def requests(self, model: str, version: str, protocol: str) -> RequestMetrics:
        key = (model, version, protocol)
        found = self.of_requests.get(key)
        if found is None:
            found = self.of_requests[key] = RequestMetrics()
        return found

    def batches(self, model: str, version: str) -> Histogram:
        """Rows per executed batch."""
        return self.of_batches.setdefault((model, version), Histogram(ROWS))

    def shadow(self, model: str, version: str) -> ShadowMetrics:
        return self.of_shadows.setdefault((model, version), ShadowMetrics())

    def loaded(self, model: str, outcome: str, seconds: float) -> None:
        self.of_loads.setdefault((model, outcome), Histogram(LOAD_SECONDS)).observe(seconds)

    def refused(self, protocol: str, reason: str) -> None:
        """Counts what was refused before any model was asked.

        Args:
            protocol: `http` or `grpc`.
            reason: a fixed word, never anything that a client has sent.
        """
        key = (protocol, reason)
        self.refusals[key] = self.refusals.get(key, 0) + 1

    def sync(self, source: str) -> SyncMetrics:
        return self.of_syncs.setdefault(source, SyncMetrics())

    def retire(self, model: str, version: str) -> None:
        """A version is no more. Its series stay for the next scrapes, and go when many others have ended since."""
        self._retired.pop((model, version), None)
        self._retired[model, version] = None
        if len(self._retired) > KEEP_RETIRED:
            oldest = next(iter(self._retired))
            del self._retired[oldest]
            for key in [k for k in self.of_requests if k[:2] == oldest]:
                del self.of_requests[key]
            self.of_batches.pop(oldest, None)
            self.of_shadows.pop(oldest, None)

    def revive(self, model: str, version: str) -> None:
        """A version of this number serves again."""
        self._retired.pop((model, version), None)
