"""The honest client beside an attack: small requests at a steady rate on one connection, and how long each took.

    python -m loadtests.hostile.healthy '{"protocol": "http", "port": 8000, "per_s": 50, ...}'

Prints a line when its first request is answered, goes on until standard input ends, and prints one line of JSON:
`samples`, a pair for each request of when it was due (on the clock of `time.perf_counter`, which is the same in all
processes on Linux) and how many milliseconds after that it was answered; and `failure`, if one failed: what it met.
"""

import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loadtests.probe import ProbeError, read_answer

TIMEOUT_S = 30.0

Ask = Callable[[], Any]


@contextmanager
def over_http(task: dict[str, Any]) -> Iterator[Ask]:
    """Raises: OSError; and `Ask` ProbeError too."""
    body = task["body"].encode()
    lines = [f"POST {task['path']} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in task.get("headers", {}).items()]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    connection: socket.socket = socket.create_connection(("127.0.0.1", task["port"]), TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if "ca" in task:
        context = ssl.create_default_context(cafile=task["ca"])
        context.load_cert_chain(task["cert"], task["key"])
        connection = context.wrap_socket(connection, server_hostname="localhost")
    with connection, connection.makefile("rb") as answers:

        def ask() -> None:
            connection.sendall(request)
            read_answer(answers)

        yield ask


@contextmanager
def over_grpc(task: dict[str, Any]) -> Iterator[Ask]:
    """`Ask` raises grpc.RpcError."""
    import grpc

    message = bytes.fromhex(task["message"])
    with grpc.insecure_channel(f"127.0.0.1:{task['port']}") as channel:
        call = channel.unary_unary(task["method"], None, None)
        yield lambda: call(message, timeout=TIMEOUT_S)


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main(task: dict[str, Any]) -> dict[str, Any]:
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    samples: list[tuple[float, float]] = []
    failure = None
    try:
        with (over_grpc if task["protocol"] == "grpc" else over_http)(task) as ask:
            ask()
            print("begun", flush=True)
            start, number = time.perf_counter(), 0
            while not ended.is_set():
                due = start + number / task["per_s"]
                time.sleep(max(0.0, due - time.perf_counter()))
                ask()
                samples.append((due, 1e3 * (time.perf_counter() - due)))
                number += 1
    except Exception as error:  # whatever it is, an honest client should not have met it
        what = error.details() if hasattr(error, "details") else error  # gRPC's own
        failure = f"{type(error).__name__}: {what}" if not isinstance(error, ProbeError) else str(error)
    return {"samples": samples, "failure": failure}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
