"""Histograms, bounded series, and the text of a scrape, read back with Prometheus' own parser."""

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from serving.core.metrics import KEEP_RETIRED, OK, PHASES, SECONDS, Histogram, LiveVersion, Metrics
from serving.core.scrape import exporter
from serving.core.types import Timing

FAMILIES = {
    "serving_requests": "counter",
    "serving_request_seconds": "histogram",
    "serving_request_phase_seconds": "histogram",
    "serving_refused": "counter",
    "serving_connections": "gauge",
    "serving_batch_rows": "histogram",
    "serving_model_load_seconds": "histogram",
    "serving_queue_rows": "gauge",
    "serving_queue_capacity_rows": "gauge",
    "serving_in_flight_requests": "gauge",
    "serving_instances": "gauge",
    "serving_run_seconds": "counter",
    "serving_padded_rows": "counter",
    "serving_model_state": "gauge",
    "serving_model_memory_bytes": "gauge",
    "serving_quarantined": "gauge",
    "serving_events": "counter",
    "serving_traffic_share": "gauge",
    "serving_shadow_requests": "counter",
    "serving_shadow_difference": "histogram",
    "serving_ready": "gauge",
    "serving_event_loop_lag_seconds": "histogram",
    "serving_dropped_records": "counter",
    "serving_build_info": "gauge",
}


def scraped(metrics: Metrics) -> dict[str, list[Sample]]:
    """The samples of each family of ours, through the text form and back."""
    text = exporter(metrics)().decode()
    return {f.name: f.samples for f in text_string_to_metric_families(text) if f.name.startswith("serving_")}


def value(samples: list[Sample], **labels: str) -> float:
    (found,) = [s.value for s in samples if s.labels == labels]
    return found


# Histogram


@pytest.mark.parametrize(
    ("observed", "cumulative"),
    [
        ([], [0, 0, 0, 0]),
        ([0.5], [1, 1, 1, 1]),
        ([1], [1, 1, 1, 1]),  # a bound belongs to its own bucket
        ([1.5, 3, 3, 99], [0, 1, 3, 4]),
    ],
)
def test_buckets_are_cumulative(observed: list[float], cumulative: list[int]) -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for number in observed:
        histogram.observe(number)
    assert histogram.buckets() == list(zip(("1.0", "2.0", "5.0", "+Inf"), cumulative, strict=True))
    assert histogram.total == sum(observed)


def test_buckets_suit_a_tenth_of_a_millisecond_to_ten_seconds() -> None:
    assert SECONDS[0] == 0.0001 and SECONDS[-1] == 10.0
    assert list(SECONDS) == sorted(set(SECONDS))


# What a scrape gives


def test_every_family_is_there_before_the_first_request() -> None:
    text = exporter(Metrics())().decode()
    kinds = {f.name: f.type for f in text_string_to_metric_families(text)}
    assert {name: kind for name, kind in kinds.items() if name.startswith("serving_")} == FAMILIES
    assert "process_cpu_seconds" in kinds and "python_info" in kinds
    assert "_created" not in text


def test_answers_and_failures_are_counted_by_outcome() -> None:
    metrics = Metrics()
    requests = metrics.requests("m", "1", "rest")
    requests.answered(0.001, Timing(queue_s=0.002, compute_s=0.004), 0.008, 0.016)
    requests.answered(0, Timing(), 0, 0)
    requests.failed("invalid")
    assert metrics.requests("m", "1", "rest") is requests
    samples = scraped(metrics)["serving_requests"]
    labels = {"model": "m", "version": "1", "protocol": "rest"}
    assert value(samples, **labels, outcome=OK) == 2
    assert value(samples, **labels, outcome="invalid") == 1


def test_phases_are_told_apart_and_only_answered_requests_are_timed() -> None:
    metrics = Metrics()
    metrics.requests("m", "1", "grpc").answered(1, Timing(queue_s=2, compute_s=4), 8, 16)
    metrics.requests("m", "2", "grpc").failed("invalid")
    samples = scraped(metrics)["serving_request_phase_seconds"]
    sums = {s.labels["phase"]: s.value for s in samples if s.name.endswith("_sum")}
    assert sums == dict(zip(PHASES, (1, 2, 4, 8), strict=True))
    assert {s.labels["version"] for s in samples} == {"1"}
    whole = scraped(metrics)["serving_request_seconds"]
    assert [s.value for s in whole if s.name.endswith("_sum")] == [16]


