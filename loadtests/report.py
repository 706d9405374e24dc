"""Rows of the benchmark: medians over interleaved pairs, the table, the JSON document. Pure: no server, no tool."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Round:
    """One server under one load: `cpu_us` is its user and system time per request in microseconds."""

    requests: int
    seconds: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Pair:
    """The server and its floor, one right after the other."""

    server: Round
    floor: Round

    @property
    def ratio(self) -> float:
        return self.server.cpu_us / self.floor.cpu_us


@dataclass(frozen=True)
class Spread:
    """Median and extremes over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.low:.0f}-{self.high:.0f})"


@dataclass(frozen=True)
class Summary:
    """A row over its rounds; rates and latencies are the server's, and `ratio` is taken over the pairs' ratios."""

    requests_per_s: float
    cpu_us: Spread
    floor_cpu_us: Spread
    ratio: Spread
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Row:
    """One case at one number in flight. With a `failure` the row is void and holds no pairs."""

    case: str
    in_flight: int
    generator: str
    pairs: tuple[Pair, ...] = ()
    failure: str | None = None

    def summary(self) -> Summary:
        servers, floors = [pair.server for pair in self.pairs], [pair.floor for pair in self.pairs]
        return Summary(
            median(one.requests / one.seconds for one in servers),
            Spread.of([one.cpu_us for one in servers]),
            Spread.of([one.cpu_us for one in floors]),
            Spread.of([pair.ratio for pair in self.pairs]),
            median(one.p50_ms for one in servers),
            median(one.p99_ms for one in servers),
        )


COLUMNS = ("case", "in flight", "req/s", "CPU µs/req", "floor CPU µs/req", "ratio", "p50 ms", "p99 ms")


def table(rows: Sequence[Row]) -> Table:
    """One line per row; a void row says so and why, and has no figures."""
    result = Table(title="Server CPU per request: median (lowest-highest) of interleaved rounds")
    for index, column in enumerate(COLUMNS):
        result.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        start = (row.case, str(row.in_flight))
        if row.failure is not None:
            result.add_row(*start, Text("void", style="red"))
            continue
        summary = row.summary()
        result.add_row(
            *start,
            f"{summary.requests_per_s:.0f}",
            str(summary.cpu_us),
            str(summary.floor_cpu_us),
            f"{summary.ratio.median:.2f}",
            f"{summary.p50_ms:.2f}",
            f"{summary.p99_ms:.2f}",
        )
    return result


def document(rows: Sequence[Row], environment: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain data: the environment, and each row with all its rounds and, unless void, its summary."""
    return {
        "environment": environment,
        "rows": [{**asdict(row), "summary": None if row.failure else asdict(row.summary())} for row in rows],
    }
