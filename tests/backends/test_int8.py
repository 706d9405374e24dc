"""Graphs whose matrix products are rewritten to int8, against the graphs that they were."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.backends import int8
from tests import models

WIDE, OUT = 96, 48
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((WIDE, OUT)).astype(np.float32) * np.logspace(-2, 2, OUT, dtype=np.float32)
BIAS = RNG.standard_normal(OUT).astype(np.float32)
X = RNG.standard_normal((7, WIDE)).astype(np.float32) * np.logspace(-3, 3, 7, dtype=np.float32)[:, None]


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    opset: int = 17,
    shape: models.Shape = ("n", WIDE),
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))],
        initializers,
    )
    return helper.make_model(made, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


def run(model: onnx.ModelProto, x: np.ndarray = X) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


def converted(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    count = int8.convert(copy)
    onnx.checker.check_model(copy)
    return copy, count


def close(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Within a few steps of int8, of each column and each row apart."""
    scale = np.abs(expected).max(axis=-1, keepdims=True) * np.ones_like(expected)
    return bool((np.abs(actual - expected) <= 0.03 * scale + 1e-6).all())


MATMUL = [helper.make_node("MatMul", ["x", "w"], ["y"])]


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_a_matrix_product(opset: int) -> None:
    model = graph(MATMUL, {"w": WEIGHTS}, opset)
    small, count = converted(model)
    assert count == 1
    assert close(run(small), X @ WEIGHTS)
    assert small.ByteSize() < 0.4 * model.ByteSize()
    assert "w" not in {each.name for each in small.graph.initializer}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gemm(transposed: bool, bias: bool) -> None:
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [helper.make_node("Gemm", inputs, ["y"], transB=int(transposed))]
    constants = {"w": np.ascontiguousarray(WEIGHTS.T) if transposed else WEIGHTS}
    model = graph(nodes, constants | ({"b": BIAS} if bias else {}))
    small, count = converted(model)
    assert count == 1 and close(run(small), run(model))


def test_more_axes() -> None:
    model = graph(MATMUL, {"w": WEIGHTS}, shape=("n", "m", WIDE))
    x = RNG.standard_normal((2, 3, WIDE)).astype(np.float32)
    assert close(run(converted(model)[0], x), x @ WEIGHTS)


def test_rows_stay_apart() -> None:
    """What a client gets must not depend on whose rows are in the same run."""
    small, _ = converted(graph(MATMUL, {"w": WEIGHTS}))
    together = run(small)
    for i, row in enumerate(X):
        np.testing.assert_array_equal(together[i], run(small, row[None])[0])


def test_rows_and_columns_of_zeros() -> None:
    weights = WEIGHTS.copy()
    weights[:, 3] = 0
    x = X.copy()
    x[2] = 0
    y = run(converted(graph(MATMUL, {"w": weights}))[0], x)
    assert (y[2] == 0).all() and (y[:, 3] == 0).all()


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (MATMUL, {"w": WEIGHTS[:, :8]}),  # too small
        ([helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5)], {"w": WEIGHTS}),
        ([helper.make_node("Mul", ["x", "w"], ["y"])], {"w": np.ones((64, WIDE), np.float32)}),
        ([helper.make_node("MatMul", ["w", "x"], ["y"])], {"w": np.ones((64, 128), np.float32)}),
    ],
    ids=["small", "scaled", "no product", "constant first"],
)
def test_what_stays_as_it_is(nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    model = graph(nodes, constants)
    assert int8.convert(model) == 0
    assert model == graph(nodes, constants)


def test_a_value_that_clients_may_give_stays() -> None:
    model = graph(MATMUL, {"w": WEIGHTS})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, WEIGHTS.shape))
    assert int8.convert(model) == 0


def test_weights_that_are_used_elsewhere_stay_too() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("ReduceSum", ["w"], ["s"], keepdims=0),
        helper.make_node("Add", ["a", "s"], ["b"]),
        helper.make_node("MatMul", ["x", "w"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    model = graph(nodes, {"w": WEIGHTS})
    small, count = converted(model)
    assert count == 1  # for both products
    assert "w" in {each.name for each in small.graph.initializer}
    np.testing.assert_allclose(run(small), run(model), atol=0.05 * np.abs(run(model)).max())


def test_an_old_opset_is_refused() -> None:
    with pytest.raises(ValueError, match="its opset is 9, and this takes 11"):
        int8.convert(graph(MATMUL, {"w": WEIGHTS}, opset=9))