def test_batches_and_loads() -> None:
    metrics = Metrics()
    metrics.batches("m", "1").observe(4)
    metrics.batches("m", "1").observe(64)
    metrics.loaded("m", "ok", 0.5)
    metrics.loaded("m", "failed", 2)
    families = scraped(metrics)
    rows = {s.name: s.value for s in families["serving_batch_rows"] if not s.name.endswith("_bucket")}
    assert rows == {"serving_batch_rows_count": 2, "serving_batch_rows_sum": 68}
    loads = [s for s in families["serving_model_load_seconds"] if s.name.endswith("_sum")]
    assert {s.labels["outcome"]: s.value for s in loads} == {"ok": 0.5, "failed": 2}


def test_state_is_read_when_the_scrape_comes() -> None:
    versions = [LiveVersion("m", "1", "READY", queued_rows=3, in_flight=5)]
    metrics = Metrics(states=("NEW", "READY"), live=lambda: versions, ready=lambda: bool(versions))
    families = scraped(metrics)
    labels = {"model": "m", "version": "1"}
    assert value(families["serving_queue_rows"], **labels) == 3
    assert value(families["serving_in_flight_requests"], **labels) == 5
    assert value(families["serving_model_state"], **labels, state="READY") == 1
    assert value(families["serving_model_state"], **labels, state="NEW") == 0
    assert value(families["serving_ready"]) == 1
    versions.clear()
    families = scraped(metrics)
    assert families["serving_queue_rows"] == families["serving_model_state"] == []
    assert value(families["serving_ready"]) == 0


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "Zürich 模型", "a b.c-d"])
def test_any_model_name_survives_the_text_form(name: str) -> None:
    metrics = Metrics()
    metrics.requests(name, "1", "rest").failed("invalid")
    assert [s.labels["model"] for s in scraped(metrics)["serving_requests"]] == [name]


def test_what_the_instances_of_a_version_do() -> None:
    serves = LiveVersion(
        "m", "1", "READY", 3, 5, queue_capacity_rows=8, instances=4, busy=1, padded_rows=7, run_seconds=2.5
    )
    families = scraped(Metrics(live=lambda: [serves, LiveVersion("m", "2", "LOADING", 0, 0)]))
    labels = {"model": "m", "version": "1"}
    assert value(families["serving_queue_capacity_rows"], **labels) == 8
    assert {s.labels["state"]: s.value for s in families["serving_instances"]} == {"busy": 1, "idle": 3}
    assert value(families["serving_padded_rows"], **labels) == 7
    assert value(families["serving_run_seconds"], **labels) == 2.5
    assert {s.labels["version"] for s in families["serving_queue_capacity_rows"]} == {"1"}  # the other has no queue yet


def test_what_is_known_of_the_server() -> None:
    metrics = Metrics(dropped={"trace": lambda: 3}, limits={"http_connections": 10.0}, build={"version": "1.2"})
    metrics.memory_free_bytes = lambda: 4096
    metrics.loop_lag.observe(0.5)
    families = scraped(metrics)
    assert value(families["serving_dropped_records"], kind="trace") == 3
    assert value(families["serving_limit_http_connections"]) == 10
    assert value(families["serving_memory_free_bytes"]) == 4096
    assert "serving_limit_memory_bytes" not in families  # there is no such limit
    (build,) = families["serving_build_info"]
    assert (build.value, build.labels["version"], build.labels["tensorflow"]) == (1, "1.2", "")
    assert {s.name.rpartition("_")[2]: s.value for s in families["serving_event_loop_lag_seconds"]}["sum"] == 0.5


def test_other_names_come_beside_ours_or_instead() -> None:
    metrics = Metrics()
    assert exporter(metrics, texts=[lambda: b"other 1\n"])().endswith(b"\nother 1\n")
    alone = exporter(metrics, texts=[lambda: b"other 1\n"], ours=False)()
    assert b"serving_" not in alone and b"process_cpu_seconds_total" in alone and b"python_gc_objects" in alone


# Series are bounded


