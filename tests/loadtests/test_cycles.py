"""What the commands for memory and for swaps share, with a measurement that measures nothing."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from loadtests import cycles, memory, swap


@dataclass
class Seen:
    kind: str
    failure: str | None


def run(words: list[str], failures: dict[str, str]) -> int:
    """The command's exit code, where kinds `a`, `b` and `c` fail like this."""
    kinds = dict.fromkeys("abc")
    parser = cycles.parser("none", "None.", cycles=9, quick=2, steps="nothings", known=kinds, order="abc")
    options = parser.parse_args(words)

    def measure(kind: str, files: Path, say: Callable[[str], None]) -> Seen:
        (files / f"serving-{kind}.log").write_text(f"of the server with {kind}\n")
        return Seen(kind, failures.get(kind))

    def table(found: Sequence[Seen]) -> Table:
        return Table(*(f"seen {one.kind}" for one in found))

    def document(found: Sequence[Seen]) -> Any:
        return [one.kind for one in found], options.cycles

    return cycles.run(options, measure, table, document)


def test_kinds_are_measured_in_turn_and_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "result.json"
    assert run(["--only", "c,a", "--json", str(result)], {}) == 0
    shown = capsys.readouterr()
    assert "seen c" in shown.out and "seen a" in shown.out and "void" not in shown.out
    assert "of the server" not in shown.err
    assert json.loads(result.read_text()) == [["c", "a"], 9]


def test_a_void_kind_is_told_with_its_servers_log_and_ends_in_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([], {"b": "refused"}) == 1
    shown = capsys.readouterr()
    assert "b is void: refused" in shown.out
    assert "of the server with b" in shown.err and "of the server with a" not in shown.err


@pytest.mark.parametrize(("command", "quick"), [(memory, 5), (swap, 2)])
def test_quick_is_a_few_cycles(command: Any, quick: int) -> None:
    assert command.arguments().parse_args(["--quick", "--server=--no-trial-load"]).cycles == quick
