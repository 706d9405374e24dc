"""What is noted of one request on its way: for the access log, for traces, and for the log lines that it causes.

Listeners begin a record and end it, codecs add what they know, `current` carries it from one to the other. There is one
only where somebody wants it: a request that names itself, or a server that traces or logs requests. All of this is on
the event loop; a record that has ended does not change any more, so any thread may read it.
"""

import random
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from serving.core.errors import ErrorKind
from serving.core.metrics import OK
from serving.core.types import InferRequest, InferResponse, Timing
from serving.engine import Times

REQUEST_ID = "x-request-id"
TRACE_PARENT = "traceparent"
TRACE_STATE = "tracestate"
TRACE_RESPONSE = "traceresponse"
NOTED = frozenset((REQUEST_ID, TRACE_PARENT, TRACE_STATE))  # headers and metadata that end up in a record

MAX_ID = 128  # characters; a longer id is none
MAX_STATE = 512  # characters of a trace's state, which is passed on and not read
KEPT = 64  # inferences of one call, such as a stream; the others are only counted

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_STATE = re.compile(r"[\x20-\x7e]+")
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NOTED_BYTES = {name.encode(): name for name in NOTED}
_ID_LINE = REQUEST_ID.encode()
_RESPONSE_LINE = TRACE_RESPONSE.encode()


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's place in a trace, as W3C Trace Context has it: ids in hexadecimal, our span's and that above it."""

    trace_id: str
    span_id: str
    sampled: bool
    parent_id: str = ""  # empty: the trace begins here
    state: str = ""

    @property
    def header(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


@dataclass(slots=True)
class Inference:
    """One inference of a request, answered or not; the moments are those of `time.perf_counter()`.

    Attributes:
        times, timing: None: there was no answer.
    """

    protocol: str
    model: str  # empty, like the version: the server knows no such thing
    version: str
    outcome: str
    began: float
    ended: float
    times: Times | None = None
    timing: Timing | None = None


@dataclass(slots=True)
class Record:
    """
    Attributes:
        transport: `http` or `grpc`.
        method: of HTTP; empty for gRPC.
        path: without the query, which is nobody's business; of gRPC, the method's full name.
        named: the client said the id where the answer can say it too.
        status: HTTP's, or the name of gRPC's; 0: the client left before there was one.
        key: the name of the API key that was used; empty: none.
        received_bytes, sent_bytes: of bodies or messages.
        more: inferences that are not kept.
    """

    transport: str
    method: str
    path: str
    peer: str
    began: float
    request_id: str = ""
    named: bool = False
    trace: Trace | None = None
    status: int | str = 0
    key: str = ""
    received_bytes: int = 0
    sent_bytes: int = 0
    ended: float = 0.0
    inferences: list[Inference] = field(default_factory=list)
    more: int = 0

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What an HTTP answer says of it."""
        lines = [(_ID_LINE, self.request_id.encode())] if self.named else []
        if self.trace is not None:
            lines.append((_RESPONSE_LINE, self.trace.header.encode()))
        return lines

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a gRPC answer says of it."""
        pairs = ((REQUEST_ID, self.request_id),) if self.named else ()
        return pairs if self.trace is None else (*pairs, (TRACE_RESPONSE, self.trace.header))

    def add(self, inference: Inference, request_id: str) -> None:
        if not self.request_id:
            self.request_id = acceptable(request_id)
        if len(self.inferences) < KEPT:
            self.inferences.append(inference)
        else:
            self.more += 1


current: ContextVar[Record | None] = ContextVar("record", default=None)


def under_way() -> Record | None:
    """The record of the request that this is done for; None: there is none, or it has ended and this goes on."""
    record = current.get()
    return None if record is None or record.ended else record


def acceptable(text: str) -> str:
    """An id as it was given; empty if it is too long, or holds what cannot be seen."""
    return text if len(text) <= MAX_ID and _VISIBLE.fullmatch(text) else ""


def answered(protocol: str, request: InferRequest, response: InferResponse, times: Times) -> None:
    """An engine's observer: notes an inference that was answered."""
    record = current.get()
    if record is not None:
        version, timing = str(response.version), response.timing
        note = Inference(protocol, response.model, version, OK, times.arrived, times.encoded, times, timing)
        record.add(note, request.id)


