"""The kinds of artifact in which the benchmark's model is served: ONNX, SavedModel, SavedModel served as ONNX.

The same weights in each. A process of its own makes the SavedModel, so that only that one needs TensorFlow:

    python -m loadtests.kinds DIRECTORY
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from loadtests import mlp
from loadtests.processes import ProcessError

# By kind: the platform that a server which does as it was told names in the model's metadata.
PLATFORMS = {"onnx": "onnxruntime_onnx", "tensorflow": "tensorflow_savedmodel", "accelerated": "onnxruntime_onnx"}
ROOT = Path(__file__).parents[1]


def write_repository(kind: str, root: Path, files: Path) -> None:
    """Write `root/mlp` in one kind; SavedModels are copies of one in `files`, made when it is not there.

    ProcessError when it cannot be made.
    """
    if kind == "onnx":
        mlp.write_repository(root)
        return
    model = root / mlp.NAME
    shutil.copytree(_saved_model(files / "saved_model"), model / "1")
    spec = mlp.SPEC + ("accelerate: onnx\n" if kind == "accelerated" else "")
    (model / "model.yaml").write_text(spec, encoding="utf-8")


def _saved_model(path: Path) -> Path:
    if not path.exists():
        argv = [sys.executable, "-m", "loadtests.kinds", str(path)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProcessError(f"no SavedModel could be made\n{done.stderr.strip()[-2000:]}")
    return path


def _save(path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.weights = {name: tf.Variable(values, name=name) for name, values in mlp.weights().items()}

    @tf.function(input_signature=[tf.TensorSpec([None, mlp.PIXELS], tf.float32, mlp.INPUT)])  # type: ignore[untyped-decorator]
    def call(x: tf.Tensor) -> dict[str, tf.Tensor]:
        w = module.weights
        hidden = tf.nn.relu(tf.matmul(x, w["w1"]) + w["b1"])
        return {mlp.OUTPUT: tf.nn.softmax(tf.matmul(hidden, w["w2"]) + w["b2"])}

    tf.saved_model.save(module, str(path), signatures=call)


if __name__ == "__main__":
    _save(Path(sys.argv[1]))
