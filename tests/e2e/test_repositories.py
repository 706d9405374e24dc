"""Repositories of other servers, served as they are: Triton's `config.pbtxt`, TensorFlow Serving's base paths and
files, and several of any kind at once. Asked by the official clients."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from tests import models, savedmodels, triton_repository
from tests.e2e.clients import Asker, RefusedError
from tests.e2e.conftest import Serve
from tests.e2e.server import Server, command, wait_for
from tests.triton_repository import DENSENET_LABELS, NOT_SERVED

X = np.ones((1, 4), np.float32)
LOCAL = {"SERVING_HOST": "127.0.0.1"}


# Triton


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("triton")
    server = Server(root / "logs", triton_repository.write(root / "repo"), "--no-trial-load")
    try:
        yield server.wait_ready()
    finally:
        server.end()
    assert "Traceback" not in server.log


@pytest.fixture(scope="module", params=["binary", "grpc"])
def client(triton: Server, request: pytest.FixtureRequest) -> Iterator[Asker]:
    made = Asker(triton, request.param)
    yield made
    made.close()


def ready(triton: Server) -> dict[str, str]:
    """Of each version: empty, or why it is not ready."""
    index = triton.post("/v2/repository/index").json()
    return {
        f"{entry['name']}/{entry['version']}": "" if entry["state"] == "READY" else entry["reason"] for entry in index
    }


def test_all_is_served_that_can_be(triton: Server) -> None:
    found = ready(triton)
    assert {name for name, why in found.items() if not why} == {
        *(f"{name}/1" for name in triton_repository.MODELS if name not in (*NOT_SERVED, "tuned")),
        "tuned/1",
        "tuned/3",
    }
    why = {name: found[f"{name}/1"].partition("config.pbtxt")[2] for name in NOT_SERVED}
    assert why == {
        "python_model": ":2: backend 'python' is not supported; there are onnxruntime, tensorflow, identity",
        "ensemble_model": ":6: 'ensemble_scheduling' is not supported: ensembles are not served",
        "sequence_model": ":4: 'sequence_batching' is not supported: stateful models are not served",
    }


@pytest.mark.parametrize(
    ("model", "dtype"), [("simple", np.int32), ("simple_int8", np.int8), ("simple_string", object)]
)
def test_the_first_examples(client: Asker, model: str, dtype: Any) -> None:
    first, second = np.arange(16).reshape(1, 16), np.ones((1, 16), int)
    expected = {"OUTPUT0": first + second, "OUTPUT1": first - second}
    as_text = np.vectorize(lambda n: str(n).encode(), otypes=[object])
    given = {"INPUT0": first, "INPUT1": second}
    if dtype is object:
        given, expected = ({k: as_text(v) for k, v in each.items()} for each in (given, expected))
    answer = client.infer(model, {name: array.astype(dtype) for name, array in given.items()})
    assert answer.names == ["OUTPUT0", "OUTPUT1"]
    for name, array in expected.items():
        assert answer.outputs[name].tolist() == array.tolist()
    with pytest.raises(RefusedError, match="batch-size must be <= 8"):
        client.infer(model, {name: np.repeat(array.astype(dtype), 9, axis=0) for name, array in given.items()})


def test_identity_without_an_artifact(client: Asker) -> None:
    given = np.empty((2, 3), object)
    given[:] = [[b"a", b"", b"\x00\xff"], [b"d", b"e", b"f"]]
    answer = client.infer("simple_identity", {"INPUT0": given})
    assert answer.outputs["OUTPUT0"].tolist() == given.tolist()


def test_a_picture_is_classified(client: Asker) -> None:
    """What Triton's own image client looks at: the batch size, the order of the axes, the labels."""
    config = client.ask("get_model_config", "densenet_onnx")
    config = config.get("config", config)
    assert config["max_batch_size"] == 1
    (given,), (output,) = config["input"], config["output"]
    assert (given["format"], [int(n) for n in given["dims"]]) == ("FORMAT_NCHW", [3, 224, 224])
    assert output["label_filename"] == "densenet_labels.txt"
    metadata = client.ask("get_model_metadata", "densenet_onnx")
    assert [int(n) for n in metadata["inputs"][0]["shape"]] == [-1, 3, 224, 224]
    assert [int(n) for n in metadata["outputs"][0]["shape"]] == [-1, 1000]
    picture = np.zeros((1, 3, 224, 224), np.float32)
    assert client.infer("densenet_onnx", {"data_0": picture}).shapes == {"fc6_1": [1, 1000]}
    answer = client.infer("densenet_onnx", {"data_0": picture}, outputs=["fc6_1"], classes=2)
    ((best, second),) = answer.outputs["fc6_1"].tolist()
    assert best.decode().endswith(f":{DENSENET_LABELS.index('VULTURE')}:VULTURE")
    assert second.decode().endswith(":999:CLASS 999")
    with pytest.raises(RefusedError, match="batch-size must be <= 1"):
        client.infer("densenet_onnx", {"data_0": np.zeros((2, 3, 224, 224), np.float32)})


