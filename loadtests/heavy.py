"""The model that is loaded and unloaded beside others: 102 MB of weights in ten layers, as ONNX and as SavedModel.

The same weights in each. A process of its own makes either file, so that none of that is left in the one that measures:

    python -m loadtests.heavy onnx|saved_model PATH
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loadtests.processes import ProcessError
from serving.core.artifact import Golden, publish

NAME = "heavy"
INPUT, OUTPUT = "x", "y"
WIDTH, LAYERS = 1600, 10

SPEC = "max_batch_size: 8\nthreads: 1\ninstances: 1\n"
ROOT = Path(__file__).parents[1]


def weights() -> Iterator[npt.NDArray[np.float32]]:
    """Of each layer, FP32 [1600, 1600]: drawn with a fixed seed, so that values neither grow nor vanish."""
    rng = np.random.default_rng(0)
    for _ in range(LAYERS):
        yield rng.standard_normal((WIDTH, WIDTH), np.float32) * np.float32((2 / WIDTH) ** 0.5)


def weights_bytes() -> int:
    return LAYERS * WIDTH * WIDTH * 4


def golden() -> Golden:
    """Four rows, and what the layers make of them, each with a ReLU behind it."""
    x = np.random.default_rng(1).standard_normal((4, WIDTH), np.float32)
    y = x
    for layer in weights():
        y = np.maximum(y @ layer, 0)
    return Golden({INPUT: x}, {OUTPUT: y})


def write_repository(kind: str, root: Path, files: Path) -> tuple[Path, Path]:
    """Writes versions 1 and 2 of `root/heavy` in one kind (see kinds.py); returns their directories.

    By the artifact contract: with hashes and a golden sample. Both versions are links to one copy of the weights, which
    is kept in `files`. ProcessError when it cannot be made.
    """
    form = "onnx" if kind == "onnx" else "saved_model"
    made, sample = _made(form, files / f"{NAME}-{form}"), golden()

    def write(directory: Path) -> None:
        shutil.copytree(made, directory, dirs_exist_ok=True, copy_function=os.link)

    versions = tuple(
        publish(
            root,
            NAME,
            write,
            golden=sample,
            signature={},
            metric=None,
            seed=0,
            libraries={},
            atol=1e-4,
            rtol=1e-4,
        )
        for _ in range(2)
    )
    spec = SPEC + ("accelerate: onnx\n" if kind == "accelerated" else "")
    (root / NAME / "model.yaml").write_text(spec, encoding="utf-8")
    return versions[0], versions[1]


def _made(form: str, directory: Path) -> Path:
    if not directory.exists():
        argv = [sys.executable, "-m", "loadtests.heavy", form, str(directory)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProcessError(f"the large model could not be made\n{done.stderr.strip()[-2000:]}")
    return directory


def _save_onnx(directory: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, value = [], [], INPUT
    for number, layer in enumerate(weights()):
        constants.append(numpy_helper.from_array(layer, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"h{number}"]))
        value = OUTPUT if number == LAYERS - 1 else f"r{number}"
        nodes.append(helper.make_node("Relu", [f"h{number}"], [value]))
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", WIDTH])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(model.SerializeToString())


def _save_saved_model(directory: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.weights = [tf.Variable(layer) for layer in weights()]

    @tf.function(input_signature=[tf.TensorSpec([None, WIDTH], tf.float32, INPUT)])  # type: ignore[untyped-decorator]
    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        for layer in module.weights:
            x = tf.nn.relu(tf.matmul(x, layer))
        return {OUTPUT: x}

    tf.saved_model.save(module, str(directory), signatures=call)


if __name__ == "__main__":
    {"onnx": _save_onnx, "saved_model": _save_saved_model}[sys.argv[1]](Path(sys.argv[2]))
