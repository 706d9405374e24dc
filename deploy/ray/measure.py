"""What Ray adds: the same requests to one replica through Ray's proxies, and to one server by itself.

    python -m deploy.ray.measure [--users 1 16] [--duration 5] [--rounds 5] [--json runs/ray-measure.json]

In turns, on this machine: rounds of each protocol to `serving start` and to a Ray cluster of a head and one node with
one replica, by users that send one request after the other. For each: requests per second, the median latency, and the
CPU time that the serving processes take per request: for Ray all of the cluster's. Medians of the rounds; and what the
idle cluster takes. The users run on the same machine, so requests per second are for comparison only.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.ray.chaos import write_model
from deploy.ray.load import ASKS, Model, User
from deploy.ray.local import ROOT, processes_below, started

_IDLE_S = 5.0
_READY = re.compile(r"^ready +REST http://(\S+) +gRPC (\S+)", re.MULTILINE)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Round:
    way: str
    kind: str
    users: int
    requests_per_s: float
    latency_ms: float  # median
    cpu_ms: float  # per request, of everything that serves


@dataclass(frozen=True)
class Way:
    name: str
    node: tuple[str, str]  # HTTP and gRPC address
    pids: Callable[[], Sequence[int]]


def measure(way: Way, kind: str, count: int, model: Model, duration_s: float) -> Round:
    """Raises: RuntimeError: a request was not answered."""
    users = [User(way.name, kind, way.node, [way.node]) for _ in range(count)]
    stop = threading.Event()

    async def load() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(duration_s, stop.set)
        await asyncio.gather(*(user.run(model, stop, 0.0) for user in users))

    before_s, began = _cpu_s(way.pids()), time.monotonic()
    asyncio.run(load())
    took_s, cpu_s = time.monotonic() - began, _cpu_s(way.pids()) - before_s
    if failed := [text for user in users for text in user.texts]:
        raise RuntimeError(f"{way.name}, {kind}: {failed[0]}")
    waits = [seconds for user in users for _, seconds in user.answers]
    return Round(way.name, kind, count, len(waits) / took_s, statistics.median(waits) * 1e3, cpu_s / len(waits) * 1e3)


def _cpu_s(pids: Sequence[int]) -> float:
    """CPU time that processes have taken so far. One that has ended counts no more."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S


@contextmanager
def alone(repo: Path) -> Iterator[Way]:
    """A server by itself."""
    command = [sys.executable, "-m", "serving", "start", str(repo), "--http-port", "0", "--grpc-port", "0"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"NO_COLOR": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            found = next(filter(None, map(_READY.match, process.stdout)), None)
            if found is None:
                raise RuntimeError("the server did not start")
            yield Way("alone", (found[1], found[2]), lambda: [process.pid, *processes_below(process.pid)])
        finally:
            process.terminate()


def run(directory: Path, counts: Sequence[int], duration_s: float, rounds: int) -> tuple[list[Round], float]:
    """All rounds, and the cores that the idle cluster takes."""
    repo = directory / "models"
    model = write_model(repo)
    with alone(repo) as plain, started(1, {"model_repo": str(repo), "max_replicas": 1}) as cluster:
        head = cluster.nodes[0]
        server = set(plain.pids())

        def of_ray() -> list[int]:
            return [pid for pid in processes_below(os.getpid()) if pid not in server]

        ray = Way("Ray", (head.http, head.grpc), of_ray)
        for way in (plain, ray):
            for kind in ASKS:
                measure(way, kind, max(counts), model, 1.0)
        idle_from = _cpu_s(of_ray())
        time.sleep(_IDLE_S)
        idle = (_cpu_s(of_ray()) - idle_from) / _IDLE_S
        found = [
            measure(way, kind, count, model, duration_s)
            for _ in range(rounds)
            for count in counts
            for kind in ASKS
            for way in (plain, ray)
        ]
    return found, idle


def medians(rounds: Sequence[Round]) -> list[Round]:
    groups: dict[tuple[str, str, int], list[Round]] = {}
    for one in rounds:
        groups.setdefault((one.way, one.kind, one.users), []).append(one)
    return [
        Round(
            *key,
            statistics.median(one.requests_per_s for one in group),
            statistics.median(one.latency_ms for one in group),
            statistics.median(one.cpu_ms for one in group),
        )
        for key, group in groups.items()
    ]


def table(found: Sequence[Round]) -> Table:
    made = Table("protocol", "users", "", "requests/s", "median latency", "CPU per request")
    for one in sorted(found, key=lambda one: (one.users, one.kind, one.way)):
        figures = (f"{one.requests_per_s:,.0f}", f"{one.latency_ms:.2f} ms", f"{one.cpu_ms:.2f} ms")
        made.add_row(one.kind, str(one.users), one.way, *figures)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy.ray.measure", description="What Ray adds to a request.")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 16], help="at once (default 1 and 16)")
    parser.add_argument("--duration", type=float, default=5, help="seconds of each round (default 5)")
    parser.add_argument("--rounds", type=int, default=5, help="of each (default 5)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="serving-ray-") as directory:
        rounds, idle = run(Path(directory), options.users, options.duration, options.rounds)
    console = Console(soft_wrap=True)
    console.print(table(medians(rounds)))
    console.print(f"the idle cluster of two nodes takes {idle:.2f} cores")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = {"rounds": [asdict(one) for one in rounds], "idle_cores": idle}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
