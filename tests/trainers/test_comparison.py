"""Variants that are trained one by one: a survey that is interrupted, and a variant that diverges."""

import json
from pathlib import Path

from tests.trainers.child import done, trains

# Trains three variants, stops in the last one the first time, and resumes.
SCRIPT = """
import json, sys
from pathlib import Path
from trainers.quiet import quiet_import
with quiet_import():
    from trainers.comparison import compare, write_csv
    from trainers.run import Run
import tensorflow as tf
from trainers.contract import Options, TrainingError

directory = Path(sys.argv[1])
trained = []

def train(run, rate):
    trained.append(run.directory.name)
    weight = tf.Variable(1.0)
    run.keep(weight=weight)
    for step in run.steps(3):
        if rate == 0.3 and len(trained) == 3:
            raise TrainingError("the disk is full")
        weight.assign_sub(rate * weight)
        run.log(loss=float(weight))
    return {"loss": float(weight), "losses": run.curve("loss")[1]}

variants = {"slow": 0.5, "wild": float("inf"), "fast": 0.3}
try:
    compare(Run(Options(directory=directory)), variants, train)
except TrainingError as error:
    print(error)
results = compare(Run(Options(directory=directory, resume=True)), variants, train)
write_csv(directory / "table.csv", [{"name": name, "loss": "", **result} for name, result in results.items()])
print(json.dumps([trained, results]))
"""


@trains
def test_a_survey_that_is_resumed_trains_only_what_is_missing(tmp_path: Path) -> None:
    lines = done("-c", SCRIPT, tmp_path).splitlines()
    assert "the disk is full" in lines
    trained, results = json.loads(lines[-1])
    assert trained == ["slow", "wild", "fast", "fast"]  # what was cut short is done again, what diverged is not
    assert results["slow"]["losses"] == [0.5, 0.25, 0.125] and results["slow"]["loss"] == 0.125
    assert results["wild"]["diverged"] == "loss is -inf at step 1"
    assert len(results["fast"]["losses"]) == 3
    assert all(result["cpu_s"] >= 0 for result in results.values())
    shown = [line for line in lines if line.startswith("2/3 wild: ")]
    assert len(shown) == 2 and "diverged loss is -inf at step 1" in shown[0] and "losses" not in shown[0]
    header, slow, wild, fast = (tmp_path / "table.csv").read_text().splitlines()
    assert header == "name,loss,losses,cpu_s"
    assert slow.startswith("slow,0.125,") and wild.startswith("wild,,,") and fast.startswith("fast,")