def served(metrics: Metrics) -> Iterator[str]:
    for number in range(KEEP_RETIRED + 3):
        version = str(number)
        metrics.requests("m", version, "rest").failed("invalid")
        metrics.batches("m", version).observe(1)
        yield version


def versions_in(metrics: Metrics, family: str) -> set[str]:
    return {s.labels["version"] for s in scraped(metrics)[family]}


def test_series_of_ended_versions_stay_for_a_while_and_then_go() -> None:
    metrics = Metrics()
    for version in served(metrics):
        metrics.retire("m", version)
    kept = {str(number) for number in range(3, KEEP_RETIRED + 3)}
    assert versions_in(metrics, "serving_requests") == versions_in(metrics, "serving_batch_rows") == kept


def test_a_version_that_serves_again_keeps_its_series() -> None:
    metrics = Metrics()
    metrics.requests("m", "again", "rest").failed("invalid")
    metrics.retire("m", "again")
    metrics.revive("m", "again")
    for version in served(metrics):
        metrics.retire("m", version)
    assert "again" in versions_in(metrics, "serving_requests")


def test_a_version_that_ends_again_counts_from_then() -> None:
    metrics = Metrics()
    for version in served(metrics):
        metrics.retire("m", version)
        metrics.retire("m", "0")
    assert {"0", "2"} & versions_in(metrics, "serving_requests") == {"0"}


def test_series_of_other_models_are_left_alone() -> None:
    metrics = Metrics()
    metrics.requests("other", "0", "rest").failed("invalid")
    for version in served(metrics):
        metrics.retire("m", version)
    assert "other" in {s.labels["model"] for s in scraped(metrics)["serving_requests"]}


# Shares and shadows


def test_the_share_of_each_version() -> None:
    metrics = Metrics(live=lambda: [LiveVersion("m", "1", "READY", 0, 0, share=0.95)])
    assert value(scraped(metrics)["serving_traffic_share"], model="m", version="1") == 0.95


def test_what_became_of_copies_and_how_far_answers_differ() -> None:
    metrics = Metrics()
    shadow = metrics.shadow("m", "2")
    shadow.compared(True, 0.0, 0.0)
    shadow.compared(False, 0.5, 0.002)
    shadow.compared(False, float("inf"), float("inf"))
    shadow.dropped += 3
    samples = scraped(metrics)["serving_shadow_requests"]
    assert {s.labels["outcome"]: s.value for s in samples} == {"same": 1, "different": 2, "failed": 0, "dropped": 3}
    found = {
        (s.labels["kind"], s.name.rpartition("_")[2], s.labels.get("le", "")): s.value
        for s in scraped(metrics)["serving_shadow_difference"]
    }
    assert [found["absolute", "bucket", le] for le in ("0.0", "0.1", "1.0", "1000.0", "+Inf")] == [1, 1, 2, 2, 3]
    assert [found["relative", "bucket", le] for le in ("0.0", "0.001", "0.01", "1000.0", "+Inf")] == [1, 1, 2, 2, 3]
    assert found["absolute", "sum", ""] == 1_000_000.5  # an infinite difference would spoil it for good
    assert (shadow.largest_absolute, shadow.largest_relative) == (1e6, 1e6)
    assert metrics.shadow("m", "2") is shadow


# Listeners


def test_refusals_are_counted_by_protocol_and_reason() -> None:
    metrics = Metrics()
    for protocol, reason in (("http", "rate"), ("http", "rate"), ("grpc", "rate"), ("http", "slow")):
        metrics.refused(protocol, reason)
    samples = scraped(metrics)["serving_refused"]
    assert value(samples, protocol="http", reason="rate") == 2
    assert value(samples, protocol="grpc", reason="rate") == value(samples, protocol="http", reason="slow") == 1


def test_connections_are_read_at_the_scrape() -> None:
    opened = {1, 2}
    metrics = Metrics(connections={"http": lambda: len(opened)})
    assert value(scraped(metrics)["serving_connections"], protocol="http") == 2
    opened.clear()
    assert value(scraped(metrics)["serving_connections"], protocol="http") == 0


def test_a_certificate_is_told_of_if_there_is_one() -> None:
    name = "serving_tls_certificate_expiry_timestamp_seconds"
    assert name not in scraped(Metrics())
    assert value(scraped(Metrics(certificate_expiry=lambda: 2e9))[name]) == 2e9
