"""Idle models: unloaded, and loaded again by whatever request comes first, over every protocol by its own client."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models, savedmodels
from tests.e2e.clients import FORMS, Asker, RefusedError
from tests.e2e.conftest import Serve
from tests.e2e.server import Server, wait_for

X = np.ones((1, 4), np.float32)
IDLE = "idle: loads on the next request"
BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}

# So short that models sleep while other tests run; each test has a model of its own, which nobody else wakes.
SLEEPS = ("--idle-unload-s", 0.5, "--no-trial-load")
NAMES = (*FORMS, "raw", "generate", "metadata", "config", "stream", "tfs_rest", "tfs_metadata", "tfs_grpc", "crowd")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("idle")
    for name in NAMES:
        models.save(models.scale(3), root / "repo" / name / "1/model.onnx")
    savedmodels.write("half_plus_two", root / "repo/default/123")
    made = Server(root / "logs", root / "repo", *SLEEPS)
    try:
        yield made.wait_ready()
    finally:
        made.end()
    assert "Traceback" not in made.log


@pytest.fixture(scope="module")
def tfs(server: Server, api: Any) -> Iterator[Any]:
    made = api.TfsClient(server)
    yield made
    made.close()


def asleep(server: Server, name: str, version: int = 1) -> None:
    """Returns when the model sleeps. To look does not wake it."""
    wait_for(lambda: server.state(name, version) == ("UNAVAILABLE", IDLE), f"{name} to sleep")


def woken(server: Server, name: str) -> float:
    """How often."""
    return server.metrics().sum("serving_events_total", model=name, kind="awake")


@pytest.mark.parametrize("form", FORMS)
def test_by_inference(server: Server, form: str) -> None:
    asleep(server, form)
    asker = Asker(server, form)
    before = woken(server, form)
    assert asker.infer(form, {"x": X}).outputs["y"].tolist() == [[3] * 4]
    assert woken(server, form) == before + 1
    asker.close()


def test_by_inference_on_a_stream(server: Server) -> None:
    asleep(server, "stream")
    asker = Asker(server, "grpc")
    answers: list[Any] = []
    asker.client.start_stream(lambda result, error: answers.append(error or result.as_numpy("y").tolist()))
    asker.client.async_stream_infer("stream", asker.inputs({"x": X}))
    wait_for(lambda: answers, "the answer")
    asker.client.stop_stream()
    asker.close()
    assert answers == [[[3] * 4]]


def test_by_inference_without_any_json(server: Server) -> None:
    asleep(server, "raw")
    answer = server.post("/v2/models/raw/infer", content=X.tobytes(), headers={"Inference-Header-Content-Length": "0"})
    assert answer.status_code == 200, answer.text


def test_by_generate(server: Server) -> None:
    asleep(server, "generate")
    answer = server.post("/v2/models/generate/generate", json={"x": [1, 2, 3, 4]})
    assert answer.json()["y"] == [3, 6, 9, 12]


def test_by_a_question_for_its_inputs(server: Server) -> None:
    asleep(server, "metadata")
    assert server.get("/v2/models/metadata").json()["inputs"][0]["name"] == "x"
    asleep(server, "config")
    asker = Asker(server, "grpc")
    assert asker.ask("get_model_config", "config")["config"]["max_batch_size"] == 64
    asleep(server, "metadata")
    assert asker.ask("get_model_metadata", "metadata")["versions"] == ["1"]
    asleep(server, "config")
    assert server.get("/v2/models/config/config").json()["max_batch_size"] == 64
    asker.close()


def test_by_rest_of_tensorflow_serving(server: Server) -> None:
    asleep(server, "tfs_rest")
    answer = server.post("/v1/models/tfs_rest:predict", json={"instances": [[1, 2, 3, 4]]})
    assert answer.json() == {"predictions": [[3.0, 6.0, 9.0, 12.0]]}
    asleep(server, "tfs_metadata")
    answer = server.get("/v1/models/tfs_metadata/metadata")
    assert answer.json()["model_spec"]["version"] == "1"


def test_by_grpc_of_tensorflow_serving(server: Server, tfs: Any, api: Any) -> None:
    asleep(server, "tfs_grpc")
    outputs, spec = tfs.predict(api.spec("tfs_grpc"), {"x": X})
    assert outputs["y"].tolist() == [[3] * 4] and spec.version.value == 1
    asleep(server, "tfs_metadata")
    assert list(tfs.signatures(api.spec("tfs_metadata"), "signature_def")[0]) == ["serving_default"]


def test_by_examples(server: Server, tfs: Any, api: Any) -> None:
    given = api.examples({"x": [2.0]})
    asks: list[Callable[[], Any]] = [
        lambda: tfs.classify(api.spec("default", "classify_x_to_y"), given),
        lambda: tfs.regress(api.spec("default", "regress_x_to_y"), given),
        lambda: tfs.multi_inference([(api.spec("default", "regress_x_to_y"), api.REGRESS)], given),
    ]
    for ask in asks:
        asleep(server, "default", 123)
        before = woken(server, "default")
        ask()
        assert woken(server, "default") == before + 1


def test_fifty_requests_at_once_wake_it_once(server: Server) -> None:
    asleep(server, "crowd")
    before = woken(server, "crowd")
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: server.post("/v2/models/crowd/infer", json=BODY), range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert woken(server, "crowd") == before + 1


def test_one_that_sleeps_is_ready(server: Server, tfs: Any, api: Any) -> None:
    asleep(server, "crowd")
    assert server.get("/v2/health/ready").status_code == 200
    assert server.get("/v2/models/crowd/ready").status_code == 200
    assert server.get("/v2/models/crowd/versions/1/ready").status_code == 200
    assert server.get("/v2/models/crowd/versions/2/ready").status_code == 400
    asker = Asker(server, "grpc")
    assert asker.ask("is_model_ready", "crowd") and asker.ask("is_server_ready")
    asker.close()
    assert tfs.status(api.spec("crowd")) == [(1, "AVAILABLE", 0, "")]
    status = server.get("/serving/models/crowd").json()
    assert status["asleep"] is True
    assert server.state("crowd", 1) == ("UNAVAILABLE", IDLE)  # nothing of this has woken it


@pytest.mark.parametrize("mode", ["watched", "explicit", "fixed"])
def test_in_every_mode_and_not_what_was_unloaded_by_hand(serve: Serve, tmp_path: Path, mode: str) -> None:
    models.save(models.scale(3), tmp_path / "repo/m/1/model.onnx")
    more = ("--load-model", "m") if mode == "explicit" else ()
    server = serve(tmp_path / "repo", *SLEEPS, "--mode", mode, *more)
    asleep(server, "m")
    asker = Asker(server, "binary")
    assert asker.infer("m", {"x": X}).outputs["y"].tolist() == [[3] * 4]
    if mode != "fixed":
        asleep(server, "m")
        asker.ask("unload_model", "m")
        with pytest.raises(RefusedError):
            asker.infer("m", {"x": X})
        assert server.state("m", 1) == ("UNAVAILABLE", "unloaded")
        asker.ask("load_model", "m")
        assert asker.infer("m", {"x": X}).outputs["y"].tolist() == [[3] * 4]
    asker.close()


def test_a_deadline_counts_while_it_wakes(serve: Serve, tmp_path: Path) -> None:
    models.save(models.mlp((2048, 2048, 2048)), tmp_path / "repo/m/1/model.onnx")  # some time to load
    server = serve(tmp_path / "repo", *SLEEPS)
    asleep(server, "m")
    body = {"inputs": [{"name": "x", "shape": [1, 2048], "datatype": "FP32", "data": [0] * 2048}]}
    answer = server.post("/v2/models/m/infer", json={**body, "parameters": {"timeout": 1}})
    assert (answer.status_code, answer.json()) == (503, {"error": "Request timeout expired"})
    answer = server.post("/v2/models/m/generate", json={"x": [0] * 2048, "timeout": 1})
    assert (answer.status_code, answer.json()) == (503, {"error": "Request timeout expired"})
    assert server.post("/v2/models/m/infer", json=body).status_code == 200
