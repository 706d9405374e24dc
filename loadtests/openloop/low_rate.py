"""What a server adds to a request that comes alone: at one request a second, over REST, and then over gRPC.

A raw blocking socket asks the server, an echo server (as many bytes there and back, no work) and, in a process of its
own, the bare `session.run`, in turns, so that all of them are as cold as a second without work leaves them. What the
server adds is its median less the two others'. Before that, the CPU time of the idle server.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from loadtests.command import Screen
from loadtests.cpu_time import cpu_seconds
from loadtests.generators import LoadError
from loadtests.openloop import load, results, targets
from loadtests.openloop.load import Kind, Target
from loadtests.openloop.models import MODELS
from loadtests.openloop.outcomes import Latency
from loadtests.openloop.steady import ECHO, RUN, SERVER
from loadtests.openloop.targets import Place, Subject
from loadtests.processes import Server, free_ports, pinned

NAME, HELP = "low-rate", "latency of requests that come alone, and the idle server's CPU"
WANTED_MS = {"rest": 0.5, "grpc": 0.8}
WANTED_IDLE = 0.01


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=list(MODELS), default="small")
    parser.add_argument("--rate", type=results.positive_float, default=1, help="requests a second (default 1)")
    parser.add_argument("--seconds", type=results.positive_float, default=40, help="of each (default 40)")
    parser.add_argument("--idle", type=results.positive_float, default=20, metavar="S", help="default 20")


@dataclass(frozen=True)
class Alone:
    """Seconds of each request, by side: of the server, the echo, and the bare run."""

    seconds: Mapping[str, Sequence[float]]

    def median_ms(self, side: str) -> float:
        return 1e3 * median(self.seconds[side])

    @property
    def added_ms(self) -> float:
        return self.median_ms(SERVER) - self.median_ms(ECHO) - self.median_ms(RUN)


def run(options: argparse.Namespace, place: Place, screen: Screen) -> tuple[dict[str, Any], bool]:
    rate, seconds, idle_s = (20, 2, 2) if options.quick else (options.rate, options.seconds, options.idle)
    subject = targets.subject(options.model, place)
    with ExitStack() as stack:
        target = stack.enter_context(subject.ours())
        asked = {name: targets.ready(target, [subject.kind(name)]) for name in targets.CASES}
        echo, alone = (stack.enter_context(beside(subject, with_model)) for with_model in (False, True))
        place.say(f"nothing, for {idle_s:g} s")
        idle = idle_share(target.pid, idle_s)
        found = {}
        for name, kinds in asked.items():
            place.say(f"{name}: {rate:g} requests a second for {seconds:g} s")
            found[name] = measure(target, kinds, {ECHO: echo, RUN: alone}, rate, seconds)
    screen.table(table(found, rate))
    screen.note(f"Idle for {idle_s:g} s, the server took {idle:.2%} of a core (under {WANTED_IDLE:.0%} wanted).")
    document = {
        "model": asdict(MODELS[options.model]),
        "rate": rate,
        "idle_share": idle,
        "transports": {
            name: {"added_ms": one.added_ms, "wanted_ms": WANTED_MS[name], "seconds": one.seconds}
            for name, one in found.items()
        },
    }
    return document, idle < WANTED_IDLE and all(one.added_ms <= WANTED_MS[name] for name, one in found.items())


def idle_share(pid: int, seconds: float) -> float:
    """The part of a core that a process and its descendants take."""
    before_s, begun = cpu_seconds(pid), time.perf_counter()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before_s) / (time.perf_counter() - begun)


@contextmanager
def beside(subject: Subject, with_model: bool) -> Iterator[int]:
    """The port of a process on the server's core that answers without a server: the bare run, or the echo."""
    (port,) = free_ports(1)
    name, place = "run" if with_model else "echo", subject.place
    argv = [sys.executable, "-m", "loadtests.openloop.echo", str(port), *([str(subject.path)] if with_model else [])]
    with Server(name, argv, place.log(name), {}, place.server_core) as server:
        server.wait_until(lambda: listens(port))
        yield port


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def measure(target: Target, kinds: Sequence[Kind], beside: Mapping[str, int], rate: float, seconds: float) -> Alone:
    """LoadError when a request fails."""
    with load.task(target, kinds) as (task, files):
        path = files / "task.json"
        path.write_text(json.dumps({**task, **beside, "rate": rate, "seconds": seconds}))
        argv = [sys.executable, "-m", "loadtests.openloop.steady", str(path)]
        with pinned(target.core):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60, check=False)
    result: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"failure": done.stderr[-1000:]}
    if "failure" in result:
        raise LoadError(f"{target.name}: {result['failure']}")
    return Alone(result)


COLUMNS = ("transport", "of", "requests", "p50 ms", "p90 ms", "max ms", "added ms", "wanted")


def table(found: Mapping[str, Alone], rate: float) -> Table:
    result = results.new_table(f"{rate:g} request{'s' if rate != 1 else ''} a second", COLUMNS, left=2)
    for name, one in found.items():
        for side in (ECHO, RUN, SERVER):
            latency = Latency.of(np.asarray(one.seconds[side]))
            last = side == SERVER
            result.add_row(
                name if side == ECHO else "",
                {ECHO: "echo", RUN: "session.run", SERVER: "server"}[side],
                str(latency.count),
                *(f"{ms:.3f}" for ms in (latency.p50_ms, latency.p90_ms, latency.max_ms)),
                f"{one.added_ms:.3f}" if last else "",
                f"<= {WANTED_MS[name]:g}" if last else "",
                end_section=last,
            )
    return result
