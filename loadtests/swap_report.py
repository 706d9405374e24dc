"""How loads, swaps and unloads of one model delay requests to another: percentiles, the table, the document. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from math import ceil
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

REST = "rest"
STEPS = ("load", "swap", "unload")
TARGET = 1.5  # of the two 99th percentiles, where the other model is run by ONNX Runtime


@dataclass(frozen=True)
class Phase:
    """A stretch of time in which nothing happened (REST), or one of STEPS was under way; on `time.perf_counter`."""

    step: str
    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s


@dataclass
class Swaps:
    """What was seen with one kind of model: `cycles` of phases, the first of them not counted, and all requests.

    Request number n was due at `begun_s + n / per_s` and took `latencies_ms[n]`. With a `failure` it is void.
    """

    name: str
    weights_bytes: int
    per_s: int
    cycles: list[list[Phase]] = field(default_factory=list)
    begun_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    failure: str | None = None

    def of(self, phase: Phase) -> list[float]:
        """Latencies of the requests that were due in this phase."""
        # Less a bit: a difference of floats that should be a whole number is often a little more.
        first, end = (ceil((at - self.begun_s) * self.per_s - 1e-6) for at in (phase.begin_s, phase.end_s))
        return self.latencies_ms[max(0, first) : max(0, end)]

    def phases(self, *steps: str) -> list[Phase]:
        """Of all cycles but the first."""
        return [phase for phase in chain.from_iterable(self.cycles[1:]) if phase.step in steps]


@dataclass(frozen=True)
class Line:
    """Latencies in milliseconds of all requests in some phases, and the median of the phases' durations."""

    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, swaps: Swaps, phases: Sequence[Phase]) -> "Line":
        found = list(chain.from_iterable(swaps.of(phase) for phase in phases))
        p50, p99, highest = np.percentile(found, [50, 99, 100]).tolist()
        return cls(median(phase.seconds for phase in phases), len(found), p50, p99, highest)


def lines(swaps: Swaps) -> dict[str, Line]:
    """What the table shows of one kind: rest, all steps together, each of them, and those of the first cycle."""
    first = [phase for phase in swaps.cycles[0] if phase.step != REST]
    which = {REST: swaps.phases(REST), "steps": swaps.phases(*STEPS)}
    which |= {step: swaps.phases(step) for step in STEPS} | {"first": first}
    return {name: Line.of(swaps, phases) for name, phases in which.items()}


def ratio(of: dict[str, Line]) -> float:
    """The 99th percentile of all steps over that at rest."""
    return of["steps"].p99_ms / of[REST].p99_ms


COLUMNS = ("other model", "phase", "seconds", "requests", "p50 ms", "p99 ms", "max ms", "p99 ÷ rest")


def table(all_swaps: Sequence[Swaps]) -> Table:
    """A block for each kind of model; a void one says so, in one line without figures."""
    result = Table(title="Latency of a small model: at rest, and while another one loads, swaps and unloads")
    for index, column in enumerate(COLUMNS):
        result.add_column(column, justify="right" if index > 1 else "left", no_wrap=True)
    for swaps in all_swaps:
        if swaps.failure is not None:
            result.add_row(swaps.name, Text("void", style="red"), end_section=True)
            continue
        found = lines(swaps)
        for name, line in found.items():
            to_rest = line.p99_ms / found[REST].p99_ms
            style = ("green" if to_rest <= TARGET else "red") if name == "steps" else ""
            result.add_row(
                swaps.name if name == REST else "",
                name,
                f"{line.seconds:.2f}",
                str(line.requests),
                *(f"{ms:.2f}" for ms in (line.p50_ms, line.p99_ms, line.max_ms)),
                "" if name == REST else Text(f"{to_rest:.2f}", style=style),
                end_section=name == "first",
            )
    return result


def document(all_swaps: Sequence[Swaps], environment: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain data: the environment, and for each kind its phases, latencies and, unless void, summary."""
    return {"environment": environment, "swaps": [{**asdict(one), "summary": _summary(one)} for one in all_swaps]}


def _summary(swaps: Swaps) -> dict[str, Any] | None:
    if swaps.failure is not None:
        return None
    found = lines(swaps)
    return {"ratio": ratio(found), "lines": {name: asdict(line) for name, line in found.items()}}
