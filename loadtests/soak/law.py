"""The model that is served: version v answers v times a fixed product, so every answer tells who gave it. Pure, apart
from `publish`.

All numbers are whole and small, so float32 holds them exactly and an answer is right or it is not.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.core.artifact import Golden, publish
from serving.core.types import Tensors

NAME = "law"
INPUT, OUTPUT = "x", "y"
WIDTH, HIDDEN, OUTPUTS = 64, 4096, 8
MOST_ROWS = 1280  # of a request that, as JSON, goes through the helper processes of the server
EXACT = 2**24  # whole numbers below this are exact in float32

SPEC = f"max_batch_size: 64\nmax_request_rows: {MOST_ROWS}\nthreads: 1\ninstances: 1\n"


def weights() -> tuple[np.ndarray, np.ndarray]:
    """FP32 [64,4096] and [4096,8]: -1, 0 and 1, drawn with a fixed seed. 1.2 MB."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(-1, 2, (WIDTH, HIDDEN)), rng.integers(-1, 2, (HIDDEN, OUTPUTS))
    return first.astype(np.float32), second.astype(np.float32)


def rows(count: int, seed: int) -> np.ndarray:
    """FP32 [count,64]: 0 to 3."""
    return np.random.default_rng(seed).integers(0, 4, (count, WIDTH)).astype(np.float32)


def product(x: np.ndarray) -> np.ndarray:
    """What version 1 answers, FP32 [rows,8]."""
    first, second = (each.astype(np.float64) for each in weights())
    return np.asarray(x.astype(np.float64) @ first @ second).astype(np.float32)


def factor(base: np.ndarray, outputs: Tensors) -> int:
    """The version whose answer this is. ValueError for an answer that is none's, or whose shape or type is wrong."""
    y = outputs.get(OUTPUT)
    if outputs.keys() != {OUTPUT} or y is None or y.shape != base.shape or y.dtype != base.dtype:
        found = {name: (array.shape, array.dtype.name) for name, array in outputs.items()}
        raise ValueError(f"outputs {found}, not '{OUTPUT}' {base.shape} {base.dtype}")
    at = np.unravel_index(np.argmax(np.abs(base)), base.shape)
    version = round(float(y[at] / base[at]))
    if version < 1 or not np.array_equal(y, base * np.float32(version)):
        raise ValueError("values that no version gives")
    return version


def build(version: int) -> onnx.ModelProto:
    """y = version * (x @ first @ second)."""
    first, second = weights()
    graph = helper.make_graph(
        [helper.make_node("MatMul", [INPUT, "first"], ["h"]), helper.make_node("MatMul", ["h", "second"], [OUTPUT])],
        NAME,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", OUTPUTS])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second * np.float32(version), "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def release(repository: Path) -> int:
    """Adds the next version, in one rename and with a golden sample. Returns its number.

    The number has to be known to build it, so only one process may do this at a time.
    """
    model = repository / NAME
    version = 1 + max((int(path.name) for path in model.iterdir() if path.name.isdigit()), default=0)
    x = rows(4, 0)
    made = publish(
        repository,
        NAME,
        lambda directory: (directory / "model.onnx").write_bytes(build(version).SerializeToString()),
        golden=Golden({INPUT: x}, {OUTPUT: product(x) * np.float32(version)}),
        signature={},
        metric=None,
        seed=None,
        libraries={},
        atol=0,
        rtol=0,
    )
    if made.name != str(version):
        raise RuntimeError(f"published version {made.name}, built for {version}: somebody else publishes here")
    return version


def write_repository(repository: Path) -> None:
    """The model with version 1."""
    (repository / NAME).mkdir(parents=True)
    (repository / NAME / "model.yaml").write_text(SPEC, encoding="utf-8")
    release(repository)
