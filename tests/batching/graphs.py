"""Graphs with an open first axis for the probe: most of them mix rows, each in its own way."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import models


def one_node(op: str, *constants: np.ndarray, dtype: str = "FP32", **attributes: object) -> onnx.ModelProto:
    """y = op(x, constants...), `[batch, 4]`."""
    names = [f"c{i}" for i in range(len(constants))]
    shape = (models.BATCH, 4)
    return models.model(
        [helper.make_node(op, ["x", *names], ["y"], **attributes)],
        [models.tensor("x", dtype, shape)],
        [models.tensor("y", dtype, shape)],
        dict(zip(names, constants, strict=True)),
    )


def softmax_over_rows() -> onnx.ModelProto:
    return one_node("Softmax", axis=0)


def cumulative_sum_over_rows() -> onnx.ModelProto:
    return one_node("CumSum", np.array(0, np.int64))


def reversed_rows() -> onnx.ModelProto:
    return one_node("Slice", *(np.array([n], np.int64) for n in (-1, -(2**31), 0, -1)))


def noise() -> onnx.ModelProto:
    """Another answer each time."""
    return one_node("RandomNormalLike")


def above_the_mean() -> onnx.ModelProto:
    """BOOL: x > mean of x over rows; rows are mixed, and no number shows it."""
    shape = (models.BATCH, 4)
    return models.model(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Greater", ["x", "mean"], ["y"]),
        ],
        [models.tensor("x", "FP32", shape)],
        [models.tensor("y", "BOOL", shape)],
        {"axes": np.array([0], np.int64)},
    )


def truths_against_their_mean() -> onnx.ModelProto:
    """One BOOL a row, so that rows are easily alike: y = x - mean of x over rows."""
    return models.model(
        [
            helper.make_node("Cast", ["x"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["number", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["number", "mean"], ["y"]),
        ],
        [models.tensor("x", "BOOL", (models.BATCH, 1))],
        [models.tensor("y", "FP32", (models.BATCH, 1))],
        {"axes": np.array([0], np.int64)},
    )


def least_of_column() -> onnx.ModelProto:
    """INT64: x minus the least x over rows."""
    shape = (models.BATCH, 4)
    return models.model(
        [
            helper.make_node("ReduceMin", ["x", "axes"], ["least"], keepdims=1),
            helper.make_node("Sub", ["x", "least"], ["y"]),
        ],
        [models.tensor("x", "INT64", shape)],
        [models.tensor("y", "INT64", shape)],
        {"axes": np.array([0], np.int64)},
    )


def sum_of_rows() -> onnx.ModelProto:
    """One row out, whatever came in."""
    return models.model(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        [models.tensor("x", "FP32", (models.BATCH, 4))],
        [models.tensor("y", "FP32", ("any", 4))],
        {"axes": np.array([0], np.int64)},
    )


def batch_of_one() -> onnx.ModelProto:
    """Says that axis 0 is open, and takes one row only, as careless exports do."""
    return models.model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [models.tensor("x", "FP32", (models.BATCH, 4))],
        [models.tensor("y", "FP32", (models.BATCH, 2, 2))],
        {"shape": np.array([1, 2, 2], np.int64)},
    )


def narrow_lookup() -> onnx.ModelProto:
    """y = table[x] for x = 0, the only entry; INT64 `[batch, 1]` -> FP32 `[batch, 1]`."""
    return models.model(
        [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)],
        [models.tensor("x", "INT64", (models.BATCH, 1))],
        [models.tensor("y", "FP32", (models.BATCH, 1))],
        {"table": np.array([7], np.float32)},
    )


def convolution(least: int) -> onnx.ModelProto:
    """`[batch, 1, height, width]`, both at least `least`."""
    weights = np.ones((2, 1, least, least), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "test",
        [models.tensor("x", "FP32", (models.BATCH, 1, "height", "width"))],
        [models.tensor("y", "FP32", (models.BATCH, 2, "h", "w_out"))],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def text_to_numbers() -> onnx.ModelProto:
    """BYTES in, FP32 out."""
    return models.model(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        [models.tensor("x", "BYTES", (models.BATCH, 3))],
        [models.tensor("y", "FP32", (models.BATCH, 3))],
    )


def large_numbers() -> onnx.ModelProto:
    """Logits of a few hundred thousand out of a wide product: summation order shows in absolute terms."""
    weights = np.random.default_rng(0).normal(0, 1000, (512, 8)).astype(np.float32)
    return models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [models.tensor("x", "FP32", (models.BATCH, 512))],
        [models.tensor("y", "FP32", (models.BATCH, 8))],
        {"w": weights},
    )
