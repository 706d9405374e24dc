"""Runs the real batcher with a model that sleeps, so that what is simulated can be held against it.

The event loop that submits and the batcher's threads are those of this process. What the batcher did is told in the
words of a simulation, with the moments at which requests really came.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from statistics import fmean
from typing import Any

import numpy as np

from serving.batching.batcher import Batcher
from serving.batching.settings import BatchSettings
from serving.batching.simulation.latency import Latency, Measured
from serving.batching.simulation.replay import Answer, Replay, Request, Run
from serving.batching.simulation.summary import Summary
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import DEFAULT_SIGNATURE, Tensors

COMPARED = ("mean_s", "p50_s", "p90_s", "p99_s", "mean_batch_rows", "utilisation", "throughput_s", "in_time")

_ROWS = 2**20  # more than a request has: a row is numbered `request * _ROWS + row`


@dataclass
class _Sleeper:
    """The model: sleeps for as long as it should take, and notes whose rows it ran. Called by instance threads."""

    latency: Latency
    begun_s: float = field(default_factory=time.monotonic)
    runs: list[Run] = field(default_factory=list)

    def __call__(self, inputs: Tensors, outputs: tuple[str, ...], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        began_s = time.monotonic() - self.begun_s
        x = inputs["x"]
        time.sleep(self.latency(len(x)))
        ended_s = time.monotonic() - self.begun_s
        rows = np.unique(x)  # padding repeats one
        instance = int(threading.current_thread().name.rpartition("#")[2])
        requests = tuple(dict.fromkeys((rows // _ROWS).tolist()))
        self.runs.append(Run(instance, requests, len(rows), len(x), None, began_s, ended_s))
        return dict.fromkeys(outputs, x)


async def run_real(trace: Sequence[Request], settings: BatchSettings, latency: Latency) -> Replay:
    """Submits each request of a trace when its time has come; what became of it. Takes as long as the trace does.

    Requests are told as the batcher got them: with the moment at which they were submitted, later than planned by what
    the event loop needed. Why batches closed is not known.
    """
    model = _Sleeper(latency)
    batcher = Batcher("simulated/1", model, settings, asyncio.get_running_loop())
    answers: dict[int, Answer] = {}
    replies: list[asyncio.Future[Any]] = []

    def told(number: int, request: Request, error: BaseException | None) -> None:
        kind = error.kind if isinstance(error, ServingError) else None if error is None else ErrorKind.INTERNAL
        answers[number] = Answer(request, time.monotonic() - model.begun_s, kind)

    def submit(number: int, planned: Request) -> None:
        now = time.monotonic()
        request = Request(now - model.begun_s, planned.rows, planned.lane, planned.timeout_s, planned.priority)
        deadline = None if planned.timeout_s is None else now + planned.timeout_s
        x = (number * _ROWS + np.arange(planned.rows)).reshape(-1, 1)
        try:
            item = batcher.submit({"x": x}, ("y",), planned.rows, planned.lane, deadline, priority=planned.priority)
        except ServingError as error:
            told(number, request, error)
            return
        item.reply.add_done_callback(lambda reply: told(number, request, reply.exception()))
        replies.append(item.reply)

    try:
        for number, request in enumerate(trace):
            # Also where it is late: the batcher needs its turns of the loop.
            await asyncio.sleep(max(model.begun_s + request.at_s - time.monotonic(), 0))
            submit(number, request)
        await asyncio.gather(*replies, return_exceptions=True)
    finally:
        await batcher.close()
    runs = sorted(model.runs, key=lambda run: run.began_s)
    return Replay([answers[number] for number in range(len(trace))], runs, settings.instances)


def arrived(real: Replay) -> list[Request]:
    """The trace as it came."""
    return [answer.request for answer in real.answers]


def measured(real: Replay) -> Latency:
    """How long runs took: on average by their rows, padding included, times how far off that each one was, in the order
    in which they ran. That is the sleep, and what the system added now and then."""
    by_size: dict[int, list[float]] = {}
    for run in real.runs:
        by_size.setdefault(run.size, []).append(run.seconds)
    mean = Measured({size: fmean(seconds) for size, seconds in by_size.items()})
    factors = cycle([run.seconds / mean(run.size) for run in real.runs])
    return lambda rows: mean(rows) * next(factors)


def ratios(simulated: Summary, real: Summary) -> dict[str, float]:
    """Simulated by real, of each of COMPARED; 1 is agreement."""
    return {name: getattr(simulated, name) / getattr(real, name) for name in COMPARED}
