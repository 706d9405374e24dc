"""One request at a time, now and then, from a blocking socket: to a server, to the echo beside it, and the bare run.

    python -m loadtests.openloop.steady TASK.json

A process of its own, without an event loop. In each period of 1/rate seconds one request goes to each side, evenly
spaced. Prints one line of JSON: seconds of each request by side, or the `failure` of the first that failed.
"""

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from loadtests.openloop.echo import SECONDS, SIZES, whole
from loadtests.openloop.outcomes import Verdict
from loadtests.openloop.pool import Wire
from loadtests.openloop.sender import keep_time, wires

SERVER, ECHO, RUN = "server", "echo", "run"
WARM = 3
TIMEOUT_S = 30.0
PIECE = 1 << 18


class CallError(Exception):
    """A request that was not answered rightly."""


def connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Side(Protocol):
    def call(self) -> float:
        """Asks once; seconds that it took. CallError, OSError."""


class ServerSide:
    """`sizes` are bytes of the last request and of its answer."""

    def __init__(self, wire: Wire, port: int) -> None:
        self._wire = wire
        self._socket = connected(port)
        self.sizes = (0, 0)

    def call(self) -> float:
        """Seconds from before the first byte to after the last. CallError, OSError."""
        wire, connection = self._wire, self._socket
        wire.start(0)
        sent, received, verdict = len(wire.out), 0, Verdict.PENDING
        begun = time.perf_counter()
        while verdict is Verdict.PENDING:
            if wire.out:
                connection.sendall(wire.out)
                wire.out = b""
            data = connection.recv(PIECE)
            if not data:
                raise CallError("the server closed the connection")
            received += len(data)
            verdict = wire.feed(data)
        seconds = time.perf_counter() - begun
        if verdict is not Verdict.ANSWERED:
            raise CallError(wire.failure or "refused")
        self.sizes = (sent, received)
        return seconds


class EchoSide:
    def __init__(self, port: int, sizes: tuple[int, int]) -> None:
        self._socket = connected(port)
        self._socket.sendall(SIZES.pack(*sizes))
        self._request, self._answer_bytes = bytes(sizes[0]), sizes[1]

    def call(self) -> float:
        begun = time.perf_counter()
        self.answer()
        return time.perf_counter() - begun

    def answer(self) -> bytes:
        self._socket.sendall(self._request)
        found = whole(self._socket, self._answer_bytes)
        if len(found) < self._answer_bytes:
            raise CallError("the echo closed the connection")
        return found


class RunSide(EchoSide):
    """Seconds of the run itself, by the clock of the process that runs it."""

    def __init__(self, port: int) -> None:
        super().__init__(port, (1, SECONDS.size))

    def call(self) -> float:
        (seconds,) = SECONDS.unpack(self.answer())
        return float(seconds)


def measure(task: dict[str, Any]) -> dict[str, list[float]]:
    """By side. CallError, OSError."""
    server = ServerSide(wires(task)(), task["port"])
    for _ in range(WARM):
        server.call()
    sides: dict[str, Side] = {SERVER: server, ECHO: EchoSide(task["echo"], server.sizes), RUN: RunSide(task["run"])}
    for side in sides.values():
        side.call()
    found: dict[str, list[float]] = {name: [] for name in sides}
    gap_s = 1 / task["rate"] / len(sides)
    start = time.perf_counter() + gap_s
    for number in range(max(1, round(task["rate"] * task["seconds"])) * len(sides)):
        time.sleep(max(0.0, start + number * gap_s - time.perf_counter()))
        name = list(sides)[number % len(sides)]
        found[name].append(sides[name].call())
    return found


def main(task: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(measure(task))
    except (CallError, OSError) as error:
        return {"failure": str(error)}


if __name__ == "__main__":
    what = json.loads(Path(sys.argv[1]).read_text())
    keep_time()
    print(json.dumps(main(what)))
