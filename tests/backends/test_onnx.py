"""ONNX Runtime behind the session interface, with real graphs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from serving.backends import onnx as backend
from serving.backends.base import Session
from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, LoadError, ServingError
from serving.core.generate import random_array, random_inputs
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, InferRequest, Signature, SignatureMethod, TensorSpec
from serving.core.validate import Contract
from tests import models

ROOT = Path(__file__).parents[2]

EXTREMES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "FP16": [6e-8, 65504, float("inf"), float("nan"), -0.0],
    "BF16": [1e-38, 3e38, float("inf"), float("nan"), -0.0],
    "FP32": [1e-45, 3e38, float("inf"), float("nan"), -0.0],
    "FP64": [5e-324, 1e308, float("inf"), float("nan"), -0.0],
    "BYTES": [b"", b"a\0b", "Zürich 模型 \U0001f600".encode(), b"x" * 10_000, b"b'abc'"],
}


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Any]:
    """Loads a graph from a file, and closes its session when the test is over."""
    sessions = []

    def load(proto: onnx.ModelProto, **spec: Any) -> Session:
        session = backend.load(models.save(proto, tmp_path / "model.onnx"), ModelSpec(**spec))
        sessions.append(session)
        return session

    yield load
    for session in sessions:
        session.close()


def extremes(dtype: DType) -> np.ndarray:
    values = EXTREMES.get(dtype.name)
    if values is None:
        limits = np.iinfo(dtype.numpy)
        values = [limits.min, limits.max, 0]
    array = np.empty(len(values), dtype.numpy)
    array[:] = values
    return array


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()


# Signature


def signature(session: Session) -> Signature:
    (only,) = session.signatures.items()
    assert only[0] == DEFAULT_SIGNATURE
    return only[1]


def test_the_signature_is_that_of_the_graph_in_its_order(load: Any) -> None:
    session = load(models.add_sub("INT32", 16))
    shape = (-1, 16)
    assert list(signature(session).inputs.values()) == [
        TensorSpec("INPUT0", dtypes.INT32, shape, graph_name="INPUT0"),
        TensorSpec("INPUT1", dtypes.INT32, shape, graph_name="INPUT1"),
    ]
    assert list(signature(session).outputs.values()) == [
        TensorSpec("OUTPUT0", dtypes.INT32, shape, graph_name="OUTPUT0"),
        TensorSpec("OUTPUT1", dtypes.INT32, shape, graph_name="OUTPUT1"),
    ]
    assert signature(session).method is SignatureMethod.PREDICT
    assert session.platform == "onnxruntime_onnx"
    assert session.notes == {}


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_every_data_type_is_read(load: Any, dtype: DType) -> None:
    session = load(models.identity(dtype.name, ("n", 3)))
    assert signature(session).inputs["x"].dtype is signature(session).outputs["y"].dtype is dtype


@pytest.mark.parametrize(
    ("shape", "declared"),
    [
        (("batch", 4), (-1, 4)),
        (("batch", "width", 3), (-1, -1, 3)),
        ((None, 4), (-1, 4)),
        ((1, 4), (1, 4)),
        ((8, "width"), (8, -1)),
        ((), ()),
    ],
)
def test_shapes(load: Any, shape: Any, declared: tuple[int, ...]) -> None:
    session = load(models.identity("FP32", shape))
    assert signature(session).inputs["x"].shape == declared
    assert signature(session).outputs["y"].shape == declared


def test_no_shape_is_not_the_shape_of_a_scalar(load: Any) -> None:
    """ONNX Runtime reports the same for both."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    session = load(unchecked(helper.make_node("Identity", ["x"], ["y"]), x, y))
    assert signature(session).inputs["x"].shape is signature(session).outputs["y"].shape is None
    for shape in ((), (3,), (2, 1), (1, 2, 0)):
        sent = np.zeros(shape, np.float32)
        assert same_bits(session.run({"x": sent}, ("y",))["y"], sent)


def test_a_model_without_inputs(load: Any) -> None:
    session = load(
        models.model(
            [helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])], [], [models.tensor("y", "FP32", (2,))]
        )
    )
    assert signature(session).inputs == {}
    assert session.run({}, ("y",))["y"].tolist() == [1, 2]


def test_an_initializer_is_no_input(load: Any) -> None:
    assert list(signature(load(models.scale(3))).inputs) == ["x"]


