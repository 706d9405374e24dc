"""Rows of a comparison: medians over interleaved rounds, ratios to Triton and the best Python peer, table and document.

Pure: no server, no tool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

from loadtests.compare.servers import FORMS, OURS, SERVERS, TRITON, Form
from loadtests.report import Round, Spread


@dataclass(frozen=True)
class Sample:
    """One server under one load in one round; `memory_bytes` of all its processes at the end of it."""

    round: Round
    memory_bytes: int

    @property
    def requests_per_s(self) -> float:
        return self.round.requests / self.round.seconds


@dataclass(frozen=True)
class Row:
    """A server with one largest batch, asked in one form: a sample per round. With a `failure` it is void."""

    server: str
    form: Form
    max_batch_size: int
    samples: tuple[Sample, ...] = ()
    failure: str | None = None

    @property
    def requests_per_s(self) -> float:
        """The median; 0 of a void row."""
        return median(sample.requests_per_s for sample in self.samples) if self.samples else 0.0


@dataclass(frozen=True)
class Ratios:
    """A row to another in the same form, each the median of what it was within the rounds."""

    requests_per_s: float
    cpu: float


@dataclass(frozen=True)
class Summary:
    """A row's medians; ratios are None to itself and to a row that is void or was not measured."""

    requests_per_s: Spread
    cpu_us: Spread
    p50_ms: float
    p99_ms: float
    memory_bytes: float
    to_triton: Ratios | None
    to_best_peer: Ratios | None


def summary(row: Row, rows: Sequence[Row]) -> Summary | None:
    """None of a void row. `rows` are those to compare it with."""
    if not row.samples:
        return None
    return Summary(
        Spread.of([sample.requests_per_s for sample in row.samples]),
        Spread.of([sample.round.cpu_us for sample in row.samples]),
        median(sample.round.p50_ms for sample in row.samples),
        median(sample.round.p99_ms for sample in row.samples),
        median(sample.memory_bytes for sample in row.samples),
        _ratios(row, next((one for one in rows if (one.server, one.form) == (TRITON, row.form)), None)),
        _ratios(row, best_peer(rows, row.form)),
    )


def best_peer(rows: Sequence[Row], form: str) -> Row | None:
    """Of the peers that are Python packages (this server and Triton apart) that with the most requests per second."""
    peers = [row for row in rows if row.form == form and row.samples and row.server not in (OURS, TRITON)]
    return max(peers, key=lambda row: row.requests_per_s, default=None)


def _ratios(row: Row, to: Row | None) -> Ratios | None:
    if to is None or to.server == row.server or not to.samples:
        return None
    pairs = list(zip(row.samples, to.samples, strict=True))
    return Ratios(
        median(one.requests_per_s / other.requests_per_s for one, other in pairs),
        median(one.round.cpu_us / other.round.cpu_us for one, other in pairs),
    )


COLUMNS = (
    "server",
    "protocol",
    "batch",
    "req/s",
    "÷ Triton",
    "÷ best",
    "CPU µs/req",
    "÷ Triton",
    "÷ best",
    "p50 ms",
    "p99 ms",
    "MB",
)


def table(rows: Sequence[Row]) -> Table:
    """A part for each form, in it a line per server; a void row says so, without figures."""
    result = Table(title="Medians (lowest-highest) of interleaved rounds; best: the fastest Python peer, marked *")
    for index, column in enumerate(COLUMNS):
        result.add_column(column, justify="right" if index > 1 else "left", no_wrap=True)
    for form, title in FORMS.items():
        chosen = [row for row in rows if row.form == form]
        if not chosen:
            continue
        result.add_section()
        result.add_row(Text(title, style="bold"))
        top = best_peer(chosen, form)
        for row in chosen:
            contestant = SERVERS[row.server]
            title = contestant.title + (" *" if row is top else "")
            result.add_row(title, contestant.protocol, *_cells(row, chosen))
    return result


def _cells(row: Row, rows: Sequence[Row]) -> list[str | Text]:
    found = summary(row, rows)
    if found is None:
        return [str(row.max_batch_size), Text("void", style="red")]
    triton, peer = found.to_triton, found.to_best_peer
    return [
        str(row.max_batch_size),
        f"{found.requests_per_s.median:.0f}",
        f"{triton.requests_per_s:.2f}" if triton else "",
        f"{peer.requests_per_s:.2f}" if peer else "",
        str(found.cpu_us),
        f"{triton.cpu:.2f}" if triton else "",
        f"{peer.cpu:.2f}" if peer else "",
        f"{found.p50_ms:.2f}",
        f"{found.p99_ms:.2f}",
        f"{found.memory_bytes / 1e6:.0f}",
    ]


def document(
    rows: Sequence[Row],
    sweep: Sequence[Row],
    environment: Mapping[str, Any],
    versions: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """Everything as plain data: rows with all their samples and summaries, the sweep, machine, settings, versions."""

    def plain(row: Row, among: Sequence[Row]) -> dict[str, Any]:
        found = summary(row, among)
        return {**asdict(row), "summary": None if found is None else asdict(found)}

    return {
        "environment": dict(environment),
        "versions": {name: dict(found) for name, found in versions.items()},
        "rows": [plain(row, rows) for row in rows],
        "sweep": [asdict(row) for row in sweep],
    }
