"""Swaps: the large model, the command line, figures, and a session with a server."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loadtests import heavy, kinds, swap_measure
from loadtests.measure import answer_of
from loadtests.swap import arguments
from loadtests.swap_measure import Settings, measure
from loadtests.swap_report import REST, Phase, Swaps, document, lines, ratio, table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The large model with hardly any weights, made here."""
    monkeypatch.setattr(heavy, "WIDTH", 16)
    monkeypatch.setattr(heavy, "LAYERS", 2)

    def made(form: str, directory: Path) -> Path:
        assert form == "onnx"
        if not directory.exists():
            heavy._save_onnx(directory)
        return directory

    monkeypatch.setattr(heavy, "_made", made)


def swaps(*latencies_ms: float) -> Swaps:
    """Ten requests a second from second 100 on. The first cycle has three phases of a second, so has the second."""
    steps = (REST, "load", "swap", "unload")
    cycles = [[Phase(step, 101.0 + 4 * c + i, 102.0 + 4 * c + i) for i, step in enumerate(steps)] for c in range(2)]
    return Swaps("onnx", 100, 10, cycles, 100.0, list(latencies_ms))


# By second: one before all phases, the four of the first cycle, and those of the second.
SECONDS = (9.0, 1.0, 7.0, 8.0, 7.0, 2.0, 3.0, 6.0, 4.0, 9.0)
FOUND = swaps(*(ms for ms in SECONDS for _ in range(10)))


def test_each_request_counts_to_the_phase_in_which_it_was_due() -> None:
    found = lines(FOUND)
    assert {name: (line.requests, line.p50_ms) for name, line in found.items()} == {
        "rest": (10, 2.0),
        "steps": (30, 4.0),
        "load": (10, 3.0),
        "swap": (10, 6.0),
        "unload": (10, 4.0),
        "first": (30, 7.0),
    }
    assert found["steps"].max_ms == 6.0 and found["steps"].seconds == 1.0
    assert ratio(found) == 3.0


def test_a_phase_has_those_due_from_its_begin_until_before_its_end() -> None:
    one = Swaps("onnx", 100, 10, [], 100.0, [float(n) for n in range(10)])
    assert one.of(Phase(REST, 100.2, 100.5)) == [2.0, 3.0, 4.0]
    assert one.of(Phase(REST, 100.21, 100.45)) == [3.0, 4.0]
    assert one.of(Phase(REST, 99.0, 100.1)) == [0.0]
    assert one.of(Phase(REST, 100.9, 105.0)) == [9.0]


def shown(found: Swaps) -> list[list[str]]:
    console = Console(file=StringIO(), width=132)
    console.print(table([found]))
    text = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text if line.startswith("│")]


def test_the_table_has_a_line_for_each_phase() -> None:
    rest, steps, *rest_of_them = shown(FOUND)
    assert rest == ["onnx", "rest", "1.00", "10", "2.00", "2.00", "2.00", ""]
    assert steps == ["", "steps", "1.00", "30", "4.00", "6.00", "6.00", "3.00"]
    assert [line[1] for line in rest_of_them] == ["load", "swap", "unload", "first"]


def test_a_void_kind_shows_no_figures() -> None:
    void = swaps()
    void.failure = "refused"
    assert shown(void) == [["onnx", "void", *[""] * 6]]


def test_the_document_holds_every_latency() -> None:
    void = swaps()
    void.failure = "refused"
    read = json.loads(json.dumps(document([FOUND, void], {"python": "3"})))
    good, bad = read["swaps"]
    assert read["environment"] == {"python": "3"}
    assert good["latencies_ms"] == FOUND.latencies_ms
    assert good["cycles"][1][2] == {"step": "swap", "begin_s": 107.0, "end_s": 108.0}
    assert good["summary"]["ratio"] == 3.0 and good["summary"]["lines"]["rest"]["p99_ms"] == 2.0
    assert bad["summary"] is None and bad["failure"] == "refused"


def test_the_defaults_are_twenty_cycles_of_every_kind() -> None:
    options = arguments().parse_args([])
    assert (options.cycles, options.rest, options.per_s) == (20, 2, 200)
    assert options.only == ["onnx", "accelerated", "tensorflow"]


def test_an_unknown_kind_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments().parse_args(["--only", "torch"])
    assert "no kind 'torch'" in capsys.readouterr().err


def test_the_large_model_gives_its_golden_answer_in_both_versions(light: None, tmp_path: Path) -> None:
    versions = heavy.write_repository("onnx", tmp_path / "models", tmp_path / "files")
    sample = heavy.golden()
    assert [path.name for path in versions] == ["1", "2"]
    for path in versions:
        answer = answer_of(path / "model.onnx", sample.inputs)
        np.testing.assert_allclose(answer["y"], sample.outputs["y"], atol=1e-5)
    assert len({(path / "model.onnx").stat().st_ino for path in versions}) == 1


def test_the_weights_are_as_large_as_they_say() -> None:
    assert heavy.weights_bytes() == 102_400_000 == next(heavy.weights()).nbytes * heavy.LAYERS


def test_a_session(light: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap_measure, "TAIL_S", 0.1)
    found = measure("onnx", Settings(cycles=2, rest_s=0.3, per_s=50, pin=False), tmp_path, lambda _: None)
    assert found.failure is None
    assert [[phase.step for phase in cycle] for cycle in found.cycles] == [[REST, "load", "swap", "unload"]] * 3
    begin_s, end_s = found.cycles[0][1].begin_s, found.cycles[-1][-1].end_s
    assert found.begun_s < begin_s and len(found.latencies_ms) >= int(50 * (end_s - begin_s))
    assert all(line.requests > 0 and line.p50_ms > 0 for line in lines(found).values())


def test_a_model_in_another_runtime_voids_it(light: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.PLATFORMS, "onnx", "another_runtime")
    found = measure("onnx", Settings(cycles=1, rest_s=0.1, per_s=50, pin=False), tmp_path, lambda _: None)
    assert found.failure == "not version 1 as another_runtime is served, but version ['1'] as onnxruntime_onnx"


def test_a_wrong_answer_voids_it(light: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = heavy.write_repository

    def written(*args: object) -> tuple[Path, Path]:
        versions = write(*args)  # type: ignore[arg-type]
        monkeypatch.setattr(heavy, "weights", lambda: iter([np.zeros((16, 16), np.float32)] * 2))
        return versions

    monkeypatch.setattr(heavy, "write_repository", written)
    found = measure("onnx", Settings(cycles=1, rest_s=0.1, per_s=50, pin=False), tmp_path, lambda _: None)
    assert found.failure is not None and "not the model's answer" in found.failure


@pytest.mark.slow
def test_the_whole_command_runs(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    argv = [sys.executable, "-m", "loadtests.swap", "--quick", "--json", str(result)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = json.loads(result.read_text())["swaps"]
    assert [one["name"] for one in kinds] == ["onnx", "accelerated", "tensorflow"]
    for one in kinds:
        assert one["failure"] is None and one["summary"]["ratio"] > 0
        assert one["name"] in done.stdout
