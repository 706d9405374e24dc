"""Small requests at a steady rate on one connection, and how long each took: what else a server does shows in them.

    python -m loadtests.probe '{"port": 8000, "path": "/v2/...", "headers": {}, "body": FILE, ...}'

Sends `per_s` requests a second for `seconds`, `after_s` from now. Prints one line of JSON: `latencies_ms`, or the
`failure` of the first request that failed. A blocking socket and no event loop, whose timers would be too coarse.
"""

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

TIMEOUT_S = 30.0


class ProbeError(Exception):
    """A request that did not succeed."""


def latencies_ms(task: dict[str, Any], body: bytes) -> list[float]:
    """One per request, from when it was due to when its answer was there.

    So a request that has to wait for the answer to the one before it counts what it waited. ProbeError, OSError.
    """
    lines = [f"POST {task['path']} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in task["headers"].items()]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    found = []
    with socket.create_connection(("127.0.0.1", task["port"]), TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection.makefile("rb") as answers:
            start = time.perf_counter() + task["after_s"]
            for number in range(round(task["per_s"] * task["seconds"])):
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
        return {"latencies_ms": latencies_ms(task, Path(task["body"]).read_bytes())}
    except (ProbeError, OSError) as error:
        return {"failure": str(error)}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
