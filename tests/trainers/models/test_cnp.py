"""The conditional neural process, trained for a moment: its curves, and what it answers to requests of all sizes.

TensorFlow stays in one child process, which leaves behind what the tests look at: its import warns, and a warning fails
a test here.
"""

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from serving.core.artifact import read_golden, read_manifest
from serving.core.compare import difference
from serving.core.types import Tensors
from tests.trainers.child import done, trains

# Trains as the command does, then answers requests with the SavedModel and writes down some of the curves.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from trainers.command import main

directory = Path(sys.argv[1])
sys.argv[1:] = ["cnp", "--quick", "--steps", "200"]
sys.argv += ["--repo", str(directory / "repo"), "--log-dir", str(directory / "runs")]
for setting in ("hidden=64", "batch=32", "learning_rate=3e-3", "decay=0.5"):
    sys.argv += ["--set", setting]
assert main() == 0

import tensorflow as tf
from trainers.models.cnp import FRESH, SHOWN, TRAINING, Settings, draw, points, rate

saved = tf.saved_model.load(str(directory / "repo/cnp_tf/1")).signatures["serving_default"]
for index, (contexts, targets) in enumerate([(0, 5), (1, 1), (3, 2), (9, 18), (40, 200)]):
    generator = np.random.default_rng(index)
    x, y = generator.uniform(-2, 2, (2, 4, contexts)).astype(np.float32)
    mask = generator.random((4, contexts)) < 0.7
    wanted = generator.uniform(-2, 2, (4, targets)).astype(np.float32)
    request = {"context_x": x, "context_y": y, "context_mask": mask, "target_x": wanted}
    answer = saved(**{name: tf.constant(array) for name, array in request.items()})
    np.savez(directory / f"answer{index}.npz", **request, **answer)

fresh = [points(50, 0, FRESH, batch) for batch in range(200)]
np.savez(directory / "fresh.npz", **{f"{index}{side}": array for index, (*both, _) in enumerate(fresh)
                                     for side, array in zip("xy", both)})
