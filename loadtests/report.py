"""Rows of the benchmark: medians over interleaved turns, the table, the JSON document. Pure: no server, no tool."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

FLOOR = "floor"
BASE = "onnx"  # the kind of model that the others are compared with


@dataclass(frozen=True)
class Round:
    """One server under one load: `cpu_us` is its user and system time per request in microseconds."""

    requests: int
    seconds: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


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
    """One kind of model over a row's turns; ratios are taken within each turn.

    `ratio` is to the floor; `to_base` to the ONNX model, None for that itself and where it was not measured.
    """

    requests_per_s: float
    cpu_us: Spread
    floor_cpu_us: Spread
    ratio: Spread
    to_base: Spread | None
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Row:
    """One case at one number in flight, for each kind of model. With a `failure` the row is void and has no turns.

    A turn holds one round of each side, by kind and the floor's, one right after the other.
    """

    case: str
    in_flight: int
    generator: str
    turns: tuple[Mapping[str, Round], ...] = ()
    failure: str | None = None

    def summaries(self) -> dict[str, Summary]:
        """By kind of model; none of a void row."""
        kinds = [side for side in self.turns[0] if side != FLOOR] if self.turns else []
        return {kind: self._summary(kind) for kind in kinds}

    def _summary(self, kind: str) -> Summary:
        rounds = [turn[kind] for turn in self.turns]
        compared = kind != BASE and BASE in self.turns[0]
        return Summary(
            median(one.requests / one.seconds for one in rounds),
            Spread.of([one.cpu_us for one in rounds]),
            Spread.of([turn[FLOOR].cpu_us for turn in self.turns]),
            self._ratio(kind, FLOOR),
            self._ratio(kind, BASE) if compared else None,
            median(one.p50_ms for one in rounds),
            median(one.p99_ms for one in rounds),
        )

    def _ratio(self, kind: str, to: str) -> Spread:
        return Spread.of([turn[kind].cpu_us / turn[to].cpu_us for turn in self.turns])


COLUMNS = ("case", "model", "in flight", "req/s", "CPU µs/req", "floor", "ratio", "÷ onnx", "p50 ms", "p99 ms")


def table(rows: Sequence[Row]) -> Table:
    """One line per row and kind of model; a void row says so, in one line without figures."""
    result = Table(title="Server CPU per request: median (lowest-highest) of interleaved rounds")
    for index, column in enumerate(COLUMNS):
        result.add_column(column, justify="right" if index > 1 else "left", no_wrap=True)
    for row in rows:
        if row.failure is not None:
            result.add_row(row.case, "", str(row.in_flight), Text("void", style="red"))
        for kind, summary in row.summaries().items():
            result.add_row(
                row.case,
                kind,
                str(row.in_flight),
                f"{summary.requests_per_s:.0f}",
                str(summary.cpu_us),
                f"{summary.floor_cpu_us.median:.1f}",
                f"{summary.ratio.median:.2f}",
                f"{summary.to_base.median:.2f}" if summary.to_base else "",
                f"{summary.p50_ms:.2f}",
                f"{summary.p99_ms:.2f}",
            )
    return result


def document(rows: Sequence[Row], environment: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain data: the environment, and each row with all its rounds and its summaries by kind."""
    summaries = [{kind: asdict(one) for kind, one in row.summaries().items()} for row in rows]
    return {
        "environment": environment,
        "rows": [{**asdict(row), "summaries": each} for row, each in zip(rows, summaries, strict=True)],
    }
