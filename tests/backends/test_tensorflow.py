"""TensorFlow behind the session interface, with SavedModels of both generations."""

import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends import registry
from serving.backends import tensorflow as backend
from serving.backends.base import Session
from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, LoadError, ServingError
from serving.core.generate import random_array, random_inputs
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, SignatureMethod, Tensors, TensorSpec
from serving.repository.disk.layout import scan
from serving.repository.loads import loading
from tests import savedmodels
from tests.backends.test_onnx import extremes, same_bits

tf = backend.tf


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Any]:
    """Loads a SavedModel by its name in tests/savedmodels.py, and closes its session when the test is over."""
    sessions: list[Session] = []

    def load(name: str, **spec: Any) -> Session:
        savedmodels.write(name, tmp_path / name)
        sessions.append(registry.load(tmp_path / name, ModelSpec(**spec)))
        return sessions[-1]

    yield load
    for session in sessions:
        session.close()


def run(session: Session, signature: str = DEFAULT_SIGNATURE, **inputs: Any) -> Tensors:
    """Every output of a signature; inputs are made arrays of its data types."""
    about = session.signatures[signature]
    arrays = {name: np.array(value, about.inputs[name].dtype.numpy) for name, value in inputs.items()}
    return session.run(arrays, tuple(about.outputs), signature)


def example(**features: float) -> bytes:
    floats = {name: tf.train.Feature(float_list=tf.train.FloatList(value=[x])) for name, x in features.items()}
    return bytes(tf.train.Example(features=tf.train.Features(feature=floats)).SerializeToString())


# Signatures


def test_the_signatures_are_those_of_the_artifact(load: Any) -> None:
    session = load("half_plus_two")
    x = TensorSpec("x", dtypes.FP32, (-1, 1), graph_name="x:0")
    y = TensorSpec("y", dtypes.FP32, (-1, 1), graph_name="y:0")
    examples = TensorSpec("inputs", dtypes.BYTES, None, graph_name="tf_example:0")

    def made(inputs: TensorSpec, outputs: TensorSpec, method: SignatureMethod) -> Signature:
        return Signature({inputs.name: inputs}, {outputs.name: outputs}, method)

    def fp32(name: str, graph_name: str) -> TensorSpec:
        return TensorSpec(name, dtypes.FP32, (-1, 1), graph_name=graph_name)

    assert session.signatures == {
        "serving_default": made(x, y, SignatureMethod.PREDICT),
        "classify_x_to_y": made(examples, fp32("scores", "y:0"), SignatureMethod.CLASSIFY),
        "regress_x_to_y": made(examples, fp32("outputs", "y:0"), SignatureMethod.REGRESS),
        "regress_x_to_y2": made(examples, fp32("outputs", "y2:0"), SignatureMethod.REGRESS),
        "regress_x2_to_y3": made(fp32("inputs", "x2:0"), fp32("outputs", "y3:0"), SignatureMethod.REGRESS),
    }
    assert session.signatures["classify_x_to_y"].takes_examples
    assert not session.signatures["regress_x2_to_y3"].takes_examples
    assert session.platform == "tensorflow_savedmodel" and session.notes == {}


def test_what_says_nothing_of_its_shape_has_none(load: Any) -> None:
    signatures = load("half_plus_three").signatures
    assert signatures["serving_default"].inputs["x"].shape is None
    assert signatures["serving_default"].outputs["y"].shape is None
    assert load("defaults").signatures["serving_default"].inputs["factor"].shape == ()


def test_a_keras_model(load: Any) -> None:
    session = load("mlp")
    signature = session.signatures["serving_default"]
    assert [(s.name, s.shape) for s in signature.inputs.values()] == [("x", (-1, 784))]
    assert [(s.name, s.shape) for s in signature.outputs.values()] == [("output_0", (-1, 10))]
    answer = run(session, x=np.zeros((3, 784)))["output_0"]
    assert answer.shape == (3, 10)
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)


def test_inputs_and_outputs_are_in_one_order_each_time(load: Any) -> None:
    signature = load("every_dtype").signatures["serving_default"]
    assert list(signature.inputs) == sorted(f"in_{d.name}" for d in dtypes.ALL)
    assert list(signature.outputs) == sorted(f"out_{d.name}" for d in dtypes.ALL)


# Runs


