"""SavedModels in a running server: their answers, ONNX Runtime in TensorFlow's place, versions that come and go."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.core.dtypes import BY_NAME
from serving.protocols import messages as m
from tests import models, savedmodels
from tests.e2e.clients import FORMS, Asker, RefusedError
from tests.e2e.conftest import Serve
from tests.e2e.plain import OIP, Plain
from tests.e2e.server import Server, command, error_line, wait_for
from tests.e2e.traffic import traffic

AGREES = "onnx: serve, serving_default agree within 0.0001 (largest difference "


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain`: what TensorFlow serves. `mixed`: `signatures`, of which ONNX Runtime shall serve what it can."""
    root = tmp_path_factory.mktemp("savedmodel")
    for name in ("mlp", "words", "defaults", "every_dtype"):
        savedmodels.write(name, root / "plain" / name / "1")
    savedmodels.write("two_tags", root / "plain/two_tags/1")
    (root / "plain/two_tags/model.yaml").write_text("tags: [serve, double]\n")
    for name, path in (("mlp", "fast/mlp"), ("signatures", "plain/mixed")):
        savedmodels.write(name, root / path / "1")
        (root / path / "model.yaml").write_text("accelerate: onnx\n")
    return root


def start(root: Path, name: str) -> Iterator[Server]:
    made = Server(root / name / ".logs", root / name)
    try:
        yield made.wait_ready()
    finally:
        made.end()
    assert "Traceback" not in made.log


@pytest.fixture(scope="module")
def plain(root: Path) -> Iterator[Server]:
    yield from start(root, "plain")


@pytest.fixture(scope="module")
def fast(root: Path) -> Iterator[Server]:
    yield from start(root, "fast")


def ask(
    server: Server, form: str, model: str, inputs: dict[str, np.ndarray], signature: str = ""
) -> dict[str, np.ndarray]:
    asker = Asker(server, form)
    try:
        parameters = {"signature_name": signature} if signature else None
        return asker.infer(model, inputs, parameters=parameters).outputs
    finally:
        asker.close()


def properties(server: Server, model: str) -> tuple[str, dict[str, str]]:
    """What metadata says of a model's platform, and more."""
    with Plain(server) as client:
        data = client.call(OIP, "ModelMetadata", m.oip.ModelMetadataRequest(name=model).SerializeToString())
    answer = m.oip.ModelMetadataResponse.FromString(data)
    return answer.platform, dict(answer.properties)


def texts(*elements: bytes) -> np.ndarray:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


# Through TensorFlow


@pytest.mark.parametrize("form", FORMS)
def test_strings_and_tables(plain: Server, form: str) -> None:
    """The table is filled from an asset file."""
    found = ask(plain, form, "words", {"text": texts(b"cat", b"", "the grüße".encode(), b"the", b"sat")})
    assert found["id"].tolist() == [1, -1, -1, 0, 2]
    assert found["upper"].tolist() == [b"CAT", b"", "THE GRüßE".encode(), b"THE", b"SAT"]


@pytest.mark.parametrize("form", ["binary", "grpc"])
def test_strings_of_any_bytes(plain: Server, form: str) -> None:
    assert ask(plain, form, "words", {"text": texts(b"\xff\xfea")})["upper"].tolist() == [b"\xff\xfeA"]


def test_strings_that_json_cannot_carry(plain: Server) -> None:
    """Asked in binary, to be answered in JSON."""
    raw = b"\x01\x00\x00\x00\xff"
    entry = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [entry]}).encode()
    answer = plain.post(
        "/v2/models/words/infer", content=head + raw, headers={"Inference-Header-Content-Length": str(len(head))}
    )
    assert answer.status_code == 400 and "UTF-8" in answer.json()["error"] and "binary" in answer.json()["error"]


@pytest.mark.parametrize("form", FORMS)
def test_inputs_that_may_be_left_out(plain: Server, form: str) -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(ask(plain, form, "defaults", {"x": x})["y"], 3 * x)
    other = {"x": x, "factor": np.array(5.0, np.float32), "unit": texts(b"km")}
    found = ask(plain, form, "defaults", other)
    np.testing.assert_array_equal(found["y"], 5 * x)
    assert found["unit"].tolist() == [b"km"]


