"""Versions come, go and break while clients ask: nobody notices but by the number of the version."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.core.artifact import publish
from tests import models
from tests.e2e.clients import Asker
from tests.e2e.conftest import Serve
from tests.e2e.server import Server, wait_for
from tests.e2e.traffic import traffic

QUICK = ("--settle-s", "0.3", "--poll-s", "1")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with version 1 of `m`."""
    copy_in(tmp_path / "repo", 1)
    return tmp_path / "repo"


def copy_in(repo: Path, version: int) -> None:
    """A plain copy, as `cp -r` or a file server would make it: the directory first, then the file."""
    models.save(models.scale(version), repo / f"m/{version}/model.onnx")


def publish_in(repo: Path, version: int) -> Path:
    """By the artifact contract: with a manifest, and in one rename."""
    path = publish(
        repo,
        "m",
        lambda directory: models.save(models.scale(version), directory / "model.onnx"),
        golden=None,
        signature={},
        metric=None,
        seed=None,
        libraries={},
        atol=1e-5,
        rtol=1e-5,
    )
    assert path.name == str(version)
    return path


def garbage(repo: Path) -> None:
    path = repo / "m/2"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"not a graph" * 1000)


def wrong_hash(repo: Path) -> None:
    """A good model whose manifest was made of another one; as always, in one rename."""
    elsewhere = repo.parent / "elsewhere"
    copy_in(elsewhere, 1)
    made = publish_in(elsewhere, 2)
    models.save(models.scale(3), made / "model.onnx")
    made.rename(repo / "m/2")


def cut_off(repo: Path) -> None:
    """The beginning of a good model."""
    path = repo / "m/2"
    path.mkdir()
    (path / "model.onnx").write_bytes(models.mlp().SerializeToString()[:5000])


def other_file(repo: Path) -> None:
    path = repo / "m/2"
    path.mkdir()
    (path / "weights.bin").write_bytes(b"weights")


def becomes(server: Server, version: int, state: str, text: str = "") -> Callable[[], bool]:
    def check() -> bool:
        found = server.state("m", version)
        return found[0] == state and text in found[1]

    return check


@pytest.mark.parametrize("bring", [copy_in, publish_in])
def test_new_version_takes_over_under_load(serve: Serve, repo: Path, bring: Callable[[Path, int], object]) -> None:
    server = serve(repo, *QUICK)
    with traffic(server, "m") as seen:
        seen.wait_for_more(200, "1")
        bring(repo, 2)
        seen.wait_for_more(200, "2")
        wait_for(lambda: ("m", 1) not in server.index(), "version 1 to be unloaded")
        assert server.state("m", 2) == ("READY", "")
        later = seen.answers["1"]
        seen.wait_for_more(200)
    assert seen.failed == []
    assert seen.wrong == []
    assert set(seen.answers) == {"1", "2"}
    assert seen.answers["1"] <= later + 16, "version 1 answered what came after it had left"
    assert server.get("/v2/models/m").json()["versions"] == ["2"]


def test_versions_in_quick_succession(serve: Serve, repo: Path) -> None:
    server = serve(repo, *QUICK)
    with traffic(server, "m") as seen:
        for version in (2, 3, 4, 5):
            publish_in(repo, version)
            seen.wait_for_more(50)
        seen.wait_for_more(50, "5")
        wait_for(lambda: list(server.index()) == [("m", 5)], "the others to be unloaded")
    assert (seen.failed, seen.wrong) == ([], [])


def test_all_versions_at_once(serve: Serve, repo: Path) -> None:
    """A policy that keeps every version: the newest answers by default, the others when they are named."""
    (repo / "m/model.yaml").write_text("versions: all\n")
    server = serve(repo, *QUICK)
    with traffic(server, "m") as seen:
        publish_in(repo, 2)
        seen.wait_for_more(50, "2")
    assert (seen.failed, seen.wrong) == ([], [])
    assert {key: e["state"] for key, e in server.index().items()} == {("m", 1): "READY", ("m", 2): "READY"}
    assert Asker(server, "grpc").infer("m", {"x": np.ones((1, 4), np.float32)}, version="1").version == "1"


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (garbage, "cannot load model.onnx"),
        (cut_off, "cannot load model.onnx"),
        (wrong_hash, "the files do not match the manifest: model.onnx: SHA-256 is"),
        (other_file, "no model in"),
    ],
)
def test_broken_version_changes_nothing_for_clients(
    serve: Serve, repo: Path, break_it: Callable[[Path], None], reason: str
) -> None:
    server = serve(repo, *QUICK)
    with traffic(server, "m") as seen:
        seen.wait_for_more(100)
        break_it(repo)
        wait_for(becomes(server, 2, "UNAVAILABLE", reason), "version 2 to fail")
        seen.wait_for_more(100)
        assert server.state("m", 1) == ("READY", "")
        assert server.get("/v2/health/ready").status_code == 200
        assert server.get("/v2/models/m/ready").status_code == 200
        assert server.get("/v2/models/m/versions/2/ready").status_code == 400
        # Put right, it takes over.
        shutil.rmtree(repo / "m/2")
        copy_in(repo, 2)
        seen.wait_for_more(100, "2")
        wait_for(lambda: list(server.index()) == [("m", 2)], "version 1 to be unloaded")
    assert server.state("m", 2) == ("READY", "")
    assert (seen.failed, seen.wrong) == ([], [])


