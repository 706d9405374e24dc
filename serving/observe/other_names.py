"""Our metrics under the names that Triton and TensorFlow Serving have for them, for dashboards that exist. Read when a
scrape comes, on the event loop.

prometheus-client would append `_total` to counters, which these names do not have; so the text is written here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from serving.core.errors import ErrorKind
from serving.core.metrics import OK, Histogram, Metrics
from serving.core.statistics import Duration, Statistics
from serving.engine import Engine
from serving.protocols.status import Family, grpc_status

Labels = Mapping[str, str]
Row = tuple[Labels, float]

# Why a request failed, in Triton's words. Requests that were never told to a model count as failures there too.
_REASONS = {ErrorKind.QUEUE_FULL: "REJECTED", ErrorKind.EXPIRED: "REJECTED", ErrorKind.CANCELLED: "CANCELED"}
_REASONS |= {ErrorKind.MODEL: "BACKEND"}
_ALL_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

_API = {"REST": "predict", "GRPC": "Predict"}  # by entry point: it is written in two ways

_US = 1e6


def triton(engine: Engine) -> Callable[[], bytes]:
    """A function that gives what Triton tells of requests to models."""
    return lambda: b"".join(_triton(engine)) if engine.catalog.models else b""


def tensorflow_serving(engine: Engine) -> Callable[[], bytes]:
    """A function that gives what TensorFlow Serving tells of requests. It has no versions, and counts by its own API;
    requests of all protocols are counted here, and all as `predict`."""
    return lambda: b"".join(_tensorflow_serving(engine))


def _triton(engine: Engine) -> Iterator[bytes]:
    live = [
        ({"model": name, "version": str(version.number)}, version)
        for name, model in engine.catalog.models.items()
        for version in model.ready.values()
    ]
    failures = _failures(engine.metrics)

    def total(of: Callable[[Statistics], float]) -> Iterable[Row]:
        return [(labels, of(version.statistics)) for labels, version in live]

    yield _family(
        "nv_inference_request_success",
        "counter",
        "Number of successful inference requests, all batch sizes",
        total(lambda s: s.success.count),
    )
    yield _family(
        "nv_inference_request_failure",
        "counter",
        "Number of failed inference requests, all batch sizes",
        [
            ({**labels, "reason": reason}, failures.get((labels["model"], labels["version"], reason), 0))
            for labels, _ in live
            for reason in _ALL_REASONS
        ],
    )
    yield _family("nv_inference_count", "counter", "Number of inferences performed", total(lambda s: s.rows))
    yield _family("nv_inference_exec_count", "counter", "Number of model executions performed", total(lambda s: s.runs))
    durations: dict[str, tuple[str, Callable[[Statistics], Duration]]] = {
        "request": ("inference request", lambda s: s.success),
        "queue": ("inference queuing", lambda s: s.queue),
        "compute_input": ("compute input", lambda s: s.input),
        "compute_infer": ("compute inference", lambda s: s.run),
        "compute_output": ("inference compute output", lambda s: s.output),
    }
    for name, (text, of) in durations.items():
        rows = [(labels, of(version.statistics).ns // 1000) for labels, version in live]
        yield _family(
            f"nv_inference_{name}_duration_us", "counter", f"Cumulative {text} duration in microseconds", rows
        )
    yield _family(
        "nv_inference_pending_request_count",
        "gauge",
        "Instantaneous number of pending requests awaiting execution per-model.",
        [(labels, version.batcher.queued_requests) for labels, version in live],
    )


def _failures(metrics: Metrics) -> dict[tuple[str, str, str], int]:
    """By model, version and Triton's reason."""
    found: dict[tuple[str, str, str], int] = {}
    for (model, version, _), of in metrics.of_requests.items():
        for outcome, count in of.outcomes.items():
            if outcome != OK:
                key = (model, version, _REASONS.get(ErrorKind(outcome), "OTHER"))
                found[key] = found.get(key, 0) + count
    return found


def _tensorflow_serving(engine: Engine) -> Iterator[bytes]:
    counts: dict[tuple[str, str], int] = {}
    times: dict[tuple[str, str], Histogram] = {}
    runs: dict[str, Histogram] = {}
    for (model, _, protocol), of in engine.metrics.of_requests.items():
        for outcome, count in of.outcomes.items():
            status = "OK" if outcome == OK else grpc_status(ErrorKind(outcome), Family.TFS).name
            counts[model, status] = counts.get((model, status), 0) + count
        if OK in of.outcomes:
            entry = "GRPC" if protocol.endswith("grpc") else "REST"
            _add(times.setdefault((model, entry), Histogram(of.whole.bounds)), of.whole)
            _add(runs.setdefault(model, Histogram(of.compute.bounds)), of.compute)
    prefix = ":tensorflow:serving:"
    yield _family(
        f"{prefix}request_count",
        "counter",
        "The total number of requests.",
        [({"model_name": model, "status": status}, count) for (model, status), count in counts.items()],
    )
    yield _histogram(
        f"{prefix}request_latency",
        "Distribution of wall time (in microseconds) for Tensorflow Serving request.",
        [
            ({"model_name": model, "API": _API[entry], "entrypoint": entry}, histogram)
            for (model, entry), histogram in times.items()
        ],
    )
    yield _histogram(
        f"{prefix}runtime_latency",
        "Distribution of wall time (in microseconds) for Tensorflow runtime.",
        [({"model_name": model, "API": "Predict", "runtime": "TF1"}, histogram) for model, histogram in runs.items()],
    )


def _add(to: Histogram, other: Histogram) -> None:
    to.counts = [a + b for a, b in zip(to.counts, other.counts, strict=True)]
    to.total += other.total


def _family(name: str, kind: str, text: str, rows: Iterable[Row]) -> bytes:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(_line(name, labels, value) for labels, value in rows)]
    return "".join(f"{line}\n" for line in lines).encode()


def _histogram(name: str, text: str, rows: Iterable[tuple[Labels, Histogram]]) -> bytes:
    """In microseconds, from seconds."""
    lines = [f"# HELP {name} {text}", f"# TYPE {name} histogram"]
    for labels, histogram in rows:
        running = 0
        for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
            running += count
            edge = "+Inf" if bound is None else f"{bound * _US:g}"
            lines.append(_line(f"{name}_bucket", {**labels, "le": edge}, running))
        lines.append(_line(f"{name}_sum", labels, histogram.total * _US))
        lines.append(_line(f"{name}_count", labels, running))
    return "".join(f"{line}\n" for line in lines).encode()


def _line(name: str, labels: Labels, value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