def test_tensors_have_the_shape_that_clients_know(client: Asker) -> None:
    answer = client.infer("densenet_unbatched", {"data_0": np.zeros((3, 224, 224), np.float32)})
    assert answer.shapes == {"fc6_1": [1000]}
    with pytest.raises(RefusedError, match=r"Expected \[3,224,224\], got \[1,3,224,224\]"):
        client.infer("densenet_unbatched", {"data_0": np.zeros((1, 3, 224, 224), np.float32)})


def test_a_savedmodel_with_labels(client: Asker) -> None:
    x = np.zeros((3, 784), np.float32)
    answer = client.infer("digits_savedmodel", {"x": x}, outputs=["output_0"], classes=1)
    assert answer.outputs["output_0"].shape == (3, 1)
    assert all(b":digit " in row[0] for row in answer.outputs["output_0"].tolist())


def test_versions_and_the_file_of_another_name(client: Asker) -> None:
    answers = {version: client.infer("tuned", {"x": X}, version=version).outputs["y"][0, 0] for version in ("1", "3")}
    assert answers == {"1": 1, "3": 3}
    assert client.infer("tuned", {"x": X}).outputs["y"][0, 0] == 3
    with pytest.raises(RefusedError, match="version 2 is not found"):
        client.infer("tuned", {"x": X}, version="2")


def test_settings_are_told_as_they_were_written(client: Asker) -> None:
    config = client.ask("get_model_config", "tuned")
    config = config.get("config", config)
    assert config["max_batch_size"] == 16
    assert config["default_model_filename"] == "net.onnx"
    assert [int(n) for n in config["version_policy"]["specific"]["versions"]] == [1, 3]
    assert config["instance_group"][0]["count"] == 2
    assert int(config["dynamic_batching"]["max_queue_delay_microseconds"]) == 100
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 512
    assert config["parameters"]["threads"]["string_value"] == "2"
    assert [(sample["name"], sample["batch_size"], sample["count"]) for sample in config["model_warmup"]] == [
        ("zeros and random values", 2, 1),
        ("a row of a file", 4, 3),
        ("zeros", 1, 1),
    ]


def test_what_is_told_loads_the_same_again(triton: Server) -> None:
    """As clients do that change one thing: they send the whole config back."""
    for name in ("tuned", "densenet_onnx", "simple_identity"):
        before = triton.get(f"/v2/models/{name}/config").json()
        sent = {"parameters": {"config": json.dumps(before | {"instance_group": [{"count": 3}]})}}
        triton.post(f"/v2/repository/models/{name}/load", json=sent).raise_for_status()
        after = triton.get(f"/v2/models/{name}/config").json()
        assert after["instance_group"][0].pop("count") == 3
        before["instance_group"][0].pop("count")
        assert after == before
        triton.post(f"/v2/repository/models/{name}/load").raise_for_status()


