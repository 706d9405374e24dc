"""Locust users for a running server: infer as REST JSON, as REST binary tensors and over gRPC, every answer checked.

    locust -f loadtests/locustfile.py --headless -u 16 -r 16 -t 15s --host http://127.0.0.1:8000 --model digits

Runs on gevent's loop, gRPC too. Requests are made from the model's metadata, which is fetched once when a test starts.
Exits with code 1 when a request failed or none was made.
"""

# mypy: disable-error-code="misc, untyped-decorator"
# (locust's own types are not followed, so its base classes and decorators are Any)

import json
import random
import time
import urllib.request
from typing import Any
from urllib.error import URLError
from urllib.parse import quote

import grpc
import grpc.experimental.gevent  # type: ignore[import-not-found]
from locust import FastHttpUser, User, events, task
from locust.env import Environment
from locust.exception import StopUser

from loadtests import oip
from loadtests.oip import AnswerError
from loadtests.payloads import Payloads

# Before the first channel: without it a call over gRPC would stop every other user.
grpc.experimental.gevent.init_gevent()

TIMEOUT_S = 30.0
UNREADABLE = (ValueError, KeyError, TypeError)

_payloads: Payloads


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    parser.add_argument("--model", env_var="SERVING_LOAD_MODEL", default="digits", help="model to send to")
    parser.add_argument(
        "--grpc-host", env_var="SERVING_LOAD_GRPC_HOST", default="127.0.0.1:8001", help="address of the gRPC port"
    )
    parser.add_argument("--rows", env_var="SERVING_LOAD_ROWS", type=int, default=1, help="rows in each request")


@events.test_start.add_listener
def _make_payloads(environment: Environment, **_: Any) -> None:
    global _payloads
    options = environment.parsed_options
    url = f"{environment.host}/v2/models/{quote(options.model, safe='')}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            metadata = json.load(answer)
        _payloads = Payloads.of(metadata, options.rows)
    except (URLError, ValueError) as error:
        raise SystemExit(f"no metadata from {url}: {error}") from error


@events.quitting.add_listener
def _fail_when_idle(environment: Environment, **_: Any) -> None:
    if environment.stats.total.num_requests == 0:
        environment.process_exit_code = 1


class RestUser(FastHttpUser):
    abstract = True
    network_timeout = connection_timeout = TIMEOUT_S

    def infer(self, name: str, body: bytes, headers: dict[str, str]) -> None:
        path = oip.infer_path(_payloads.model)
        with self.client.post(path, name=name, data=body, headers=headers, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}: {(response.content or b'')[:200]!r}")
                return
            try:
                answer_headers = {key.lower(): value for key, value in response.headers.items()}
                _payloads.check(oip.decode_rest(answer_headers, response.content))
            except (AnswerError, *UNREADABLE) as error:
                response.failure(error)


class RestJson(RestUser):
    def on_start(self) -> None:
        if not _payloads.json:
            raise StopUser  # a model with FP16 or BF16 has no JSON form

    @task
    def post(self) -> None:
        self.infer("infer, JSON", random.choice(_payloads.json), {"content-type": "application/json"})


class RestBinary(RestUser):
    @task
    def post(self) -> None:
        body, json_bytes = random.choice(_payloads.binary)
        headers = {"content-type": "application/octet-stream", oip.JSON_LENGTH: str(json_bytes)}
        self.infer("infer, binary", body, headers)


class Grpc(User):
    def on_start(self) -> None:
        # A connection for each user, as each would have on a machine of its own; channels share one otherwise.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(self.environment.parsed_options.grpc_host, options)
        self._infer = self._channel.unary_unary(oip.GRPC_INFER, bytes, bytes)

    def on_stop(self) -> None:
        self._channel.close()

    @task
    def call(self) -> None:
        started, start = time.time(), time.perf_counter()
        body = b""
        failure: Exception | None = None
        try:
            body = self._infer(random.choice(_payloads.grpc), timeout=TIMEOUT_S)
            elapsed_ms = 1e3 * (time.perf_counter() - start)
            _payloads.check(oip.decode_grpc(body))
        except grpc.RpcError as error:
            elapsed_ms = 1e3 * (time.perf_counter() - start)
            failure = AnswerError(f"{error.code().name}: {error.details()}")
        except (AnswerError, *UNREADABLE) as error:
            failure = error
        self.environment.events.request.fire(
            request_type="gRPC",
            name="infer, gRPC",
            start_time=started,
            response_time=elapsed_ms,
            response_length=len(body),
            exception=failure,
            context=self.context(),
        )