def test_half_plus_two(load: Any) -> None:
    session = load("half_plus_two")
    assert run(session, x=[[1], [2], [5]])["y"].tolist() == [[2.5], [3], [4.5]]
    sent = [example(x=1.0), example(x=2.0, x2=4.0)]
    assert run(session, "classify_x_to_y", inputs=sent)["scores"].tolist() == [[2.5], [3]]
    assert run(session, "regress_x_to_y", inputs=sent)["outputs"].tolist() == [[2.5], [3]]
    assert run(session, "regress_x_to_y2", inputs=sent)["outputs"].tolist() == [[3.5], [4]]
    assert run(session, "regress_x2_to_y3", inputs=[[4]])["outputs"].tolist() == [[5]]
    assert run(load("half_plus_two_more"), "classify_x2_to_y3", inputs=[[4]])["scores"].tolist() == [[5]]


@pytest.mark.parametrize("x", [2.0, [2.0], [[2.0], [4.0]]])
def test_half_plus_three_takes_any_shape(load: Any, x: Any) -> None:
    answer = run(load("half_plus_three"), x=x)["y"]
    assert isinstance(answer, np.ndarray) and answer.dtype == np.float32
    assert answer.tolist() == (np.array(x) / 2 + 3).tolist()


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_values_come_back_as_they_went_in(load: Any, dtype: DType) -> None:
    session = load("every_dtype")
    signature = session.signatures["serving_default"]
    name, values = f"in_{dtype.name}", extremes(dtype)
    if dtype is dtypes.BYTES:
        values = np.array([*values.tolist(), b"\xff\xfe\0", b"\0"], dtype=object)  # no text, and NULs at the end
    for rows in (len(values), 0):
        inputs = {n: np.zeros((rows, 3), s.dtype.numpy) for n, s in signature.inputs.items()}
        inputs["in_BYTES"] = np.full((rows, 3), b"", object)
        inputs[name] = np.stack([values[:rows]] * 3, axis=1)
        outputs = session.run(inputs, tuple(signature.outputs))
        assert all(same_bits(outputs[n.replace("in_", "out_")], array) for n, array in inputs.items())


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_a_view_into_a_received_body_can_be_run(load: Any, dtype: DType) -> None:
    """Read-only, not in one piece, and anywhere in memory."""
    session = load("every_dtype")
    inputs = random_inputs(session.signatures["serving_default"], 2, np.random.default_rng(0))
    name = f"in_{dtype.name}"
    sent = random_array(dtype, (2, 6), np.random.default_rng(0))
    if dtype.itemsize:
        body = b"x" + sent.tobytes()
        sent = np.frombuffer(body, np.uint8)[1:].view(dtype.numpy).reshape(2, 6)
    inputs[name] = sent[:, ::2]
    inputs[name].flags.writeable = False
    before = inputs[name].copy()
    answer = session.run(inputs, (f"out_{dtype.name}",))[f"out_{dtype.name}"]
    assert same_bits(answer, before) and same_bits(inputs[name], before)


def test_inputs_are_not_written_to(load: Any) -> None:
    """TensorFlow reuses the memory of what it no longer needs, and inputs are lent to it."""
    session = load("through")
    memory = np.zeros(64 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    x = memory[start : start + 64].view(np.float32).reshape(8, 2)  # aligned, so that it is not copied
    keys = np.array([b"k"] * 8, dtype=object)
    for _ in range(3):
        assert session.run({"keys": keys, "x": x}, ("y",))["y"].tolist() == [[1, 1]] * 8
        assert x.tolist() == [[0, 0]] * 8


def test_an_input_may_be_an_output_too_and_two_outputs_the_same(load: Any) -> None:
    answer = run(load("through"), keys=[b"a", b"\xff"], x=[[1, 2], [3, 4]])
    assert answer["keys"].tolist() == [b"a", b"\xff"]
    assert answer["y"].tolist() == answer["twice"].tolist() == [[2, 3], [4, 5]]


def test_an_answer_outlives_later_runs_and_the_session(tmp_path: Path) -> None:
    session = registry.load(savedmodels.write("every_dtype", tmp_path), ModelSpec())
    signature = session.signatures["serving_default"]
    sent = [random_inputs(signature, 50, np.random.default_rng(i)) for i in range(5)]
    got = [session.run(inputs, tuple(signature.outputs)) for inputs in sent]
    session.close()
    expected = [{n.replace("in_", "out_"): a.copy() for n, a in inputs.items()} for inputs in sent]
    del sent
    for inputs, outputs in zip(expected, got, strict=True):
        assert all(same_bits(outputs[name], array) for name, array in inputs.items())


def test_only_the_outputs_that_are_asked_for_come_in_that_order(load: Any) -> None:
    session = load("words")
    inputs = {"text": np.array([b"cat", b"dog"], dtype=object)}
    assert {n: a.tolist() for n, a in session.run(inputs, ("id",)).items()} == {"id": [1, -1]}
    assert list(session.run(inputs, ("upper", "id"))) == ["upper", "id"]


def test_tables_and_their_files_stay_alive(load: Any, tmp_path: Path) -> None:
    session = load("words")
    for path in sorted((tmp_path / "words").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    answer = run(session, text=[b"the", b"cat", b"sat", b"on", b"the", b"\xff"])
    assert answer["id"].tolist() == [0, 1, 2, -1, 0, -1]
    assert answer["upper"].tolist() == [b"THE", b"CAT", b"SAT", b"ON", b"THE", b"\xff"]


def test_an_input_with_a_default_may_be_missing(load: Any) -> None:
    session = load("defaults")
    specs = session.signatures["serving_default"].inputs
    assert {name: spec.optional for name, spec in specs.items()} == {"factor": True, "unit": True, "x": False}
    assert specs["factor"].default == np.array(3, np.float32)
    assert specs["unit"].default is not None and specs["unit"].default.tolist() == [b"m\0"]
    answer = run(session, x=[[1, 2]])
    assert (answer["y"].tolist(), answer["unit"].tolist()) == ([[3, 6]], [b"m\0"])
    answer = run(session, x=[[1, 2]], factor=10, unit=[b"km"])
    assert (answer["y"].tolist(), answer["unit"].tolist()) == ([[10, 20]], [b"km"])


def test_it_runs_from_several_threads_at_once(load: Any) -> None:
    session = load("mlp")
    x = np.random.default_rng(0).random((200, 784), dtype=np.float32)
    expected = run(session, x=x)["output_0"]

    def row(i: int) -> np.ndarray:
        return session.run({"x": x[i : i + 1]}, ("output_0",))["output_0"]

    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(row, range(len(x))))
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=1e-5)


