"""Medians, ratios within rounds, who is the best peer, the table's lines, the document, the picture."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from loadtests.compare.plot import draw
from loadtests.compare.report import Row, Sample, best_peer, document, summary, table
from loadtests.compare.servers import Form
from loadtests.compare.session import best
from loadtests.report import Round


def row(server: str, *rates: float, cpu_us: float | tuple[float, ...] = 100, form: Form = "json", size: int = 8) -> Row:
    """One second a round at each rate."""
    cpus = cpu_us if isinstance(cpu_us, tuple) else (cpu_us,) * len(rates)
    samples = [
        Sample(Round(round(rate), 1.0, cpu, p50_ms=cpu / 100, p99_ms=cpu / 10), memory_bytes=50_000_000)
        for rate, cpu in zip(rates, cpus, strict=True)
    ]
    return Row(server, form, size, tuple(samples))


def void(server: str, form: Form = "json", size: int = 8) -> Row:
    return Row(server, form, size, failure="3 status")


def lines(rows: list[Row]) -> list[list[str]]:
    output = StringIO()
    Console(file=output, width=140).print(table(rows))
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in output.getvalue().splitlines()]


def line(rows: list[Row], server: str) -> list[str]:
    (found,) = (cells for cells in lines(rows) if cells[0] == server)
    return found


def test_ratios_are_the_medians_of_those_within_the_rounds() -> None:
    # The machine was slow in the second round: both sides of it were, and their ratio is as good as any.
    ours, triton = row("serving", 200, 50, 300, cpu_us=(60, 200, 70)), row("triton", 100, 20, 200, cpu_us=(50, 100, 40))
    found = summary(ours, [ours, triton])
    assert found is not None and found.to_triton is not None
    assert found.to_triton.requests_per_s == 2.0
    assert found.to_triton.cpu == 1.75
    assert (found.requests_per_s.median, found.cpu_us.low, found.cpu_us.high) == (200, 60, 200)
    assert (found.p50_ms, found.p99_ms, found.memory_bytes) == (0.7, 7.0, 50_000_000)


def test_nothing_is_compared_with_itself_with_another_form_or_with_a_void_row() -> None:
    triton, other = row("triton", 100), row("mosec", 50, form="binary")
    found = summary(triton, [triton, other])
    assert found is not None and found.to_triton is None and found.to_best_peer is None
    ours = row("serving", 100)
    found = summary(ours, [ours, void("triton"), void("mosec")])
    assert found is not None and found.to_triton is None and found.to_best_peer is None


def test_the_best_peer_is_the_fastest_that_is_neither_this_server_nor_triton() -> None:
    rows = [row("serving", 900), row("triton", 800), row("kserve", 30), row("mosec", 60), void("ray")]
    assert best_peer(rows, "json") is rows[3]
    assert best_peer(rows, "grpc") is None
    found = summary(rows[0], rows)
    assert found is not None and found.to_best_peer is not None
    assert found.to_best_peer.requests_per_s == 15


def test_a_void_row_has_no_summary_and_no_figures() -> None:
    rows = [row("serving", 100), void("triton")]
    assert summary(rows[1], rows) is None
    assert line(rows, "Triton")[1:5] == ["OIP", "8", "void", ""]
    assert line(rows, "serving")[3:6] == ["100", "", ""]


def test_the_table_has_a_part_for_each_form() -> None:
    rows = [row("serving", 900), row("triton", 450), row("mosec", 300, cpu_us=50), row("serving", 70, form="grpc")]
    cells = lines(rows)
    names = [found[0] for found in cells]
    assert names.index("REST, JSON") < names.index("gRPC")
    assert "REST, binary" not in names
    assert line(rows[:3], "serving") == [
        *("serving", "OIP", "8", "900", "2.00", "3.00", "100.0 (100-100)", "1.00", "2.00", "1.00", "10.00", "50")
    ]
    assert line(rows, "mosec *")[1:6] == ["own", "8", "300", "0.67", ""]


def test_the_best_size_is_that_with_the_most_requests() -> None:
    rows = [row("serving", 10, size=8), row("serving", 30, size=16), row("serving", 20, size=32)]
    assert best(rows) == [rows[1]]


def test_a_void_size_is_the_best_only_if_all_are() -> None:
    slow = row("serving", 10, size=16)
    assert best([void("serving"), slow]) == [slow]
    assert best([void("serving"), void("serving", size=16)]) == [void("serving")]


def test_each_server_and_form_has_a_best_size() -> None:
    rows = [row("serving", 1, form="grpc"), row("serving", 2), row("triton", 3), row("triton", 4, size=16)]
    assert best(rows) == [rows[0], rows[1], rows[3]]


def test_the_document_has_all_samples_and_can_be_written() -> None:
    rows = [row("serving", 10, 20), void("triton")]
    made = json.loads(json.dumps(document(rows, rows, {"cores": 2}, {"serving": {"python": "3.11"}})))
    assert [sample["round"]["requests"] for sample in made["rows"][0]["samples"]] == [10, 20]
    assert made["rows"][0]["summary"]["requests_per_s"]["median"] == 15
    assert (made["rows"][1]["summary"], made["rows"][1]["failure"]) == (None, "3 status")
    assert len(made["sweep"]) == 2
    assert (made["environment"], made["versions"]) == ({"cores": 2}, {"serving": {"python": "3.11"}})


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="a picture needs matplotlib")
    path = tmp_path / "compare.png"
    draw([row("serving", 900, 950), row("triton", 450, 440), void("mosec"), row("serving", 9, form="grpc")], "c", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    nothing = tmp_path / "nothing.png"
    draw([void("mosec")], "", nothing)
    assert not nothing.exists()
