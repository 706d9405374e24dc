"""Clients that ask one server again and again, each in a thread with a connection of its own.

They go on whatever the answers are, also while there is no server; what came is counted.
"""

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np

from loadtests import oip, tfs
from loadtests.monitor.site import Site
from serving.core.types import Tensors

_LIMIT_S = 10.0

Ask = Callable[[], str]  # how the server answered
Client = Callable[[], tuple[Ask, Callable[[], object]]]  # connects; gives a way to ask, and one to hang up

ROW = {"x": np.arange(4, dtype=np.float32).reshape(1, 4)}


def rest(site: Site, model: str, inputs: Tensors = ROW, headers: Mapping[str, str] = {}) -> Client:
    return _http(site, oip.infer_path(model), oip.encode_json(inputs), headers)


def rest_binary(site: Site, model: str, inputs: Tensors = ROW) -> Client:
    body, length = oip.encode_binary(inputs)
    return _http(site, oip.infer_path(model), body, {oip.JSON_LENGTH: str(length)})


def tfs_rest(site: Site, model: str, inputs: Tensors = ROW) -> Client:
    return _http(site, f"/v1/models/{model}:predict", tfs.encode_rows(inputs), {})


def too_large(site: Site) -> Client:
    """One that says that it has more to send than it may."""
    return _http(site, oip.infer_path("any"), b"", {"content-length": str(2**40), "connection": "close"})


def _http(site: Site, path: str, body: bytes, headers: Mapping[str, str]) -> Client:
    def connect() -> tuple[Ask, Callable[[], object]]:
        connection = site.connection(_LIMIT_S)

        def ask() -> str:
            connection.request("POST", path, body, {"content-type": "application/json", **headers})
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)

        return ask, connection.close

    return connect


def grpc_oip(site: Site, model: str, inputs: Tensors = ROW) -> Client:
    return _grpc(site, oip.GRPC_INFER, oip.encode_grpc(model, inputs))


def grpc_tfs(site: Site, model: str, inputs: Tensors = ROW) -> Client:
    return _grpc(site, tfs.GRPC_PREDICT, tfs.encode_predict(model, inputs))


def _grpc(site: Site, method: str, request: bytes) -> Client:
    def connect() -> tuple[Ask, Callable[[], object]]:
        channel = grpc.insecure_channel(f"127.0.0.1:{site.grpc_port}")
        call = channel.unary_unary(method, lambda message: message, lambda message: message)

        def ask() -> str:
            try:
                call(request, timeout=_LIMIT_S)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "200"

        return ask, channel.close

    return connect


@contextmanager
def asking(*clients: Client, times: int = 1, pause_s: float = 0.05) -> Iterator[Counter[str]]:
    """Each `times` over, until the end of the context, with pauses between its requests. Answers are counted."""
    over, seen = threading.Event(), Counter[str]()

    def go_on(connect: Client) -> None:
        while not over.is_set():
            ask, hang_up = connect()
            try:
                while not over.wait(pause_s):
                    seen[ask()] += 1
            except (OSError, http.client.HTTPException):
                seen["lost"] += 1
                over.wait(pause_s)
            finally:
                hang_up()

    with ExitStack() as stack:
        for client in clients * times:
            thread = threading.Thread(target=go_on, args=(client,), daemon=True)
            thread.start()
            stack.callback(thread.join, 2 * _LIMIT_S)
        stack.callback(over.set)
        yield seen