def overridable(ir_version: int = 10) -> onnx.ModelProto:
    """y = factor * x, where `factor` is an input with a value of its own."""
    proto = models.scale(3)
    proto.graph.input.append(models.tensor("factor", "FP32", ()))
    proto.ir_version = ir_version
    return proto


def test_an_input_with_a_value_of_its_own_may_be_missing(load: Any) -> None:
    session = load(overridable())
    assert {name: spec.optional for name, spec in signature(session).inputs.items()} == {"x": False, "factor": True}
    assert signature(session).inputs["factor"].shape == ()
    x = np.ones((1, 4), np.float32)
    assert session.run({"x": x}, ("y",))["y"].tolist() == [[3] * 4]
    assert session.run({"x": x, "factor": np.array(5, np.float32)}, ("y",))["y"].tolist() == [[5] * 4]
    assert session.run({"x": x}, ("y",))["y"].tolist() == [[3] * 4]


def test_requests_with_and_without_an_optional_input_are_valid(load: Any) -> None:
    contract = Contract("m", signature(load(overridable())), 8)
    x, factor = np.ones((2, 4), np.float32), np.array(5, np.float32)
    assert contract.check(InferRequest("m", {"x": x})) == 2
    assert contract.check(InferRequest("m", {"x": x, "factor": factor})) == 2
    with pytest.raises(ServingError, match="missing required input"):
        contract.check(InferRequest("m", {"factor": factor}))


def test_old_files_list_every_initializer_as_input(load: Any) -> None:
    """Before version 4 of the format they had to, so there it means nothing."""
    old = overridable(ir_version=3)
    old.opset_import[0].version = 8
    assert list(signature(load(old)).inputs) == ["x"]


# Runs


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_values_come_back_as_they_went_in(load: Any, dtype: DType) -> None:
    session = load(models.identity(dtype.name, ("n",)))
    for sent in (extremes(dtype), extremes(dtype)[:0]):
        got = session.run({"x": sent}, ("y",))["y"]
        assert same_bits(got, sent)


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_scalars_and_fixed_batches(load: Any, dtype: DType) -> None:
    for shape in ((), (3, 2)):
        sent = random_array(dtype, shape, np.random.default_rng(0))
        got = load(models.identity(dtype.name, shape)).run({"x": sent}, ("y",))["y"]
        assert isinstance(got, np.ndarray) and same_bits(got, sent)


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_a_view_into_a_received_body_can_be_run(load: Any, dtype: DType) -> None:
    """Read-only, and not in one piece."""
    sent = random_array(dtype, (3, 4), np.random.default_rng(0))
    view = sent[:, ::2]
    view.flags.writeable = False
    assert same_bits(load(models.identity(dtype.name, ("n", 2))).run({"x": view}, ("y",))["y"], view)


def cast(source: str, target: str) -> onnx.ModelProto:
    return models.model(
        [helper.make_node("Cast", ["x"], ["y"], to=models.DTYPES[target])],
        [models.tensor("x", source, ("n",))],
        [models.tensor("y", target, ("n",))],
    )


@pytest.mark.parametrize("dtype", [d for d in dtypes.ALL if d not in (dtypes.BOOL, dtypes.BYTES)], ids=repr)
def test_one_side_alone_may_have_a_data_type(load: Any, dtype: DType) -> None:
    numbers = np.array([0, 1, 100])
    assert load(cast("FP32", dtype.name)).run({"x": numbers.astype(np.float32)}, ("y",))["y"].dtype == dtype.numpy
    back = load(cast(dtype.name, "FP64")).run({"x": numbers.astype(dtype.numpy)}, ("y",))["y"]
    assert back.tolist() == [0, 1, 100]


def test_numbers_to_text_and_back(load: Any) -> None:
    texts = np.array([b"1.5", b"-2"], dtype=object)
    assert load(cast("BYTES", "FP32")).run({"x": texts}, ("y",))["y"].tolist() == [1.5, -2]
    assert load(cast("INT64", "BYTES")).run({"x": np.array([7, -1])}, ("y",))["y"].tolist() == [b"7", b"-1"]