def failed(protocol: str, model: str, version: str, kind: ErrorKind, request_id: str, began: float) -> None:
    """Notes an inference that was not answered."""
    record = current.get()
    if record is not None:
        record.add(Inference(protocol, model, version, kind.value, began, perf_counter()), request_id)


Sink = Callable[[Record], None]


class Watch:
    """Begins records and hands on those that have ended.

    Args:
        every: every request has one.
        sample: says of a request that belongs to no trace whether one begins with it; None: nothing is traced.
        sinks: are given each record that has ended.

    Attributes:
        key_of: is given the transport and the headers or metadata of a request, and gives the name of its API key;
            None: there are no keys. It is asked if `every` request has a record.
    """

    __slots__ = ("_every", "_sample", "_sinks", "key_of", "on")

    def __init__(
        self, *, every: bool = False, sample: Callable[[], bool] | None = None, sinks: Iterable[Sink] = ()
    ) -> None:
        self.on = every or sample is not None
        self.key_of: Callable[[str, Any], str] | None = None
        self._every = every
        self._sample = sample
        self._sinks = tuple(sinks)

    def http(
        self, method: str, path: bytes, headers: Iterable[tuple[bytes, bytes]], peer: object, received_bytes: int
    ) -> Record | None:
        """Begins the record of an HTTP request, if it is to have one; header names are in lower case."""
        said = [(_NOTED_BYTES[name], value.decode("latin-1")) for name, value in headers if name in _NOTED_BYTES]
        sampled = self._sample is not None and self._sample()
        if not (said or sampled or self._every):
            return None
        record = self._begin("http", method, path.decode("latin-1"), said, sampled)
        if record is not None:
            record.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "")
            record.received_bytes = received_bytes
            if self.key_of is not None and self._every:
                record.key = self.key_of("http", headers)
        return record

    def grpc(
        self, path: str, metadata: Iterable[tuple[str, str | bytes]], peer: Callable[[], str], received_bytes: int = 0
    ) -> Record | None:
        """Begins the record of a gRPC call, if it is to have one."""
        said = [(name, value) for name, value in metadata if name in NOTED and isinstance(value, str)]
        sampled = self._sample is not None and self._sample()
        if not (said or sampled or self._every):
            return None
        record = self._begin("grpc", "", path, said, sampled)
        if record is not None:
            record.peer = peer()
            record.received_bytes = received_bytes
            if self.key_of is not None and self._every:
                record.key = self.key_of("grpc", metadata)
        return record

    def _begin(
        self, transport: str, method: str, path: str, said: list[tuple[str, str]], sampled: bool
    ) -> Record | None:
        """
        Args:
            said: what is `NOTED`, as far as it was sent.
            sampled: a trace begins here, if the client has not begun one.
        """
        given = parent = ""
        states = []
        for name, value in said:
            if name == REQUEST_ID:
                given = acceptable(value)
            elif name == TRACE_PARENT:
                parent = value
            else:
                states.append(value)
        trace = None
        if self._sample is not None:
            trace = continued(parent, ",".join(states)) or (begun() if sampled else None)
        if not given and trace is None and not self._every:
            return None
        record = Record(transport, method, path, "", perf_counter(), given, bool(given), trace)
        current.set(record)
        return record

    def end(self, record: Record) -> None:
        """Nothing more will come."""
        record.ended = perf_counter()
        for sink in self._sinks:
            sink(record)


def continued(parent: str, state: str) -> Trace | None:
    """Our place in the trace of a client, which has decided whether it is recorded.

    Args:
        parent, state: values of `traceparent` and `tracestate`; what is malformed counts as not given.
    """
    match = _PARENT.fullmatch(parent)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    kept = state if len(state) <= MAX_STATE and _STATE.fullmatch(state) else ""
    return Trace(trace_id, _span_id(), bool(int(flags, 16) & 1), span_id, kept)


def begun() -> Trace:
    """A new one, which is recorded."""
    return Trace(f"{random.getrandbits(128) or 1:032x}", _span_id(), True)


def _span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"
