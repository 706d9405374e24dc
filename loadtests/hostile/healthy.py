"""The honest client beside an attack: small requests at a steady rate on one connection, and how long each took.

    python -m loadtests.hostile.healthy '{"protocol": "http", "port": 8000, "per_s": 50, ...}'

Prints a line when its first request is answered, goes on until standard input ends, and prints one line of JSON:
`samples`, a pair for each answered request of when it was due (on the clock of `time.perf_counter`, which is the same
in all processes on Linux) and how many milliseconds after that it was answered; and `failure`, if any failed: what the
first one met. Over gRPC it goes on after that; over HTTP the connection is lost.
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


class CallError(Exception):
    """A call was not answered; the connection may well be as it was."""


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
    """`Ask` raises CallError."""
    import grpc

    message = bytes.fromhex(task["message"])
    with grpc.insecure_channel(f"127.0.0.1:{task['port']}") as channel:
        call = channel.unary_unary(task["method"], None, None)

        def ask() -> None:
            try:
                call(message, timeout=TIMEOUT_S)
            except grpc.RpcError as error:
                raise CallError(f"{error.code().name}: {error.details()}") from None

        yield ask


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
                number += 1
                time.sleep(max(0.0, due - time.perf_counter()))
                try:
                    ask()
                except CallError as error:
                    failure = failure or str(error)
                else:
                    samples.append((due, 1e3 * (time.perf_counter() - due)))
    except (CallError, ProbeError) as error:
        failure = str(error)
    except Exception as error:  # whatever it is, an honest client should not have met it
        failure = f"{type(error).__name__}: {error}"
    return {"samples": samples, "failure": failure}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
