"""A stand-in for an OpenTelemetry collector: an HTTP server that reads OTLP as it is on the wire."""

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Span:
    """One span as it arrived; ids are in hexadecimal."""

    def __init__(self, span: Any, resource: dict[str, Any]) -> None:
        self.name: str = span.name
        self.kind: int = span.kind
        self.trace_id: str = span.trace_id.hex()
        self.span_id: str = span.span_id.hex()
        self.parent_id: str = span.parent_span_id.hex()
        self.state: str = span.trace_state
        self.began: int = span.start_time_unix_nano
        self.ended: int = span.end_time_unix_nano
        self.failed: bool = span.status.code == 2
        self.about = _values(span.attributes)
        self.links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
        self.resource = resource

    def __repr__(self) -> str:
        return f"<Span {self.name} {self.about}>"


class Collector:
    """What has arrived. `refuse`: with this status, instead of taking anything."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.refuse = 0
        self.refused = 0
        self.url = ""

    def take(self, body: bytes) -> bytes:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [Span(span, resource) for span in scope.spans]
        return bytes(ExportTraceServiceResponse().SerializeToString())

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def below(self, above: Span) -> dict[str, Span]:
        """Spans whose parent it is, by name."""
        return {span.name: span for span in self.spans if span.parent_id == above.span_id}


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """One that listens while the context lasts."""
    taken = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if taken.refuse:
                taken.refused += 1
                self.send_response(taken.refuse)
                self.end_headers()
                return
            if self.headers.get("content-encoding") == "gzip":
                body = zlib.decompress(body, wbits=31)
            known = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            answer = taken.take(body) if known else b""
            self.send_response(200 if known else 404)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        taken.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield taken
        server.shutdown()
        thread.join()
