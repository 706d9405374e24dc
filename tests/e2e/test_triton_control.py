"""What the published example clients of Triton change: which models are loaded and how, trace and log settings."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests import models, triton_models
from tests.e2e.clients import FORMS, Asker, RefusedError, grpc_code
from tests.e2e.server import Server, wait_for

ROW = np.arange(16, dtype=np.int32).reshape(1, 16)
PAIR = {"INPUT0": ROW, "INPUT1": ROW}
NAMES = ["simple", "simple_identity", "simple_int8", "simple_string"]
TRACED = "onnx_int32_float32_float32"
COUNTED = "onnx_int32_int32_int32"
X = np.array([[1, 2, 3, 4]], np.float32)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("control")


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    repo = triton_models.write(root / "repo", *NAMES, TRACED, COUNTED)
    mode = ("--mode", "explicit", "--load-model", "*")
    running = Server(
        root / "logs", repo, "--allow-model-upload", "--trace-file", root / "trace.json", *mode
    ).wait_ready()
    yield running
    running.end()
    assert "Traceback" not in running.log


@pytest.fixture(params=("json", "grpc"))
def asker(request: pytest.FixtureRequest, server: Server) -> Iterator[Asker]:
    made = Asker(server, request.param)
    yield made
    made.close()


def config_of(asker: Asker, model: str) -> dict[str, Any]:
    found: dict[str, Any] = asker.ask("get_model_config", model)
    return found["config"] if asker.form == "grpc" else found


def index(asker: Asker) -> dict[str, dict[str, str]]:
    """Models of one version by name."""
    found = asker.ask("get_model_repository_index")
    entries = found["models"] if asker.form == "grpc" else found
    return {entry["name"]: entry for entry in entries}


def refused(asker: Asker, method: str, *args: Any, **more: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        asker.ask(method, *args, **more)
    assert caught.value.status not in (500, "INTERNAL", "UNKNOWN"), caught.value
    return caught.value.text


# Which models are loaded


def test_index(asker: Asker) -> None:
    found = index(asker)
    for name in NAMES:
        assert (found[name]["version"], found[name]["state"]) == ("1", "READY")


def test_load_and_unload(asker: Asker) -> None:
    client = asker.client
    client.unload_model("simple_string")
    assert client.is_model_ready("simple_string") is False
    wait_for(lambda: index(asker)["simple_string"]["state"] == "UNAVAILABLE", "the last of it to end")
    assert index(asker)["simple_string"]["reason"] == "unloaded"
    assert "has no available versions" in refused(asker, "get_model_metadata", "simple_string")
    client.unload_model("simple_string", unload_dependents=True)  # again, and it is no error
    client.load_model("simple_string")
    assert client.is_model_ready("simple_string") is True
    assert index(asker)["simple_string"]["state"] == "READY"


def test_models_that_are_not_there(asker: Asker) -> None:
    assert "failed to load 'wrong_model_name'" in refused(asker, "load_model", "wrong_model_name")
    asker.client.unload_model("wrong_model_name")
    text = "failed to load '../simple'" if asker.form == "grpc" else "Not Found"  # to a path, that is another route
    assert text in refused(asker, "load_model", "../simple")


def test_index_of_ready_models_only(server: Server) -> None:
    asker = Asker(server, "grpc")
    asker.client.unload_model("simple_int8")
    ready = asker.client._client_stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True))
    over_rest = server.post("/v2/repository/index", json={"ready": True}).json()
    assert [m.name for m in ready.models] == [m["name"] for m in over_rest]
    assert "simple_int8" not in [m.name for m in ready.models]
    assert "simple_int8" in [m["name"] for m in server.post("/v2/repository/index", json={"ready": False}).json()]
    asker.client.load_model("simple_int8")
    answer = server.post("/v2/repository/index", json={"ready": "yes"})
    assert answer.status_code == 400
    assert "Invalid value for 'ready': expected a boolean" in answer.json()["error"]
    asker.close()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/repository/index", b"", 200),
        ("/v2/repository/somewhere/index", b"", 200),
        ("/v2/repository/models/simple/load", b"", 200),
        ("/v2/repository/models/simple_int8/unload", b"", 200),
        ("/v2/repository/models/simple_int8/load", b"{}", 200),
        ("/v2/repository/somewhere/models/simple/load", b"", 501),
        ("/v2/repository/somewhere/models/simple/unload", b"", 501),
        ("/v2/repository/models/simple/load", b'{"parameters":{"other":"x"}}', 400),
        ("/v2/repository/models/simple/load", b'{"parameters":{"config":1}}', 400),
        ("/v2/repository/models/simple/load", b"[", 400),
    ],
)
def test_bodies_of_the_repository(server: Server, path: str, body: bytes, status: int) -> None:
    assert server.post(path, content=body).status_code == status


def test_repositories_have_no_names_over_grpc(server: Server) -> None:
    asker = Asker(server, "grpc")
    stub = asker.client._client_stub
    for ask, request in (
        (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(repository_name="x")),
        (stub.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest(repository_name="x", model_name="simple")),
        (
            stub.RepositoryModelUnload,
            service_pb2.RepositoryModelUnloadRequest(repository_name="x", model_name="simple"),
        ),
    ):
        with pytest.raises(Exception, match="'repository_name' specification is not supported") as caught:
            ask(request)
        assert caught.value.code().name == "UNIMPLEMENTED"  # type: ignore[attr-defined]
    asker.close()


# How they are loaded


@pytest.mark.parametrize("config", ['{"max_batch_size":"16"}', '{"max_batch_size":16}'])
def test_configuration_for_one_load(asker: Asker, config: str) -> None:
    asker.client.load_model("simple", config=config)
    assert config_of(asker, "simple")["max_batch_size"] == 16
    rows = {name: np.repeat(row, 16, axis=0) for name, row in PAIR.items()}
    assert asker.infer("simple", rows, outputs=["OUTPUT0"]).shapes == {"OUTPUT0": [16, 16]}
    asker.client.load_model("simple")
    assert config_of(asker, "simple")["max_batch_size"] == triton_models.MAX_BATCH
    with pytest.raises(RefusedError, match="batch-size must be <= 8"):
        asker.infer("simple", rows)


def test_whole_configuration_can_be_sent_back(asker: Asker) -> None:
    config = config_of(asker, "simple")
    asker.client.load_model("simple", config=json.dumps(config | {"max_batch_size": 4}))
    changed = config_of(asker, "simple")
    assert {key for key in config if changed[key] != config[key]} <= {"max_batch_size", "dynamic_batching"}
    assert changed["max_batch_size"] == 4
    asker.client.load_model("simple")
    assert config_of(asker, "simple") == config


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("", "failed to load 'simple', failed to poll from model repository"),
        ("{", "failed to load 'simple', failed to poll from model repository"),
        ("[]", "failed to load 'simple', failed to poll from model repository"),
        ('"parameters": {"config": {{"max_batch_size": "16"}}}', "failed to load 'simple', failed to poll"),
        ('{"parameters": {"config": {{}}}}', "failed to load 'simple', failed to poll from model repository"),
        ('{"max_batch_size":"many"}', "failed to load 'simple', failed to poll from model repository"),
        ('{"max_batch_size":-1}', "failed to load 'simple', failed to poll from model repository"),
        ('{"no_such_field":1}', "failed to load 'simple', failed to poll from model repository"),
        ('{"backend":"pytorch"}', "failed to load 'simple', failed to poll from model repository"),
        (
            '{"input":[{"name":"INPUT0","data_type":"TYPE_FP32","dims":[16]}]}',
            "load failed for model 'simple': version 1 is at UNAVAILABLE state: ",
        ),
    ],
)
def test_configuration_that_does_not_fit(asker: Asker, config: str, text: str) -> None:
    """The model stays as it was."""
    assert text in refused(asker, "load_model", "simple", config=config)
    assert asker.client.is_model_ready("simple") is True
    assert config_of(asker, "simple")["max_batch_size"] == triton_models.MAX_BATCH


def test_files_that_the_client_brings(asker: Asker) -> None:
    """They are the model from then on, until it is loaded again without them."""
    config = json.dumps({"backend": "onnxruntime", "max_batch_size": 2})
    graph = models.scale(7).SerializeToString()
    asker.client.load_model("simple_identity", config=config, files={"file:3/model.onnx": graph})
    answer = asker.infer("simple_identity", {"x": X}, outputs=["y"])
    assert answer.version == "3"
    np.testing.assert_array_equal(answer.outputs["y"], X * 7)
    assert config_of(asker, "simple_identity")["max_batch_size"] == 2
    asker.client.load_model("simple_identity")
    metadata = asker.ask("get_model_metadata", "simple_identity")
    assert (metadata["versions"], metadata["inputs"][0]["name"]) == (["1"], "INPUT0")


def test_new_model_that_the_client_brings(asker: Asker) -> None:
    name = f"brought_{next(_numbers)}"
    files = {f"file:{v}/model.onnx": models.scale(v).SerializeToString() for v in (1, 2)}
    config = json.dumps({"name": name, "version_policy": {"all": {}}})
    asker.client.load_model(name, config=config, files=files)
    for version in (1, 2):
        answer = asker.infer(name, {"x": X}, version=str(version), outputs=["y"])
        np.testing.assert_array_equal(answer.outputs["y"], X * version)
    asker.client.unload_model(name)
    assert asker.client.is_model_ready(name) is False


@pytest.mark.parametrize(
    ("config", "files", "text"),
    [
        (None, {"file:1/model.onnx": b"1"}, "failed to load 'simple'"),
        ("{}", {"file:1/model.onnx": b"this is no model"}, "load failed for model 'simple': version 1 is at"),
        ("{}", {"file:../../escaped/1/model.onnx": b"1"}, "failed to load 'simple'"),
        ("{}", {"file:/tmp/escaped/model.onnx": b"1"}, "failed to load 'simple'"),
        ("{}", {"file:": b"1"}, "failed to load 'simple'"),
        ("{}", {"file:" + "A" * 256: b"1"}, "failed to load 'simple'"),
    ],
)
def test_files_that_are_refused(root: Path, asker: Asker, config: str | None, files: Any, text: str) -> None:
    assert text in refused(asker, "load_model", "simple", config=config, files=files)
    assert asker.client.is_model_ready("simple") is True
    assert not list(root.rglob("escaped")) and not Path("/tmp/escaped").exists()


@pytest.mark.parametrize("form", ["json", "grpc"])
def test_files_are_refused_where_they_are_not_allowed(closed: Server, form: str) -> None:
    asker = Asker(closed, form)
    with pytest.raises(RefusedError, match="--allow-model-upload") as caught:
        asker.ask("load_model", "brought", config="{}", files={"file:1/model.onnx": b"1"})
    assert caught.value.status == ("PERMISSION_DENIED" if form == "grpc" else 403)
    asker.client.load_model("simple", config='{"max_batch_size":16}')  # a configuration needs no leave
    assert config_of(asker, "simple")["max_batch_size"] == 16
    asker.client.load_model("simple")
    asker.close()


# Statistics


def _counts(asker: Asker, model: str, version: str = "") -> dict[str, Any]:
    stats = asker.ask("get_inference_statistics", model, version)["model_stats"]
    assert len(stats) == 1
    found: dict[str, Any] = stats[0]
    return found


def test_statistics_count_what_was_asked(asker: Asker) -> None:
    before = _counts(asker, COUNTED, "1")
    for rows in (1, 3, 3):
        asker.infer(COUNTED, {name: np.repeat(row, rows, axis=0) for name, row in PAIR.items()}, version="1")
    with pytest.raises(RefusedError):
        asker.infer(COUNTED, {"INPUT0": ROW}, version="1")
    after = _counts(asker, COUNTED, "1")
    assert (after["name"], after["version"]) == (COUNTED, "1")
    assert after["inference_count"] - before["inference_count"] == 7
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["last_inference"] > 1_600_000_000_000
    old, new = before["inference_stats"], after["inference_stats"]
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert new[part]["count"] - old[part]["count"] == 3, part
        assert new[part]["ns"] >= old[part]["ns"]
    assert new["success"]["ns"] > old["success"]["ns"]
    assert new["compute_infer"]["ns"] > old["compute_infer"]["ns"]
    assert new["cache_hit"] == new["cache_miss"] == {"count": 0, "ns": 0}
    old_sizes, sizes = (
        {batch["batch_size"]: batch["compute_infer"]["count"] for batch in stats["batch_stats"]}
        for stats in (before, after)
    )
    assert {size: count - old_sizes.get(size, 0) for size, count in sizes.items() if size in (1, 3)} == {1: 1, 3: 2}


def test_failures_are_counted_apart(asker: Asker) -> None:
    before = _counts(asker, "simple_string")["inference_stats"]
    words = np.array([[b"word"] * 16], dtype=object)
    with pytest.raises(RefusedError):
        asker.infer("simple_string", {"INPUT0": words, "INPUT1": words})
    after = _counts(asker, "simple_string")["inference_stats"]
    assert after["fail"]["count"] - before["fail"]["count"] == 1
    assert after["success"] == before["success"]


def test_statistics_of_all_models(asker: Asker) -> None:
    found = asker.ask("get_inference_statistics")["model_stats"]
    versions = [(one["name"], one["version"]) for one in found]
    assert [v for n, v in versions if n == COUNTED] == ["1", "2", "3"]
    assert set(NAMES) <= {name for name, _ in versions}
    of_one = asker.ask("get_inference_statistics", COUNTED)["model_stats"]
    assert [one["version"] for one in of_one] == ["1", "2", "3"]


def test_statistics_of_models_that_are_not_there(asker: Asker) -> None:
    invalid = "INVALID_ARGUMENT" if asker.form == "grpc" else 400
    for args, text in (
        (("nosuch",), "requested model 'nosuch' is not available"),
        (("simple", "9"), "requested model version is not available for model 'simple'"),
    ):
        with pytest.raises(RefusedError) as caught:
            asker.ask("get_inference_statistics", *args)
        assert (caught.value.status, caught.value.text) == (invalid, text)


# Trace settings


def _settings(answer: dict[str, Any], form: str) -> dict[str, Any]:
    """What REST and gRPC say of settings, in the same form: gRPC has lists of texts alone."""
    if form != "grpc":
        return answer
    values = {key: value["value"] for key, value in answer["settings"].items()}
    return {key: value if key == "trace_level" else value[0] for key, value in values.items()}


@pytest.fixture
def untraced(asker: Asker) -> Iterator[None]:
    yield
    nothing = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "log_frequency"))
    asker.client.update_trace_settings(model_name=TRACED, settings=nothing)
    asker.client.update_trace_settings(settings=nothing)


@pytest.mark.usefixtures("untraced")
def test_trace_settings(asker: Asker, root: Path) -> None:
    def get(model: str | None = None) -> dict[str, Any]:
        return _settings(asker.ask("get_trace_settings", model_name=model), asker.form)

    def update(model: str | None = None, **settings: Any) -> dict[str, Any]:
        answer = asker.ask("update_trace_settings", model_name=model, settings=settings)
        return _settings(answer, asker.form)

    first = get()
    assert first["trace_level"] == ["OFF"]
    assert first["trace_file"] == str(root / "trace.json")
    assert (first["trace_rate"], first["trace_count"], first["log_frequency"]) == ("1000", "-1", "0")
    assert get("simple") == first
    assert update(trace_rate="500", trace_level=["TIMESTAMPS"])["trace_rate"] == "500"
    assert get("simple")["trace_rate"] == "500"  # what is not set for a model is as for all
    assert update("simple", trace_rate="2")["trace_rate"] == "2"
    assert (get()["trace_rate"], get("simple")["trace_rate"]) == ("500", "2")
    assert get("simple")["trace_level"] == ["TIMESTAMPS"]
    assert update("simple", trace_rate=None)["trace_rate"] == "500"
    update(trace_rate=None, trace_level=None)
    assert get() == get("simple") == first


@pytest.mark.parametrize(
    ("settings", "status", "text"),
    [
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, 400, "Expect only one trace level 'OFF' is specified"),
        ({"trace_rate": "x"}, 400, "Unable to parse 'trace_rate', got: x"),
        ({"trace_count": "-2"}, 400, "Unable to parse 'trace_count'. Expecting value >= -1, got:-2"),
        ({"trace_file": "other"}, 501, "trace file location can not be updated through network protocol"),
    ],
)
def test_trace_settings_that_are_refused(asker: Asker, settings: dict[str, Any], status: int, text: str) -> None:
    before = asker.ask("get_trace_settings")
    with pytest.raises(RefusedError) as caught:
        asker.ask("update_trace_settings", settings=settings)
    assert caught.value.status == (grpc_code(status) if asker.form == "grpc" else status)
    assert text in caught.value.text
    assert asker.ask("get_trace_settings") == before


def test_trace_settings_of_an_unknown_model(asker: Asker) -> None:
    for method in ("get_trace_settings", "update_trace_settings"):
        assert "Request for unknown model : nosuch" in refused(asker, method, model_name="nosuch")


@pytest.mark.usefixtures("untraced")
def test_traces_are_written(asker: Asker, root: Path) -> None:
    """The first two of three requests, and of this model alone."""
    file = root / "trace.json"

    def traces() -> list[dict[str, Any]]:
        return list(json.loads(file.read_text())) if file.exists() else []

    known = {one["id"] for one in traces()}
    settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2"}
    asker.client.update_trace_settings(model_name=TRACED, settings=settings)
    for _ in range(3):
        asker.infer(TRACED, PAIR, outputs=["OUTPUT0"])
        asker.infer("simple", PAIR, outputs=["OUTPUT0"])
    asker.client.update_trace_settings(model_name=TRACED, settings={"trace_level": ["OFF"]})
    wait_for(lambda: len({one["id"] for one in traces()} - known) >= 2, "two traces in the file")
    new = [one for one in traces() if one["id"] not in known]
    assert {one["model_name"] for one in new if "model_name" in one} == {TRACED}
    assert len({one["id"] for one in new}) == 2
    for number in {one["id"] for one in new}:
        stamps = [
            (stamp["name"], stamp["ns"]) for one in new if one["id"] == number for stamp in one.get("timestamps", [])
        ]
        names = [name for name, _ in sorted(stamps, key=lambda stamp: stamp[1])]
        inner = ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_END", "REQUEST_END"]
        assert [name for name in names if name in inner] == inner


@pytest.mark.parametrize("form", ["json", "grpc"])
def test_no_traces_without_a_file(closed: Server, form: str) -> None:
    asker = Asker(closed, form)
    assert _settings(asker.ask("get_trace_settings"), form)["trace_level"] == ["OFF"]
    text = refused(asker, "update_trace_settings", settings={"trace_level": ["TIMESTAMPS"]})
    assert "--trace-file" in text
    asker.close()


# Log settings


def _log(answer: dict[str, Any], form: str) -> dict[str, Any]:
    if form != "grpc":
        return answer
    return {key: next(iter(value.values())) for key, value in answer["settings"].items()}


LOG = {
    "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
    "log_format": "default",
}  # fmt: skip


def test_log_settings(asker: Asker) -> None:
    def get() -> dict[str, Any]:
        return _log(asker.ask("get_log_settings"), asker.form)

    def update(**settings: Any) -> dict[str, Any]:
        return _log(asker.ask("update_log_settings", settings), asker.form)

    try:
        assert get() == LOG
        changed = LOG | {"log_info": False, "log_verbose_level": 1, "log_format": "ISO8601"}
        assert update(log_info=False, log_verbose_level=1, log_format="ISO8601") == changed
        assert get() == changed
    finally:
        assert update(log_info=True, log_verbose_level=0, log_format="default") == LOG


def test_log_settings_have_an_effect(server: Server, asker: Asker) -> None:
    """A model that is loaded says so, unless informative lines are off."""

    def lines() -> int:
        return server.log.count("simple_int8/1")

    def load(rows: int) -> int:
        before = lines()
        asker.client.load_model("simple_int8", config=json.dumps({"max_batch_size": rows}))
        return lines() - before

    try:
        assert load(1) > 0
        asker.ask("update_log_settings", {"log_info": False})
        assert load(2) == 0
    finally:
        asker.ask("update_log_settings", {"log_info": True})
    assert load(3) > 0
    asker.client.load_model("simple_int8")


@pytest.mark.parametrize(
    ("settings", "statuses", "text"),
    [
        ({"log_file": "other"}, (501,), "log file location can not be updated through network protocol"),
        ({"log_format": "zzz"}, (400, 503), "invalid argument for --log_format, got: zzz"),
    ],
)
def test_log_settings_that_are_refused(
    asker: Asker, settings: dict[str, Any], statuses: tuple[int, ...], text: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        asker.ask("update_log_settings", settings)
    assert caught.value.status in [grpc_code(status) if asker.form == "grpc" else status for status in statuses]
    assert text in caught.value.text
    assert _log(asker.ask("get_log_settings"), asker.form) == LOG


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/logging", b'{"log_info": "no"}'),
        ("/v2/logging", b'{"log_verbose_level": -1}'),
        ("/v2/logging", b'{"log_verbose_level": 1.5}'),
        ("/v2/logging", b"[]"),
        ("/v2/logging", b"{"),
        ("/v2/trace/setting", b'{"trace_rate": 5}'),
        ("/v2/trace/setting", b'{"trace_level": "OFF"}'),
        ("/v2/trace/setting", b""),
        ("/v2/trace/setting", b"[1"),
    ],
)
def test_settings_of_the_wrong_type(server: Server, path: str, body: bytes) -> None:
    before = server.get(path).json()
    answer = server.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert server.get(path).json() == before


def test_forms_agree(server: Server) -> None:
    """What one form changes, the others see."""
    askers = [Asker(server, form) for form in FORMS]
    for writer in askers:
        writer.ask("update_log_settings", {"log_verbose_level": 2})
        levels = [_log(a.ask("get_log_settings"), a.form)["log_verbose_level"] for a in askers]
        assert levels == [2, 2, 2]
        writer.ask("update_log_settings", {"log_verbose_level": 0})
    for asker in askers:
        asker.close()
