"""Forms of a large request: medians, the delay that they give to small ones, the table, the JSON document. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from loadtests.report import Round, Spread


@dataclass
class Form:
    """What was seen of one form of the large request, round by round: alone, and latencies of small ones beside it.

    With a `failure` it is void.
    """

    name: str
    body_bytes: int
    alone: list[Round] = field(default_factory=list)
    small_ms: list[list[float]] = field(default_factory=list)
    failure: str | None = None

    @property
    def cpu_ms(self) -> Spread:
        return Spread.of([one.cpu_us / 1e3 for one in self.alone])


@dataclass(frozen=True)
class Latency:
    """Of all small requests of all rounds."""

    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, rounds: Sequence[Sequence[float]]) -> "Latency":
        p50, p99, highest = np.percentile(list(chain.from_iterable(rounds)), [50, 99, 100])
        return cls(float(p50), float(p99), float(highest))

    def cells(self) -> tuple[str, str, str]:
        return f"{self.p50_ms:.2f}", f"{self.p99_ms:.2f}", f"{self.max_ms:.1f}"


COLUMNS = ("large request", "bytes", "req/s", "CPU ms/req", "p50 ms", "p99 ms", "small: p50 ms", "p99 ms", "max ms")


def table(quiet: Sequence[Sequence[float]], forms: Sequence[Form]) -> Table:
    """One line without large requests (`quiet`: the latencies of small ones, by round) and one for each form."""
    result = Table(title="One large request at a time, and small requests beside it")
    for index, column in enumerate(COLUMNS):
        result.add_column(column, justify="right" if index else "left", no_wrap=True)
    result.add_row("none", "", "", "", "", "", *Latency.of(quiet).cells())
    for form in forms:
        if form.failure is not None:
            result.add_row(form.name, str(form.body_bytes), "", Text("void", style="red"))
            continue
        cpu_ms = form.cpu_ms
        result.add_row(
            form.name,
            str(form.body_bytes),
            f"{median(one.requests / one.seconds for one in form.alone):.0f}",
            f"{cpu_ms.median:.2f} ({cpu_ms.low:.2f}-{cpu_ms.high:.2f})",
            f"{median(one.p50_ms for one in form.alone):.2f}",
            f"{median(one.p99_ms for one in form.alone):.2f}",
            *Latency.of(form.small_ms).cells(),
        )
    return result


def document(quiet: Sequence[Sequence[float]], forms: Sequence[Form], environment: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain data: the environment, all rounds, and for each form that is not void its summary."""
    return {
        "environment": environment,
        "quiet": {"small_ms": [list(each) for each in quiet], "small": asdict(Latency.of(quiet))},
        "forms": [{**asdict(form), "summary": None if form.failure else _summary(form)} for form in forms],
    }


def _summary(form: Form) -> dict[str, Any]:
    return {
        "cpu_ms": asdict(form.cpu_ms),
        "p50_ms": median(one.p50_ms for one in form.alone),
        "p99_ms": median(one.p99_ms for one in form.alone),
        "small": asdict(Latency.of(form.small_ms)),
    }