places = np.tile([0.0, 0.4, 2.0], (100_000, 1))
heights = draw(places, np.random.default_rng(0))
repeated = points(64, 3, TRAINING, 7), points(64, 3, TRAINING, 7)
print(json.dumps({
    "contexts": [new.contexts for new in fresh],
    "new": [new.x.shape[1] - new.contexts for new in fresh],
    "x": [float(edge(new.x)) for new in fresh for edge in (np.min, np.max)],
    "covariance": np.cov(heights.T).tolist(),
    "same": all(np.array_equal(*pair) for pair in zip(*repeated)),
    "apart": len({points(2, *seed).x.tobytes() for seed in [(0, TRAINING, 0), (0, TRAINING, 1), (1, TRAINING, 0),
                                                            (0, FRESH, 0), (0, SHOWN, 0)]}),
    "rates": [rate(Settings(learning_rate=2.0, decay=0.25), step, 100) for step in (0, 75, 80, 99)],
}))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with repo/, runs/ and what the child wrote down."""
    directory = tmp_path_factory.mktemp("cnp")
    (directory / "facts.json").write_text(done("-c", CHILD, directory).splitlines()[-1])
    return directory


@pytest.fixture(scope="module")
def session(trained: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(trained / "repo/cnp/1/model.onnx", providers=["CPUExecutionProvider"])


def ask(session: onnxruntime.InferenceSession, request: Tensors) -> Tensors:
    return dict(zip(("mean", "sigma"), session.run(["mean", "sigma"], request), strict=True))


def request_of(contexts: int, targets: int, seed: int = 0) -> Tensors:
    """One row: points of a curve that the model may never have seen, all of them real."""
    generator = np.random.default_rng((seed, contexts, targets))
    return {
        "context_x": generator.uniform(-2, 2, (1, contexts)).astype(np.float32),
        "context_y": generator.standard_normal((1, contexts)).astype(np.float32),
        "context_mask": np.ones((1, contexts), bool),
        "target_x": generator.uniform(-2, 2, (1, targets)).astype(np.float32),
    }


def padded(request: Tensors, contexts: int, targets: int, filling: float) -> Tensors:
    length = {name: targets if name == "target_x" else contexts for name in request}
    return {
        name: np.pad(
            array,
            ((0, 0), (0, length[name] - array.shape[1])),
            constant_values=False if array.dtype == bool else filling,
        )
        for name, array in request.items()
    }


@trains
def test_a_short_run_learns_and_says_what_it_takes(trained: Path) -> None:
    manifest = read_manifest(trained / "repo/cnp/1")
    assert manifest is not None and manifest.metric is not None
    without_points = 0.5 * math.log(2 * math.pi * math.e)  # nats, of heights that are normal with variance 1
    assert manifest.metric["negative_log_likelihood"] < without_points - 0.2
    assert manifest.signature == {
        "inputs": [
            {"name": "context_x", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "context_y", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "context_mask", "datatype": "BOOL", "shape": [-1, -1]},
            {"name": "target_x", "datatype": "FP32", "shape": [-1, -1]},
        ],
        "outputs": [
            {"name": "mean", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "sigma", "datatype": "FP32", "shape": [-1, -1]},
        ],
    }
    (run,) = (trained / "runs/cnp").iterdir()
    for name in ("curves_000001.png", "curves_000010.png", "curves_000200.png", "loss.png"):
        assert (run / name).read_bytes()[:4] == b"\x89PNG"


@trains
def test_curves_are_those_of_the_process(trained: Path) -> None:
    facts = json.loads((trained / "facts.json").read_text())
    assert set(facts["contexts"]) == set(range(3, 10)) and set(facts["new"]) == set(range(2, 10))
    assert -2 <= min(facts["x"]) < -1.95 and 1.95 < max(facts["x"]) <= 2
    near = math.exp(-0.5)  # places one length scale apart
    expected = [[1.0004, near, math.exp(-12.5)], [near, 1.0004, math.exp(-8)], [math.exp(-12.5), math.exp(-8), 1.0004]]
    assert np.allclose(facts["covariance"], expected, atol=0.02)
    assert facts["same"] is True and facts["apart"] == 5


@trains
def test_the_learning_rate_falls_over_the_last_share_of_the_steps(trained: Path) -> None:
    rates = json.loads((trained / "facts.json").read_text())["rates"]
    assert rates == pytest.approx([2.0, 2.0, 1.6, 0.08])


@trains
def test_the_metric_is_the_mean_negative_log_likelihood_of_10000_fresh_curves(
    trained: Path, session: onnxruntime.InferenceSession
) -> None:
    contexts = json.loads((trained / "facts.json").read_text())["contexts"]
    surprises, curves = [], 0
    with np.load(trained / "fresh.npz") as fresh:
        for index, known in enumerate(contexts):
            x, y = fresh[f"{index}x"], fresh[f"{index}y"]
            mask = np.ones((len(x), known), bool)
            context = {"context_x": x[:, :known], "context_y": y[:, :known], "context_mask": mask}
            mean, sigma = ask(session, {**context, "target_x": x}).values()
            density = np.exp(-0.5 * ((y - mean) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
            surprises.append(-np.log(density).ravel())
            curves += len(x)
    manifest = read_manifest(trained / "repo/cnp/1")
    assert manifest is not None and manifest.metric is not None
    assert curves == 10_000
    assert manifest.metric["negative_log_likelihood"] == pytest.approx(np.concatenate(surprises).mean(), abs=2e-4)


@trains
def test_onnx_and_saved_model_agree_for_all_sizes(trained: Path, session: onnxruntime.InferenceSession) -> None:
    archives = sorted(trained.glob("answer*.npz"))
    assert len(archives) == 5
    for archive in archives:
        with np.load(archive) as stored:
            tensors = dict(stored)
        expected = {name: tensors.pop(name) for name in ("mean", "sigma")}
        assert expected["mean"].shape == tensors["target_x"].shape
        assert difference(ask(session, tensors), expected, atol=1e-4, rtol=0) is None


@trains
@pytest.mark.parametrize("filling", [0.0, -7.5, 1e30])
def test_requests_of_different_sizes_in_one_batch_get_the_answers_that_each_gets_alone(
    session: onnxruntime.InferenceSession, filling: float
) -> None:
    sizes = [(3, 2), (1, 18), (9, 4), (12, 1), (0, 3)]
    requests = [request_of(*size) for size in sizes]
    rows = [padded(request, 12, 18, filling) for request in requests]
    together = ask(session, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    for index, (request, (_, targets)) in enumerate(zip(requests, sizes, strict=True)):
        row = {name: array[index : index + 1, :targets] for name, array in together.items()}
        assert difference(row, ask(session, request), atol=1e-5, rtol=0) is None


@trains
def test_neither_the_order_of_the_points_nor_that_of_the_targets_matters(session: onnxruntime.InferenceSession) -> None:
    request = request_of(9, 6)
    answer = ask(session, request)
    assert np.ptp(answer["mean"]) > 0.05
    order = np.random.default_rng(1).permutation(9)
    shuffled = {name: array if name == "target_x" else array[:, order] for name, array in request.items()}
    assert difference(ask(session, shuffled), answer, atol=1e-5, rtol=0) is None
    backwards = ask(session, {**request, "target_x": request["target_x"][:, ::-1].copy()})
    assert difference({name: array[:, ::-1] for name, array in backwards.items()}, answer, atol=1e-5, rtol=0) is None


@trains
def test_without_a_point_it_answers_what_all_curves_have_in_common(session: onnxruntime.InferenceSession) -> None:
    none, hidden = request_of(0, 5), request_of(4, 5)
    hidden["context_mask"][:] = False
    for request in (none, hidden):
        answer = ask(session, request)
        assert np.array_equal(answer["mean"], np.zeros((1, 5), np.float32))
        assert np.allclose(answer["sigma"], math.hypot(1.0, 0.02))


@trains
def test_the_golden_sample_has_rows_of_different_sizes(trained: Path) -> None:
    golden = read_golden(trained / "repo/cnp/1")
    assert golden is not None
    known = golden.inputs["context_mask"].sum(axis=1)
    assert known.min() == 0 and len(set(known.tolist())) >= 3
    assert np.isfinite(golden.outputs["mean"]).all() and (golden.outputs["sigma"] >= 0.1).all()
