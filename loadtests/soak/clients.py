"""One request at a time over a connection that is kept, and what came of it. Blocking; one client for one thread.

Nothing is tried again: what a client saw is what is counted.
"""

import http.client
import queue
import select
import time
from collections.abc import Iterator
from typing import Any, Protocol

import grpc

from loadtests.soak.outcomes import Ending, Outcome
from loadtests.soak.wire import Ask, version_of
from serving.protocols.messages import oip as m

TIMEOUT_S = 30.0
STREAM_S = 10.0  # after which a client ends its stream and begins another

_UNREADABLE = (ValueError, KeyError, TypeError)
_HTTP_RETRYABLE = (429, 503, 504)
_CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
# What the server says in a stream, and what the library says when it was not the server that answered UNAVAILABLE.
_NO_CONNECTION = ("failed to connect", "connection refused", "connection attempt")
_NOT_NOW = ("not at ready state", "server exiting", "queue size")
_CONNECTION_ENDED = ("socket closed", "connection reset", "broken pipe", "goaway", "end of tcp stream", "recvmsg")


class Client(Protocol):
    def ask(self, ask: Ask) -> Ending: ...

    def close(self) -> None: ...


def connect(transport: str, http_port: int, grpc_port: int) -> Client:
    if transport == "http":
        return HttpClient(http_port)
    return (StreamClient if transport == "stream" else GrpcClient)(grpc_port)


class HttpClient:
    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def close(self) -> None:
        self._connection.close()

    def ask(self, ask: Ask) -> Ending:
        if self._closed_by_server():
            self._connection.close()
        try:
            if self._connection.sock is None:
                self._connection.connect()
        except OSError as error:
            self._connection.close()
            return Ending(Outcome.UNREACHABLE, type(error).__name__)
        try:
            self._connection.request("POST", ask.path, ask.body, dict(ask.headers))
            answer = self._connection.getresponse()
            body = answer.read()
        except TimeoutError:
            self._connection.close()
            return Ending(Outcome.LOST, "timeout")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Ending(Outcome.BROKEN, type(error).__name__, detail=str(error))
        status = str(answer.status)
        if answer.status == 200:
            return _judged(ask, {name.lower(): value for name, value in answer.getheaders()}, body, status)
        outcome = Outcome.REFUSED if answer.status in _HTTP_RETRYABLE else Outcome.FAILED
        return Ending(outcome, status, detail=body[:300].decode(errors="replace"))

    def _closed_by_server(self) -> bool:
        """An idle connection that can be read has ended: a client must look before it sends."""
        sock = self._connection.sock
        return sock is not None and bool(select.select([sock], [], [], 0)[0])


class GrpcClient:
    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", _CHANNEL)

    def close(self) -> None:
        self._channel.close()

    def ask(self, ask: Ask) -> Ending:
        try:
            body = self._channel.unary_unary(ask.path, bytes, bytes)(ask.body, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return refusal(error.code(), error.details() or "")
        return _judged(ask, {}, body, "OK")


class StreamClient:
    """Requests of one stream, each sent when the one before it is answered."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", _CHANNEL)
        self._sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: Any = None
        self._until_s = 0.0

    def close(self) -> None:
        self._end()
        self._channel.close()

    def _end(self) -> None:
        if self._answers is not None:
            self._sent.put(None)
            self._answers = None

    def ask(self, ask: Ask) -> Ending:
        if self._answers is not None and (time.monotonic() > self._until_s or not self._answers.is_active()):
            self._end()
        if self._answers is None:
            self._sent = queue.SimpleQueue()
            call = self._channel.stream_stream(ask.path, bytes, bytes)
            self._answers = call(_items(self._sent), timeout=STREAM_S + TIMEOUT_S)
            self._until_s = time.monotonic() + STREAM_S
        self._sent.put(ask.body)
        try:
            body = next(self._answers)
        except StopIteration:
            self._end()
            return Ending(Outcome.BROKEN, "end of stream")
        except grpc.RpcError as error:
            self._end()
            return refusal(error.code(), error.details() or "")
        message = m.ModelStreamInferResponse.FromString(body)
        if message.error_message:
            return _refused_in_stream(message)
        return _judged(ask, {}, body, "OK")


def _refused_in_stream(message: Any) -> Ending:
    """An error in a stream has no code: what may be asked again shows in a parameter, or in the text alone."""
    told = message.error_message.lower()
    again = "retry_after_ms" in message.infer_response.parameters or any(text in told for text in _NOT_NOW)
    return Ending(Outcome.REFUSED if again else Outcome.FAILED, "in stream", detail=message.error_message)


def _items(sent: "queue.SimpleQueue[bytes | None]") -> Iterator[bytes]:
    while (item := sent.get()) is not None:
        yield item


def refusal(code: grpc.StatusCode, details: str) -> Ending:
    """What a status other than OK means to a client."""
    told = details.lower()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:  # ours: no request brings a shorter one
        return Ending(Outcome.LOST, "timeout")
    if code is grpc.StatusCode.UNAVAILABLE and any(text in told for text in _NO_CONNECTION):
        return Ending(Outcome.UNREACHABLE, code.name, detail=details)
    if code is grpc.StatusCode.UNAVAILABLE and any(text in told for text in _CONNECTION_ENDED):
        return Ending(Outcome.BROKEN, code.name, detail=details)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return Ending(Outcome.REFUSED, code.name, detail=details)
    return Ending(Outcome.FAILED, code.name, detail=details)


def _judged(ask: Ask, headers: dict[str, str], body: bytes, status: str) -> Ending:
    try:
        return Ending(Outcome.ANSWERED, status, version_of(ask, headers, body))
    except _UNREADABLE as error:
        return Ending(Outcome.WRONG, status, detail=str(error))
