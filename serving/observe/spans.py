"""Spans of requests that have ended, made after the fact: all moments are in the record. On the exporter's thread.

A request is a span with those of its decoding, its time in the queue, its run and its encoding below. A run has many
requests, which belong to different traces, so each batch is a trace of its own: a span `batch`, linked with the
`compute` spans of all sampled requests in it, and each of these with it. It is made some time after the first of them,
since the others end at other moments.
"""

import random
import re
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from serving import __version__
from serving.core.metrics import OK
from serving.protocols.record import Inference, Record, Trace

Attributes = dict[str, AttributeValue]

# What is said of a gRPC server to have failed; the other codes are its clients' doing.
_SERVER_ERRORS = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_MODEL = re.compile(r"(/v[12]/(?:repository/)?models)/[^/:]+(?:/(versions|labels)/[^/:]+)?([/:][\w/:]+)?")
_OWN_MODEL = re.compile(r"(/serving/models)/[^/]+(/\w+)?")


def route(path: str) -> str:
    """A path with placeholders where it names models and versions, so that there are few of them."""
    if match := _MODEL.fullmatch(path):
        which = {"versions": "/versions/{version}", "labels": "/labels/{label}"}.get(match[2], "")
        return f"{match[1]}/{{model}}{which}{match[3] or ''}"
    if match := _OWN_MODEL.fullmatch(path):
        return f"{match[1]}/{{model}}{match[2] or ''}"
    return path


@dataclass(slots=True)
class _Batch:
    """One run, as far as its requests are known."""

    context: SpanContext
    began_ns: int
    ended_ns: int
    about: Attributes
    round: int  # in which its last request came
    members: list[SpanContext] = field(default_factory=list)


class Spans:
    """Makes spans of records. Not thread-safe.

    Args:
        service: the server's name.
        instance: tells this process from others of that name.
        scheme: of its URLs, `http` or `https`.
    """

    def __init__(self, service: str, instance: str, scheme: str = "http") -> None:
        self._scheme = scheme
        self._ids = _Ids()
        self._made = _Made()
        about = {"service.name": service, "service.version": __version__, "service.instance.id": instance}
        provider = TracerProvider(ALWAYS_ON, Resource.create(about), shutdown_on_exit=False, id_generator=self._ids)
        provider.add_span_processor(self._made)
        self._tracer = provider.get_tracer("serving", __version__)
        self._batches: dict[tuple[object, ...], _Batch] = {}
        self._round = 0

    def of(self, record: Record, wall_ns: int) -> None:
        """Makes those of a request.

        Args:
            wall_ns: what the time since the epoch is ahead of the record's clock.
        """
        place = record.trace
        assert place is not None
        parent = _context(place, place.parent_id) if place.parent_id else None
        self._ids.next = (int(place.trace_id, 16), int(place.span_id, 16))
        name, about, failed = _request(record, self._scheme)
        server = self._start(name, parent, record.began, wall_ns, about, SpanKind.SERVER)
        if failed:
            server.set_status(Status(StatusCode.ERROR))
        context = server.get_span_context()
        single = len(record.inferences) == 1
        for inference in record.inferences:
            self._inference(inference, context, wall_ns, single=single)
        server.end(_ns(record.ended, wall_ns))

    def _inference(self, inference: Inference, above: SpanContext, wall_ns: int, *, single: bool) -> None:
        """Its parts; where there are several inferences, below a span of its own."""
        span = None
        if not single:
            span = self._start("inference", above, inference.began, wall_ns, _about(inference))
            if inference.outcome != OK:
                span.set_status(Status(StatusCode.ERROR))
            above = span.get_span_context()
        times, timing = inference.times, inference.timing
        if times is not None and timing is not None:
            began = times.decoded + timing.queue_s
            self._part("decode", above, times.arrived, times.decoded, wall_ns)
            self._part("queue", above, times.decoded, began, wall_ns)
            batch = self._batch(inference, began, wall_ns)
            rows: Attributes = {"serving.batch.rows": timing.rows}
            compute = self._start("compute", above, began, wall_ns, rows, link=batch.context)
            compute.end(_ns(began + timing.compute_s, wall_ns))
            batch.members.append(compute.get_span_context())
            self._part("encode", above, times.inferred, times.encoded, wall_ns)
        if span is not None:
            span.end(_ns(inference.ended, wall_ns))

    def _batch(self, inference: Inference, began: float, wall_ns: int) -> _Batch:
        """The run that an inference was part of. Runs are told apart by what was measured of each: three durations, in
        nanoseconds, which all of its requests were given."""
        timing = inference.timing
        assert timing is not None
        key = (inference.model, inference.version, timing.input_s, timing.run_s, timing.output_s, timing.rows)
        batch = self._batches.get(key)
        if batch is None:
            context = SpanContext(random.getrandbits(128) or 1, random.getrandbits(64) or 1, False, _SAMPLED)
            about: Attributes = {
                "serving.model.name": inference.model,
                "serving.model.version": inference.version,
                "serving.batch.rows": timing.rows,
            }
            ended = _ns(began + timing.compute_s, wall_ns)
            batch = self._batches[key] = _Batch(context, _ns(began, wall_ns), ended, about, self._round)
        batch.round = self._round
        return batch

    def take(self, *, last: bool = False) -> list[ReadableSpan]:
        """What was made since the last time, and batches that no request was added to in this round and the last.

        Args:
            last: nothing more will come.
        """
        over = [key for key, batch in self._batches.items() if last or batch.round < self._round - 1]
        for key in over:
            batch = self._batches.pop(key)
            self._ids.next = (batch.context.trace_id, batch.context.span_id)
            links = [Link(member) for member in batch.members]
            about = {**batch.about, "serving.batch.sampled_requests": len(links)}
            span = self._tracer.start_span(
                "batch", trace.set_span_in_context(trace.INVALID_SPAN), SpanKind.INTERNAL, about, links, batch.began_ns
            )
            span.end(batch.ended_ns)
        return self._made.take()

    def turn(self) -> None:
        """Another round begins. A request of a batch may take that long to be answered after the first one was."""
        self._round += 1

    def _part(self, name: str, above: SpanContext, began: float, ended: float, wall_ns: int) -> None:
        self._start(name, above, began, wall_ns).end(_ns(ended, wall_ns))

    def _start(
        self,
        name: str,
        above: SpanContext | None,
        began: float,
        wall_ns: int,
        about: Attributes | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        link: SpanContext | None = None,
    ) -> trace.Span:
        parent = trace.INVALID_SPAN if above is None else trace.NonRecordingSpan(above)
        context = trace.set_span_in_context(parent)
        links = [Link(link)] if link is not None else []
        return self._tracer.start_span(name, context, kind, about, links, _ns(began, wall_ns))