def test_outputs_that_the_config_leaves_out_are_not_given(client: Asker) -> None:
    given = {"INPUT0": np.ones((1, 16), np.int32), "INPUT1": np.ones((1, 16), np.int32)}
    assert client.infer("one_of_two", given).names == ["OUTPUT1"]
    with pytest.raises(RefusedError, match="unexpected inference output 'OUTPUT0'"):
        client.infer("one_of_two", given, outputs=["OUTPUT0"])


def test_what_is_left_out_is_completed(client: Asker) -> None:
    assert client.infer("completed", {"x": np.ones((10, 4), np.float32)}).outputs["y"].tolist() == [[5.0] * 4] * 10


def test_what_is_not_done_is_told_once_and_in_the_status(triton: Server) -> None:
    wait_for(lambda: triton.log.count("unknown field 'quantum_group'"), "the warning")
    triton.post("/v2/repository/models/newer/load").raise_for_status()
    assert triton.log.count("unknown field 'quantum_group'") == 1
    told = triton.get("/serving/models/newer").json()["warnings"]
    assert [text.rpartition("config.pbtxt: ")[2] for text in told] == [
        "line 6: unknown field 'quantum_group'",
        "asks for what is not done here: response_cache.enable",
    ]
    assert "execution_mode" in triton.get("/serving/models/tuned").json()["warnings"][0]


CONTRADICTIONS = {
    "dims": ("FP32 dims: [ 4 ]", "FP32 dims: [ 5 ]", "'x' is declared as [-1, 5], but the model has it as [-1, 4]"),
    "type": ("TYPE_FP32 dims", "TYPE_INT8 dims", "'x' is declared as INT8, but the model has it as FP32"),
    "tensor": ('{ name: "x"', '{ name: "z"', "'z' is not among those of the model, which are x"),
    "name": ('name: "newer"', 'name: "older"', "it is of the model 'older'"),
    "number": ("max_batch_size: 8", "max_batch_size: eight", "Couldn't parse integer: eight"),
}


def test_check_names_what_contradicts_the_model(tmp_path: Path) -> None:
    """With file and field; and what is not done."""
    repo = triton_repository.write(tmp_path, "newer", "python_model")
    for name, (was, now, _) in CONTRADICTIONS.items():
        shutil.copytree(repo / "newer", repo / name)
        file = repo / name / "config.pbtxt"
        text = file.read_text()
        assert was in text
        file.write_text(text.replace('name: "newer"', f'name: "{name}"', name != "name").replace(was, now, 1))
    done = command("check", repo)
    assert done.returncode == 1
    found = re.findall(r"^wrong +(\w+)(?: version 1)?: (.+(?:\n +.+)+)", done.stdout, re.MULTILINE)
    wrong = dict(reversed(found))  # what is said first of each
    assert wrong.keys() == {*CONTRADICTIONS, "python_model"}
    for name, (_, _, why) in CONTRADICTIONS.items():
        assert why in wrong[name] and f"{repo}/{name}/config.pbtxt" in wrong[name]
    assert "backend 'python' is not supported; there are onnxruntime" in wrong["python_model"]
    assert "unknown field 'quantum_group'" in done.stdout


def test_a_config_is_read_again_when_it_changes(serve: Serve, tmp_path: Path) -> None:
    repo = triton_repository.write(tmp_path / "repo", "tuned")
    server = serve(repo, "--settle-s", "0", "--poll-s", "0.2", "--no-trial-load")
    file = repo / "tuned/config.pbtxt"
    text = file.read_text()
    new = repo / "tuned/config.new"
    new.write_text(text.replace("[ 1, 3 ]", "[ 2 ]").replace("max_batch_size: 16", "max_batch_size: 4"))
    new.rename(file)

    def served() -> dict[str, Any]:
        found = server.get("/v2/models/tuned/config")
        return found.json() if found.status_code == 200 else {}

    wait_for(lambda: served().get("max_batch_size") == 4 and ready(server) == {"tuned/2": ""}, "the new config")
    (repo / "tuned/model.yaml").write_text("max_batch_size: 2\nfile: net.onnx\n")
    wait_for(lambda: served().get("max_batch_size") == 2, "the settings that come first")
    assert "config.pbtxt: not read, since there is a model.yaml" in server.log


