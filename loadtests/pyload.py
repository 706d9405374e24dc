"""The load generator for machines without wrk or h2load: one event loop, HTTP/1.1 on raw streams or grpc.aio.

    python -m loadtests.pyload '{"transport": "http", "port": 8000, ...}'

Prints one line of JSON: requests, seconds, p50_ms and p99_ms, or the failure of the first request that failed. Slower
than the C tools: requests per second say more about it than about the server.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop

Call = Callable[[], Awaitable[None]]


class CallError(Exception):
    """A request that did not succeed."""


async def http_call(port: int, path: str, headers: dict[str, str], body: bytes) -> Call:
    """A call that posts on one kept-alive connection of its own and reads the answer, which must have a length."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join([*lines, "", ""]).encode() + body

    async def call() -> None:
        writer.write(request)
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next((int(field[15:]) for field in fields if field.startswith(b"content-length:")), None)
        if length is None:
            raise CallError(f"answer without a length: {status.decode()}")
        answer = await reader.readexactly(length)
        if not 200 <= int(status.split()[1]) < 300:
            raise CallError(f"{status.decode()}: {answer[:200]!r}")

    return call


def grpc_call(channel: grpc.aio.Channel, path: str, body: bytes) -> Call:
    method = channel.unary_unary(path, bytes, bytes)

    async def call() -> None:
        await method(body)

    return call


async def repeat(call: Call, until: float, latencies_s: list[float]) -> None:
    """Call again and again, one at a time, and note how long each took."""
    start = time.perf_counter()
    while start < until:
        await call()
        end = time.perf_counter()
        latencies_s.append(end - start)
        start = end


async def main(task: dict[str, Any], body: bytes) -> dict[str, Any]:
    latencies_s: list[float] = []
    try:
        if task["transport"] == "http":
            calls = [
                await http_call(task["port"], task["path"], task["headers"], body) for _ in range(task["in_flight"])
            ]
        else:
            # Channels to one address share a connection unless each has a pool of its own.
            options = [("grpc.use_local_subchannel_pool", 1)]
            target = f"127.0.0.1:{task['port']}"
            channels = [grpc.aio.insecure_channel(target, options) for _ in range(task["connections"])]
            calls = [grpc_call(channels[i % len(channels)], task["path"], body) for i in range(task["in_flight"])]
        start = time.perf_counter()
        until = start + task["seconds"]
        await asyncio.gather(*(repeat(call, until, latencies_s) for call in calls))
        seconds = time.perf_counter() - start
    except grpc.aio.AioRpcError as error:
        return {"failure": f"{error.code().name}: {error.details()}"}
    except (CallError, OSError, asyncio.IncompleteReadError) as error:
        return {"failure": str(error)}
    p50, p99 = np.percentile(latencies_s, [50, 99]) * 1e3
    return {"requests": len(latencies_s), "seconds": seconds, "p50_ms": float(p50), "p99_ms": float(p99)}


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps(uvloop.run(main(task, Path(task["body"]).read_bytes()))))
