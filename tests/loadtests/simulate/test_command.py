"""The command as it is typed: what it prints, writes, and refuses."""

import json
from pathlib import Path

import pytest

from loadtests.simulate.__main__ import main
from loadtests.simulate.files import read

QUICK = "poisson:500,seconds=0.5"


def test_policies_are_compared_in_a_table_a_document_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--policy", "continuous,fixed_delay:5", "--loads", "0.3,0.9", "--timeout-ms", "40"]
    assert (
        main([QUICK, *arguments, "--model-cost", '{"1": 2, "64": 10}', "--noise", "0.1", "--out", str(tmp_path)]) == 0
    )
    out = capsys.readouterr().out
    assert "poisson:500,seconds=0.5, timeout 40 ms" in out
    assert "at most 6400 rows/s, in runs of 64" in out
    written = json.loads((tmp_path / "simulate.json").read_text())
    assert list(written["policies"]) == ["continuous", "fixed_delay:5"]
    assert written["policies"]["fixed_delay:5"]["p50_s"] > 0.005 > written["policies"]["continuous"]["p50_s"]
    for name in written["policies"]:
        assert f"│ {name}" in out
        assert [point["load"] for point in written["sweep"][name]] == [0.3, 0.9]
        offered = [point["summary"]["offered_rows_s"] for point in written["sweep"][name]]
        assert offered == pytest.approx([0.3 * 6400, 0.9 * 6400], rel=0.2)
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_a_trace_that_was_written_is_replayed_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--policy", "adaptive", "--loads", "", "--sizes", "8,1", "--out", str(tmp_path)]
    path = tmp_path / "trace.csv"
    assert main([QUICK, *common, "--write", str(path)]) == 0
    first = json.loads((tmp_path / "simulate.json").read_text())
    assert main([str(path), *common]) == 0
    second = json.loads((tmp_path / "simulate.json").read_text())
    assert first["policies"] == second["policies"] and first["sweep"] == {}
    assert not (tmp_path / "latency.png").exists()
    assert len(read(path).trace) == first["policies"]["adaptive"]["requests"]
    assert "trace.csv" in capsys.readouterr().out


def test_the_simulation_is_held_against_the_batcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--policy", "continuous", "--model-cost", "2,0.1", "--max-batch", "8", "--out", str(tmp_path)]
    assert main(["validate", "poisson:300,seconds=0.3", *arguments]) == 0
    ratios = json.loads((tmp_path / "validate.json").read_text())["ratios"]["continuous"]
    assert set(ratios) == {"as given", "measured"}
    assert ratios["measured"]["in_time"] == 1
    assert "simulated ÷ real" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "No such file"),
        (["poisson:x"], "the rate of 'poisson' is a number"),
        (["poisson:1,seconds=1e-9"], "have no rate to sweep"),
        ([QUICK, "--policy", "magic"], "no batching policy 'magic'"),
        ([QUICK, "--policy", "continuous:soon"], "could not convert string to float: 'soon'"),
        ([QUICK, "--model-cost", "nowhere.json"], "no cost of a model: 'nowhere.json'"),
        ([QUICK, "--model-cost", "trace"], "only the server's own trace"),
        ([QUICK, "--model-cost=-1,2"], "less than no time"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


@pytest.mark.parametrize("loads", ["0", "fast"])
def test_a_load_is_a_number_above_nothing(loads: str) -> None:
    with pytest.raises(SystemExit):
        main([QUICK, "--loads", loads])