# TensorFlow Serving


TENSORFLOW_FILE = """
model_config_list {
  config {
    name: 'first'
    base_path: '{root}/first_model/'
    model_platform: 'tensorflow'
    model_version_policy { specific { versions: 123 versions: 124 } }
    version_labels { key: 'stable' value: 123 }
    version_labels { key: 'canary' value: 124 }
  }
  config {
    name: 'second'
    base_path: '{root}/elsewhere/second_model'
  }
}
"""


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Everything that its documentation shows: two models of one file, batching, monitoring; and the root of it."""
    root = tmp_path_factory.mktemp("tensorflow")
    savedmodels.write("half_plus_two", root / "first_model/00000123")
    savedmodels.write("half_plus_two_more", root / "first_model/124")
    savedmodels.write("half_plus_three", root / "first_model/125")  # of no policy
    (root / "first_model/00000123/assets.extra").mkdir()
    (root / "first_model/tmp_126").mkdir()  # where a trainer has not finished
    models.save(models.scale(7), root / "elsewhere/second_model/1700000000/model.onnx")
    models.save(models.scale(8), root / "elsewhere/third_model/1/model.onnx")
    (root / "models.config").write_text(TENSORFLOW_FILE.replace("{root}", str(root)))
    (root / "monitoring.config").write_text(
        'prometheus_config { enable: true, path: "/monitoring/prometheus/metrics" }'
    )
    (root / "batching.config").write_text("max_batch_size { value: 128 } batch_timeout_micros { value: 1000 }")
    server = Server(
        root / "logs",
        f"--model_config_file={root}/models.config",
        "--model_config_file_poll_wait_seconds=1",
        "--enable_batching",
        f"--batching_parameters_file={root}/batching.config",
        "--monitoring_config_file",
        root / "monitoring.config",
        "--num_load_threads=4",
        "--trial_load=false",
        f"--grpc_socket_path={root}/grpc.sock",
        command="tfs",
        env=LOCAL,
    )
    try:
        yield server.wait_ready(), root
    finally:
        server.end()
    assert "Traceback" not in server.log


def test_models_of_a_file(tensorflow: tuple[Server, Path], api: Any) -> None:
    server, _ = tensorflow
    client = api.TfsClient(server)
    try:
        assert [version for version, *_ in client.status(api.spec("first"))] == [124, 123]
        x = np.array([[1.0], [2.0], [5.0]], np.float32)
        for label, version in (("stable", 123), ("canary", 124)):
            outputs, spec = client.predict(api.spec("first", label=label), {"x": x})
            assert spec.version.value == version
            assert outputs["y"].tolist() == [[2.5], [3.0], [4.5]]
        outputs, spec = client.predict(api.spec("second"), {"x": X})
        assert (spec.version.value, outputs["y"][0, 0]) == (1700000000, 7)
        with pytest.raises(RefusedError, match="Specific\\(first, 125\\)"):
            client.predict(api.spec("first", version=125), {"x": x})
        with pytest.raises(RefusedError, match="Unrecognized servable version label: old"):
            client.predict(api.spec("first", label="old"), {"x": x})
    finally:
        client.close()


def test_the_same_over_rest_and_over_the_other_family(tensorflow: tuple[Server, Path]) -> None:
    server, _ = tensorflow
    answer = server.post("/v1/models/first/labels/stable:predict", json={"instances": [1.0, 2.0, 5.0]})
    assert answer.json() == {"predictions": [2.5, 3.0, 4.5]}
    asker = Asker(server, "binary")
    assert asker.infer("second", {"x": X}).outputs["y"][0, 0] == 7
    asker.close()


def test_batching_parameters(tensorflow: tuple[Server, Path]) -> None:
    server, _ = tensorflow
    config = server.get("/v2/models/second/config").json()
    assert config["max_batch_size"] == 128
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 1000
    refused = server.post("/v1/models/second:predict", json={"instances": [[1.0] * 4] * 129})
    assert refused.status_code == 400 and "batch-size must be <= 128" in refused.json()["error"]


def test_metrics_where_they_are_wanted(tensorflow: tuple[Server, Path]) -> None:
    server, _ = tensorflow
    for path in ("/monitoring/prometheus/metrics", "/metrics"):
        assert 'serving_model_state{model="second"' in server.get(path).text


def test_flags_that_mean_nothing_here_are_named(tensorflow: tuple[Server, Path]) -> None:
    server, _ = tensorflow
    assert server.log.count("--num_load_threads changes nothing here: two versions load at a time") == 1


def test_a_socket_besides(tensorflow: tuple[Server, Path]) -> None:
    _, root = tensorflow
    with grpc.insecure_channel(f"unix:{root}/grpc.sock") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=20) == b"\x08\x01"  # SERVING


def test_the_file_changes(tensorflow: tuple[Server, Path], api: Any) -> None:
    """Labels move, a model goes, another one comes; then a client's list, until the file changes again."""
    server, root = tensorflow
    file = root / "models.config"
    text = file.read_text()

    def write(new: str) -> None:
        (root / "models.new").write_text(new)
        (root / "models.new").rename(file)

    def served(name: str) -> bool:
        return "AVAILABLE" in server.get(f"/v1/models/{name}").text

    def label(name: str) -> int:
        models = server.get("/serving/models/first").json()
        found: int = models["labels"].get(name, 0)
        return found

    client = api.TfsClient(server)
    try:
        write(text.replace("value: 123", "value: 124").replace("second", "third"))
        wait_for(lambda: served("third") and not served("second"), "the third model instead of the second")
        wait_for(lambda: label("stable") == 124, "the label to move")
        write("model_config_list { nonsense")
        wait_for(lambda: "models.config:1:" in server.log, "the complaint")
        assert served("third")
        client.reload({"name": "first", "base_path": f"{root}/first_model"})
        assert served("first") and not served("third")
        with pytest.raises(RefusedError, match="is not inside one that this server was started with"):
            client.reload({"name": "second", "base_path": f"{root}/elsewhere/second_model"})
        write(text)
        wait_for(lambda: served("second") and not served("third"), "the first list again")
        wait_for(lambda: label("stable") == 123, "the label to move back")
        assert client.predict(api.spec("second"), {"x": X})[0]["y"][0, 0] == 7
    finally:
        write(text)
        client.close()


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    models.save(models.scale(2), tmp_path / "models/m/0002/model.onnx")
    return tmp_path / "models/m"


