"""What a collector is told of requests: names, places, times, links. With spans as the SDK makes them."""

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from serving.observe.spans import Spans, route
from serving.protocols.record import Record
from tests.observe.build import TRACE_ID, call, failure, inference, record, trace

WALL_NS = 1_000_000_000_000
S = 1_000_000_000


def spans_of(*records: Record) -> list[ReadableSpan]:
    spans = Spans("edge", "instance-1")
    for each in records:
        spans.of(each, WALL_NS)
    return spans.take(last=True)


def one(spans: list[ReadableSpan], name: str) -> ReadableSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


def ids(span: ReadableSpan) -> tuple[str, str]:
    context: Any = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def above(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent is not None else ""


def seconds(span: ReadableSpan) -> tuple[float, float]:
    """On the record's clock."""
    assert span.start_time is not None and span.end_time is not None
    return (span.start_time - WALL_NS) / S, (span.end_time - WALL_NS) / S


def test_a_request_and_its_parts() -> None:
    spans = spans_of(record(inference(), trace=trace(7), request_id="a-1"))
    server = one(spans, "POST /v2/models/{model}/infer")
    assert ids(server) == (TRACE_ID, f"{7:016x}") and server.parent is None and server.kind is SpanKind.SERVER
    assert seconds(server) == (9.5, 15.5) and server.status.status_code is StatusCode.UNSET
    assert server.resource.attributes["service.name"] == "edge"
    assert server.resource.attributes["service.instance.id"] == "instance-1"
    assert dict(server.attributes or {}) == {
        "client.address": "127.0.0.1",
        "client.port": 5,
        "http.request.method": "POST",
        "url.path": "/v2/models/m/infer",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "http.route": "/v2/models/{model}/infer",
        "serving.request.id": "a-1",
        "serving.protocol": "oip_rest",
        "serving.model.name": "m",
        "serving.model.version": "3",
        "serving.outcome": "ok",
    }
    parts = {"decode": (10, 11), "queue": (11, 13), "compute": (13, 13.5), "encode": (14, 15)}
    for name, times in parts.items():
        span = one(spans, name)
        assert seconds(span) == times and above(span) == ids(server)[1] and ids(span)[0] == TRACE_ID


def test_a_request_below_that_of_a_client() -> None:
    spans = spans_of(record(inference(), trace=trace(7, parent_id="00f067aa0ba902b7", state="vendor=7")))
    server = one(spans, "POST /v2/models/{model}/infer")
    assert above(server) == "00f067aa0ba902b7" and server.parent is not None and server.parent.is_remote
    context: Any = one(spans, "compute").get_span_context()
    assert context.trace_state.get("vendor") == "7"


def test_a_batch_is_linked_with_all_of_its_requests() -> None:
    together = [record(inference(began), trace=trace(number)) for number, began in ((1, 10.0), (2, 10.5))]
    alone = record(inference(run_s=0.26), trace=trace(3))
    spans = spans_of(*together, alone)
    batches = [span for span in spans if span.name == "batch"]
    computes = [span for span in spans if span.name == "compute"]
    assert len(batches) == 2 and len(computes) == 3
    links = [[f"{link.context.span_id:016x}" for link in batch.links] for batch in batches]
    assert links == [[ids(computes[0])[1], ids(computes[1])[1]], [ids(computes[2])[1]]]
    for compute, batch in zip(computes, (batches[0], batches[0], batches[1]), strict=True):
        (link,) = compute.links
        assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == ids(batch)
    assert batches[0].parent is None and ids(batches[0])[0] != TRACE_ID
    about = batches[0].attributes or {}
    assert (about["serving.batch.rows"], about["serving.batch.sampled_requests"]) == (2, 2)


def test_a_batch_waits_for_requests_that_are_answered_later() -> None:
    spans = Spans("edge", "i")
    spans.of(record(inference(), trace=trace(1)), WALL_NS)
    assert "batch" not in {span.name for span in spans.take()}
    spans.turn()
    spans.of(record(inference(), trace=trace(2)), WALL_NS)
    assert "batch" not in {span.name for span in spans.take()}
    spans.turn()
    assert spans.take() == []
    spans.turn()
    (batch,) = spans.take()
    assert batch.name == "batch" and len(batch.links) == 2
    assert spans.take(last=True) == []


def test_several_inferences_have_spans_of_their_own() -> None:
    spans = spans_of(call(inference(), failure(), trace=trace(), more=3))
    server = one(spans, "inference.GRPCInferenceService/ModelInfer")
    assert (server.attributes or {})["serving.inferences"] == 5
    good, bad = (span for span in spans if span.name == "inference")
    assert above(good) == above(bad) == ids(server)[1]
    assert above(one(spans, "compute")) == ids(good)[1]
    assert (good.status.status_code, bad.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)


@pytest.mark.parametrize(
    ("of", "error"),
    [
        (record(failure("model"), status=500), "500"),
        (record(failure(), status=400), None),
        (record(failure("cancelled"), status=0), None),
        (call(failure("model"), status="INTERNAL"), "INTERNAL"),
        (call(failure(), status="INVALID_ARGUMENT"), None),
    ],
)
def test_only_the_servers_own_failures_are_errors(of: Record, error: str | None) -> None:
    of.trace = trace()
    server = spans_of(of)[-1]
    assert server.kind is SpanKind.SERVER
    assert (server.attributes or {}).get("error.type") == error
    assert (server.status.status_code is StatusCode.ERROR) is (error is not None)


def test_what_only_clients_made_up_names_no_span() -> None:
    spans = spans_of(record(path="/made/up/4711", status=404, trace=trace()))
    assert [span.name for span in spans] == ["POST"]
    assert "http.route" not in (spans[0].attributes or {})


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v2", "/v2"),
        ("/v2/health/live", "/v2/health/live"),
        ("/v2/models/m", "/v2/models/{model}"),
        ("/v2/models/m/versions/3/infer", "/v2/models/{model}/versions/{version}/infer"),
        ("/v2/models/m/trace/setting", "/v2/models/{model}/trace/setting"),
        ("/v2/repository/models/m/load", "/v2/repository/models/{model}/load"),
        ("/v1/models/m:predict", "/v1/models/{model}:predict"),
        ("/v1/models/m/labels/stable:predict", "/v1/models/{model}/labels/{label}:predict"),
        ("/serving/models/m/promote", "/serving/models/{model}/promote"),
        ("/serving/models", "/serving/models"),
    ],
)
def test_routes_do_not_name_models(path: str, found: str) -> None:
    assert route(path) == found
