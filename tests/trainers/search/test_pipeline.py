"""The compiled pipeline, step by step as its containers would do it, up to a server that serves what it found."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Serve
from tests.trainers.child import ROOT, trains
from trainers.search.containers import SCRATCH


@pytest.mark.slow
@trains
def test_every_step_does_its_part(serve: Serve, tmp_path: Path) -> None:
    server = serve(ROOT / "model_repo", "--allow-model-upload")
    text = (ROOT / "deploy/kubeflow/pipeline-digits.yaml").read_text().replace(SCRATCH, str(tmp_path / "scratch"))
    pipeline = yaml.safe_load(text)
    parameters = {"bound": 0.9, "trials": 1, "parallel": 1, "server": server.url, "space": SPACE}
    outputs: list[str] = []
    done: set[str] = set()
    tasks = pipeline["root"]["dag"]["tasks"]
    while len(done) < len(tasks):
        ready = [name for name, task in tasks.items() if name not in done and done >= {*task.get("dependentTasks", [])}]
        for name in ready:
            outputs.append(run(pipeline, name, parameters, tmp_path))
            done.add(name)
    assert "promoted" in outputs[-1]
    assert 0.9 <= float((tmp_path / "outputs/metric").read_text()) <= 1
    assert server.get("/v2/models/digits").json()["versions"] == ["2"]

    with pytest.raises(subprocess.CalledProcessError):
        run(pipeline, "evaluate", parameters | {"bound": 1.1}, tmp_path)


SPACE = '{"parameters":{"learning_rate":{"type":"real","min":0.0009,"max":0.0011}}}'


def run(pipeline: dict[str, Any], name: str, parameters: dict[str, Any], directory: Path) -> str:
    """What a step prints, with its placeholders filled in as Kubeflow does."""
    executor = pipeline["components"][f"comp-{name}"]["executorLabel"]
    container = pipeline["deploymentSpec"]["executors"][executor]["container"]

    def filled(word: str) -> str:
        word = re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", lambda found: str(parameters[found[1]]), word)
        word = re.sub(r"\{\{\$\.\w+\.artifacts\['(\w+)'\]\.path\}\}", rf"{directory}/artifacts/\1", word)
        return re.sub(r"\{\{\$\.outputs\.parameters\['(\w+)'\]\.output_file\}\}", rf"{directory}/outputs/\1", word)

    command = [filled(word) for word in (*container["command"], *container["args"])]
    assert "{{" not in "".join(command)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    return result.stdout
