"""A survey: variants that are trained one by one, is interrupted and resumed, and has one that diverges."""

import json
from pathlib import Path

import pytest

from tests.trainers.child import done, trains
from trainers.contract import TrainingError
from trainers.survey import main
from trainers.training import Job

# Surveys three variants in the place of a trainer that has none; stops in the last one the first time, and resumes.
SCRIPT = """
import json, sys
from pathlib import Path
from trainers.training import load
digits = load("digits")
import tensorflow as tf
from trainers import survey
from trainers.comparison import compare, write_csv
from trainers.contract import TrainingError

trained, seen = [], []

def train(run, rate):
    trained.append(run.directory.name)
    weight = tf.Variable(1.0)
    run.keep(weight=weight)
    for step in run.steps(run.options.steps):
        if rate == 0.3 and len(trained) == 3:
            raise TrainingError("the disk is full")
        weight.assign_sub(rate * weight)
        run.log(loss=float(weight))
    return {"loss": float(weight), "losses": run.curve("loss")[1]}

def variants(run):
    results = compare(run, {"slow": 0.5, "wild": float("inf"), "fast": 0.3}, train)
    write_csv(run.path("table.csv"), [{"name": name, "loss": "", **result} for name, result in results.items()])
    seen.append((run.seed, results))

digits.survey = variants
for words in (["--steps", "3", "--seed", "7"], ["--resume"], ["--resume"]):
    try:
        survey.main(["digits", "--log-dir", sys.argv[1], *words])
    except TrainingError as error:
        print(error)
print(json.dumps([trained, *seen]))
"""


@trains
def test_a_survey_that_is_resumed_trains_only_what_is_missing(tmp_path: Path) -> None:
    lines = done("-c", SCRIPT, tmp_path).splitlines()
    (run,) = (tmp_path / "digits-survey").iterdir()
    assert [line for line in lines if line.startswith("run ")] == [f"run {run}"] * 2
    assert "the disk is full" in lines
    assert lines[-2] == f"{run.parent}: there is no unfinished survey to resume"  # the third time

    trained, (seed, results) = json.loads(lines[-1])
    assert seed == 7  # it went on as it began
    assert trained == ["slow", "wild", "fast", "fast"]  # what was cut short is done again, what diverged is not
    assert results["slow"]["losses"] == [0.5, 0.25, 0.125] and results["slow"]["loss"] == 0.125
    assert results["wild"]["diverged"] == "loss is -inf at step 1"
    assert len(results["fast"]["losses"]) == 3
    assert all(result["cpu_s"] >= 0 for result in results.values())
    shown = [line for line in lines if line.startswith("2/3 wild: ")]
    assert len(shown) == 2 and "diverged loss is -inf at step 1" in shown[0] and "losses" not in shown[0]
    header, slow, wild, fast = (run / "table.csv").read_text().splitlines()
    assert header == "name,loss,losses,cpu_s"
    assert slow.startswith("slow,0.125,") and wild.startswith("wild,,,") and fast.startswith("fast,")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["--resume", "--quick", "--seed", "1"],
            "--quick, --seed: a resumed survey goes on with what it was started with",
        ),
        (["--set", "depth=2"], "unrecognized arguments: --set depth=2"),  # it chooses the settings
        (["--repo", "models"], "unrecognized arguments: --repo models"),
    ],
)
def test_usage_errors(tmp_path: Path, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["mlp", "--log-dir", str(tmp_path), *words])
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_survey_of_another_trainer_is_not_resumed(tmp_path: Path) -> None:
    Job("next_word").record(tmp_path)
    with pytest.raises(TrainingError) as caught:
        main(["mlp", "--log-dir", str(tmp_path / "runs"), "--resume", str(tmp_path)])
    assert str(caught.value) == f"{tmp_path}: a survey of 'next_word', not of 'mlp'"
