"""A user for each protocol. All run on gevent's loop: gRPC too, by grpc's own support for it.

`grpc.experimental.gevent` is part of grpcio and tested with it, and what locust's documentation names; a pool of
threads would cost a switch for each call. `tests/loadtests/locust` proves that a slow call holds up nobody.
"""

# mypy: disable-error-code="misc, untyped-decorator"
# (locust's own types are not followed, so its base classes and decorators are Any)

import random
import time
from pathlib import Path
from typing import Any, ClassVar

import gevent.queue
import grpc
import grpc.experimental.gevent  # type: ignore[import-not-found]
from locust import FastHttpUser, User, constant_throughput, task
from locust.exception import StopUser

from loadtests.locust.target import METHODS, TIMEOUT_S, Request, Target, access
from loadtests.oip import AnswerError

# Before the first channel: without it a call over gRPC would stop every other user.
grpc.experimental.gevent.init_gevent()

UNREADABLE = (ValueError, KeyError, TypeError)


class Protocol:
    """What users of every protocol have. `target` is there when a test has begun."""

    protocol: ClassVar[str]
    environment: Any
    target: ClassVar[Target]

    def wait_time(self) -> float:
        rate = self.environment.parsed_options.per_user
        return float(constant_throughput(rate)(self)) if rate else 0.0

    def choose(self) -> Request:
        """StopUser where the protocol cannot carry this model's datatypes."""
        requests = Protocol.target.requests[self.protocol]
        if not requests:
            raise StopUser
        return random.choice(requests)

    def check(self, request: Request, headers: dict[str, str], body: bytes) -> None:
        """AnswerError, ValueError, KeyError or TypeError unless it is the answer that is expected."""
        target = Protocol.target
        target.check.answer(target.samples[request.number], target.read(self.protocol, headers, body))


class Rest(Protocol, FastHttpUser):
    abstract = True
    network_timeout = connection_timeout = TIMEOUT_S
    insecure = False

    def __init__(self, environment: Any) -> None:
        allowed = access(environment.parsed_options)
        self.default_headers = dict(allowed.headers)
        if allowed.context is not None:
            self.ssl_context_factory = lambda **_: allowed.context  # whatever it would trust instead
        super().__init__(environment)

    @task
    def post(self) -> None:
        request = self.choose()
        headers = dict(request.headers or {})
        with self.client.post(
            request.path, name=self.protocol, data=request.body, headers=headers, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}: {(response.content or b'')[:200]!r}")
                return
            try:
                self.check(request, {name.lower(): value for name, value in response.headers.items()}, response.content)
            except (AnswerError, *UNREADABLE) as error:
                response.failure(AnswerError(str(error)))


class OipJson(Rest):
    protocol = "oip-json"


class OipBinary(Rest):
    protocol = "oip-binary"


class TfsRest(Rest):
    protocol = "tfs-rest"


class Grpc(Protocol, User):
    abstract = True

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self._metadata = tuple(access(options).headers.items())
        self._channel = channel(options)

    def on_stop(self) -> None:
        self._channel.close()

    def ask(self, body: bytes) -> bytes:
        """grpc.RpcError."""
        method = self._channel.unary_unary(METHODS[self.protocol], bytes, bytes)
        return bytes(method(body, timeout=TIMEOUT_S, metadata=self._metadata))

    @task
    def call(self) -> None:
        request = self.choose()
        started, start = time.time(), time.perf_counter()
        body, failure = b"", None
        try:
            body = self.ask(request.body)
        except grpc.RpcError as error:
            failure = AnswerError(f"{error.code().name}: {error.details()}")
        elapsed_ms = 1e3 * (time.perf_counter() - start)
        if failure is None:
            try:
                self.check(request, {}, body)
            except (AnswerError, *UNREADABLE) as error:
                failure = AnswerError(str(error))
        self.environment.events.request.fire(
            request_type="gRPC",
            name=self.protocol,
            start_time=started,
            response_time=elapsed_ms,
            response_length=len(body),
            exception=failure,
            context=self.context(),
        )


class OipGrpc(Grpc):
    protocol = "oip-grpc"


class TfsGrpc(Grpc):
    protocol = "tfs-grpc"


class OipStream(Grpc):
    """One stream for as long as nothing goes wrong; the next request is sent when the one before it is answered."""

    protocol = "oip-stream"

    def on_start(self) -> None:
        super().on_start()
        self._sent: Any = None
        self._answers: Any = None

    def on_stop(self) -> None:
        if self._answers is not None:
            self._sent.put(StopIteration)  # ends the iteration over a gevent queue
        super().on_stop()

    def ask(self, body: bytes) -> bytes:
        if self._answers is None:
            self._sent = gevent.queue.Queue()
            stream = self._channel.stream_stream(METHODS[self.protocol], bytes, bytes)
            self._answers = stream(iter(self._sent), metadata=self._metadata)
        self._sent.put(body)
        try:
            with gevent.Timeout(TIMEOUT_S, AnswerError(f"no answer in {TIMEOUT_S:g} s")):
                return bytes(next(self._answers))
        except BaseException:
            self._answers = None
            raise


def channel(options: Any) -> Any:
    """A connection for each user, as each would have on a machine of its own; channels share one otherwise."""
    settings = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    if not (str(options.host).startswith("https://") or options.tls_ca is not None):
        return grpc.insecure_channel(options.grpc_host, settings)
    credentials = grpc.ssl_channel_credentials(
        *map(_content, (options.tls_ca, options.client_key, options.client_cert))
    )
    return grpc.secure_channel(options.grpc_host, credentials, settings)


def _content(file: str | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()


USERS: tuple[type, ...] = (OipJson, OipBinary, OipGrpc, OipStream, TfsRest, TfsGrpc)