def _request(record: Record, scheme: str) -> tuple[str, Attributes, bool]:
    """The name of a request's span, what is known of it, and whether the server has failed."""
    status = record.status
    host, _, port = record.peer.rpartition(":")
    about: Attributes = {"client.address": host, "client.port": int(port)} if port.isdigit() else {}
    if record.transport == "http":
        found = route(record.path)
        known = status not in (0, 404, 405)
        about |= {"http.request.method": record.method, "url.path": record.path, "url.scheme": scheme}
        about |= {"http.response.status_code": status} if isinstance(status, int) and status else {}
        about |= {"http.route": found} if known else {}
        name = f"{record.method} {found}" if known else record.method
        failed = isinstance(status, int) and status >= 500
    else:
        name = record.path.removeprefix("/")
        service, _, method = name.rpartition("/")
        about |= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        about |= {"rpc.response.status_code": status} if status else {}
        failed = status in _SERVER_ERRORS
    if failed:
        about["error.type"] = str(status)
    if record.request_id:
        about["serving.request.id"] = record.request_id
    if len(record.inferences) == 1:
        about |= _about(record.inferences[0])
    elif record.inferences:
        about["serving.inferences"] = len(record.inferences) + record.more
    return name, about, failed


def _about(inference: Inference) -> Attributes:
    return {
        "serving.protocol": inference.protocol,
        "serving.model.name": inference.model,
        "serving.model.version": inference.version,
        "serving.outcome": inference.outcome,
    }


def _context(place: Trace, span_id: str) -> SpanContext:
    state = TraceState.from_header([place.state]) if place.state else None
    return SpanContext(int(place.trace_id, 16), int(span_id, 16), True, _SAMPLED, state)


def _ns(moment: float, wall_ns: int) -> int:
    return int(moment * 1e9) + wall_ns


class _Ids(IdGenerator):
    """Random ids, but for spans whose own were told before they were made."""

    def __init__(self) -> None:
        self.next: tuple[int, int] | None = None  # of the trace and of the span

    def generate_trace_id(self) -> int:
        return self.next[0] if self.next is not None else random.getrandbits(128) or 1

    def generate_span_id(self) -> int:
        if self.next is None:
            return random.getrandbits(64) or 1
        (_, span_id), self.next = self.next, None
        return span_id


class _Made(SpanProcessor):
    """Keeps spans that have ended."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans
