"""What unloaded models leave behind: figures, the command line, and sessions with a server."""

import json
import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from loadtests import heavy, memory_measure
from loadtests.memory import arguments, document, growth, kept, table
from loadtests.memory_measure import FINE, Cycles, measure, resident

MB = 1_000_000
LEFT = [150 * MB, 103 * MB, 104 * MB, 190 * MB, 106 * MB]
FOUND = Cycles("onnx", 100 * MB, [210 * MB, 230 * MB], LEFT, [2.0, 3.0, 9.0])


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large models with hardly any weights, made here."""
    monkeypatch.setattr(heavy, "WIDTH", 16)
    monkeypatch.setattr(heavy, "LAYERS", 2)
    monkeypatch.setattr(memory_measure, "FINE_LAYERS", 2)

    def made(form: str, directory: Path) -> Path:
        assert form == "onnx"
        heavy._save_onnx(directory)
        return directory

    monkeypatch.setattr(heavy, "_made", made)


def shown(*found: Cycles) -> list[list[str]]:
    console = Console(file=StringIO(), width=132)
    console.print(table(found))
    text = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text if line.startswith("│")]


def test_kept_is_what_the_last_cycle_leaves_over_what_there_was() -> None:
    assert kept(FOUND) == 6 * MB


def test_one_odd_cycle_is_no_growth_and_the_first_counts_not_at_all() -> None:
    assert growth(FOUND) == MB
    assert growth(Cycles("onnx", 0, left=[MB])) == 0


def test_the_table_has_a_line_for_each_kind() -> None:
    void = Cycles("tensorflow", failure="refused")
    assert shown(FOUND, void) == [
        ["onnx", "5", "100", "230", "150", "106", "190", "6.0", "1.00", "3.00"],
        ["tensorflow", "0", "void", *[""] * 7],
    ]


def test_the_document_holds_every_figure() -> None:
    read = json.loads(json.dumps(document([FOUND, Cycles("onnx", failure="refused")], {"python": "3"})))
    good, bad = read["kinds"]
    assert read["environment"] == {"python": "3"}
    assert (good["left"], good["kept"], good["growth"]) == (FOUND.left, 6 * MB, MB)
    assert bad["failure"] == "refused" and "kept" not in bad


def test_the_defaults_are_fifty_cycles_of_every_kind() -> None:
    options = arguments().parse_args([])
    assert options.cycles == 50 and set(options.only) == set(memory_measure.KINDS)


def test_the_memory_of_a_process() -> None:
    before = resident(os.getpid())
    held = bytearray(b"x") * (50 * MB)
    assert resident(os.getpid()) - before > 45 * MB
    del held


@pytest.mark.parametrize("kind", ["onnx", FINE])
def test_a_session(light: None, tmp_path: Path, kind: str) -> None:
    found = measure(kind, 2, ("--no-trial-load",), tmp_path, lambda _: None)
    assert found.failure is None
    assert found.began > 10 * MB
    assert len(found.loaded) == len(found.left) == len(found.load_s) == 2
    assert all(each > 10 * MB for each in (*found.loaded, *found.left))


def test_a_model_in_another_runtime_voids_it(light: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(memory_measure.KINDS, "onnx", "another_runtime")
    found = measure("onnx", 1, ("--no-trial-load",), tmp_path, lambda _: None)
    assert found.failure == "it is served as onnxruntime_onnx, not as another_runtime"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "cycles"), [("onnx", 10), (FINE, 10), ("tensorflow", 4)])
def test_what_was_unloaded_is_given_back(tmp_path: Path, kind: str, cycles: int) -> None:
    """Of more than 100 MB each time."""
    found = measure(kind, cycles, (), tmp_path, lambda _: None)
    assert found.failure is None
    assert max(found.loaded) - found.began > 90 * MB
    assert min(found.left[-2:]) - found.began < 20 * MB and growth(found) < MB
