"""Small ONNX models for tests: real graphs, made in memory, a few kilobytes each.

Every function gives a checked `onnx.ModelProto`. Unless it says otherwise a model has one input `x` and one output `y`,
both `[batch, ...]` with an open first axis, and treats its rows apart. Data types go by their names in the Open
Inference Protocol.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = int | str | None  # a size, a name for an open one, or nothing known
Shape = Sequence[Dim]

DTYPES: Mapping[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
BATCH: Dim = "batch"


def tensor(name: str, dtype: str, shape: Shape) -> onnx.ValueInfoProto:
    """The declaration of an input or output."""
    return helper.make_tensor_value_info(name, DTYPES[dtype], shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A checked model of one graph; `constants` are its initializers by name."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    onnx.checker.check_model(made)
    return made


def save(proto: onnx.ModelProto, path: Path) -> Path:
    """Writes `path`, and the directories above it. Returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


def identity(dtype: str = "FP32", shape: Shape = (BATCH, 4)) -> onnx.ModelProto:
    """y = x. BYTES must be UTF-8, as ONNX strings are."""
    return model([helper.make_node("Identity", ["x"], ["y"])], [tensor("x", dtype, shape)], [tensor("y", dtype, shape)])


def every_dtype(names: Sequence[str] = tuple(DTYPES)) -> onnx.ModelProto:
    """One input `in_<dtype>` and one output `out_<dtype>` for each of `names`, all `[batch, 3]`; each out = in."""
    return model(
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names],
        [tensor(f"in_{name}", name, (BATCH, 3)) for name in names],
        [tensor(f"out_{name}", name, (BATCH, 3)) for name in names],
    )


def scale(factor: float, width: int = 4) -> onnx.ModelProto:
    """y = factor * x, FP32 `[batch, width]`: versions of it can be told apart by their answers."""
    return model(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [tensor("x", "FP32", (BATCH, width))],
        [tensor("y", "FP32", (BATCH, width))],
        {"factor": np.array(factor, np.float32)},
    )


def add_sub(dtype: str = "INT32", width: int = 16) -> onnx.ModelProto:
    """Two inputs and two outputs, `[batch, width]`: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1."""
    return model(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        [tensor(name, dtype, (BATCH, width)) for name in ("INPUT0", "INPUT1")],
        [tensor(name, dtype, (BATCH, width)) for name in ("OUTPUT0", "OUTPUT1")],
    )


def mlp(sizes: Sequence[int] = (784, 128, 10), seed: int = 0) -> onnx.ModelProto:
    """Dense layers with ReLU between them and softmax at the end; random weights. FP32 `[batch, sizes[0]]`."""
    rng = np.random.default_rng(seed)
    nodes, constants, value = [], {}, "x"
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        constants[f"w{i}"] = rng.normal(0, fan_in**-0.5, (fan_in, fan_out)).astype(np.float32)
        constants[f"b{i}"] = np.zeros(fan_out, np.float32)
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"h{i}"]))
        last = i == len(sizes) - 2
        value = "y" if last else f"r{i}"
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"h{i}"], [value]))
    return model(nodes, [tensor("x", "FP32", (BATCH, sizes[0]))], [tensor("y", "FP32", (BATCH, sizes[-1]))], constants)


def centred(width: int = 4) -> onnx.ModelProto:
    """y = x - mean(x over axis 0): the first axis is open, and yet rows depend on each other."""
    return model(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [tensor("x", "FP32", (BATCH, width))],
        [tensor("y", "FP32", (BATCH, width))],
        {"axes": np.array([0], np.int64)},
    )


def lengths(masked: bool = True) -> onnx.ModelProto:
    """Rows of any length: `y` is twice `x`, of the same shape; `total` is the sum of a row, or, if zeros are not
    `masked`, its mean."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("ReduceSum" if masked else "ReduceMean", ["x", "axis"], ["total"], keepdims=0),
    ]
    shape = [BATCH, "length"]
    outputs = [tensor("y", "FP32", shape), tensor("total", "FP32", [BATCH])]
    return model(nodes, [tensor("x", "FP32", shape)], outputs, {"axis": np.array([1], np.int64)})


def lookup(size: int = 4) -> onnx.ModelProto:
    """y = 1 / (x + 1), INT64 `[batch, 1]` -> FP32 `[batch, 1]`, for x < size; any other x makes the model fail."""
    return model(
        [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)],
        [tensor("x", "INT64", (BATCH, 1))],
        [tensor("y", "FP32", (BATCH, 1))],
        {"table": (1 / np.arange(1, size + 1)).astype(np.float32)},
    )


def slow(loops: int = 100, factor: float = 1.0, width: int = 4) -> onnx.ModelProto:
    """y = factor * x, FP32 `[batch, width]`, after `loops` products of 128 x 128 matrices, some 50 µs each.

    The time does not depend on the number of rows, so merging requests pays; it is spent computing, not sleeping.
    """
    return model(
        [
            helper.make_node("Loop", ["loops", "", "start"], ["end"], body=_turn()),
            helper.make_node("ReduceMax", ["end"], ["one"], keepdims=0),
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
            helper.make_node("Mul", ["scaled", "one"], ["y"]),
        ],
        [tensor("x", "FP32", (BATCH, width))],
        [tensor("y", "FP32", (BATCH, width))],
        {"loops": np.array(loops, np.int64), "factor": np.array(factor, np.float32), **_TURNED},
    )


def spin() -> onnx.ModelProto:
    """y = x, INT64 `[batch, 1]`, after max(x) products of 128 x 128 matrices: the request says how long it takes.

    Small values (what probes and warm-up send) take no time, 20,000 take about a second, `FOREVER` never ends.
    """
    return model(
        [
            helper.make_node("ReduceMax", ["x"], ["loops"], keepdims=0),
            helper.make_node("Loop", ["loops", "", "start"], ["end"], body=_turn()),
            helper.make_node("ReduceMax", ["end"], ["one"], keepdims=0),
            helper.make_node("Cast", ["one"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["x", "whole"], ["y"]),
        ],
        [tensor("x", "INT64", (BATCH, 1))],
        [tensor("y", "INT64", (BATCH, 1))],
        _TURNED,
    )


FOREVER = 2**40

# The state of the loops: a permutation matrix, so that its largest element stays 1 whatever the number of turns.
_TURNED: Mapping[str, np.ndarray] = {
    "start": np.eye(128, dtype=np.float32),
    "turn": np.roll(np.eye(128, dtype=np.float32), 1, axis=0),
}


def _turn() -> onnx.GraphProto:
    """The body of a Loop: state @ turn, from outside, and on."""
    return helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            helper.make_node("MatMul", ["state", "turn"], ["next"]),
        ],
        "body",
        [tensor("i", "INT64", ()), tensor("going", "BOOL", ()), tensor("state", "FP32", (128, 128))],
        [tensor("still_going", "BOOL", ()), tensor("next", "FP32", (128, 128))],
    )