def test_many_data_types_in_one_model(load: Any) -> None:
    session = load(models.every_dtype([d.name for d in dtypes.ALL if d is not dtypes.BYTES]))
    inputs = random_inputs(signature(session), 2, np.random.default_rng(0))
    outputs = session.run(inputs, tuple(signature(session).outputs))
    assert len(outputs) == len(dtypes.ALL) - 1
    assert all(same_bits(outputs[name.replace("in_", "out_")], array) for name, array in inputs.items())


def test_bf16_in_and_text_out(load: Any) -> None:
    texts = models.model(
        [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["wide"], ["y"], to=TensorProto.STRING),
        ],
        [models.tensor("x", "BF16", ("n",))],
        [models.tensor("y", "BYTES", ("n",))],
    )
    sent = np.array([1, -2.5], ml_dtypes.bfloat16)
    assert load(texts).run({"x": sent}, ("y",))["y"].tolist() == [b"1", b"-2.5"]


@pytest.mark.parametrize("dtype", ["FP32", "INT8"])
def test_one_bf16_tensor_does_not_change_the_shapes_of_others(load: Any, dtype: str) -> None:
    """A scalar stays a scalar."""
    two = models.model(
        [helper.make_node("Identity", ["a"], ["c"]), helper.make_node("Identity", ["b"], ["d"])],
        [models.tensor("a", "BF16", ("n",)), models.tensor("b", dtype, ())],
        [models.tensor("c", "BF16", ("n",)), models.tensor("d", dtype, ())],
    )
    scalar = np.array(3, dtypes.BY_NAME[dtype].numpy)
    got = load(two).run({"a": np.ones(2, ml_dtypes.bfloat16), "b": scalar}, ("c", "d"))
    assert same_bits(got["d"], scalar)


def test_text_that_is_not_utf8_is_refused_by_element(load: Any) -> None:
    session = load(models.identity("BYTES", ("n", 2)))
    sent = np.array([[b"fine", "auch gut: ü".encode()], [b"\xff\xfe", b"never read"]], dtype=object)
    with pytest.raises(ServingError, match="input 'x' element 2 is not UTF-8") as refused:
        session.run({"x": sent}, ("y",))
    assert refused.value.kind is ErrorKind.INVALID


def test_only_the_outputs_that_are_asked_for_come_in_that_order(load: Any) -> None:
    session = load(models.add_sub())
    inputs = {"INPUT0": np.full((1, 16), 5, np.int32), "INPUT1": np.full((1, 16), 3, np.int32)}
    assert {n: a[0, 0] for n, a in session.run(inputs, ("OUTPUT1",)).items()} == {"OUTPUT1": 2}
    assert list(session.run(inputs, ("OUTPUT1", "OUTPUT0"))) == ["OUTPUT1", "OUTPUT0"]


@pytest.mark.parametrize("dtype", ["FP32", "BYTES", "BF16"])
def test_inputs_are_not_written_to_and_outputs_are_no_view_of_them(load: Any, dtype: str) -> None:
    sent = random_array(dtypes.BY_NAME[dtype], (2, 4), np.random.default_rng(0))
    before = sent.copy()
    got = load(models.identity(dtype)).run({"x": sent}, ("y",))["y"]
    assert same_bits(sent, before)
    assert not np.shares_memory(got, sent)


@pytest.mark.parametrize("dtype", ["FP32", "BYTES", "BF16"])
def test_an_answer_outlives_later_runs_and_the_session(tmp_path: Path, dtype: str) -> None:
    session = backend.load(models.save(models.identity(dtype, ("n", 100)), tmp_path / "m.onnx"), ModelSpec())
    rng = np.random.default_rng(0)
    sent = [random_array(dtypes.BY_NAME[dtype], (50, 100), rng) for _ in range(5)]
    got = [session.run({"x": x}, ("y",))["y"] for x in sent]
    session.close()
    assert all(map(same_bits, got, sent))


def test_a_model_that_fails_raises_what_the_runtime_says(load: Any) -> None:
    session = load(models.lookup())
    with pytest.raises(Exception, match="out of data bounds"):
        session.run({"x": np.array([[9]])}, ("y",))
    assert session.run({"x": np.array([[1]])}, ("y",))["y"].tolist() == [[0.5]]


# What cannot be served


