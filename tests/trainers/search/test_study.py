"""Searches with real processes, of a trainer that costs nothing (`parabola/`): killed, resumed, pruned, failing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.trainers.child import ROOT
from trainers.contract import Goal, TrainingError
from trainers.search import trial as trial_module
from trainers.search.report import plot, ranked, table, write_csv
from trainers.search.space import Space
from trainers.search.study import Search, Study, alone

GOAL = Goal("height", "maximize")
SPACE = Space.model_validate({"parameters": {"x": {"type": "real", "min": 0, "max": 1}}})


@pytest.fixture(autouse=True)
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lets processes find the trainer, and the directory in which a test tells them what to do."""
    directory = tmp_path / "control"
    directory.mkdir()
    paths = [str(Path(__file__).parent / "parabola"), str(ROOT)]
    for name, value in {"PYTHONPATH": os.pathsep.join(paths), "CONTROL": str(directory)}.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(trial_module.ENVIRONMENT, name, value)
    return directory


def searched(directory: Path, trouble: str = "", **options: Any) -> list[FrozenTrial]:
    """All trials after a search, or after going on with one."""
    directory.mkdir(exist_ok=True)
    search = Search("parabola", **{"trials": 5, "sampler": "random", "values": {"trouble": trouble}, **options})
    with Study(directory, search, SPACE, GOAL, data_dir=directory) as study:
        study.run()
        return study.trials()


def starts(directory: Path, number: int) -> list[int]:
    """Steps that the processes of a trial began with."""
    return list(map(int, (directory / f"trials/{number:04}/starts.txt").read_text().split()))


def until(true: Callable[[], Any]) -> None:
    """Waits for what has to happen, however slow the machine is."""
    limit = time.monotonic() + 300
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_search_tries_and_measures(tmp_path: Path) -> None:
    trials = searched(tmp_path / "study", parallel=2, trials=4, pruner="median")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    for trial in trials:
        assert trial.value == pytest.approx(1 - (trial.params["x"] - 0.3) ** 2)
        assert list(trial.intermediate_values) == [1, 2, 3, 4]
        assert trial.user_attrs["steps"] == [10, 20, 30, 40]
    best = ranked(trials, GOAL)[0]
    kept = [path.parent.name for path in (tmp_path / "study/trials").glob("*/checkpoints")]
    assert kept == [f"{best.number:04}"]  # the model is published from it


def test_a_trial_that_reports_often_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    (trial,) = searched(tmp_path / "study", trials=1, steps=300)
    assert 1 <= len(trial.intermediate_values) < 300
    assert trial.value == pytest.approx(1 - (trial.params["x"] - 0.3) ** 2)


def test_a_trial_that_fails_is_noted_and_the_search_goes_on(tmp_path: Path) -> None:
    trials = searched(tmp_path / "study", "nan", trials=8, parallel=2)
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert 0 < len(failed) < 8
    for trial in failed:
        assert trial.params["x"] > 0.5
        assert trial.user_attrs["reason"] == "loss is nan at step 1: a smaller learning rate may help"
    shown(trials, tmp_path)


def test_a_trainer_with_a_bug_leaves_a_trace(tmp_path: Path) -> None:
    (bug,) = searched(tmp_path / "bug", "bug", trials=1)
    assert bug.user_attrs["reason"] == "ValueError: of the trainer"
    assert "Traceback" in (tmp_path / "bug/trials/0000/log.txt").read_text()


def test_data_that_are_missing_end_the_search_and_it_can_be_resumed(tmp_path: Path, control: Path) -> None:
    with pytest.raises(TrainingError, match="data/mnist: not there"):
        searched(tmp_path / "study", "data", trials=2)
    (control / "data").touch()
    trials = searched(tmp_path / "study", "data", trials=2)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2


