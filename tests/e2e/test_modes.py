"""The modes from the command line, over a restart; and a root file system on which nothing can be written."""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests import models
from tests.e2e.conftest import Serve
from tests.e2e.server import Server, command, error_line, wait_for

PORTS = ("--http-port", 0, "--grpc-port", 0)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the models m and n."""
    for name in "mn":
        models.save(models.scale(1), tmp_path / "repo" / name / "1/model.onnx")
    return tmp_path / "repo"


def states(server: Server) -> dict[str, str]:
    return {f"{model}/{version}": entry["state"] for (model, version), entry in server.index().items()}


def load(server: Server, model: str, what: str = "load") -> int:
    return server.post(f"/v2/repository/models/{model}/{what}").status_code


def answer(server: Server, model: str) -> list[float]:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    outputs: list[float] = server.post(f"/v2/models/{model}/infer", json=body).json()["outputs"][0]["data"]
    return outputs


def test_explicit_mode_begins_with_nothing_and_goes_on_with_what_was_asked_for(
    serve: Serve, repo: Path, tmp_path: Path
) -> None:
    flags = (repo, "--mode", "explicit", "--state-dir", tmp_path / "state")
    server = serve(*flags)
    assert states(server) == {"m/1": "UNAVAILABLE", "n/1": "UNAVAILABLE"}
    assert server.get("/v2/health/ready").status_code == 200
    assert server.get("/v2/models/m/ready").status_code == 400
    assert load(server, "m") == 200
    assert states(server) == {"m/1": "READY", "n/1": "UNAVAILABLE"}
    server.signal(signal.SIGKILL)
    server.wait()
    assert states(serve(*flags)) == {"m/1": "READY", "n/1": "UNAVAILABLE"}


def test_explicit_mode_with_models_for_the_start(serve: Serve, repo: Path) -> None:
    server = serve(repo, "--mode", "explicit", "--load-model", "n")
    assert states(server) == {"m/1": "UNAVAILABLE", "n/1": "READY"}


def test_explicit_mode_takes_an_empty_repository(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    server = serve(tmp_path / "repo", "--mode", "explicit")
    assert server.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--mode", "explicit", "--load-model", "nn"), "error: there is no model 'nn'; did you mean 'n'?"),
        (
            ("--load-model", "m"),
            "error: --load-model is for explicit mode, and this is watched mode; add --mode explicit",
        ),
    ],
)
def test_mistakes(repo: Path, flags: tuple[str, ...], told: str) -> None:
    assert error_line(command("start", repo, *flags, *PORTS)) == told


def test_fixed_mode(serve: Serve, repo: Path) -> None:
    server = serve(repo, "--mode", "fixed")
    assert states(server) == {"m/1": "READY", "n/1": "READY"}
    for what in ("load", "unload"):
        refused = server.post(f"/v2/repository/models/m/{what}")
        assert refused.status_code == 403
        assert "this server was started in fixed mode" in refused.json()["error"]
    shutil.rmtree(repo / "n")
    assert answer(server, "n") == [1, 2, 3, 4]


def test_all_models_unloaded_is_a_state_to_come_back_to(serve: Serve, repo: Path, tmp_path: Path) -> None:
    flags = (repo, "--state-dir", tmp_path / "state")
    server = serve(*flags)
    for model in "mn":
        assert load(server, model, "unload") == 200
    server.end()
    server = serve(*flags)
    assert states(server) == {"m/1": "UNAVAILABLE", "n/1": "UNAVAILABLE"}
    assert load(server, "m") == 200


@pytest.fixture
def read_only_root(tmp_path: Path) -> tuple[str, ...]:
    """What a server has to run under so that it can write nowhere but into the directory `state`."""
    state = tmp_path / "state"
    state.mkdir()
    script = f"mount --bind '{state}' '{state}' && mount -o remount,bind,ro / && exec \"$@\""
    under = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    probe = "import tempfile; tempfile.gettempdir()"
    if subprocess.run([*under, "python3", "-c", probe], capture_output=True, check=False).returncode != 1:
        pytest.skip("no namespace can be made here in which nothing can be written")
    return under


def test_only_the_state_directory_can_be_written(
    serve: Serve, repo: Path, tmp_path: Path, read_only_root: tuple[str, ...]
) -> None:
    state = tmp_path / "state"
    left = state / "tmp/left by an earlier server"
    left.mkdir(parents=True)
    (repo / "n/model.yaml").write_text("{max_batch_size: 50000, max_queue_rows: 50000, warmup: false}")
    server = serve(repo, "--state-dir", state, "--allow-model-upload", under=read_only_root)
    assert not left.exists()
    assert answer(server, "m") == [1, 2, 3, 4]
    models.save(models.scale(2), repo / "m/2/model.onnx")
    wait_for(lambda: answer(server, "m") == [2, 4, 6, 8], "version 2")
    large = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [50_000, 4], "data": [1.0] * 200_000}]}
    outputs = server.post("/v2/models/n/infer", json=large).json()  # which a helper process reads
    assert sum(outputs["outputs"][0]["data"]) == 200_000
    assert load(server, "n", "unload") == 200
    assert server.log.count("WARNING") == server.log.count("ERROR") == 0


def test_nowhere_to_write_at_all(repo: Path, tmp_path: Path, read_only_root: tuple[str, ...]) -> None:
    server = Server(tmp_path / "logs", repo, under=read_only_root)
    assert server.wait() != 0
    assert server.log == "error: no directory for temporary files can be written; name one with --state-dir\n"