def test_defaults_over_the_other_protocol(plain: Server) -> None:
    answer = plain.post(
        "/v1/models/defaults:predict", json={"signature_name": "numbers", "inputs": {"x": [[1.0, 2.0]]}}
    )
    assert answer.json() == {"outputs": [[3.0, 6.0]]}
    inputs = {"x": [[1.0, 2.0]], "factor": 0.5}
    answer = plain.post("/v1/models/defaults:predict", json={"signature_name": "numbers", "inputs": inputs})
    assert answer.json() == {"outputs": [[0.5, 1.0]]}
    signatures = plain.get("/v1/models/defaults/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert signatures["numbers"]["defaults"]["factor"]["float_val"] == [3.0]


@pytest.mark.parametrize("form", ["binary", "grpc"])
def test_every_data_type(plain: Server, form: str) -> None:
    inputs = {}
    for name in models.DTYPES:
        values = np.array([[1, 0, 1], [1, 1, 0]]).astype(BY_NAME[name].numpy)
        inputs[f"in_{name}"] = values if name != "BYTES" else np.array([[b"\xff", b"", b"a"]] * 2, object)
    found = ask(plain, form, "every_dtype", inputs)
    for name, array in inputs.items():
        got = found[name.replace("in_", "out_")]
        assert got.dtype == array.dtype and got.tolist() == array.tolist()


def test_tags(plain: Server) -> None:
    x = np.array([[4.0]], np.float32)
    np.testing.assert_array_equal(ask(plain, "grpc", "two_tags", {"x": x})["y"], 2 * x)


def test_platform(plain: Server) -> None:
    assert properties(plain, "mlp")[0] == "tensorflow_savedmodel"
    assert plain.get("/v2/models/mlp").json()["platform"] == "tensorflow_savedmodel"


def test_a_model_that_refuses_a_value(plain: Server) -> None:
    """Its own operator says no: the client's mistake, in TensorFlow's words."""
    with pytest.raises(RefusedError) as caught:
        ask(plain, "json", "mixed", {"x": np.array([5], np.int64)}, "narrow")
    assert caught.value.status == 400 and "not in [0, 1)" in caught.value.text


# ONNX Runtime in its place


@pytest.mark.parametrize("form", FORMS)
def test_an_accelerated_model_gives_the_same_answers(plain: Server, fast: Server, form: str) -> None:
    x = np.random.default_rng(0).normal(size=(7, 784)).astype(np.float32)
    expected, got = (ask(server, form, "mlp", {"x": x})["output_0"] for server in (plain, fast))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
    body = {"instances": x.tolist()}
    rows = [server.post("/v1/models/mlp:predict", json=body).json()["predictions"] for server in (plain, fast)]
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-4, atol=1e-4)


