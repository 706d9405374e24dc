"""The generator: sends a schedule of requests, each as soon as it is due, and notes what became of it.

    python -m loadtests.openloop.sender TASK.json RESULT.npz

One thread, one loop, no spinning: sleeps are exact to some microseconds.
"""

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.openloop.arrivals import Schedule, poisson
from loadtests.openloop.grpc1 import Grpc1
from loadtests.openloop.http1 import Http1, request
from loadtests.openloop.outcomes import Generator, Outcomes, Verdict
from loadtests.openloop.pool import Pool, Wire

LEAD_S = 0.05  # from the connections to the first request
_PR_SET_TIMERSLACK = 29


class Sender:
    """Runs one schedule against `port`.

    Args:
        wire: makes the protocol of a new connection.
        most: connections at a time.
        timeout_s: after the last request was due; what has no answer then has none.
    """

    def __init__(self, port: int, wire: Callable[[], Wire], schedule: Schedule, most: int, timeout_s: float) -> None:
        self._schedule = schedule
        self._timeout_s = timeout_s
        self._pool = Pool(port, wire, most, self._begun, self._ended)
        self._start = 0.0
        nan, count = float("nan"), len(schedule)
        self._sent, self._done, self._verdicts = [nan] * count, [nan] * count, [int(Verdict.PENDING)] * count
        self._failure: str | None = None

    def run(self, names: tuple[str, ...], warm: int) -> Outcomes:
        """From the first request to the last answer, with `warm` connections open before."""
        due, kinds, count = self._schedule.due_s.tolist(), self._schedule.kinds.tolist(), len(self._schedule)
        pool = self._pool
        pool.open(warm)
        pool.turn(LEAD_S)
        end = (due[-1] if due else 0.0) + self._timeout_s
        cpu_s, self._start = time.process_time(), time.perf_counter()
        number, now = 0, 0.0
        while (number < count or not pool.idle) and now < end:
            while number < count and due[number] <= now:
                pool.send(number, kinds[number])
                number += 1
                now = self._now()
            pool.turn((due[number] if number < count else end) - now)
            now = self._now()
        cpu_share = (time.process_time() - cpu_s) / now if now else 0.0
        pool.close()
        sent_s, done_s = np.array(self._sent, np.float64), np.array(self._done, np.float64)
        generator = Generator(now, cpu_share, pool.opened, pool.held)
        verdicts = np.array(self._verdicts, np.int8)
        return Outcomes(self._schedule, names, sent_s, done_s, verdicts, generator, self._failure)

    def _now(self) -> float:
        return time.perf_counter() - self._start

    def _begun(self, number: int) -> None:
        self._sent[number] = time.perf_counter() - self._start

    def _ended(self, number: int, verdict: Verdict, failure: str) -> None:
        self._done[number] = time.perf_counter() - self._start
        self._verdicts[number] = int(verdict)
        if verdict is Verdict.FAILED and self._failure is None:
            self._failure = failure


def wires(task: dict[str, Any]) -> Callable[[], Wire]:
    """What makes the protocol of a connection, with all its requests encoded."""
    kinds = task["kinds"]
    bodies = [Path(kind["body"]).read_bytes() for kind in kinds]
    answer_bytes = [kind["answer_bytes"] for kind in kinds]
    if task["transport"] == "grpc":
        return lambda: Grpc1(task["path"], bodies, answer_bytes)
    whole = [request(task["path"], kind["headers"], body) for kind, body in zip(kinds, bodies, strict=True)]
    return lambda: Http1(whole, answer_bytes)


def keep_time() -> None:
    """Sleep exactly, which the system does not unless it is asked to, and never stop to collect garbage."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    gc.collect()
    gc.freeze()
    gc.disable()


def send(task: dict[str, Any]) -> Outcomes:
    """Run a task (see load.py)."""
    names = tuple(kind["name"] for kind in task["kinds"])
    schedule = poisson(task["rate"], task["seconds"], [kind["weight"] for kind in task["kinds"]], task["seed"])
    return Sender(task["port"], wires(task), schedule, task["most"], task["timeout_s"]).run(names, task["warm"])


if __name__ == "__main__":
    what = json.loads(Path(sys.argv[1]).read_text())
    keep_time()
    send(what).save(Path(sys.argv[2]))
