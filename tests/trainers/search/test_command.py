"""The command, with a trainer that trains."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.core.artifact import read_manifest
from tests.trainers.child import ROOT, done, fork, trains
from trainers.contract import TrainingError
from trainers.search.command import main

SPACES = ROOT / "trainers/search/spaces"


def arguments(directory: Path) -> tuple[object, ...]:
    return ("-m", "trainers", "search", "digits", "--repo", directory / "repo", "--study", directory / "study")


@trains
def test_a_search_publishes_its_best_model_once(tmp_path: Path) -> None:
    logs = ("--log-dir", tmp_path / "runs")
    options = ("--space", SPACES / "digits.yaml", "--steps", 30, "--trials", 1, "--set", "batch=16")
    problem = fork(*arguments(tmp_path), *options, *logs)
    assert problem.stderr == "error: --set batch: the search changes this setting\n"
    space = tmp_path / "space.yaml"
    space.write_text("parameters: {learning_rate: {type: real, min: 0.0005, max: 0.005, scale: log}}\n")
    output = done(*arguments(tmp_path), "--space", space, *options[2:], *logs)
    (row,) = csv.DictReader((tmp_path / "study/trials.csv").read_text().splitlines())
    assert row["state"] == "complete"
    assert f"best trial 0 learning_rate={row['learning_rate']}" in output
    assert (tmp_path / "study/trials.png").read_bytes()[:4] == b"\x89PNG"
    manifest = read_manifest(tmp_path / "repo/digits/1")
    assert manifest is not None and manifest.training is not None and manifest.metric is not None
    assert manifest.training["settings"]["learning_rate"] == float(row["learning_rate"])
    assert manifest.training["settings"]["batch"] == 16
    assert manifest.metric["held_out_accuracy"] == float(row["held_out_accuracy"])
    history = (tmp_path / "study/trials/0000/history.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in history.splitlines()]
    assert steps == sorted(steps) and steps[-1] == 30  # nothing was trained again to publish it
    assert [path.name for path in sorted((tmp_path / "repo").iterdir())] == ["digits", "digits_tf"]


@pytest.mark.slow
@trains
def test_a_search_that_is_killed_is_resumed(tmp_path: Path) -> None:
    logs = ("--log-dir", str(tmp_path / "runs"))
    options = ("--space", str(SPACES / "digits.yaml"), "--steps", "60", "--trials", "4", "--parallel", "2")
    command = [sys.executable, *map(str, arguments(tmp_path)), *options, *logs]
    with (tmp_path / "output").open("w") as output:
        search = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    limit = time.monotonic() + 300
    while "trial " not in (tmp_path / "output").read_text():
        assert time.monotonic() < limit and search.poll() is None
        time.sleep(0.1)
    os.kill(search.pid, signal.SIGKILL)
    search.wait()
    before = (tmp_path / "output").read_text().splitlines()[1]
    assert not (tmp_path / "repo/digits").exists()

    output_again = done(*arguments(tmp_path), "--resume", *logs)
    rows = {row["trial"]: row for row in csv.DictReader((tmp_path / "study/trials.csv").read_text().splitlines())}
    assert list(rows) == ["0", "1", "2", "3"]
    assert before.split()[1] in rows and before not in output_again  # it was not done again
    assert [path.name for path in (tmp_path / "repo/digits").iterdir()] == ["1"]
    assert "published before" in done(*arguments(tmp_path), "--resume", *logs)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--trials", "0"], "--trials"),
        (["--sampler", "magic"], "--sampler"),
        ([], "--space: which settings are to be tried?"),
        (["--as", "katib"], "--image: which container image has the trainers?"),
        (["--resume", "--quick"], "--quick: a resumed search goes on with what it was started with"),
    ],
)
def test_usage_errors(tmp_path: Path, words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*search_words(tmp_path), *words])
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


def test_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"study/search\.json: not the record of a search: "):
        main([*search_words(tmp_path), "--resume"])


def search_words(directory: Path) -> list[str]:
    places = {"--repo": "repo", "--study": "study", "--log-dir": "runs"}
    return ["digits", *(word for name, place in places.items() for word in (name, str(directory / place)))]


METRICS = """
import os, sys
from pathlib import Path
from trainers.search.cloud_trial import Metrics
metrics = Metrics(Path(sys.argv[1]), "accuracy")
for step in range(1, 151):
    metrics.report(step, step / 200)
"""


def test_a_clouds_service_finds_the_metric_where_it_looks(tmp_path: Path) -> None:
    done("-c", METRICS, tmp_path / "hypertune/output.metrics", CLOUD_ML_TRIAL_ID="7")
    lines = [json.loads(line) for line in (tmp_path / "hypertune/output.metrics").read_text().splitlines()]
    assert len(lines) == 100
    last = lines[-1]
    assert last.pop("timestamp") > 0
    assert last == {"trial": "7", "accuracy": "0.75", "global_step": "150", "checkpoint_path": ""}
