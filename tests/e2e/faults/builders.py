"""Models that go wrong, each in one way, and ways to bring a version into a repository.

All take `x` FP32 [batch, 4] and would give `y` of the same shape. Those that go wrong at load do so for real: ONNX
Runtime computes constants when it loads, in the process that loads.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from serving.core.artifact import Golden, publish
from tests import models

WIDTH = 4
ROWS = np.arange(1, 13, dtype=np.float32).reshape(3, WIDTH)  # of golden samples


def dies() -> onnx.ModelProto:
    """The process that loads it gets SIGFPE: the least integer divided by -1 does not fit, and is a constant."""
    return _folded(
        [helper.make_node("Div", ["least", "minus"], ["q"]), helper.make_node("Cast", ["q"], ["c"], to=1)],
        {"least": np.array([-(2**31)], np.int32), "minus": np.array([-1], np.int32)},
    )


def busy(turns: int, factor: float = 1) -> onnx.ModelProto:
    """y = factor * x, after a load that multiplies constants of 1024 x 1024 so many times, some 30 ms each."""
    start = np.eye(1024, dtype=np.float32)
    return _folded(
        [
            *(helper.make_node("MatMul", [f"c{i}", "turn"], [f"c{i + 1}"]) for i in range(turns)),
            helper.make_node("ReduceMax", [f"c{turns}"], ["c"], keepdims=0),
        ],
        # A permutation, so that the largest element stays what it is.
        {"c0": np.float32(factor) * start, "turn": np.roll(start, 1, axis=0)},
    )


def hangs() -> onnx.ModelProto:
    """Its load takes for ever, as far as a test can see, without a pause in which it could be interrupted."""
    return busy(100_000)


def devours(mebibytes: int) -> onnx.ModelProto:
    """Its file is small; its load needs at least this much memory at once, in pieces of 64 MiB."""
    nodes, ends = [], []
    for i in range(mebibytes // 64):
        value = helper.make_tensor("value", 1, [1], [float(i + 1)])  # all different, or they would be kept once
        nodes += [
            helper.make_node("ConstantOfShape", ["shape"], [f"raw{i}"], value=value),
            helper.make_node("Neg", [f"raw{i}"], [f"w{i}"]),
            helper.make_node("MatMul", ["x", f"w{i}"], [f"p{i}"]),
            helper.make_node("ReduceMax", [f"p{i}", "axes"], [f"m{i}"], keepdims=1),
        ]
        ends.append(f"m{i}")
    nodes += [helper.make_node("Sum", ends, ["sum"]), helper.make_node("Add", ["x", "sum"], ["y"])]
    constants = {"shape": np.array([WIDTH, 2**24 // WIDTH], np.int64), "axes": np.array([1], np.int64)}
    return models.model(nodes, [_tensor("x")], [_tensor("y")], constants)


def nothing_but_nan() -> onnx.ModelProto:
    return models.scale(float("nan"))


def fails_above(limit: int, factor: float) -> onnx.ModelProto:
    """y = factor * x if all of x are whole numbers from 0 to `limit`; otherwise the run fails."""
    return models.model(
        [
            helper.make_node("Cast", ["x"], ["i"], to=onnx.TensorProto.INT64),
            helper.make_node("Gather", ["table", "i"], ["y"]),
        ],
        [_tensor("x")],
        [_tensor("y")],
        {"table": factor * np.arange(limit + 1, dtype=np.float32)},
    )


def _folded(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """y = x * c, where `nodes` make the constant c."""
    return models.model([*nodes, helper.make_node("Mul", ["x", "c"], ["y"])], [_tensor("x")], [_tensor("y")], constants)


def _tensor(name: str) -> onnx.ValueInfoProto:
    return models.tensor(name, "FP32", (models.BATCH, WIDTH))


# Into a repository


def put(repo: Path, model: str, version: int, proto: onnx.ModelProto | None = None) -> Path:
    """A plain copy without a manifest, by default of y = version * x. Returns the version's directory."""
    return models.save(proto or models.scale(version), repo / f"{model}/{version}/model.onnx").parent


def release(repo: Path, model: str, proto: onnx.ModelProto, factor: float | None = None) -> Path:
    """By the artifact contract; with a golden sample of y = factor * x if that is given. Returns its directory."""
    return publish(
        repo,
        model,
        lambda directory: models.save(proto, directory / "model.onnx"),
        golden=None if factor is None else Golden({"x": ROWS}, {"y": np.float32(factor) * ROWS}),
        signature={},
        metric=None,
        seed=None,
        libraries={},
        atol=1e-5,
        rtol=1e-5,
    )


def echo(repo: Path, model: str) -> Path:
    """A model without a runtime: y = x."""
    directory = repo / model / "1"
    directory.mkdir(parents=True)
    tensor = f"{{input: x, output: y, datatype: FP32, shape: [-1, {WIDTH}]}}"
    (directory / "identity.yaml").write_text(f"tensors: [{tensor}]\n")
    return directory
