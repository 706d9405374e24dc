"""Small requests at a steady rate on one connection, and how long each took: what else a server does shows in them.

    python -m loadtests.probe '{"port": 8000, "path": "/v2/...", "headers": {}, "body": FILE, ...}'

Sends `per_s` requests a second for `seconds`, `after_s` from now. Prints one line of JSON: `latencies_ms`, or the
`failure` of the first request that failed. A blocking socket and no event loop, whose timers would be too coarse.

If `seconds` is null it goes on until standard input ends, and first prints a line with `begun_s`, when the first
request is due on the clock of `time.perf_counter`, which is the same in all processes on Linux.
"""

import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

TIMEOUT_S = 30.0


class ProbeError(Exception):
    """A request that did not succeed."""


def latencies_ms(
    task: dict[str, Any],
    body: bytes,
    begun: Callable[[float], object] = lambda at_s: None,
    ended: Callable[[], bool] = lambda: False,
) -> list[float]:
    """One per request, from when it was due to when its answer was there.

    So a request that has to wait for the answer to the one before it counts what it waited. `begun` is told when the
    first one will be due; none is sent once `ended` is true. ProbeError, OSError.
    """
    seconds = task["seconds"]
    numbers: Iterable[int] = itertools.count() if seconds is None else range(round(task["per_s"] * seconds))
    lines = [f"POST {task['path']} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in task["headers"].items()]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    found = []
    with socket.create_connection(("127.0.0.1", task["port"]), TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection.makefile("rb") as answers:
            start = time.perf_counter() + task["after_s"]
            begun(start)
            for number in numbers:
                if ended():
                    break
                due = start + number / task["per_s"]
                time.sleep(max(0.0, due - time.perf_counter()))
                connection.sendall(request)
                read_answer(answers)
                found.append(1e3 * (time.perf_counter() - due))
    return found


def read_answer(answers: BinaryIO) -> None:
    """Read one answer to its end, which must have a length. ProbeError when it is not a 200."""
    status, length = answers.readline(), None
    while (line := answers.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    body = answers.read(length) if length is not None else b""
    if status.split()[1:2] != [b"200"] or length is None or len(body) < length:
        raise ProbeError(f"{status.decode().strip() or 'no answer'}: {body[:200]!r}")


def main(task: dict[str, Any]) -> dict[str, Any]:
    try:
        body = Path(task["body"]).read_bytes()
        if task["seconds"] is not None:
            return {"latencies_ms": latencies_ms(task, body)}
        return {"latencies_ms": latencies_ms(task, body, _say_begun, _end_of_input().is_set)}
    except (ProbeError, OSError) as error:
        return {"failure": str(error)}


def _say_begun(at_s: float) -> None:
    print(json.dumps({"begun_s": at_s}), flush=True)


def _end_of_input() -> threading.Event:
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    return ended


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