def tfs(serve: Serve, *args: object) -> Server:
    return serve(*args, "--trial_load=false", command="tfs", env=LOCAL)


def test_a_base_path(serve: Serve, base_path: Path) -> None:
    """Without a name it is called `default`; a request may have any number of rows; new versions are found."""
    server = tfs(serve, f"--model_base_path={base_path}", "--settle_s=0")
    answer = server.post("/v1/models/default:predict", json={"instances": [[1.0] * 4] * 5000})
    assert answer.json() == {"predictions": [[2.0] * 4] * 5000}
    models.save(models.scale(3), base_path / "3/model.onnx")
    wait_for(lambda: '"3"' in server.get("/v1/models/default").text, "the new version")


def test_directories_that_are_read_once(serve: Serve, base_path: Path, api: Any) -> None:
    """A client may still ask for it, also for models of a directory that was opened to that."""
    models.save(models.scale(9), base_path.parent / "n/1/model.onnx")
    server = tfs(
        serve,
        f"--model_base_path={base_path}",
        "--model_name=m",
        "--file_system_poll_wait_seconds=0",
        f"--reload_roots={base_path.parent}",
    )
    client = api.TfsClient(server)
    try:
        models.save(models.scale(3), base_path / "3/model.onnx")
        client.reload({"name": "m", "base_path": str(base_path)}, {"name": "n", "base_path": f"{base_path.parent}/n"})
        assert client.predict(api.spec("m"), {"x": X})[0]["y"][0, 0] == 3
        assert client.predict(api.spec("n"), {"x": X})[0]["y"][0, 0] == 9
    finally:
        client.close()


