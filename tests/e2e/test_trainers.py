"""Every trainer from its data to answers: trained for a moment, published, served, and asked in every protocol."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.artifact import Golden, Manifest, read_golden, read_manifest, verify
from serving.core.compare import difference
from serving.core.types import Tensors
from tests.e2e.clients import Asker
from tests.e2e.server import Server
from tests.trainers.child import done, trains
from trainers.models import TRAINERS

pytestmark = trains

MODELS = [name + form for name in TRAINERS for form in ("", "_tf")]

# One process for all, and a few steps of each: how well a model learns is not looked at here.
TRAIN_ALL = """
import sys
from trainers.command import main
from trainers.models import TRAINERS

repo, runs = sys.argv[1:]
for name in TRAINERS:
    sys.argv = ["trainers", name, "--quick", "--steps", "10", "--repo", repo, "--log-dir", runs]
    if main() != 0:
        sys.exit(f"{name} failed")
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with all that the trainers make."""
    directory = tmp_path_factory.mktemp("trainers")
    done("-c", TRAIN_ALL, directory / "repo", directory / "runs")
    return directory / "repo"


@pytest.fixture(scope="module")
def server(repo: Path) -> Iterator[Server]:
    server = Server(repo.parent / "logs", repo, "--no-trial-load").wait_ready()
    yield server
    server.end()
    assert "Traceback" not in server.log


def sample_of(repo: Path, model: str) -> tuple[Manifest, Golden]:
    version = repo / model / "1"
    manifest, golden = read_manifest(version), read_golden(version)
    assert manifest is not None and golden is not None
    assert verify(version, manifest) == []
    return manifest, golden


def check(answers: Tensors, repo: Path, model: str) -> None:
    """The answers are those of training, as closely as the manifest says."""
    manifest, golden = sample_of(repo, model)
    assert manifest.golden is not None
    assert answers.keys() == golden.outputs.keys()
    answers = {name: array.astype(golden.outputs[name].dtype, copy=False) for name, array in answers.items()}
    assert difference(answers, golden.outputs, atol=manifest.golden.atol, rtol=manifest.golden.rtol) is None


@pytest.mark.parametrize("model", MODELS)
def test_open_inference_protocol(server: Server, repo: Path, model: str) -> None:
    _, golden = sample_of(repo, model)
    for form in ("json", "binary", "grpc"):
        asker = Asker(server, form)
        check(asker.infer(model, golden.inputs).outputs, repo, model)
        asker.close()


@pytest.mark.parametrize("model", MODELS)
def test_tensorflow_serving_rest(server: Server, repo: Path, model: str) -> None:
    _, golden = sample_of(repo, model)
    inputs = {name: array.tolist() for name, array in golden.inputs.items()}
    answer = server.post(f"/v1/models/{model}:predict", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    outputs = answer.json()["outputs"]
    if len(golden.outputs) == 1:  # named only where there are several
        outputs = dict.fromkeys(golden.outputs, outputs)
    check({name: np.array(values) for name, values in outputs.items()}, repo, model)


@pytest.mark.parametrize("model", MODELS)
def test_tensorflow_serving_grpc(server: Server, repo: Path, model: str, api: Any) -> None:
    _, golden = sample_of(repo, model)
    client = api.TfsClient(server)
    answers, _ = client.predict(api.spec(model), golden.inputs)
    client.close()
    check(answers, repo, model)


@pytest.mark.parametrize("model", MODELS)
def test_the_manifest_says_what_it_was_made_of(repo: Path, model: str) -> None:
    manifest, golden = sample_of(repo, model)
    assert manifest.seed == 0
    assert manifest.training is not None and manifest.training["data"]
    assert all(len(array) >= 3 for array in golden.inputs.values())
    assert {"keras", "numpy", "tensorflow"} <= manifest.libraries.keys()
    if "generated" in manifest.training["data"]:
        assert manifest.metric is None  # nothing is claimed
    else:
        assert manifest.metric
