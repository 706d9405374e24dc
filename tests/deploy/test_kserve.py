"""deploy/kserve: what KServe would start is started here, on models laid out as its storage initializer leaves them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import savedmodels
from tests.deploy import schema
from tests.deploy.manifests import DEPLOY, ROOT, read, settings
from tests.e2e.conftest import Serve
from tests.e2e.server import LIMIT_S, Server

RUNTIME = read(DEPLOY / "kserve/runtime.yaml")[0]
SERVICES = {path.stem: read(path)[0] for path in sorted((DEPLOY / "kserve").glob("*.yaml")) if path.stem != "runtime"}
SERVICES.pop("kustomization")
CONTAINER = RUNTIME["spec"]["containers"][0]


def _arguments(name: str, models: Path) -> list[str]:
    """The container's, as KServe fills them in, with the place of the models and the address of a test."""
    given = [argument.replace("{{.Name}}", name) for argument in CONTAINER["args"]]
    assert "{{" not in "".join(given)
    assert given[:2] == ["start", "/mnt/models"]
    return ["--host=127.0.0.1" if one == "--host=0.0.0.0" else one for one in [str(models), *given[2:]]]


def _answers(server: Server, model: str, width: int) -> dict[str, list[float]]:
    """By KServe's own client, for one row of ones."""
    asked = (server.url, server.grpc, model, "x", str(width))
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.kserve_client", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def _over_grpc_v1(api: Any, server: Server, model: str, row: np.ndarray) -> np.ndarray:
    client = api.TfsClient(server)
    try:
        outputs, _ = client.predict(api.spec(model), {"x": row})
    finally:
        client.close()
    (only,) = outputs.values()
    return np.asarray(only).ravel()


@pytest.mark.parametrize("below", ["", pytest.param("1", marks=pytest.mark.slow)], ids=["files", "versions"])
def test_onnx(serve: Serve, tmp_path: Path, below: str) -> None:
    target = tmp_path / "models" / below
    target.mkdir(parents=True)
    shutil.copy(ROOT / "model_repo/digits/1/model.onnx", target)
    server = serve(*_arguments("digits", tmp_path / "models"))
    answers = _answers(server, "digits", 64)
    assert list(answers) == ["v1", "v2", "grpc-v2"]
    for numbers in answers.values():
        assert len(numbers) == 10
        np.testing.assert_allclose(numbers, answers["v2"], rtol=1e-5)
    assert sum(answers["v2"]) == pytest.approx(1, abs=1e-3)
    server.signal()
    assert server.wait() == 0


@pytest.mark.slow
def test_savedmodel(serve: Serve, api: Any, tmp_path: Path) -> None:
    savedmodels.write("half_plus_two", tmp_path / "models")
    server = serve(*_arguments("half-plus-two", tmp_path / "models"))
    assert _answers(server, "half-plus-two", 1) == {"v1": [2.5], "v2": [2.5], "grpc-v2": [2.5]}
    row = np.ones((1, 1), np.float32)
    assert _over_grpc_v1(api, server, "half-plus-two", row).tolist() == [2.5]


def test_types() -> None:
    assert schema.problems([RUNTIME, *SERVICES.values()]) == []


def test_runtime() -> None:
    assert RUNTIME["spec"]["protocolVersions"] == ["v1", "v2", "grpc-v1", "grpc-v2"]
    chosen = settings([argument.replace("{{.Name}}", "m") for argument in CONTAINER["args"]])
    assert (chosen.paths, chosen.model_name) == (("/mnt/models",), "m")
    assert (chosen.http_port, chosen.grpc_port) == (8080, 9000)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["httpGet"]["port"] == chosen.http_port


@pytest.mark.parametrize("name", SERVICES)
def test_services_suit_the_runtime(name: str) -> None:
    model = SERVICES[name]["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    assert model["modelFormat"] in RUNTIME["spec"]["supportedModelFormats"]
    if model["protocolVersion"].startswith("grpc"):
        assert [(port["name"], port["containerPort"]) for port in model["ports"]] == [("h2c", 9000)]