def test_failed_version_is_forgotten_when_it_is_removed(serve: Serve, repo: Path) -> None:
    server = serve(repo, *QUICK)
    garbage(repo)
    wait_for(becomes(server, 2, "UNAVAILABLE", "cannot load"), "version 2 to fail")
    shutil.rmtree(repo / "m/2")
    wait_for(lambda: list(server.index()) == [("m", 1)], "version 2 to be forgotten")
    assert server.state("m", 1) == ("READY", "")


def test_failed_version_is_loaded_when_its_file_is_replaced(serve: Serve, repo: Path) -> None:
    server = serve(repo, *QUICK)
    garbage(repo)
    wait_for(becomes(server, 2, "UNAVAILABLE", "cannot load"), "version 2 to fail")
    models.save(models.scale(2), repo / "m/2/model.onnx")  # in place
    wait_for(lambda: list(server.index()) == [("m", 2)], "version 2 to take over")
    assert server.state("m", 2) == ("READY", "")


def test_client_can_see_why_a_load_failed(serve: Serve, repo: Path) -> None:
    server = serve(repo, *QUICK, "--mode", "explicit", "--load-model", "*")
    garbage(repo)
    answer = server.post("/v2/repository/models/m/load")
    assert answer.status_code == 400
    assert "load failed for model 'm': version 2 is at UNAVAILABLE state: " in answer.json()["error"]
    assert server.get("/v2/health/ready").status_code == 200


def test_file_of_the_serving_version_is_replaced_under_load(serve: Serve, repo: Path) -> None:
    """Same number, other content: the answers change, no request fails; and broken content is not taken."""
    models.save(models.slow(10, factor=1), repo / "m/1/model.onnx")
    server = serve(repo, *QUICK)
    with traffic(server, "m") as seen:
        seen.wait_for_more(50)
        models.save(models.scale(1), repo / "m/1/model.onnx")
        wait_for(lambda: server.metrics().sum("serving_model_load_seconds_count", model="m") == 2, "the second load")
        seen.wait_for_more(50)
        (repo / "m/1/model.onnx").write_bytes(b"garbage")
        wait_for(
            becomes(server, 1, "READY", "its files have changed, and the new ones failed: "), "the reason to be shown"
        )
        seen.wait_for_more(50)
    assert (seen.failed, seen.wrong) == ([], [])


def test_mistake_in_model_yaml_is_shown_with_the_nearest_key(serve: Serve, repo: Path) -> None:
    server = serve(repo, *QUICK)
    settings = repo / "m/model.yaml"
    with traffic(server, "m") as seen:
        settings.write_text("max_batchsize: 8\n")
        hint = "unknown key 'max_batchsize'; did you mean 'max_batch_size'?"
        wait_for(becomes(server, 1, "READY", hint), "the mistake to be shown")
        settings.write_text("max_batch_size: 8\n")
        wait_for(lambda: server.state("m", 1) == ("READY", ""), "the mistake to be forgotten")
        loaded = {"model": "m", "outcome": "ok"}
        wait_for(
            lambda: server.metrics().sum("serving_model_load_seconds_count", **loaded) == 2, "the settings to count"
        )
        seen.wait_for_more(50)
    assert (seen.failed, seen.wrong) == ([], [])
    answer = server.post(
        "/v2/models/m/infer",
        content=json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [9, 4], "data": [0] * 36}]}),
    )
    assert "inference request batch-size must be <= 8 for 'm'" in answer.json()["error"]


def test_model_with_a_mistake_in_model_yaml_is_not_served(serve: Serve, repo: Path) -> None:
    models.save(models.scale(1), repo / "n/1/model.onnx")
    (repo / "n/model.yaml").write_text("instancs: 2\n")
    server = serve(repo, *QUICK)
    state, reason = server.state("n", 1)
    assert state == "UNAVAILABLE"
    assert "unknown key 'instancs'; did you mean 'instances'?" in reason
    assert server.get("/v2/models/m/ready").status_code == 200
    assert server.get("/v2/health/ready").status_code == 400  # a wanted model that cannot be served


def test_new_model_appears_and_a_removed_one_goes(serve: Serve, repo: Path) -> None:
    server = serve(repo, *QUICK)
    with traffic(server, "m") as seen:
        models.save(models.scale(1), repo / "other/1/model.onnx")
        wait_for(lambda: server.state("other", 1)[0] == "READY", "the new model")
        shutil.rmtree(repo / "other")
        wait_for(lambda: list(server.index()) == [("m", 1)], "the removed model to go")
        seen.wait_for_more(50)
    assert (seen.failed, seen.wrong) == ([], [])
    assert server.get("/v2/models/other").status_code == 404


def test_slow_copy_is_not_read_too_early(serve: Serve, repo: Path) -> None:
    """A file that grows for longer than the settle time, with pauses below it."""
    server = serve(repo, "--settle-s", "2", "--poll-s", "1")
    data = models.mlp((4, 300, 4)).SerializeToString()
    path = repo / "m/2/model.onnx"
    path.parent.mkdir()
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), len(data) // 6):
            file.write(data[start : start + len(data) // 6])
            wait_for(becomes(server, 2, "UNAVAILABLE", "its files are still being written"), "the copy to be seen")
    wait_for(becomes(server, 2, "READY"), "version 2 to be loaded")
    assert server.metrics().find("serving_model_load_seconds_count", outcome="failed") == {}
