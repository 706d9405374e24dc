"""What a search is elsewhere: the examples in deploy/ are what the commands print, and fit the published fields."""

import json
import re
import shlex
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.trainers.child import ROOT, done, trains
from tests.trainers.search import schemas
from trainers.contract import Goal, TrainingError
from trainers.search import cloud, containers, katib
from trainers.search.manifest import as_yaml
from trainers.search.space import Space
from trainers.search.study import Search

EXAMPLES = sorted((ROOT / "deploy/kubeflow").glob("*.yaml")) + sorted((ROOT / "deploy/cloud").glob("*.yaml"))
GOAL = Goal("accuracy", "maximize")
SPACE = Space.model_validate(
    {
        "parameters": {
            "rate": {"type": "real", "min": 3e-5, "max": 1, "scale": "log", "points": 3},
            "batch": {"type": "integer", "min": 1, "max": 9, "points": 2},
            "norm": {"type": "categorical", "values": [True, False]},
        }
    }
)

# Runs `python -m trainers search` with each of some lines of arguments, in one process; prints what each prints.
COMMANDS = """
import contextlib, io, json, sys
from trainers.search.command import main
printed = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main(arguments)
    printed.append(output.getvalue())
print(json.dumps(printed))
"""


def documented() -> dict[Path, list[str]]:
    """The arguments that each example's command has, by the file that it is printed to."""
    found = {}
    for readme in ("deploy/kubeflow/README.md", "deploy/cloud/README.md"):
        for line in (ROOT / readme).read_text().splitlines():
            if line.startswith("python -m trainers search "):
                command, _, file = line.removeprefix("python -m trainers search ").partition(" > ")
                found[ROOT / file] = shlex.split(command)
    return found


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@trains
def test_the_examples_are_what_the_commands_print() -> None:
    commands = documented()
    assert commands.keys() == {*EXAMPLES}
    possible = {path: line for path, line in commands.items() if "pipeline" not in line or find_spec("kfp")}
    printed = json.loads(done("-c", COMMANDS, json.dumps(list(possible.values()))).splitlines()[-1])
    for path, text in zip(possible, printed, strict=True):
        assert text == path.read_text(), path.name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_have_the_published_fields(path: Path) -> None:
    for document in documents(path):
        schemas.of(document).model_validate(document)


def test_what_runs_in_the_pipeline_is_connected() -> None:
    (pipeline,) = documents(ROOT / "deploy/kubeflow/pipeline-digits.yaml")
    tasks = pipeline["root"]["dag"]["tasks"]
    order = {name: set(task.get("dependentTasks", [])) for name, task in tasks.items()}
    assert order == {
        "data": set(),
        "train": {"data"},
        "evaluate": {"train"},
        "publish": {"train", "evaluate"},
        "promote": {"publish"},
    }
    uncached = {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")}
    assert uncached == {"publish", "promote"}
    for name, task in tasks.items():
        component = pipeline["components"][task["componentRef"]["name"]]
        for kind in ("artifacts", "parameters"):
            given = task.get("inputs", {}).get(kind, {})
            assert given.keys() == component.get("inputDefinitions", {}).get(kind, {}).keys(), name
        container = pipeline["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        used = set(re.findall(r"\['(\w+)'\]", str(container["args"])))
        known = {
            entry
            for side in ("inputDefinitions", "outputDefinitions")
            for kind in component.get(side, {}).values()
            for entry in kind
        }
        assert used == known, name


@pytest.mark.parametrize("sampler", ["random", "grid", "tpe", "gaussian-process", "cma-es"])
@pytest.mark.parametrize("workers", [1, 3])
def test_any_search_is_a_katib_experiment(sampler: Any, workers: int) -> None:
    search = Search("mnist_softmax", trials=8, parallel=2, sampler=sampler, steps=100)
    document = katib.experiment(search, SPACE, GOAL, image="trainers:latest", workers=workers, gpus=1)
    experiment = schemas.Experiment.model_validate(yaml.safe_load(as_yaml(document)))
    used = set(re.findall(r"\$\{trialParameters\.(\w+)\}", as_yaml(document)))
    assert (
        used == {parameter.name for parameter in experiment.spec.trial_template.trial_parameters} == {*SPACE.parameters}
    )
    (primary,) = re.findall(r"^ +- name: (\w+)\n +image: trainers:latest", as_yaml(document), re.MULTILINE)
    assert primary == experiment.spec.trial_template.primary_container_name


def test_katib_is_not_asked_for_what_it_cannot_do() -> None:
    for search, problem in (
        (Search("digits", trials=8, pruner="median"), "--pruner"),
        (Search("digits", trials=8, sampler="quasi-random"), "Katib's sobol knows no log scale"),
    ):
        with pytest.raises(TrainingError, match=problem):
            katib.experiment(search, SPACE, GOAL, image="trainers:latest")


def test_katib_finds_the_metric_in_what_the_command_prints() -> None:
    output = (
        "run runs/digits/20260101-000000\n"
        "━━━━━━━━━━━━━━━━━━━━ 30/30 steps loss 0.1  accuracy 0.5 0:00:10\n"
        "accuracy 0.9833\n"
        "accuracy_of_another 0.1\n"
        "published model_repo/digits/1\n"
    )
    found = [match for line in output.splitlines() for match in re.findall(katib.metrics_format("accuracy"), line)]
    assert found == [("accuracy", "0.9833")]
    for number in ("1", "-0.5", "1e-05", "2.5E+3", ".5"):
        assert re.findall(katib.metrics_format("loss"), f"loss {number}") == [("loss", number)]


@pytest.mark.parametrize("sampler", ["random", "grid", "tpe"])
@pytest.mark.parametrize("workers", [1, 4])
def test_any_search_is_a_cloud_job(sampler: Any, workers: int) -> None:
    search = Search("mnist_softmax", trials=8, parallel=2, sampler=sampler, pruner="median")
    old = cloud.training_input(search, SPACE, GOAL, image="trainers:latest", workers=workers, gpus=2)
    job = schemas.AIPlatformJob.model_validate(yaml.safe_load(as_yaml(old))).training_input
    assert (job.worker_count or "0") == str(workers - 1)
    new = cloud.vertex(search, SPACE, GOAL, image="trainers:latest", workers=workers, gpus=2)
    tuning = schemas.HyperparameterTuningJob.model_validate(yaml.safe_load(as_yaml(new)))
    assert sum(int(pool.replica_count) for pool in tuning.trial_job_spec.worker_pool_specs) == workers
    for pool in tuning.trial_job_spec.worker_pool_specs:
        assert pool.container_spec.args == job.args
    for problem in (Search("digits", trials=1, sampler="cma-es"), Search("digits", trials=1, pruner="hyperband")):
        with pytest.raises(TrainingError):
            cloud.vertex(problem, SPACE, GOAL, image="trainers:latest")


def test_numbers_that_are_text_stay_text_for_any_parser() -> None:
    text = as_yaml({"min": "3e-05", "seed": "0", "word": "uniform", "lines": "a\nb\n"})
    assert text == "min: '3e-05'\nseed: '0'\nword: uniform\nlines: |\n  a\n  b\n"
    assert yaml.safe_load(text) == {"min": "3e-05", "seed": "0", "word": "uniform", "lines": "a\nb\n"}


def test_switches_are_written_as_the_command_reads_them() -> None:
    search = Search("digits", trials=1, values={"norm": True, "batch": 3}, quick=True)
    command = containers.training(search, {"rate": 0.5})
    words = [word for option, word in pairwise(command) if option == "--set"]
    assert words == ["norm=true", "batch=3", "rate=0.5"]
    assert "--quick" in command