def test_an_accelerated_model_says_so(fast: Server) -> None:
    """In the log, in metadata, and by its platform; what it takes and gives stays the SavedModel's."""
    platform, told = properties(fast, "mlp")
    assert platform == "onnxruntime_onnx" and told["accelerate"].startswith(AGREES)
    assert f"accelerate: {AGREES}" in fast.log
    assert fast.get("/v2/models/mlp").json()["platform"] == "onnxruntime_onnx"
    assert fast.get("/v2/models/mlp/config").json()["parameters"]["accelerate"] == {"string_value": '"onnx"'}
    described = fast.get("/v1/models/mlp/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert described["serving_default"]["inputs"]["x"]["name"] == "serving_default_x:0"


def test_a_server_of_accelerated_models_needs_no_tensorflow(plain: Server, fast: Server) -> None:
    """Its hundreds of megabytes are in the process that has converted the model, and gone with that."""
    maps = {server: Path(f"/proc/{server.process.pid}/maps").read_text() for server in (plain, fast)}
    assert "tensorflow" in maps[plain] and "tensorflow" not in maps[fast]


def test_signatures_that_do_not_agree_stay_with_tensorflow(plain: Server) -> None:
    """The others do not; and each tells why."""
    _, told = properties(plain, "mixed")
    served, _, left = told["accelerate"].partition("; tensorflow: ")
    assert served.startswith("onnx: centred, serving_default agree within 0.0001")
    assert "dice (its ONNX form answers otherwise: 'y' differs by up to " in left
    assert "shout ('text' is BYTES, and ONNX strings hold nothing but UTF-8)" in left
    x = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
    np.testing.assert_array_equal(ask(plain, "grpc", "mixed", {"x": x})["y"], 2 * x)
    np.testing.assert_array_equal(ask(plain, "grpc", "mixed", {"x": x}, "centred")["y"], [[-1, -2], [1, 2]])
    assert ask(plain, "grpc", "mixed", {"text": texts(b"a\xff")}, "shout")["loud"].tolist() == [b"A\xff"]
    dice = ask(plain, "grpc", "mixed", {"x": x}, "dice")["y"] - x
    assert (dice >= 0).all() and (dice < 1).all() and dice.any()
    cube = np.ones((2, 3, 4), np.float32)
    np.testing.assert_array_equal(ask(plain, "grpc", "mixed", {"x": cube}, "any_rank")["y"], 2 * cube)


@pytest.mark.slow
def test_no_tolerance_at_all(serve: Serve, tmp_path: Path) -> None:
    """What differs by a rounding is served by TensorFlow, and says by how much it differs."""
    savedmodels.write("mlp", tmp_path / "repo/mlp/1")
    (tmp_path / "repo/mlp/model.yaml").write_text("accelerate: onnx\naccelerate_tolerance: 0\n")
    server = serve(tmp_path / "repo")
    platform, told = properties(server, "mlp")
    assert platform == "tensorflow_savedmodel"
    assert "serving_default (its ONNX form answers otherwise: 'output_0' differs by up to " in told["accelerate"]
    assert "accelerate: tensorflow: " in server.log
    assert ask(server, "json", "mlp", {"x": np.zeros((1, 784), np.float32)})["output_0"].shape == (1, 10)


# Versions


@pytest.fixture
def swapped(tmp_path: Path) -> Path:
    """A repository with version 1 of `m`, ONNX. All versions of it multiply by their number."""
    models.save(models.scale(1, width=2), tmp_path / "repo/m/1/model.onnx")
    return tmp_path / "repo"


def test_versions_come_and_go_under_load(serve: Serve, swapped: Path) -> None:
    """From ONNX to a SavedModel, to another one, and back; nobody notices but by the version's number."""
    server = serve(swapped, "--settle-s", "0.3", "--poll-s", "1")
    with traffic(server, "m", clients=8, width=2) as seen:
        seen.wait_for_more(50, "1")
        savedmodels.write("signatures", swapped / "m/2")
        seen.wait_for_more(50, "2")
        savedmodels.write("defaults", swapped / "m/3")
        seen.wait_for_more(50, "3")
        wait_for(lambda: list(server.index("m")) == [("m", 3)], "the others to be unloaded")
        shutil.rmtree(swapped / "m/3")  # the next best is loaded again
        seen.wait_for_more(50, "2")
        models.save(models.scale(4, width=2), swapped / "m/4/model.onnx")
        seen.wait_for_more(50, "4")
    assert (seen.failed, seen.wrong) == ([], [])
    assert set(seen.answers) == {"1", "2", "3", "4"}


def test_a_broken_savedmodel_changes_nothing(serve: Serve, swapped: Path) -> None:
    server = serve(swapped, "--settle-s", "0.3", "--poll-s", "1")
    with traffic(server, "m", clients=4, width=2) as seen:
        savedmodels.write("signatures", swapped / "m/2")
        graph = swapped / "m/2/saved_model.pb"
        whole = graph.read_bytes()
        graph.write_bytes(whole[:1000])
        wait_for(lambda: server.state("m", 2)[0] == "UNAVAILABLE" and server.state("m", 2)[1], "version 2 to fail")
        wait_for(lambda: "TensorFlow cannot load it" in server.state("m", 2)[1], "the reason")
        seen.wait_for_more(50, "1")
        graph.write_bytes(whole)  # put right, it takes over
        seen.wait_for_more(50, "2")
    assert (seen.failed, seen.wrong) == ([], [])


# Commands


def test_check(root: Path, tmp_path: Path) -> None:
    """One that TensorFlow serves, one that ONNX Runtime serves in its place, and one that nothing can."""
    shutil.copytree(root / "plain/words", tmp_path / "words")
    shutil.copytree(root / "fast/mlp", tmp_path / "mlp")
    savedmodels.write("mlp", tmp_path / "broken/1")
    shutil.rmtree(tmp_path / "broken/1/variables")
    done = command("check", tmp_path)
    assert done.returncode == 1 and "problems: 1" in done.stdout
    assert "good    words version 1: tensorflow_savedmodel" in done.stdout
    assert "inputs   text BYTES [-1]" in done.stdout
    assert "outputs  id INT64 [-1], upper BYTES [-1]" in done.stdout
    assert "good    mlp version 1: onnxruntime_onnx" in done.stdout
    assert f"accelerate {AGREES}" in done.stdout
    assert "wrong   broken version 1: TensorFlow cannot load it: " in done.stdout


@pytest.mark.parametrize(("below", "name"), [("", "exported"), ("model.savedmodel", "named")])
def test_a_savedmodel_without_a_repository(serve: Serve, tmp_path: Path, below: str, name: str) -> None:
    """`serving start` takes its directory, in TensorFlow's layout or Triton's."""
    savedmodels.write("two_tags", tmp_path / "exported" / below)
    server = serve(tmp_path / "exported", *(("--model-name", name) if name != "exported" else ()))
    assert server.get(f"/v2/models/{name}").json()["versions"] == ["1"]
    x = np.array([[4.0]], np.float32)
    np.testing.assert_array_equal(ask(server, "json", name, {"x": x})["y"], x)
    assert server.post(f"/v1/models/{name}:predict", json={"instances": [[4.0]]}).json() == {"predictions": [[4.0]]}


def test_a_file_of_a_savedmodel(tmp_path: Path) -> None:
    savedmodels.write("two_tags", tmp_path / "m")
    error = error_line(command("start", tmp_path / "m/saved_model.pb", "--http-port", "0", "--grpc-port", "0"))
    assert f"name its directory, '{tmp_path / 'm'}'" in error
