"""The least that a server can do: takes so many bytes, gives so many back. A process of its own, one thread each.

    python -m loadtests.openloop.echo PORT [MODEL.onnx]

A connection begins with two numbers, 32 bits each in network order: how many bytes a request has and how many its
answer. With a model, one row is run for each request, and the answer's first eight bytes are how long that took: a
float64, in seconds.
"""

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime

from loadtests.openloop import models, offline

SIZES = struct.Struct("!II")
SECONDS = struct.Struct("!d")


def whole(connection: socket.socket, count: int) -> bytes:
    """So many bytes; fewer where the connection ends."""
    data = connection.recv(count)
    while data and len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            break
        data += more
    return data


def serve(connection: socket.socket, work: Callable[[], object] | None) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sizes = whole(connection, SIZES.size)
        if len(sizes) < SIZES.size:
            return
        request_bytes, answer_bytes = SIZES.unpack(sizes)
        answer = bytes(answer_bytes)
        while len(whole(connection, request_bytes)) == request_bytes:
            if work is not None:
                begun = time.perf_counter()
                work()
                answer = SECONDS.pack(time.perf_counter() - begun).ljust(answer_bytes, b"\0")
            connection.sendall(answer)


def work_of(model: Path) -> Callable[[], object]:
    """Runs one row, in a session as the server's."""
    features = onnxruntime.InferenceSession(str(model)).get_inputs()[0].shape[1]
    run, row = offline.load(model, offline.SERVED), models.random_rows(1, features)
    return lambda: run(row)


def main(port: int, model: Path | None) -> None:
    work = work_of(model) if model else None
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, work), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
