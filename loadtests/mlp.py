"""The model that the benchmark serves and the row it sends: small, so that a request's cost is the server's work.

Pure apart from `write_repository`. Knows the artifact layout, no wire format.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

NAME = "mlp"
INPUT, OUTPUT = "x", "y"
PIXELS, HIDDEN, CLASSES = 784, 128, 10

SPEC = "max_batch_size: 64\nthreads: 1\ninstances: 1\n"


def weights() -> dict[str, npt.NDArray[np.float32]]:
    """`w1` [784,128], `b1` [128], `w2` [128,10], `b2` [10]: drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (PIXELS, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
    return {name: rng.normal(0, 1 / np.sqrt(shape[0]), shape).astype(np.float32) for name, shape in shapes.items()}


def build() -> onnx.ModelProto:
    """A 784-128-10 perceptron, softmax at the end: `x` FP32 [batch,784] to `y` FP32 [batch,10]."""
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", [INPUT, "w1", "b1"], ["a"]),
            helper.make_node("Relu", ["a"], ["h"]),
            helper.make_node("Gemm", ["h", "w2", "b2"], ["z"]),
            helper.make_node("Softmax", ["z"], [OUTPUT], axis=1),
        ],
        NAME,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", PIXELS])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(values, name) for name, values in weights().items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def row() -> npt.NDArray[np.float32]:
    """One image, FP32 [1,784]: grey values k/255 to four decimals, k drawn from 0..255 with a fixed seed."""
    grey = np.random.default_rng(1).integers(0, 256, (1, PIXELS))
    return np.round(grey / 255, 4).astype(np.float32)


def write_repository(root: Path) -> Path:
    """Write `root/mlp/1/model.onnx` and `root/mlp/model.yaml`; returns the path of the ONNX file."""
    path = root / NAME / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(build().SerializeToString())
    (root / NAME / "model.yaml").write_text(SPEC, encoding="utf-8")
    return path
