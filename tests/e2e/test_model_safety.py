"""Models that are no mere data are refused by a server and by `serving check`, unless an operator allows them."""

import json
from pathlib import Path

from tests import models
from tests.backends.safety.test_onnx_files import external, for_training
from tests.e2e.conftest import Serve
from tests.e2e.server import command

REASON = "the model is not just data: the values of tensor 'w' are in '../../secret', outside of the model's directory"


def test_a_model_that_names_a_file_of_others(serve: Serve, tmp_path: Path) -> None:
    """For training alone, so that ONNX Runtime would serve it."""
    repo = tmp_path / "repo"
    models.save(models.identity(), repo / "fine/1/model.onnx")
    proto = models.identity()
    for_training(proto, external("../../secret"))
    models.save(proto, repo / "curious/1/model.onnx")

    server = serve(repo)
    state, reason = server.state("curious", 1)
    assert state == "UNAVAILABLE" and server.state("fine", 1)[0] == "READY"
    assert reason.startswith(f"quarantined: {REASON}") and reason.endswith("with --allow-unsafe-ops")
    server.end()

    checked = command("check", repo, "--json")
    report = {model["name"]: model["versions"][0]["problems"] for model in json.loads(checked.stdout)["models"]}
    (problem,) = report["curious"]
    assert checked.returncode == 1 and not report["fine"]
    assert problem["what"].startswith(REASON) and problem["where"].endswith("curious/1/model.onnx")
    assert command("check", repo, "--allow-unsafe-ops").returncode == 0

    server = serve(repo, "--allow-unsafe-ops")
    assert server.state("curious", 1)[0] == "READY"