def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    (trial,) = searched(tmp_path / "once", "killed once", trials=1, pruner="median")
    assert trial.state == TrialState.COMPLETE
    assert starts(tmp_path / "once", 0) == [0, 2]
    assert list(trial.intermediate_values) == [1, 2, 3, 4]

    (trial,) = searched(tmp_path / "always", "killed", trials=1)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"] == "its process was killed by SIGKILL"
    assert starts(tmp_path / "always", 0) == [0, 2, 2]


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_trials_that_look_bad_are_pruned(tmp_path: Path, pruner: str) -> None:
    trials = searched(tmp_path / "study", trials=9, pruner=pruner, steps=9)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert pruned and len(pruned) + len(complete) == 9
    assert all(len(trial.intermediate_values) < 9 for trial in pruned)
    best = max(trials, key=lambda trial: 1 - (trial.params["x"] - 0.3) ** 2)
    assert pruner == "hyperband" or best.state == TrialState.COMPLETE


SEARCH = """
import sys
from pathlib import Path
from tests.trainers.search.test_study import searched
searched(Path(sys.argv[1]), "waits", trials=5, parallel=2)
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A search in a process of its own, whose trials wait to be let go on."""
    process = subprocess.Popen([sys.executable, "-c", SEARCH, str(tmp_path / "study")], cwd=ROOT)
    yield process
    process.kill()
    process.wait()


def test_a_search_that_is_killed_and_resumed_ends_as_one_that_never_was(
    tmp_path: Path, control: Path, started: subprocess.Popen[bytes]
) -> None:
    study = tmp_path / "study"
    search = Search("parabola", trials=5, sampler="random")

    def trials() -> list[FrozenTrial]:
        if not (study / "trials").exists():
            return []
        with Study(study, search, SPACE, GOAL, data_dir=study) as found:
            return found.trials()

    (control / "go-0000").touch()
    (control / "go-0001").touch()
    until(lambda: len(list((study / "trials").glob("000[23]/checkpoints/step"))) == 2)
    until(lambda: all((study / f"trials/000{number}/checkpoints/step").read_text() == "2" for number in (2, 3)))
    before = trials()
    assert [trial.state.name for trial in before] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]

    pids = children(started.pid)
    assert len(pids) == 2
    started.send_signal(signal.SIGKILL)
    started.wait()
    until(lambda: not any(map(runs, pids)))  # no process is left behind
    for number in range(2, 5):
        (control / f"go-{number:04}").touch()

    after = searched(study, "waits", trials=5, parallel=2)
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 5
    for old, new in zip(before, after, strict=False):
        assert new.params == old.params
        if old.state == TrialState.COMPLETE:
            assert (new.value, new.datetime_complete) == (old.value, old.datetime_complete)
    assert [starts(study, number) for number in range(5)] == [[0], [0], [0, 2], [0, 2], [0]]
    whole = searched(tmp_path / "whole", trials=5)
    assert [trial.params for trial in after] == [trial.params for trial in whole]


def runs(pid: int) -> bool:
    """Whether there is such a process; one that has ended stays until its parent, which is not ours, asks for it."""
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_damaged_storage_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database " * 100)
    with pytest.raises(TrainingError, match=r"study\.db: .*file is not a database$"):
        searched(tmp_path)


def test_two_searches_do_not_work_on_one_study(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(TrainingError, match="another search is at work here"), alone(tmp_path):
        pass


def shown(trials: list[FrozenTrial], tmp_path: Path) -> None:
    """Checks the table, the CSV and the picture of eight trials, some of which failed."""
    best = ranked(trials, GOAL)[0]
    rows = table(trials, SPACE, GOAL, best)
    assert [str(column.header) for column in rows.columns] == ["trial", "x", "height", "state", "time"]
    numbers = list(rows.columns[0].cells)
    assert numbers[0] == str(best.number) and len(numbers) == 8
    assert list(rows.columns[3].cells)[-1].startswith("failed: loss is nan")

    write_csv(tmp_path / "trials.csv", trials, SPACE, GOAL)
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0] == "trial,x,height,state,seconds,reason"
    assert [line.split(",")[0] for line in lines[1:]] == [str(number) for number in range(8)]

    mixed = Space.model_validate(
        {
            "parameters": {
                "x": {"type": "real", "min": 0.001, "max": 1, "scale": "log"},
                "kind": {"type": "categorical", "values": ["a", "b"]},
            }
        }
    )
    for trial in trials:
        trial.params["kind"] = "ab"[trial.number % 2]
    for space in (SPACE, mixed):
        plot(tmp_path / "trials.png", trials, space, GOAL, "parabola")
        assert (tmp_path / "trials.png").read_bytes()[:4] == b"\x89PNG"
