"""The benchmark's command line, its model, and its REST floor, which must do the job whose cost is compared."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from loadtests import command, mlp
from loadtests.bench import DEFAULT_CASES, arguments
from loadtests.cases import CASES, Case, Question, check, send
from loadtests.command import environment
from loadtests.kinds import PLATFORMS
from loadtests.measure import FLOOR_REST, answer_of, serving
from loadtests.oip import AnswerError
from loadtests.processes import Server, free_ports

ROOT = Path(__file__).parents[2]


def test_the_defaults_measure_everything() -> None:
    options = arguments().parse_args([])
    assert (options.rounds, options.duration, options.in_flight) == (5, 5, [1, 32])
    assert options.only == ["rest-json", "rest-binary", "grpc", "tfs-rest", "tfs-grpc"]
    assert options.models == ["onnx"]
    assert options.floor_rest == FLOOR_REST


def test_lists_are_read() -> None:
    argv = ["--only", "grpc, rest-json,grpc", "--in-flight", "4,8,64", "--models", "accelerated,onnx"]
    options = arguments().parse_args(argv)
    assert options.only == ["grpc", "rest-json"]
    assert options.models == ["accelerated", "onnx"]
    assert options.in_flight == [4, 8, 64]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (["--only", "rest-jsn"], "no case 'rest-jsn'"),
        (["--models", "onnx,jax"], "no model 'jax'"),
        (["--in-flight", "12"], "multiple of 8"),
        (["--in-flight", "0"], "1 to 8"),
        (["--in-flight", "many"], "invalid"),
        (["--rounds", "0"], "at least 1"),
    ],
)
def test_a_wrong_argument_is_told(argument: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments().parse_args(argument)
    assert message in capsys.readouterr().err


def test_the_environment_names_versions_and_machine() -> None:
    found = environment({"floor_rest": "floor_rest.py"})
    assert found["packages"]["onnxruntime"] == onnxruntime.__version__
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert found["cpu"]
    assert found["settings"] == {"floor_rest": "floor_rest.py"}


def test_what_is_not_installed_is_left_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PACKAGES", ("onnxruntime", "no-such-package-anywhere"))
    assert environment({})["packages"] == {"onnxruntime": onnxruntime.__version__}


def test_the_model_is_the_same_every_time_and_the_row_realistic() -> None:
    assert mlp.build().SerializeToString() == mlp.build().SerializeToString()
    row = mlp.row()
    assert row.shape == (1, 784) and row.dtype == np.float32 and len(row.tobytes()) == 3136
    grey = row.astype(np.float64) * 255
    np.testing.assert_allclose(grey, grey.round(), atol=0.02)
    assert len(np.unique(row)) > 200


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlp.write_repository(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def question(model: Path) -> Question:
    inputs = {mlp.INPUT: mlp.row()}
    return Question(mlp.NAME, inputs, answer_of(model, inputs))


def answers(case: Case, port: int) -> bool:
    try:
        send(case, port)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", ["rest-json", "rest-binary"])
def test_the_rest_floor_answers_what_the_model_does(name: str, model: Path, question: Question, tmp_path: Path) -> None:
    case = CASES[name](question)
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", str(FLOOR_REST.parent), "floor_rest:app", "--port", str(port)]
    with Server("floor", argv, tmp_path / "log", {"MODEL": str(model)}, None) as server:
        server.wait_until(lambda: answers(case, port))
        check(case, port)
        with pytest.raises(AnswerError, match="'y' differs"):
            check(replace(case, expected={"y": case.expected["y"] + 0.01}), port)


@pytest.mark.parametrize("name", ["grpc", "tfs-grpc"])
def test_the_grpc_floor_gives_back_its_file(name: str, question: Question, tmp_path: Path) -> None:
    case = CASES[name](question)
    (port,) = free_ports(1)
    (tmp_path / "answer").write_bytes(b"\0constant")
    argv = [sys.executable, "-m", "loadtests.floor_grpc", str(port), str(tmp_path / "answer")]
    with Server("floor", argv, tmp_path / "log", dict(os.environ), None) as server:
        server.wait_until(lambda: answers(case, port))
        assert send(case, port).body == b"\0constant"


def test_the_server_answers_every_case(model: Path, question: Question, tmp_path: Path) -> None:
    with serving("the server", model.parents[2], tmp_path / "log", False) as running:
        for build in CASES.values():
            case = build(question)
            check(case, running.ports[case.transport])


@pytest.mark.slow
def test_the_whole_benchmark_runs(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    argv = [
        sys.executable,
        "-m",
        "loadtests.bench",
        "--rounds",
        "1",
        "--duration",
        "1",
        "--models",
        ",".join(PLATFORMS),
    ]
    argv += ["--in-flight", "8", "--json", str(result)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(result.read_text())["rows"]
    assert [(row["case"], row["in_flight"]) for row in rows] == [(case, 8) for case in DEFAULT_CASES]
    for row in rows:
        assert row["failure"] is None
        assert list(row["summaries"]) == list(PLATFORMS)
        for summary in row["summaries"].values():
            assert summary["requests_per_s"] > 0 and summary["ratio"]["median"] > 0
        assert row["case"] in done.stdout
