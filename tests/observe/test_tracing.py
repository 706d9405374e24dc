"""Records on their way to a collector: in time, in the end, and when it is away."""

import logging
import threading
from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving.observe import tracing
from serving.observe.tracing import Tracing, otlp
from tests.observe.build import inference, record, trace
from tests.observe.collector import collector

NEVER_S = 600.0


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(4000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it has not happened")


def names(exporter: InMemorySpanExporter) -> list[str]:
    return [span.name for span in exporter.get_finished_spans()]


def test_spans_are_sent_by_and_by() -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter, 1.0, "edge", every_s=0.01)
    traces.add(record(inference(), trace=trace()))
    wait_for(lambda: "batch" in names(exporter))
    assert names(exporter)[:4] == ["decode", "queue", "compute", "encode"]
    traces.close()
    assert traces.dropped == 0


def test_what_waits_is_sent_in_the_end() -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter, 1.0, "edge", every_s=NEVER_S)
    for number in range(300):
        traces.add(record(trace=trace(number + 1)))
    traces.close()
    assert len(names(exporter)) == 300


def test_what_is_not_sampled_is_not_sent() -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter, 0.0, "edge", every_s=NEVER_S)
    traces.add(record())
    traces.add(record(trace=trace(sampled=False)))
    traces.close()
    assert names(exporter) == []


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_dice(rate: float) -> None:
    traces = Tracing(InMemorySpanExporter(), rate, "edge", every_s=NEVER_S)
    assert {traces.sample() for _ in range(50)} == {rate == 1.0}
    traces.close()


def test_more_than_may_wait_is_counted_and_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MAX_WAITING", 2)
    exporter = InMemorySpanExporter()
    traces = Tracing(exporter, 1.0, "edge", every_s=NEVER_S)
    for number in range(5):
        traces.add(record(trace=trace(number + 1)))
    traces.close()
    assert traces.dropped == 3 and len(names(exporter)) == 2


class Away(InMemorySpanExporter):
    """Takes nothing until it is back."""

    back = False

    def export(self, spans: object) -> SpanExportResult:
        return super().export(spans) if self.back else SpanExportResult.FAILURE  # type: ignore[arg-type]


def test_a_collector_that_is_away_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    exporter = Away()
    traces = Tracing(exporter, 1.0, "edge", every_s=0.01)
    for number in (1, 2):
        traces.add(record(trace=trace(number)))
        wait_for(lambda number=number: traces.dropped == number)  # type: ignore[misc]
    exporter.back = True
    traces.add(record(trace=trace(3)))
    wait_for(lambda: len(names(exporter)) == 1)
    traces.close()
    assert [line.message for line in caplog.records] == [
        "traces cannot be sent, and are dropped until they can",
        "traces can be sent again",
    ]


class Broken(InMemorySpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        raise RuntimeError("broken")


def test_whatever_goes_wrong_the_next_ones_are_tried(caplog: pytest.LogCaptureFixture) -> None:
    traces = Tracing(Broken(), 1.0, "edge", every_s=0.01)
    for number in (1, 2):
        traces.add(record(trace=trace(number)))
        wait_for(lambda number=number: len(caplog.records) == number)  # type: ignore[misc]
    traces.close()
    assert {line.message for line in caplog.records} == {"traces are lost"}


def test_over_the_wire() -> None:
    with collector() as taken:
        traces = Tracing(otlp(taken.url + "/"), 1.0, "edge", every_s=NEVER_S)
        traces.add(record(inference(), trace=trace(7), request_id="a-1"))
        traces.close()
    server = taken.named("POST /v2/models/{model}/infer")[0]
    assert server.span_id == f"{7:016x}" and server.about["serving.request.id"] == "a-1"
    assert taken.below(server).keys() == {"decode", "queue", "compute", "encode"}


def test_a_collector_that_refuses_for_good() -> None:
    with collector() as taken:
        taken.refuse = 400
        traces = Tracing(otlp(taken.url), 1.0, "edge", every_s=NEVER_S)
        traces.add(record(trace=trace()))
        traces.close()
        assert taken.refused == 1 and traces.dropped == 1
