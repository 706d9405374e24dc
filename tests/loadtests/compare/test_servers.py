"""Who is compared: their requests and how answers to them are read, their commands, their environments."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from loadtests import mlp
from loadtests.cases import Answer, Question, rest_json, verify
from loadtests.compare import environments, triton
from loadtests.compare.__main__ import arguments, settings_of
from loadtests.compare.environments import PEERS, make, requirements, versions
from loadtests.compare.servers import SERVERS, Setup, bare_json, interpreter, plain_json, raw
from loadtests.compare.session import Settings
from loadtests.oip import AnswerError
from loadtests.processes import ProcessError

ROW = mlp.row()
EXPECTED = np.linspace(0, 0.2, 10, dtype=np.float32)[np.newaxis]
QUESTION = Question(mlp.NAME, {mlp.INPUT: ROW}, {mlp.OUTPUT: EXPECTED})


def setup(files: Path) -> Setup:
    model = files / "model.onnx"
    model.write_bytes(mlp.build().SerializeToString())
    return Setup(model, 16, files, (1, 2, 3))


def test_a_plain_request_holds_the_row_and_its_answer_is_read() -> None:
    case = plain_json(QUESTION)
    assert np.array_equal(np.array(json.loads(case.body)["x"], np.float32), ROW)
    verify(case, Answer({}, json.dumps({"y": EXPECTED.tolist()}).encode()))
    verify(bare_json(QUESTION), Answer({}, json.dumps(EXPECTED.tolist()).encode()))


def test_a_raw_request_is_the_row_and_its_answer_is_read() -> None:
    case = raw(QUESTION)
    assert np.array_equal(np.frombuffer(case.body, np.float32)[np.newaxis], ROW)
    verify(case, Answer({}, EXPECTED.tobytes()))


def test_an_answer_whose_outputs_have_null_for_parameters_is_read() -> None:
    output = {"name": "y", "datatype": "FP32", "shape": [1, 10], "data": EXPECTED[0].tolist(), "parameters": None}
    verify(rest_json(QUESTION), Answer({}, json.dumps({"outputs": [output]}).encode()))


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"y": 1}', json.dumps({"y": [[0.5] * 10]}).encode(), b"abc"])
def test_an_answer_that_is_not_the_models_is_told(body: bytes) -> None:
    for build in (plain_json, bare_json, raw):
        with pytest.raises(AnswerError):
            verify(build(QUESTION), Answer({}, body))


def test_every_peer_has_an_app_and_pinned_requirements() -> None:
    names = {contestant.environment for contestant in SERVERS.values()} - {None}
    assert names == {path.stem for path in PEERS.glob("*.txt")}
    assert names == {path.stem.removesuffix("_app") for path in PEERS.glob("*_app.py")}
    for name in filter(None, names):
        wanted = [line for line in requirements(name).splitlines() if not line.startswith("#")]
        assert all("==" in line for line in wanted)
        assert sum(line.startswith("onnxruntime==") for line in wanted) == 1


def test_an_environment_that_is_as_asked_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    made = tmp_path / ".venv-compare-mosec"
    made.mkdir()
    (made / ".stamp").write_text(requirements("mosec"))
    assert make("mosec") == made / "bin" / "python"
    assert [path.name for path in made.iterdir()] == [".stamp"]


def test_what_cannot_be_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments.sys, "executable", "/bin/false")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ProcessError, match="/bin/false -m venv"):
        make("mosec")
    assert not (tmp_path / ".venv-compare-mosec" / ".stamp").exists()


def test_versions_are_those_that_an_interpreter_finds() -> None:
    found = versions(Path(sys.executable))
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["numpy"] == np.__version__


def test_this_server_runs_on_this_python_with_the_size_asked_for(tmp_path: Path) -> None:
    assert interpreter("serving") == Path(sys.executable)
    command = SERVERS["serving"].command(setup(tmp_path))
    assert command.argv[-4:] == ["--http-port", "1", "--grpc-port", "2"]
    spec = (tmp_path / "models" / mlp.NAME / "model.yaml").read_text()
    assert spec == "max_batch_size: 16\nthreads: 1\ninstances: 1\n"


@pytest.mark.parametrize("name", [name for name in SERVERS if name not in ("serving", "triton")])
def test_a_peer_is_told_the_model_the_size_and_its_port(name: str, tmp_path: Path) -> None:
    given = setup(tmp_path)
    command = SERVERS[name].command(given)
    told = " ".join([*command.argv, *(path.read_text() for path in tmp_path.glob("*.json"))])
    assert command.environment["MODEL"] == str(given.model)
    assert command.environment["MAX_BATCH_SIZE"] == "16"
    assert " 1" in told
    assert f".venv-compare-{SERVERS[name].environment}/bin/" in command.argv[0]


def test_triton_is_told_what_the_model_takes_and_gives(tmp_path: Path) -> None:
    config = triton.config_text(setup(tmp_path).model, "mlp", 32, threads=1, delay_us=100)
    assert 'input [ { name: "x", data_type: TYPE_FP32, dims: [784] } ]' in config
    assert 'output [ { name: "y", data_type: TYPE_FP32, dims: [10] } ]' in config
    assert "max_batch_size: 32" in config
    assert "dynamic_batching { max_queue_delay_microseconds: 100 }" in config
    assert f'{{ key: "model", value: {{ string_value: "{tmp_path / "model.onnx"}" }} }}' in config


def test_triton_takes_no_model_without_an_open_batch_axis(tmp_path: Path) -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.INT64, [4, 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph), tmp_path / "fixed.onnx")
    with pytest.raises(ValueError, match="tensor 'x' has no open axis 0"):
        triton.config_text(tmp_path / "fixed.onnx", "m", 8, 1, 0)


def test_the_defaults_measure_everything() -> None:
    options = arguments().parse_args([])
    assert options.only == list(SERVERS)
    assert options.forms == ["json", "binary", "grpc"]
    assert settings_of(options) == Settings(rounds=5, seconds=4, in_flight=32)


def test_arguments_are_read() -> None:
    options = arguments().parse_args(
        ["--only", "mosec,serving", "--forms", "grpc", "--rounds", "3", "--seconds", "2", "--full", "--pin"]
    )
    assert (options.only, options.forms) == (["mosec", "serving"], ["grpc"])
    assert settings_of(options) == Settings(rounds=3, seconds=2, full=True, pin=True)
    quick = settings_of(arguments().parse_args(["--quick"]))
    assert (quick.rounds, quick.seconds) == (1, 1)


@pytest.mark.parametrize("argument", [["--only", "tritn"], ["--forms", "soap"], ["--rounds", "0"]])
def test_a_wrong_argument_is_told(argument: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments().parse_args(argument)
    assert argument[0] in capsys.readouterr().err
