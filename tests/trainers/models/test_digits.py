"""The digits trainer, run as a user runs it, and the trained model that the repository comes with.

TensorFlow stays in child processes: its import warns, and a warning fails a test here.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from serving.core.artifact import Golden, Manifest, read_golden, read_manifest, verify
from serving.core.compare import difference
from tests.trainers.child import ROOT, done, fork, python, trains


def training(repo: Path, logs: Path) -> tuple[object, ...]:
    return ("-m", "trainers", "digits", "--quick", "--repo", repo, "--log-dir", logs)


def whole(version: Path) -> tuple[Manifest, Golden]:
    """Manifest and golden sample of a version whose files are what the manifest says."""
    manifest, golden = read_manifest(version), read_golden(version)
    assert manifest is not None and golden is not None
    assert verify(version, manifest) == []
    return manifest, golden


def run_onnx(version: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    return {"probabilities": session.run(["probabilities"], {"x": x})[0]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with repo/ and runs/ after one quick run of the trainer."""
    directory = tmp_path_factory.mktemp("digits")
    result = python(*training(directory / "repo", directory / "runs"))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""  # none of TensorFlow's start-up noise
    assert "held_out_accuracy 0.9" in result.stdout
    assert f"published {directory / 'repo/digits/1'}" in result.stdout
    return directory


@trains
def test_a_quick_run_learns_and_publishes_both_forms(trained: Path) -> None:
    for name, artifact in (("digits", "model.onnx"), ("digits_tf", "saved_model.pb")):
        assert [path.name for path in (trained / "repo" / name).iterdir()] == ["1"]
        manifest, golden = whole(trained / "repo" / name / "1")
        assert artifact in manifest.files
        assert manifest.metric is not None and manifest.metric["held_out_accuracy"] >= 0.95
        assert manifest.seed == 0
        assert {"keras", "numpy", "scikit-learn", "tensorflow"} <= manifest.libraries.keys()
        assert manifest.signature == {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
        }
        assert golden.inputs["x"].shape[0] >= 3
        assert golden.outputs["probabilities"].shape == (golden.inputs["x"].shape[0], 10)


@trains
def test_a_run_leaves_curves_and_a_picture(trained: Path) -> None:
    (run,) = (trained / "runs/digits").iterdir()
    (events,) = run.glob("events.out.tfevents.*")
    for name in (b"held_out_accuracy", b"loss", b"rescaling"):  # the last is a node of the graph
        assert name in events.read_bytes()
    assert (run / "accuracy.png").read_bytes()[:4] == b"\x89PNG"


SAVED_MODEL = """
import sys
import numpy as np
import tensorflow as tf
from trainers.quiet import quiet_import
with quiet_import():
    from trainers.models.digits import split

_, held_out = split(seed=0)
answers = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](x=tf.constant(held_out.images))
np.savez(sys.argv[2], x=held_out.images, digits=held_out.digits, **answers)
"""


@trains
def test_onnx_and_saved_model_agree_on_all_held_out_rows(trained: Path) -> None:
    archive = trained / "answers.npz"
    done("-c", SAVED_MODEL, trained / "repo/digits_tf/1", archive)
    with np.load(archive) as stored:
        x, digits, expected = stored["x"], stored["digits"], stored["probabilities"]
    assert x.shape == (360, 64)

    version = trained / "repo/digits/1"
    answers = run_onnx(version, x)
    assert difference(answers, {"probabilities": expected}, atol=1e-4, rtol=0) is None
    accuracy = np.mean(answers["probabilities"].argmax(axis=1) == digits)
    manifest, _ = whole(version)
    assert manifest.metric == {"held_out_accuracy": round(float(accuracy), 4)}


@trains
def test_the_same_seed_gives_the_same_model_as_the_next_version(trained: Path, tmp_path: Path) -> None:
    assert f"published {trained / 'repo/digits/2'}" in done(*training(trained / "repo", tmp_path))
    _, first = whole(trained / "repo/digits/1")
    _, second = whole(trained / "repo/digits/2")
    assert difference(second.outputs, first.outputs, atol=0, rtol=0) is None


OTHER_ANSWERS = """
import sys
from pathlib import Path
from serving.core.artifact import Golden, read_golden
from trainers.contract import TrainingError
from trainers.publishing.export import check

version = Path(sys.argv[1])
golden = read_golden(version)
model = (version / "model.onnx").read_bytes()
check(model, golden, atol=1e-4, rtol=0)
golden.outputs["probabilities"][2, 3] += 2e-4
try:
    check(model, golden, atol=1e-4, rtol=0)
except TrainingError as error:
    print(error)
"""


@trains
def test_an_export_that_answers_otherwise_is_refused() -> None:
    said = done("-c", OTHER_ANSWERS, ROOT / "model_repo/digits/1")
    assert "does not answer as the Keras model does: 'probabilities' differs" in said


@trains
def test_a_model_directory_that_is_a_file_ends_without_half_a_version(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/digits").write_text("a file")
    result = fork(
        "-m", "trainers", "digits", "--steps", "2", "--repo", tmp_path / "repo", "--log-dir", tmp_path / "runs"
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and str(tmp_path / "repo/digits") in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "repo").iterdir()] == ["digits"]


def test_the_model_in_the_repository_is_whole_small_and_reproduces_its_golden_outputs() -> None:
    version = ROOT / "model_repo/digits/1"
    manifest, golden = whole(version)
    assert manifest.metric is not None and manifest.metric["held_out_accuracy"] >= 0.97
    assert manifest.golden is not None
    assert (version / "model.onnx").stat().st_size < 500_000

    x = golden.inputs["x"]
    expected = golden.outputs
    tolerance = {"atol": manifest.golden.atol, "rtol": manifest.golden.rtol}
    assert difference(run_onnx(version, x), expected, **tolerance) is None
    for row in range(len(x)):
        alone = run_onnx(version, x[row : row + 1])
        assert difference(alone, {"probabilities": expected["probabilities"][row : row + 1]}, **tolerance) is None


def test_the_model_in_the_repository_names_its_tensors_and_no_machine() -> None:
    version = ROOT / "model_repo/digits/1"
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(tensor.name, tensor.shape) for tensor in session.get_inputs()] == [("x", ["batch", 64])]
    assert [(tensor.name, tensor.shape) for tensor in session.get_outputs()] == [("probabilities", ["batch", 10])]
    for path in version.iterdir():
        data = path.read_bytes()
        for trace in (b"/home/", b"/root", b"/tmp/", b"/work", b".py"):
            if path.suffix != ".npz":  # compressed: any bytes may come together there
                assert trace not in data, (path.name, trace)