def test_two_models_of_the_same_names_do_not_meet(load: Any, tmp_path: Path) -> None:
    two, three = load("half_plus_two"), load("half_plus_three")
    also_two = registry.load(tmp_path / "half_plus_two", ModelSpec())
    also_two.close()
    assert run(two, x=[[2]])["y"].tolist() == [[3]]
    assert run(three, x=[[2]])["y"].tolist() == [[4]]


def test_the_public_way_of_running_serves_too(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tf.compat.v1.Session.__mro__[1], "_make_callable_from_options")
    assert run(load("half_plus_two"), x=[[2]])["y"].tolist() == [[3]]
    answer = run(load("through"), keys=[b"a\0"], x=[[1, 2]])
    assert (answer["keys"].tolist(), answer["twice"].tolist()) == ([b"a\0"], [[2, 3]])


# Errors


@pytest.mark.parametrize(
    ("name", "signature", "inputs", "told"),
    [
        ("half_plus_two", "regress_x_to_y", {"inputs": [b"no example"]}, "Could not parse example input"),
        ("half_plus_two", "regress_x_to_y", {"inputs": [b""]}, "Feature: x .* is required but could not be found"),
        ("signatures", "narrow", {"x": [1]}, r"indices\[0\] = 1 is not in \[0, 1\)"),
        ("signatures", "inverse", {"x": np.zeros((1, 2, 2))}, "Input is not invertible"),
    ],
)
def test_what_the_graph_refuses_is_the_clients_fault(
    load: Any, name: str, signature: str, inputs: dict[str, Any], told: str
) -> None:
    session = load(name)
    with pytest.raises(ServingError, match=told) as refused:
        run(session, signature, **inputs)
    assert refused.value.kind is ErrorKind.INVALID
    assert "\n" not in str(refused.value)


# Loading


def test_a_graph_is_chosen_by_its_tags(load: Any) -> None:
    assert run(load("two_tags"), x=[[3]])["y"].tolist() == [[3]]
    assert run(load("two_tags", tags=("double", "serve")), x=[[3]])["y"].tolist() == [[6]]


@pytest.mark.parametrize(("tags", "asked"), [(("gpu", "serve"), "[gpu, serve]"), ((), "[]")])
def test_tags_that_are_not_there(load: Any, tags: tuple[str, ...], asked: str) -> None:
    with pytest.raises(LoadError) as error:
        load("two_tags", tags=tags)
    assert str(error.value) == f"the SavedModel has no graph for tags: {asked}; it has [serve] and [double, serve]"


def test_a_signature_of_a_type_that_no_protocol_carries_is_left_out(load: Any) -> None:
    session = load("complex")
    assert list(session.signatures) == ["serving_default"]
    told = "signature 'spectrum': tensor 'z' is of type DT_COMPLEX64, which no protocol here can carry"
    assert session.notes == {"left out": told}


def signature_def(dtype: int = 1, encoding: str = "name") -> Any:
    definition = backend.meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for side in (definition.inputs, definition.outputs):
        if encoding == "name":
            side["x"].name = "x:0"
        else:
            getattr(side["x"], encoding).SetInParent()
        side["x"].dtype = dtype
    return definition


