"""Traces for OpenTelemetry: which requests are sampled, and how their spans get to a collector.

The event loop throws dice, and puts the records of sampled requests into a queue when they have ended. A thread makes
spans of them and sends these. A collector that is slow or away costs spans, which are counted, and never a request.
"""

import logging
import random
import threading
import time
import uuid
from collections import deque

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from serving.observe.spans import Spans
from serving.protocols.record import Record

log = logging.getLogger(__name__)

MAX_WAITING = 4096  # requests
_EVERY_S = 1.0
_AT_ONCE = 256  # requests whose spans travel together
_PAUSE_AFTER = 4  # requests: making their spans takes about half a millisecond
_SEND_S = 5.0  # what one message may take, with all attempts
_CLOSE_S = 3.0


class Tracing:
    """
    Args:
        exporter: where spans go.
        rate: the share of requests that are sampled, of those that belong to no trace when they come, from 0 to 1.
        service: what the server is called in traces.
        scheme: of its URLs.
    """

    def __init__(
        self, exporter: SpanExporter, rate: float, service: str, scheme: str = "http", *, every_s: float = _EVERY_S
    ) -> None:
        self.dropped = 0
        self._exporter = exporter
        self._rate = rate
        self._every_s = every_s
        self._spans = Spans(service, str(uuid.uuid4()), scheme)
        self._waiting: deque[Record] = deque()
        self._end = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="tracing", daemon=True)
        self._thread.start()

    def sample(self) -> bool:
        """Whether a trace begins with this request."""
        return random.random() < self._rate

    def add(self, record: Record) -> None:
        """On the event loop."""
        if record.trace is None or not record.trace.sampled:
            return
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(record)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Sends what waits. Blocks for some seconds at most, if the collector does not answer."""
        self._end.set()
        self._thread.join(_CLOSE_S)
        self._exporter.shutdown()  # ends attempts that are still made
        self._thread.join(1.0)

    def _work(self) -> None:
        while not self._end.wait(self._every_s):
            self._try_to_send()
            self._spans.turn()
        self._try_to_send(last=True)

    def _try_to_send(self, *, last: bool = False) -> None:
        try:
            self._send(last=last)
        except Exception:  # whatever it is, the next ones may fare better
            log.exception("traces are lost")

    def _send(self, *, last: bool = False) -> None:
        wall_ns = time.time_ns() - time.perf_counter_ns()
        while True:
            count = min(len(self._waiting), _AT_ONCE)
            for made in range(count):
                self._spans.of(self._waiting.popleft(), wall_ns)
                if made % _PAUSE_AFTER == 0:
                    time.sleep(0)  # for the event loop, which needs the interpreter
            more = bool(self._waiting)
            spans = self._spans.take(last=last and not more)
            if spans and self._exporter.export(spans) is not SpanExportResult.SUCCESS:
                self.dropped += count
                self._tell(failing=True)
            elif spans:
                self._tell(failing=False)
            if not more:
                return

    def _tell(self, *, failing: bool) -> None:
        """Once, and not for each attempt."""
        if failing and not self._failing:
            log.warning("traces cannot be sent, and are dropped until they can")
        elif self._failing and not failing:
            log.info("traces can be sent again")
        self._failing = failing


def otlp(endpoint: str) -> SpanExporter:
    """Sends spans as OTLP over HTTP, in protobuf. Headers, certificates and compression are read from the variables of
    OpenTelemetry, such as `OTEL_EXPORTER_OTLP_HEADERS`.

    Args:
        endpoint: of the collector, such as `http://localhost:4318`.

    Raises:
        ImportError: the extra is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it would tell of each attempt
    return OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces", timeout=_SEND_S)
