"""A session of measurements, with a stand-in for the server that speaks REST only."""

import sys
from pathlib import Path

import pytest

from loadtests.cases import grpc_raw, rest_binary, rest_json
from loadtests.measure import FLOOR_REST, Bench, Settings
from loadtests.processes import ProcessError

# The floor itself, made ready; asked for JSON it gives an answer that is a little off.
STAND_IN = """
from loadtests.floor_rest import app as floor

async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/v2/health/ready":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return

    async def send_altered(message):
        if "body" in message:
            message["body"] = message["body"].replace(b'"data":[0.', b'"data":[7.')
        await send(message)

    await floor(scope, receive, send_altered)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    def command(repository: Path, http_port: int, _grpc_port: int) -> list[str]:
        argv = ["env", f"MODEL={repository}/mlp/1/model.onnx", sys.executable, "-m", "uvicorn"]
        return [*argv, "--app-dir", str(tmp_path), "stand_in:app", "--port", str(http_port), "--no-access-log"]

    settings = Settings(rounds=2, duration_s=1, in_flight=(4,), pin=False, floor_rest=FLOOR_REST)
    return Bench(settings, tmp_path, lambda _: None, command)


def test_what_answers_rightly_is_measured_and_the_rest_is_void(bench: Bench) -> None:
    wrong, right, missing = bench.run([rest_json, rest_binary, grpc_raw])
    assert wrong.failure is not None and "not the model's answer" in wrong.failure
    assert missing.failure is not None and "refused" in missing.failure
    assert wrong.pairs == missing.pairs == ()

    assert (right.case, right.in_flight, right.failure) == ("rest-binary", 4, None)
    assert len(right.pairs) == 2
    for pair in right.pairs:
        for one in (pair.server, pair.floor):
            assert one.requests > 0
            assert one.cpu_us > 0
    assert "Finished server process" in bench.server_log()


def test_a_server_that_does_not_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    settings = Settings(rounds=1, duration_s=1, in_flight=(1,), pin=False, floor_rest=FLOOR_REST)
    bench = Bench(settings, tmp_path, lambda _: None, lambda *_: [sys.executable, "-c", "raise SystemExit('no luck')"])
    with pytest.raises(ProcessError, match="the server ended with exit code 1\nno luck"):
        bench.run([rest_json])