def unchecked(node: onnx.NodeProto, x: onnx.ValueInfoProto, y: onnx.ValueInfoProto) -> onnx.ModelProto:
    """A model that `onnx.checker` would not let pass."""
    graph = helper.make_graph([node], "test", [x], [y])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def test_text_does_not_go_with_bf16(load: Any) -> None:
    """ONNX Runtime binds no strings, and without binding it gives no BF16: better told at load than at each request."""
    with pytest.raises(LoadError, match=r"BYTES.*BF16|BF16.*BYTES"):
        load(models.every_dtype(["BYTES", "BF16"]))


def test_a_type_that_no_protocol_carries(load: Any) -> None:
    sequence = models.model(
        [helper.make_node("SequenceConstruct", ["x"], ["many"])],
        [models.tensor("x", "FP32", ("n",))],
        [helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, None)],
    )
    with pytest.raises(LoadError, match=r"^tensor 'many' is of type seq\(tensor\(float\)\)"):
        load(sequence)


@pytest.mark.parametrize("content", [b"", b"no graph", models.mlp().SerializeToString()[:5000]])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(LoadError, match=r"^ONNX Runtime cannot load model\.onnx: ") as refused:
        backend.load(file, ModelSpec())
    assert "\n" not in str(refused.value)


def test_an_operator_that_the_provider_lacks(load: Any) -> None:
    x, y = models.tensor("x", "FP32", ("n",)), models.tensor("y", "FP32", ("n",))
    strange = unchecked(helper.make_node("NoSuchOperator", ["x"], ["y"]), x, y)
    with pytest.raises(LoadError, match="NoSuchOperator"):
        load(strange)


# Providers, threads and installations


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this runtime has CUDA")
@pytest.mark.parametrize(
    "providers", [("CUDAExecutionProvider",), ("CUDAExecutionProvider", "CPUExecutionProvider"), ("NoSuchProvider",)]
)
def test_a_missing_provider_is_refused(load: Any, providers: tuple[str, ...]) -> None:
    with pytest.raises(LoadError, match=f"^execution provider {providers[0]} is not in this ONNX Runtime .*CPUExec"):
        load(models.scale(2), providers=providers)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What each ONNX Runtime session was made with."""
    seen: list[SimpleNamespace] = []
    real = ort.InferenceSession

    def make(path: Path, options: ort.SessionOptions, providers: list[str]) -> ort.InferenceSession:
        session = real(path, options, providers=providers)
        seen.append(SimpleNamespace(options=options, providers=providers, session=session))
        return session

    monkeypatch.setattr(ort, "InferenceSession", make)
    return seen


def test_threads_are_set_and_do_not_spin(load: Any, made: list[SimpleNamespace]) -> None:
    load(models.scale(2))
    load(models.scale(2), threads=3)
    one, three = made
    assert one.options.intra_op_num_threads == 1
    assert three.options.intra_op_num_threads == 3
    for each in made:
        assert each.options.inter_op_num_threads == 1
        assert each.options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert each.options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


def test_providers_are_passed_on_in_order(load: Any, made: list[SimpleNamespace]) -> None:
    available = tuple(ort.get_available_providers())
    load(models.scale(2), providers=available)
    assert made[0].providers == list(available)
    assert made[0].session.get_providers() == list(available)


def test_a_provider_that_does_not_start_is_refused(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself would go on with what is left."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["QnnExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda path, options, providers, make=ort.InferenceSession: make(path, options, providers=providers[1:]),
    )
    with pytest.raises(LoadError, match=r"QnnExecutionProvider did not start; .* would have used CPUExecutionProvider"):
        load(models.scale(2), providers=("QnnExecutionProvider", "CPUExecutionProvider"))


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def distribution(name: str) -> SimpleNamespace:
        if name not in versions:
            raise PackageNotFoundError(name)
        return SimpleNamespace(version=versions[name])

    monkeypatch.setattr(backend, "distribution", distribution)


def test_both_builds_of_the_runtime_are_refused(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, **{"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.28.0"})
    with pytest.raises(LoadError, match=r"^onnxruntime 1\.30\.0 and onnxruntime-gpu 1\.28\.0 are both installed"):
        load(models.scale(2))


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_one_build_of_the_runtime_is_fine(load: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch, **{name: "1.30.0"})
    load(models.scale(2))


def test_the_runtime_does_not_report_to_its_maker(tmp_path: Path) -> None:
    """It would leave a database of reports in the home directory, and send them."""
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "from serving.backends import onnx; print(len(onnx.ort.get_available_providers()))"
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
    assert list(tmp_path.rglob("*")) == []
