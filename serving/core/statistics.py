"""What one version has done since it was loaded, counted as the Open Inference Protocol's statistics have it.

Written and read on the event loop. A request that was answered counts once, with the time that it spent in each phase,
and so does one that failed in the model. One that was refused, that expired in the queue or whose caller left counts
nowhere here. A run counts once, under its number of rows, if it gave an answer.
"""

import time
from dataclasses import dataclass, field

from serving.core.types import Timing


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long that took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += int(seconds * 1e9)


@dataclass(slots=True)
class BatchDurations:
    """Of all batches of one size."""

    input: Duration = field(default_factory=Duration)
    run: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class Statistics:
    """The durations are of requests, but for those in `batches`, which are of runs."""

    last_inference_ms: int = 0  # since the epoch
    rows: int = 0  # of answered requests
    runs: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    input: Duration = field(default_factory=Duration)
    run: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)
    batches: dict[int, BatchDurations] = field(default_factory=dict)  # by rows

    def answered(self, rows: int, seconds: float, timing: Timing) -> None:
        self.rows += rows
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.success.add(seconds)
        self.queue.add(timing.queue_s)
        self.input.add(timing.input_s)
        self.run.add(timing.run_s)
        self.output.add(timing.output_s)

    def failed(self, seconds: float) -> None:
        self.fail.add(seconds)

    def ran(self, rows: int, input_s: float, run_s: float, output_s: float) -> None:
        self.runs += 1
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = BatchDurations()
        batch.input.add(input_s)
        batch.run.add(run_s)
        batch.output.add(output_s)
