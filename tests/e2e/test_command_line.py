"""The commands, as a user types them: what they print, and the one line with which they fail."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from serving import __version__
from tests import models
from tests.e2e.conftest import Serve
from tests.e2e.server import LIMIT_S, Server, command, error_line, wait_for


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return models.save(models.scale(3), tmp_path / "triple.onnx")


def image_classifier() -> onnx.ModelProto:
    """The mean of each channel of 224 x 224 images: an input too large to print."""
    return models.model(
        [helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0)],
        [models.tensor("image", "FP32", ("batch", 224, 224, 3))],
        [models.tensor("means", "FP32", ("batch", 3))],
        {"axes": np.array([1, 2], np.int64)},
    )


# serving start, refused


def start(*args: object, env: dict[str, str] | None = None) -> str:
    """The line with which `serving start` fails, behind log lines of what it has tried. The ports are free ones unless
    `args` or `env` say otherwise."""
    free = {"SERVING_HTTP_PORT": "0", "SERVING_GRPC_PORT": "0"}
    result = command("start", *args, env=free | (env or {}))
    result.stderr = "".join(line for line in result.stderr.splitlines(True) if not _LOGGED.match(line))
    return error_line(result)


_LOGGED = re.compile(r"\d\d:\d\d:\d\d (INFO|WARNING) ")


def test_no_such_path(tmp_path: Path) -> None:
    assert start(tmp_path / "nowhere") == f"error: no such file or directory: '{tmp_path}/nowhere'"


def test_no_path() -> None:
    assert start().startswith("error: nothing to serve: name a repository, a model directory or a model file")


def test_empty_directory(tmp_path: Path) -> None:
    assert start(tmp_path).startswith(f"error: nothing to serve: '{tmp_path}' holds no model")


def test_directory_with_models_that_have_no_version(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert start(tmp_path).startswith(f"error: nothing to serve: '{tmp_path}' holds no model")


def test_file_that_is_no_model_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"1")
    assert start(path) == f"error: '{path}' is not a model file: its name does not end in .onnx"


def test_corrupt_model_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a graph" * 100)
    assert "cannot load broken.onnx" in start(path)


def test_empty_model_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.touch()
    assert "broken.onnx" in start(path)


def test_link_to_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "link.onnx"
    path.symlink_to(tmp_path / "nowhere")
    assert start(path) == f"error: no such file or directory: '{path}'"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_unreadable_model_file(file: Path) -> None:
    file.chmod(0)
    assert "triple.onnx" in start(file)


def test_one_name_in_two_paths(tmp_path: Path, file: Path) -> None:
    models.save(models.scale(2), tmp_path / "repo/triple/1/model.onnx")
    assert start(file, tmp_path / "repo") == f"error: model 'triple' is in both '{file}' and '{tmp_path}/repo'"


def test_one_path_twice(file: Path) -> None:
    assert "model 'triple' is in both" in start(file, file)


def test_name_for_several_paths(tmp_path: Path, file: Path) -> None:
    other = models.save(models.scale(2), tmp_path / "double.onnx")
    assert "--model-name names one model" in start(file, other, "--model-name", "x")


def test_name_for_a_repository(tmp_path: Path) -> None:
    models.save(models.scale(2), tmp_path / "repo/m/1/model.onnx")
    assert "is a repository of models, so --model-name cannot name it" in start(tmp_path / "repo", "--model-name", "x")


@pytest.mark.parametrize("which", ["HTTP", "gRPC"])
def test_port_is_taken(file: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = start(file, f"--{which.lower()}-port", port)
    assert line.startswith(f"error: {which}: cannot listen on 127.0.0.1:{port}: ")
    assert "choose another port" in line


def test_both_ports_are_one(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    assert f"gRPC: cannot listen on 127.0.0.1:{port}" in start(file, "--http-port", port, "--grpc-port", port)


def test_ports_of_a_running_server(serve: Serve, file: Path) -> None:
    server = serve(file)
    assert f":{server.http_port}: " in start(file, "--http-port", server.http_port)
    assert f":{server.grpc_port}: " in start(file, "--grpc-port", server.grpc_port)
    assert server.get("/v2/health/ready").status_code == 200


def test_host_that_is_not_this_machine(file: Path) -> None:
    assert "cannot listen on 192.0.2.1:" in start(file, "--host", "192.0.2.1")


def test_unknown_key_in_the_file_of_settings(tmp_path: Path, file: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("http_prt: 9000\n")
    line = start(file, "--config", settings)
    assert line == f"error: {settings}: unknown key 'http_prt'; did you mean 'http_port'?"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http_port: much", "'http_port': "),
        ("http_port: 99999", "'http_port': "),
        ("- a list", "expected keys and values, got list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_wrong_file_of_settings(tmp_path: Path, file: Path, text: str, says: str) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(text)
    line = start(file, "--config", settings)
    assert str(settings) in line and says in line


def test_file_of_settings_that_is_not_there(tmp_path: Path, file: Path) -> None:
    assert start(file, "--config", tmp_path / "no.yaml") == f"error: {tmp_path}/no.yaml: No such file or directory"


@pytest.mark.parametrize(
    ("name", "value"), [("SERVING_HTTP_PORT", "much"), ("SERVING_LOG_FORMAT", "xml"), ("SERVING_MODE", "perhaps")]
)
def test_wrong_value_in_the_environment(file: Path, name: str, value: str) -> None:
    line = start(file, env={name: value})
    assert line.startswith("error: environment")
    assert name.removeprefix("SERVING_").lower() in line and value in line


def test_wrong_value_of_a_flag(file: Path) -> None:
    assert start(file, "--drain-limit-s", "-1").startswith("error: command line: 'drain_limit_s': ")


def test_unknown_flag_is_named(file: Path) -> None:
    result = command("start", file, "--htp-port", 1)
    assert result.returncode == 2
    assert "--htp-port" in result.stderr and "Traceback" not in result.stderr


# serving start, served


def names(server: Server) -> list[str]:
    return [entry["name"] for entry in server.post("/v2/repository/index").json()]


def test_one_file(serve: Serve, file: Path) -> None:
    server = serve(file)
    assert names(server) == ["triple"]
    assert re.search(r"^triple version 1, batches of up to 64 rows$", server.printed, re.MULTILINE)
    assert "inputs   x FP32 [-1, 4]" in server.printed
    assert "outputs  y FP32 [-1, 4]" in server.printed
    assert f"documentation {server.url}/docs" in server.printed
    assert f"metrics {server.url}/metrics" in server.printed


def test_one_file_by_another_name(serve: Serve, file: Path) -> None:
    assert names(serve(file, "--model-name", "mine")) == ["mine"]


def test_directory_of_a_model(serve: Serve, tmp_path: Path) -> None:
    models.save(models.scale(1), tmp_path / "mine/1/model.onnx")
    models.save(models.scale(2), tmp_path / "mine/2/model.onnx")
    server = serve(tmp_path / "mine")
    assert server.state("mine", 2) == ("READY", "")
    assert server.state("mine", 1)[0] != "READY"


def test_directory_of_a_version(serve: Serve, tmp_path: Path) -> None:
    models.save(models.scale(1), tmp_path / "mine/model.onnx")
    assert names(serve(tmp_path / "mine")) == ["mine"]


def test_several_paths(serve: Serve, tmp_path: Path, file: Path) -> None:
    models.save(models.scale(1), tmp_path / "repo/a/1/model.onnx")
    models.save(models.scale(1), tmp_path / "repo/b/1/model.onnx")
    models.save(models.scale(1), tmp_path / "c/7/model.onnx")
    server = serve(tmp_path / "repo", tmp_path / "c", file)
    assert list(server.index()) == [("a", 1), ("b", 1), ("c", 7), ("triple", 1)]
    assert re.findall(r"^(\S+) version", server.printed, re.MULTILINE) == ["a", "b", "c", "triple"]


def test_broken_models_are_listed_beside_good_ones(serve: Serve, tmp_path: Path) -> None:
    models.save(models.scale(1), tmp_path / "good/1/model.onnx")
    (tmp_path / "bad/1").mkdir(parents=True)
    (tmp_path / "bad/1/model.onnx").write_bytes(b"garbage")
    server = serve(tmp_path)
    wait_for(
        lambda: "failed bad version 1: quarantined: ONNX Runtime cannot load model.onnx" in server.printed,
        "the failure",
    )
    assert server.get("/v2/models/good/ready").status_code == 200


def test_settings_from_flags_then_environment_then_file(serve: Serve, tmp_path: Path, file: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"paths: ['{file}']\nserver_name: of the file\nmodel_name: of the file\n")
    server = serve("--config", settings, env={"SERVING_SERVER_NAME": "of the environment"})
    assert server.get("/v2").json()["name"] == "of the environment"
    assert names(server) == ["of the file"]
    server = serve("--config", settings, "--server-name", "of the flag", env={"SERVING_SERVER_NAME": "other"})
    assert server.get("/v2").json()["name"] == "of the flag"


def test_log_lines_as_json(serve: Serve, file: Path) -> None:
    server = serve(file, "--log-format", "json")
    server.signal()
    assert server.wait() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert any(line["message"].startswith("triple/1 ready: in ") for line in lines)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


def test_version_and_help() -> None:
    assert command("--version").stdout.strip() == __version__
    for args in (("--help",), ("start", "-h"), ("predict", "-h"), ("models", "-h"), ("check", "-h")):
        result = command(*args)
        assert result.returncode == 0 and "Usage" in result.stdout


# The printed requests


@pytest.fixture(scope="module")
def printing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("printing")
    repo = root / "repo"
    models.save(models.scale(2), repo / "small/1/model.onnx")
    models.save(models.add_sub(), repo / "two_inputs/1/model.onnx")
    models.save(image_classifier(), repo / "large/1/model.onnx")
    models.save(models.identity("BYTES", ("batch", "n")), repo / "text/1/model.onnx")
    models.save(models.identity("BYTES", ("batch", 2000)), repo / "much_text/1/model.onnx")
    models.save(models.identity("FP16"), repo / "half/1/model.onnx")
    models.save(models.identity("BF16"), repo / "brain/1/model.onnx")
    models.save(models.identity("BOOL", (2, 2)), repo / "fixed/1/model.onnx")
    models.save(models.identity("FP32", ()), repo / "scalar/1/model.onnx")
    models.save(models.lookup(), repo / "lookup/1/model.onnx")
    server = Server(root / "logs", repo).wait_ready()
    wait_for(lambda: len(curl_lines(server)) == 10, "all models to be printed")
    yield server
    server.end()
    assert "Traceback" not in server.log


def curl_lines(server: Server) -> dict[str, str]:
    """The printed requests by model; each is a line of its own."""
    found = re.findall(r"^  (.*curl .*/v2/models/([^/ ]+)/infer.*)\n", server.printed, re.MULTILINE)
    return {model: line for line, model in found}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    "model",
    ["small", "two_inputs", "large", "text", "much_text", "half", "brain", "fixed", "scalar", "lookup"],
)
def test_printed_request_works_as_it_stands(printing: Server, model: str) -> None:
    line = curl_lines(printing)[model]
    assert len(line) < 20_000, "nobody copies that"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, timeout=LIMIT_S, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    answer, _ = json.JSONDecoder().raw_decode(result.stdout.decode("latin-1"))
    assert answer["model_name"] == model
    assert answer["outputs"]


def test_examples_of_the_documentation_work(printing: Server) -> None:
    document = printing.get("/openapi.json").json()
    body = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]
    examples = body["content"]["application/json"]["examples"]
    assert set(examples) == {"small", "two_inputs", "text", "fixed", "scalar", "lookup"}
    for model, example in examples.items():
        answer = printing.post(f"/v2/models/{model}/infer", json=example["value"])
        assert answer.status_code == 200, answer.text
    assert printing.get("/docs").status_code == 200


# serving predict and serving models


@pytest.fixture(params=["http", "grpc"])
def url(request: pytest.FixtureRequest, printing: Server) -> str:
    return f"grpc://{printing.grpc}" if request.param == "grpc" else printing.url


def predicted(*args: object) -> dict[str, object]:
    result = command("predict", *args)
    assert (result.returncode, result.stderr) == (0, "")
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_predict_from_json(tmp_path: Path, url: str) -> None:
    path = tmp_path / "input.json"
    want = {"model": "small", "version": "1", "outputs": {"y": [[2.0, 4.0, 6.0, 8.5]]}}
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4.25]}
    for value in ([[1, 2, 3, 4.25]], [1, 2, 3, 4.25], {"x": [[1, 2, 3, 4.25]]}, {"inputs": [entry]}):
        path.write_text(json.dumps(value))
        assert predicted("small", "--input", path, "--url", url) == want


def test_predict_several_inputs_from_npz(tmp_path: Path, url: str) -> None:
    path = tmp_path / "input.npz"
    np.savez(path, INPUT0=np.full((2, 16), 5), INPUT1=np.full((2, 16), 3))
    assert predicted("two_inputs", "-i", path, "--url", url)["outputs"] == {
        "OUTPUT0": [[8] * 16] * 2,
        "OUTPUT1": [[2] * 16] * 2,
    }


def test_predict_from_npy(tmp_path: Path, url: str) -> None:
    path = tmp_path / "input.npy"
    np.save(path, np.ones((1, 224, 224, 3)))
    outputs = predicted("large", "-i", path, "--url", url, "--model-version", "1")["outputs"]
    assert outputs == {"means": [[1.0, 1.0, 1.0]]}


def test_predict_text(tmp_path: Path, url: str) -> None:
    path = tmp_path / "input.json"
    path.write_text('[["grüße", "\\u2603"]]')
    assert predicted("text", "-i", path, "--url", url)["outputs"] == {"y": [["grüße", "\N{SNOWMAN}"]]}


@pytest.mark.parametrize("model", ["small", "large", "text", "half", "brain", "fixed", "lookup"])
def test_predict_generated_values(url: str, model: str) -> None:
    assert predicted(model, "--random", "--url", url)["model"] == model


def test_predict_several_generated_rows(url: str) -> None:
    outputs = predicted("small", "--random", "--rows", 3, "--url", url)["outputs"]
    assert isinstance(outputs, dict) and len(outputs["y"]) == 3


@pytest.mark.parametrize(
    ("model", "text", "says"),
    [
        ("small", "[[1, 2, 3]]", "unexpected shape for input 'x' for model 'small'. Expected [-1,4], got [1,3]"),
        ("small", '{"z": [1]}', "expected inputs x, got z"),
        ("small", '[["a", "b", "c", "d"]]', "input 'x' is no FP32 tensor"),
        ("small", "[[1, 2], [3]]", "input 'x' is no FP32 tensor"),
        ("small", "[[1, 2", "failed to parse"),
        ("lookup", "[[1.5]]", "input 'x' is no INT64 tensor"),
        ("two_inputs", "[1]", "holds one array, but the model takes INPUT0, INPUT1"),
        ("nosuch", "[1]", "Request for unknown model: 'nosuch' is not found"),
    ],
)
def test_predict_refuses_wrong_input(tmp_path: Path, url: str, model: str, text: str, says: str) -> None:
    path = tmp_path / "input.json"
    path.write_text(text)
    assert says in error_line(command("predict", model, "-i", path, "--url", url))


@pytest.mark.parametrize("value", [0.5, 2**40])
def test_predict_changes_no_value_to_make_it_fit(tmp_path: Path, printing: Server, value: float) -> None:
    path = tmp_path / "input.npz"
    np.savez(path, INPUT0=np.full((1, 16), value), INPUT1=np.full((1, 16), 3))
    assert "INPUT0" in error_line(command("predict", "two_inputs", "-i", path, "--url", printing.url))


def test_predict_needs_one_source_of_values(tmp_path: Path) -> None:
    assert "give one of --input FILE and --random" in error_line(command("predict", "small"))
    path = tmp_path / "no.json"
    assert "give one of --input FILE and --random" in error_line(command("predict", "m", "--random", "-i", path))


@pytest.mark.parametrize("suffix", ["json", "npy", "npz"])
def test_predict_names_the_file_that_is_not_there(tmp_path: Path, printing: Server, suffix: str) -> None:
    path = tmp_path / f"no.{suffix}"
    line = error_line(command("predict", "small", "-i", path, "--url", printing.url))
    assert f"{path}: No such file or directory" in line


def test_predict_never_unpickles(tmp_path: Path, url: str) -> None:
    path = tmp_path / "input.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert str(path) in error_line(command("predict", "small", "-i", path, "--url", url))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("args", [("predict", "m", "--random"), ("models",)])
def test_no_server_there(scheme: str, args: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    line = error_line(command(*args, "--url", f"{scheme}://127.0.0.1:{port}"))
    assert "no server answers at" in line and str(port) in line


def test_models_lists_all(url: str) -> None:
    result = command("models", "--url", url)
    assert (result.returncode, result.stderr) == (0, "")
    rows = [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines()]
    assert rows[0] == ["model", "version", "state", "inputs", "outputs"]
    assert ["small", "1", "READY", "x FP32 [-1, 4]", "y FP32 [-1, 4]"] in rows
    assert [row[0] for row in rows[1:]] == sorted(
        ["small", "two_inputs", "large", "text", "much_text", "half", "brain", "fixed", "scalar", "lookup"]
    )


def test_url_from_the_environment(printing: Server) -> None:
    result = command("models", env={"SERVING_URL": printing.url})
    assert result.returncode == 0 and "small" in result.stdout


# serving check


def test_check_of_a_good_repository(tmp_path: Path) -> None:
    models.save(models.scale(2), tmp_path / "a/1/model.onnx")
    models.save(models.centred(), tmp_path / "b/1/model.onnx")
    result = command("check", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "a version 1: onnxruntime_onnx on CPUExecutionProvider" in result.stdout
    assert "batching batches of up to 64 rows" in result.stdout
    assert "batching one request at a time (rows run one by one give other answers than together: " in result.stdout
    assert result.stdout.rstrip().endswith("no problems")


def test_check_finds_everything_that_is_wrong(tmp_path: Path) -> None:
    models.save(models.scale(2), tmp_path / "good/1/model.onnx")
    (tmp_path / "broken/1").mkdir(parents=True)
    (tmp_path / "broken/1/model.onnx").write_bytes(b"garbage")
    models.save(models.scale(2), tmp_path / "mistaken/1/model.onnx")
    (tmp_path / "mistaken/model.yaml").write_text("max_batchsize: 3\n")
    (tmp_path / "fileless/1").mkdir(parents=True)
    (tmp_path / "fileless/1/notes.txt").write_text("no model")
    result = command("check", tmp_path)
    assert result.returncode == 1
    assert "good version 1" in result.stdout
    assert "broken version 1: ONNX Runtime cannot load model.onnx" in result.stdout
    assert "unknown key 'max_batchsize'; did you mean 'max_batch_size'?" in result.stdout
    assert "fileless version 1: no model in '1' (looked for model.onnx, " in result.stdout
    assert result.stdout.rstrip().endswith("problems: 3")
    assert "Traceback" not in result.stderr


def test_check_of_one_file(file: Path) -> None:
    assert command("check", file).returncode == 0
    file.write_bytes(b"garbage")
    assert command("check", file).returncode == 1


def test_check_of_nothing(tmp_path: Path) -> None:
    assert "nothing to serve" in error_line(command("check", tmp_path))
    assert "no such file or directory" in error_line(command("check", tmp_path / "no"))


def test_check_refuses_operators_that_the_runtime_lacks(tmp_path: Path) -> None:
    node = helper.make_node("Nonsense", ["x"], ["y"], domain="nobody.knows")
    graph = helper.make_graph(
        [node], "g", [models.tensor("x", "FP32", ("b", 1))], [models.tensor("y", "FP32", ("b", 1))]
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("nobody.knows", 1)]
    path = models.save(helper.make_model(graph, ir_version=10, opset_imports=opsets), tmp_path / "strange.onnx")
    result = command("check", path)
    assert result.returncode == 1
    assert "Nonsense" in result.stdout


def test_check_names_what_the_runtime_cannot_pass(tmp_path: Path) -> None:
    path = models.save(models.every_dtype(["BF16", "BYTES"]), tmp_path / "both.onnx")
    result = command("check", path)
    assert result.returncode == 1
    assert "it takes BYTES and has BF16 tensors" in result.stdout
