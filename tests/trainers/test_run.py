"""A run that is killed and resumed, and runs that cannot go on."""

import json
from pathlib import Path

import numpy as np
import pytest

from serving.core.artifact import read_golden
from serving.core.compare import difference
from tests.trainers.child import done, fork, trains
from trainers.batches import Batches
from trainers.contract import TrainingError

# Trains as the command does, writes a checkpoint every few steps, and is killed at a step if it is told so.
COMMAND = """
import os, signal, sys
from trainers.command import main

def killed_at(step):
    import trainers.run as run
    log = run.Run.log
    def log_or_die(self, **values):
        if self._done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        log(self, **values)
    run.CHECKPOINT_S = 0.02
    run.Run.log = log_or_die

killed_at(int(sys.argv.pop(1)))
sys.exit(main())
"""


def places(directory: Path) -> tuple[object, ...]:
    return ("--repo", directory / "repo", "--log-dir", directory / "runs")


@trains
def test_a_run_that_is_killed_and_resumed_ends_as_one_that_never_was(tmp_path: Path) -> None:
    settings = ("digits", "--steps", 100, "--seed", 3, "--set", "dropout=0.5")
    done("-m", "trainers", *settings, *places(tmp_path / "whole"))
    killed = fork("-c", COMMAND, 60, *settings, *places(tmp_path / "killed"))
    assert killed.returncode == -9
    (run,) = (tmp_path / "killed/runs/digits").iterdir()
    assert not (tmp_path / "killed/repo/digits").exists()
    assert list((run / "checkpoints").glob("ckpt-*.index"))

    done("-m", "trainers", "digits", "--resume", *places(tmp_path / "killed"))
    (again,) = (tmp_path / "killed/runs/digits").iterdir()
    assert again == run
    (whole,) = (tmp_path / "whole/runs/digits").iterdir()
    histories = [(path / "history.jsonl").read_text().splitlines() for path in (whole, run)]
    assert histories[0] == histories[1]
    assert [json.loads(line)["step"] for line in histories[0]][-1] == 100
    for model in ("digits", "digits_tf"):
        first = read_golden(tmp_path / "whole/repo" / model / "1")
        second = read_golden(tmp_path / "killed/repo" / model / "1")
        assert first is not None and second is not None
        assert difference(second.outputs, first.outputs, atol=0, rtol=0) is None

    result = fork("-m", "trainers", "digits", "--resume", *places(tmp_path / "killed"))
    assert result.returncode == 1
    assert result.stderr == f"error: {tmp_path / 'killed/runs/digits'}: there is no unfinished run to resume\n"


TWO_RUNS = """
from pathlib import Path
import sys
from trainers.quiet import quiet_import
with quiet_import():
    from trainers.run import Run
import tensorflow as tf
from trainers.contract import Options, TrainingError

directory = Path(sys.argv[1])

def train(resume, size, value):
    run = Run(Options(directory=directory, resume=resume))
    run.keep(weights=tf.Variable([0.0] * size))
    for step in run.steps(3):
        run.log(loss=value)

train(False, 2, 1.0)
for resume, size, value in ((False, 2, float("nan")), (False, 2, tf.constant(float("inf"))), (True, 3, 1.0)):
    try:
        train(resume, size, value)
    except TrainingError as error:
        print(error)
"""


@trains
def test_what_ends_a_run_is_one_line(tmp_path: Path) -> None:
    printed = done("-c", TWO_RUNS, tmp_path).splitlines()
    nan, inf, other = (line for line in printed if " steps " not in line)
    assert nan == "loss is nan at step 1: a smaller learning rate may help"
    assert inf == "loss is inf at step 1: a smaller learning rate may help"
    assert other.startswith(f"{tmp_path}/checkpoints/ckpt-3: cannot be resumed from: ")


@trains
def test_a_model_that_gives_no_numbers_is_not_published(tmp_path: Path) -> None:
    result = fork("-m", "trainers", "digits", "--steps", 5, "--set", "learning_rate=1e30", *places(tmp_path))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()  # which of the two gives none depends on how they round
    assert line.startswith("error: the ") and "numbers" in line
    assert list((tmp_path / "repo").iterdir()) == []


def test_batches_are_the_same_in_whatever_order_they_are_asked_for() -> None:
    rows = np.arange(10)
    batches = Batches(rows, rows * 2, size=3, seed=1)
    assert batches.per_epoch == 3
    forth = [batches[step] for step in range(9)]
    back = [batches[step] for step in reversed(range(9))]
    for (a, doubled), (b, _) in zip(forth, reversed(back), strict=True):
        assert np.array_equal(a, b) and np.array_equal(doubled, 2 * a)
    epochs = [np.concatenate([forth[step][0] for step in range(at, at + 3)]) for at in (0, 3, 6)]
    assert all(len(set(epoch.tolist())) == 9 for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(Batches(rows, size=3, seed=2)[0][0], forth[0][0])
    assert Batches(rows, size=99, seed=0)[0][0].shape == (10,)
    with pytest.raises(TrainingError, match=r"^a batch of 0 rows: expected 1 or more$"):
        Batches(rows, size=0, seed=0)