@pytest.mark.parametrize(
    ("definitions", "told"),
    [
        ({}, "the SavedModel has no signatures"),
        ({"__saved_model_init_op": signature_def()}, "the SavedModel has no signatures"),
        ({"serving_default": signature_def(20)}, "signature 'serving_default': tensor 'x' is of type DT_RESOURCE"),
        (
            {"a": signature_def(11), "b": signature_def(18)},
            "signature 'a': .* DT_QINT8.*; signature 'b': .*DT_COMPLEX128",
        ),
        ({"a": signature_def(), "serving_default": signature_def(999)}, "signature 'serving_default': .* type 999"),
        ({"a": signature_def(1, "coo_sparse")}, "tensor 'x' is a coo_sparse, which no protocol here can carry"),
    ],
)
def test_signatures_that_cannot_be_served(definitions: dict[str, Any], told: str) -> None:
    with pytest.raises(LoadError, match=told):
        backend.read_signatures(definitions)


def test_a_method_that_is_unknown_is_served_as_prediction() -> None:
    definition = signature_def()
    definition.method_name = "tensorflow/serving/unheard_of"
    signatures, _ = backend.read_signatures({"a": definition})
    assert signatures["a"].method is SignatureMethod.PREDICT


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda d: (d / "saved_model.pb").write_bytes(b"\xff" * 10), "saved_model.pb cannot be read as a SavedModel"),
        (lambda d: (d / "saved_model.pb").write_bytes(b""), r"no graph for tags: \[serve\]; it has none"),
        (lambda d: (d / "variables/variables.index").unlink(), "^TensorFlow cannot load it: "),
    ],
    ids=["garbage", "empty", "no variables"],
)
def test_a_damaged_artifact(tmp_path: Path, damage: Any, told: str) -> None:
    savedmodels.write("mlp", tmp_path)
    damage(tmp_path)
    with pytest.raises(LoadError, match=told) as refused:
        registry.load(tmp_path, ModelSpec())
    assert "\n" not in str(refused.value)


def test_the_threads_of_the_first_model_are_those_of_all(
    load: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backend, "_threads", None)
    made: list[Any] = []
    real = tf.compat.v1.Session
    monkeypatch.setattr(tf.compat.v1, "Session", lambda **given: made.append(given["config"]) or real(**given))
    load("half_plus_two", threads=2)
    load("half_plus_three")
    assert not caplog.messages
    load("mlp", threads=3)
    assert [config.intra_op_parallelism_threads for config in made] == [2, 2, 2]
    assert all(config.inter_op_parallelism_threads == -1 and config.gpu_options.allow_growth for config in made)
    (told,) = caplog.messages
    assert "mlp: 'threads' is 3, but SavedModels share the threads of the first one in a process, which are 2" in told


def test_closing_gives_back_what_it_can(tmp_path: Path) -> None:
    """Models of 64 MB, one after the other, need the memory of one."""
    savedmodels.write("large", tmp_path)
    x = np.ones((1, 4096), np.float32)
    used = []
    for _ in range(5):
        session = registry.load(tmp_path, ModelSpec())
        session.run({"x": x}, ("y",))
        session.close()
        used.append(resident_mb())
    assert used[-1] - used[0] < 32


def resident_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 2**20


def test_tritons_directory_is_read_too(tmp_path: Path) -> None:
    savedmodels.write("half_plus_two", tmp_path / "m/1/model.savedmodel")
    session = registry.load(tmp_path / "m/1", ModelSpec())
    assert run(session, x=[[2]])["y"].tolist() == [[3]]
    session.close()


# As the repository loads them


@pytest.mark.parametrize(
    ("name", "batched"),
    [
        ("mlp", {"serving_default": True, "serve": True}),
        ("words", {"serving_default": True}),
        ("every_dtype", {"serving_default": True}),
        ("through", {"serving_default": True}),
        ("half_plus_three", {"serving_default": False}),
        ("signatures", {"serving_default": True, "centred": False, "dice": False, "shout": True, "any_rank": False}),
        ("defaults", {"serving_default": False, "numbers": True}),
        ("half_plus_two", {"serving_default": True, "regress_x2_to_y3": True}),
    ],
)
def test_requests_are_merged_where_rows_are_independent(tmp_path: Path, name: str, batched: dict[str, bool]) -> None:
    savedmodels.write(name, tmp_path / name / "00000123")
    found = scan(tmp_path)[name].versions[123]
    session = loading.load(name, found, ModelSpec())
    contracts = loading.warm_up(name, found, ModelSpec(), session).contracts
    assert {signature: contracts[signature].max_batch_size > 0 for signature in batched} == batched
    session.close()
