"""Models that are made for these measurements, with random weights: shapes and costs are all that matters.

Pure apart from `write`. Knows the artifact layout, no wire format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests import mlp

INPUT, OUTPUT = "x", "y"


@dataclass(frozen=True)
class Model:
    """A perceptron of `widths`, or an image model of `layers` convolutions; a row of its input has `features`."""

    name: str
    widths: tuple[int, ...] = ()
    layers: int = 0
    max_batch_size: int = 64

    @property
    def features(self) -> int:
        return self.widths[0] if self.widths else SIDE * SIDE

    def build(self) -> onnx.ModelProto:
        return perceptron(self.widths) if self.widths else convolutions(self.layers)

    def rows(self, count: int) -> npt.NDArray[np.float32]:
        return random_rows(count, self.features)


SIDE, CHANNELS, CLASSES = 32, 64, 10
MODELS = {
    model.name: model
    for model in (
        Model("small", (mlp.PIXELS, mlp.HIDDEN, mlp.CLASSES)),
        Model("large", (784, 2048, 2048, 2048, 10)),
        Model("slow", layers=16, max_batch_size=8),
    )
}


def random_rows(count: int, features: int) -> npt.NDArray[np.float32]:
    """FP32 [count, features], drawn with a fixed seed."""
    return np.random.default_rng(count).random((count, features), np.float32)


def write(model: Model, root: Path, settings: str = "") -> Path:
    """Write `root/<name>/1/model.onnx` and its model.yaml, one thread and one instance; returns the ONNX file."""
    path = root / model.name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(model.build().SerializeToString())
    spec = f"max_batch_size: {model.max_batch_size}\nthreads: 1\ninstances: 1\n{settings}"
    (root / model.name / "model.yaml").write_text(spec, encoding="utf-8")
    return path


def perceptron(widths: Sequence[int]) -> onnx.ModelProto:
    """`x` FP32 [batch, first width] to `y` FP32 [batch, last width]: ReLU between layers, softmax at the end."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], INPUT
    for number, (wide, out) in enumerate(pairwise(widths)):
        weights = rng.standard_normal((wide, out), np.float32) * np.float32((2 / wide) ** 0.5)
        bias = rng.standard_normal(out, np.float32) * np.float32(0.1)
        constants += [numpy_helper.from_array(weights, f"w{number}"), numpy_helper.from_array(bias, f"b{number}")]
        nodes.append(helper.make_node("Gemm", [value, f"w{number}", f"b{number}"], [f"z{number}"]))
        value = f"z{number}"
        if number < len(widths) - 2:
            nodes.append(helper.make_node("Relu", [value], [f"h{number}"]))
            value = f"h{number}"
    nodes.append(helper.make_node("Softmax", [value], [OUTPUT], axis=1))
    return _model(nodes, constants, widths[0], widths[-1])


def convolutions(layers: int) -> onnx.ModelProto:
    """`x` FP32 [batch, 1024], grey images, to `y` FP32 [batch, 10]. Few weights: each row of a batch costs the same."""
    rng = np.random.default_rng(0)
    shapes = [(CHANNELS, CHANNELS if number else 1, 3, 3) for number in range(layers)]
    constants = [numpy_helper.from_array(np.array([0, 1, SIDE, SIDE]), "image")]
    nodes, value = [helper.make_node("Reshape", [INPUT, "image"], ["i"])], "i"
    for number, shape in enumerate(shapes):
        weights = rng.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
        constants.append(numpy_helper.from_array(weights, f"w{number}"))
        nodes.append(helper.make_node("Conv", [value, f"w{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"h{number}"]))
        value = f"h{number}"
    last = rng.standard_normal((CHANNELS, CLASSES), np.float32) * np.float32(CHANNELS**-0.5)
    constants.append(numpy_helper.from_array(last, "last"))
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "last"], ["z"]),
        helper.make_node("Softmax", ["z"], [OUTPUT], axis=1),
    ]
    return _model(nodes, constants, SIDE * SIDE, CLASSES)


def _model(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], features: int, classes: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
