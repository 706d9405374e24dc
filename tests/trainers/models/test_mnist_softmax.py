"""The softmax trainer as a user runs it, on files in MNIST's format that are not MNIST."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from serving.core.artifact import read_golden, read_manifest
from tests.trainers.child import done, trains
from trainers.contract import Options
from trainers.data import mnist


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A directory with data/, repo/ and runs/ after a run, and what the run printed."""
    directory = tmp_path_factory.mktemp("mnist_softmax")
    mnist.write_imitation(directory / "data", seed=5)
    printed = done(
        *("-m", "trainers", "mnist_softmax", "--epochs", 3, "--data-dir", directory / "data"),
        *("--repo", directory / "repo", "--log-dir", directory / "runs"),
    )
    return directory, printed


def answers(version: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"x": x.astype(np.float32)})
    return np.asarray(probabilities)


@trains
def test_it_learns_and_publishes_what_it_measured(trained: tuple[Path, str]) -> None:
    directory, printed = trained
    version = directory / "repo/mnist_softmax/1"
    manifest, golden = read_manifest(version), read_golden(version)
    assert manifest is not None and golden is not None
    assert manifest.signature == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 784]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
    }
    data = mnist.load(Options(directory / "none", data_dir=directory / "data"))
    x = data.test_images.reshape(-1, 784)
    np.testing.assert_array_equal(golden.inputs["x"], x[:8])
    np.testing.assert_allclose(answers(version, golden.inputs["x"]), golden.outputs["probabilities"], atol=1e-4)
    accuracy = np.mean(answers(version, x).argmax(axis=1) == data.test_labels)
    assert accuracy > 0.95
    assert manifest.metric == {"test_accuracy": round(float(accuracy), 4)}
    assert f"test_accuracy {round(float(accuracy), 4)}" in printed
    assert (directory / "repo/mnist_softmax_tf/1/saved_model.pb").exists()


@trains
def test_it_is_one_layer_of_weighted_sums(trained: tuple[Path, str]) -> None:
    """The logarithms of softmax regression are linear in the pixels, but for one constant a row."""
    a, b = np.random.default_rng(0).integers(0, 100, (2, 784))
    logs = np.log(answers(trained[0] / "repo/mnist_softmax/1", np.stack([a + b, a, b, np.zeros(784)])))
    difference = logs[0] - logs[1] - logs[2] + logs[3]
    np.testing.assert_allclose(difference, difference[0], atol=1e-3)


@trains
def test_a_run_leaves_cost_and_accuracy_for_tensorboard_and_pictures(trained: tuple[Path, str]) -> None:
    (run,) = (trained[0] / "runs/mnist_softmax").iterdir()
    (events,) = run.glob("events.out.tfevents.*")
    for name in (b"cost", b"accuracy", b"test_accuracy", b"weights", b"Softmax"):  # the last one is the graph's
        assert name in events.read_bytes()
    for name in ("curves.png", "weights.png"):
        assert (run / name).read_bytes()[:4] == b"\x89PNG"
