"""Medians over pairs, the table's lines, the JSON document."""

import json
from io import StringIO

import pytest
from rich.console import Console

from loadtests.report import Pair, Round, Row, Spread, document, table


def measured(cpu_us: float, requests: int = 1000, seconds: float = 1.0) -> Round:
    return Round(requests, seconds, cpu_us, p50_ms=cpu_us / 100, p99_ms=cpu_us / 10)


def pairs(*cpu_us: tuple[float, float]) -> tuple[Pair, ...]:
    return tuple(Pair(measured(server), measured(floor)) for server, floor in cpu_us)


def rendered(*rows: Row) -> list[str]:
    console = Console(file=StringIO(), width=120)
    console.print(table(rows))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians() -> None:
    # The machine was slow in the second pair: both sides of it were, and their ratio is as good as any.
    summary = Row("case", 1, "wrk", pairs((60, 50), (200, 100), (70, 40))).summary()
    assert summary.ratio == Spread(1.75, 1.2, 2.0)
    assert summary.cpu_us == Spread(70, 60, 200)
    assert summary.floor_cpu_us == Spread(50, 40, 100)


def test_rates_and_latencies_are_medians_of_the_servers_rounds() -> None:
    rounds = [(1000, 1.0, 10), (3000, 2.0, 30), (9000, 3.0, 20)]
    row = Row("case", 1, "wrk", tuple(Pair(measured(cpu, n, s), measured(1e6)) for n, s, cpu in rounds))
    summary = row.summary()
    assert (summary.requests_per_s, summary.p50_ms, summary.p99_ms) == (1500, 0.2, 2.0)


def test_a_row_shows_median_and_extremes() -> None:
    row = Row("rest-json", 32, "wrk", pairs((60, 50), (75.26, 60), (90, 60)))
    line = next(line for line in rendered(row) if "rest" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["rest-json", "32", "1000", "75.3 (60-90)", "60.0 (50-60)", "1.25", "0.75", "7.53"]


def test_a_void_row_says_so_and_shows_no_figures() -> None:
    line = next(line for line in rendered(Row("grpc", 1, "h2load", (), "no answer")) if "grpc" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["grpc", "1", "void", "", "", "", "", ""]


def test_the_document_holds_every_round() -> None:
    rows = [Row("a", 1, "wrk", pairs((60, 50))), Row("b", 1, "wrk", (), "refused")]
    read = json.loads(json.dumps(document(rows, {"python": "3"})))
    assert read["environment"] == {"python": "3"}
    first, second = read["rows"]
    assert first["pairs"][0]["server"]["cpu_us"] == 60
    assert first["summary"]["ratio"]["median"] == pytest.approx(1.2)
    assert second["summary"] is None and second["failure"] == "refused"
