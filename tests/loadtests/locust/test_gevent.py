"""A slow call over gRPC holds up no other user: while one waits, others go on."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from loadtests import oip, tfs
from tests.loadtests.locust.away import python

FAST = 20

# The slow call is answered when the fast ones have been; if it held them up, it would never be.
USERS = """
import json, sys
from argparse import Namespace
from loadtests.locust.users import OipGrpc, OipStream, TfsGrpc
import gevent
from locust.env import Environment

slow_user, grpc_host, fast_calls = globals()[sys.argv[1]], sys.argv[2], int(sys.argv[3])
options = Namespace(grpc_host=grpc_host, host="http://127.0.0.1", api_key="secret", tls_ca=None)
environment = Environment(parsed_options=options)
slow, fast = slow_user(environment), TfsGrpc(environment)
slow.on_start()
fast.on_start()
waiting = gevent.spawn(slow.ask, b"slow")
answers = [fast.ask(b"fast").decode() for _ in range(fast_calls)]
answers.append(waiting.get(timeout=60).decode())
slow.on_stop()
fast.on_stop()
print(json.dumps(answers))
"""


class Server(grpc.GenericRpcHandler):
    """Answers `ModelInfer` when `Predict` was called FAST times."""

    def __init__(self) -> None:
        self.fast = threading.Semaphore(0)
        self.keys: set[str] = set()

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        self.keys.add(str(dict(details.invocation_metadata).get("authorization")))
        if details.method == tfs.GRPC_PREDICT:
            return grpc.unary_unary_rpc_method_handler(self._predict)
        if details.method == oip.GRPC_INFER:
            return grpc.unary_unary_rpc_method_handler(self._infer)
        return grpc.stream_stream_rpc_method_handler(lambda bodies, context: (self._infer(b, context) for b in bodies))

    def _predict(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self.fast.release()
        return body

    def _infer(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        for _ in range(FAST):
            if not self.fast.acquire(timeout=30):
                context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the other user was held up")
        return body


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    handler = Server()
    running = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield handler, f"127.0.0.1:{port}"
    running.stop(None).wait()


@pytest.mark.parametrize("slow", ["OipGrpc", "OipStream"])
def test_others_go_on_while_one_waits(server: tuple[Server, str], slow: str) -> None:
    handler, address = server
    assert python(USERS, slow, address, str(FAST)) == ["fast"] * FAST + ["slow"]
    assert handler.keys == {"Bearer secret"}
