"""Medians over turns, the table's lines, the JSON document."""

import json
from io import StringIO

import pytest
from rich.console import Console

from loadtests.report import Round, Row, Spread, document, table


def measured(cpu_us: float, requests: int = 1000, seconds: float = 1.0) -> Round:
    return Round(requests, seconds, cpu_us, p50_ms=cpu_us / 100, p99_ms=cpu_us / 10)


def turns(*cpu_us: tuple[float, ...], sides: tuple[str, ...] = ("onnx", "floor")) -> tuple[dict[str, Round], ...]:
    return tuple(dict(zip(sides, map(measured, turn), strict=True)) for turn in cpu_us)


THREE = ("onnx", "tensorflow", "accelerated", "floor")


def cells(row: Row, *words: str) -> list[str]:
    """Those of the one line of the table that holds all `words`."""
    console = Console(file=StringIO(), width=132)
    console.print(table([row]))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    (line,) = (line for line in lines if all(word in line for word in words))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_ratio_is_the_median_of_the_turns_not_the_ratio_of_the_medians() -> None:
    # The machine was slow in the second turn: both sides of it were, and their ratio is as good as any.
    summary = Row("case", 1, "wrk", turns((60, 50), (200, 100), (70, 40))).summaries()["onnx"]
    assert summary.ratio == Spread(1.75, 1.2, 2.0)
    assert summary.cpu_us == Spread(70, 60, 200)
    assert summary.floor_cpu_us == Spread(50, 40, 100)
    assert summary.to_base is None


def test_other_kinds_are_compared_with_onnx_in_the_same_turn() -> None:
    row = Row("case", 1, "wrk", turns((60, 90, 66, 50), (200, 300, 200, 100), (70, 140, 84, 40), sides=THREE))
    summaries = row.summaries()
    assert list(summaries) == ["onnx", "tensorflow", "accelerated"]
    assert summaries["tensorflow"].to_base == Spread(1.5, 1.5, 2.0)
    assert summaries["accelerated"].to_base == Spread(1.1, 1.0, 1.2)
    assert summaries["accelerated"].ratio == Spread(2.0, 1.32, 2.1)
    assert summaries["onnx"].to_base is None


def test_without_onnx_there_is_nothing_to_compare_with() -> None:
    row = Row("case", 1, "wrk", turns((90, 50), sides=("tensorflow", "floor")))
    assert row.summaries()["tensorflow"].to_base is None
    assert cells(row, "tensorflow")[7] == ""


def test_rates_and_latencies_are_medians_of_the_servers_rounds() -> None:
    rounds = [(1000, 1.0, 10), (3000, 2.0, 30), (9000, 3.0, 20)]
    row = Row("case", 1, "wrk", tuple({"onnx": measured(cpu, n, s), "floor": measured(1e6)} for n, s, cpu in rounds))
    summary = row.summaries()["onnx"]
    assert (summary.requests_per_s, summary.p50_ms, summary.p99_ms) == (1500, 0.2, 2.0)


def test_a_row_shows_median_and_extremes() -> None:
    row = Row("rest-json", 32, "wrk", turns((60, 50), (75.26, 60), (90, 60)))
    want = ["rest-json", "onnx", "32", "1000", "75.3 (60-90)", "60.0", "1.25", "", "0.75", "7.53"]
    assert cells(row, "rest") == want


def test_each_kind_of_model_has_a_line() -> None:
    row = Row("tfs-grpc", 1, "h2load", turns((60, 90, 66, 50), sides=THREE))
    assert cells(row, "tfs-grpc", "onnx ")[5:8] == ["50.0", "1.20", ""]
    assert cells(row, "tfs-grpc", "tensorflow")[5:8] == ["50.0", "1.80", "1.50"]
    assert cells(row, "tfs-grpc", "accelerated")[5:8] == ["50.0", "1.32", "1.10"]


def test_a_void_row_says_so_and_shows_no_figures() -> None:
    assert cells(Row("grpc", 1, "h2load", (), "no answer"), "grpc") == ["grpc", "", "1", "void", *[""] * 6]


def test_the_document_holds_every_round() -> None:
    rows = [Row("a", 1, "wrk", turns((60, 50))), Row("b", 1, "wrk", (), "refused")]
    read = json.loads(json.dumps(document(rows, {"python": "3"})))
    assert read["environment"] == {"python": "3"}
    first, second = read["rows"]
    assert first["turns"][0]["onnx"]["cpu_us"] == 60
    assert first["turns"][0]["floor"]["cpu_us"] == 50
    assert first["summaries"]["onnx"]["ratio"]["median"] == pytest.approx(1.2)
    assert second["summaries"] == {} and second["failure"] == "refused"
