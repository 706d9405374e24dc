"""What came of a request, told from what a socket really does."""

import re
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import grpc
import pytest

from loadtests.processes import free_ports
from loadtests.soak import clients, wire
from loadtests.soak.clients import Client, GrpcClient, HttpClient, StreamClient, refusal
from loadtests.soak.outcomes import Ending, Outcome


@contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """Reads a request to its end on each connection, writes `answer`, and closes; None: closes at once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                with connection.makefile("rb") as request:
                    head = b"".join(iter(request.readline, b"\r\n"))
                    request.read(int(re.search(rb"content-length: (\d+)", head.lower())[1]))  # type: ignore[index]
                if answer is not None:
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def once(client: Client, ask: wire.Ask) -> Ending:
    with closing(client):
        return client.ask(ask)


def http(status: int, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (http(503), Outcome.REFUSED),
        (http(429), Outcome.REFUSED),
        (http(404), Outcome.FAILED),
        (http(500), Outcome.FAILED),
        (http(200), Outcome.WRONG),
        (http(200, b'{"predictions": [[1]]}'), Outcome.WRONG),
        (http(200)[:-1], Outcome.BROKEN),
        (None, Outcome.BROKEN),
    ],
)
def test_http(answer: bytes | None, outcome: Outcome) -> None:
    ask = wire.asks()["tfs-rest"][0]
    with server(answer) as port:
        client = HttpClient(port)
        assert client.ask(ask).outcome is outcome
        if sock := client._connection.sock:
            select.select([sock], [], [])  # until the server has closed it
        assert client.ask(ask).outcome is outcome  # on a new connection: the end of the old one was noticed
        client.close()


def test_a_right_answer() -> None:
    ask = wire.asks()["tfs-rest"][0]
    with server(http(200, b'{"predictions": %s}' % str((3 * ask.base).tolist()).encode())) as port:
        ending = once(HttpClient(port), ask)
    assert (ending.outcome, ending.version) == (Outcome.ANSWERED, 3)


def test_nobody_answers_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert once(HttpClient(port), wire.asks()["oip-json"][0]).outcome is Outcome.LOST
        ending = once(GrpcClient(port), wire.asks()["oip-grpc"][0])
        assert ending.outcome in (Outcome.LOST, Outcome.UNREACHABLE)


def test_nobody_listens() -> None:
    (port,) = free_ports(1)
    assert once(HttpClient(port), wire.asks()["oip-json"][0]).outcome is Outcome.UNREACHABLE
    for client in (GrpcClient(port), StreamClient(port)):
        assert once(client, wire.asks()["oip-grpc"][0]).outcome is Outcome.UNREACHABLE


@pytest.mark.parametrize(
    ("code", "text", "outcome"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Server exiting", Outcome.REFUSED),
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", Outcome.REFUSED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", Outcome.REFUSED),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: ...", Outcome.UNREACHABLE),
        (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)", Outcome.BROKEN),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Outcome.LOST),
        (grpc.StatusCode.CANCELLED, "", Outcome.FAILED),
        (grpc.StatusCode.INTERNAL, "", Outcome.FAILED),
        (grpc.StatusCode.NOT_FOUND, "", Outcome.FAILED),
    ],
)
def test_what_a_status_means(code: grpc.StatusCode, text: str, outcome: Outcome) -> None:
    assert refusal(code, text).outcome is outcome