def test_a_list_that_is_empty_at_first(serve: Serve, base_path: Path, api: Any) -> None:
    file = base_path.parent / "models.config"
    file.write_text("model_config_list { }")
    server = tfs(serve, f"--model_config_file={file}", f"--reload_roots={base_path.parent}")
    client = api.TfsClient(server)
    try:
        client.reload({"name": "m", "base_path": str(base_path)})
        assert client.predict(api.spec("m"), {"x": X})[0]["y"][0, 0] == 2
    finally:
        client.close()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--model_nmae=m"], "error: unknown flag --model_nmae; did you mean --model_name?"),
        (["--model_base_path=models/m"], "error: Expected model default to have an absolute path or URI"),
        (["--model_base_path=/nosuch/m", "--http_port=0", "--grpc_port=0"], "nothing to serve: no model has a version"),
        (["--ssl_config_file=ssl.config", "--model_base_path=/m"], "error: --ssl_config_file is not supported: TLS"),
        (["--model_config_file=/nosuch"], "error: /nosuch: No such file or directory"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_started(args: list[str], told: str) -> None:
    done = command("tfs", *args, env=LOCAL)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


def test_help_and_version() -> None:
    told = command("tfs", "--help").stdout
    assert "--rest_api_port=number" in told and "ssl_config_file" in told
    assert command("tfs", "--version").stdout.startswith("serving ")


# Several at once


def test_repositories_of_every_kind_at_once(serve: Serve, tmp_path: Path) -> None:
    """Ours, Triton's, a base path, one file; each model once."""
    models.save(models.scale(2), tmp_path / "ours/plain/1/model.onnx")
    (tmp_path / "ours/plain/model.yaml").write_text("max_batch_size: 4")
    triton_repository.write(tmp_path / "triton", "simple", "tuned")
    models.save(models.scale(3), tmp_path / "base/00000042/model.onnx")
    models.save(models.scale(4), tmp_path / "single.onnx")
    paths = [tmp_path / name for name in ("ours", "triton", "base", "single.onnx")]
    server = serve(*paths, "--settle-s", "0", "--poll-s", "0.2", "--no-trial-load")
    assert ready(server) == dict.fromkeys(["plain/1", "simple/1", "tuned/1", "tuned/3", "base/42", "single/1"], "")
    # The same name in a second one is a complaint later, and nothing changes.
    shutil.copytree(tmp_path / "triton/tuned", tmp_path / "ours/tuned")
    wait_for(lambda: "model 'tuned'" in server.log and "is served from another path already" in server.log, "complaint")
    assert ready(server)["tuned/3"] == ""


def test_the_same_name_twice_at_the_start(tmp_path: Path) -> None:
    for name in ("one", "two"):
        triton_repository.write(tmp_path / name, "tuned")
    done = command("start", tmp_path / "one", tmp_path / "two", "--http-port", "0", "--grpc-port", "0")
    assert done.returncode == 1
    assert f"model 'tuned' is in both '{tmp_path}/one' and '{tmp_path}/two'" in done.stderr


@pytest.mark.parametrize("off", ["http", "grpc"])
def test_one_listener_alone(serve: Serve, base_path: Path, off: str) -> None:
    server = serve(base_path, f"--no-{off}", "--no-trial-load", ready=False)
    line = wait_for(lambda: re.search(r"^ready +(.+)$", server.printed, re.MULTILINE), "what it says")[1]
    address = re.search(r"127\.0\.0\.1:\d+", line)
    assert address is not None
    if off == "http":
        assert line == f"gRPC {address[0]}" and "curl" not in server.printed
        with grpc.insecure_channel(address[0]) as channel:
            assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"
    else:
        assert "gRPC" not in line
        assert httpx.get(f"http://{address[0]}/v2/health/ready").status_code == 200
