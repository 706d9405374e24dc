"""The large input: one image for a model that does next to nothing with it, so that its cost is moving and reading it.

Pure apart from `write_repository`. Knows the artifact layout, no wire format.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

NAME = "image"
INPUT, OUTPUT = "x", "y"
SHAPE = (224, 224, 3)

SPEC = "max_batch_size: 8\nthreads: 1\ninstances: 1\n"


def build() -> onnx.ModelProto:
    """The mean of each image: `x` FP32 [batch,224,224,3] to `y` FP32 [batch,1]."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", [INPUT], ["flat"], axis=1),
            helper.make_node("ReduceMean", ["flat"], [OUTPUT], axes=[1], keepdims=1),
        ],
        NAME,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def picture() -> npt.NDArray[np.float32]:
    """One image, FP32 [1,224,224,3]: k/255 as it is, k drawn from 0..255 with a fixed seed."""
    return np.random.default_rng(2).integers(0, 256, (1, *SHAPE)).astype(np.float32) / np.float32(255)


def write_repository(root: Path) -> Path:
    """Write `root/image/1/model.onnx` and `root/image/model.yaml`; returns the path of the ONNX file."""
    path = root / NAME / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(build().SerializeToString())
    (root / NAME / "model.yaml").write_text(SPEC, encoding="utf-8")
    return path
