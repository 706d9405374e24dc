"""A session of measurements, with a stand-in for the server that speaks REST only."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests.cases import Question, grpc_raw, rest_binary, rest_json, tfs_rest
from loadtests.measure import FLOOR_REST, Bench, Settings
from loadtests.processes import ProcessError

# The floor itself, made ready, with metadata; asked for JSON it gives an answer that is a little off.
STAND_IN = """
from loadtests.floor_rest import app as floor

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["method"] == "GET":
        body = b'{"platform":"PLATFORM"}'
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return

    async def send_altered(message):
        if "body" in message:
            message["body"] = message["body"].replace(b'"data":[0.', b'"data":[7.')
        await send(message)

    await floor(scope, receive, send_altered)
"""


def settings(**changes: Any) -> Settings:
    what: dict[str, Any] = {"rounds": 2, "duration_s": 1, "in_flight": (4,), "models": ("onnx",), "pin": False}
    return Settings(**(what | changes), floor_rest=FLOOR_REST)


def bench(files: Path, platform: str = "onnxruntime_onnx") -> Bench:
    (files / "stand_in.py").write_text(STAND_IN.replace("PLATFORM", platform))

    def command(repository: Path, http_port: int, _grpc_port: int) -> list[str]:
        argv = ["env", f"MODEL={repository}/mlp/1/model.onnx", sys.executable, "-m", "uvicorn"]
        return [*argv, "--app-dir", str(files), "stand_in:app", "--port", str(http_port), "--no-access-log"]

    return Bench(settings(), files, lambda _: None, command)


def test_what_answers_rightly_is_measured_and_the_rest_is_void(tmp_path: Path) -> None:
    session = bench(tmp_path)
    wrong, right, missing = session.run([rest_json, rest_binary, grpc_raw])
    assert wrong.failure is not None and "onnx: not the model's answer" in wrong.failure
    assert missing.failure is not None and "refused" in missing.failure
    assert wrong.turns == missing.turns == ()

    assert (right.case, right.in_flight, right.failure) == ("rest-binary", 4, None)
    assert len(right.turns) == 2
    for turn in right.turns:
        assert list(turn) == ["onnx", "floor"]
        for one in turn.values():
            assert one.requests > 0
            assert one.cpu_us > 0
    assert "Finished server process" in session.server_logs()["onnx"]


def test_a_model_served_by_another_runtime_is_an_error(tmp_path: Path) -> None:
    # As a server does that could not convert a SavedModel and falls back: the figures would be another model's.
    with pytest.raises(ProcessError, match="serves it as tensorflow_savedmodel, not as onnxruntime_onnx"):
        bench(tmp_path, "tensorflow_savedmodel").run([rest_binary])


def test_a_server_that_does_not_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    session = Bench(
        settings(), tmp_path, lambda _: None, lambda *_: [sys.executable, "-c", "raise SystemExit('no luck')"]
    )
    with pytest.raises(ProcessError, match="the server of the onnx model ended with exit code 1\nno luck"):
        session.run([rest_json])


def test_a_floor_that_does_not_speak_a_protocol_gets_the_same_row_in_one_that_it_does() -> None:
    inputs = {"x": np.array([[0.25, 0.5]], np.float32)}
    case = tfs_rest(Question("m", inputs, {"y": np.zeros((1, 2), np.float32)}))
    assert case.path == "/v1/models/m:predict" and case.body == b'{"instances":[[0.25,0.5]]}'
    assert case.floor is not None
    assert case.floor.path == "/v2/models/m/infer" and b'"data":[0.25,0.5]' in case.floor.body
    assert case.floor.expected is case.expected
