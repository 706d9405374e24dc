"""The network of 1989 as the paper has it, and a quick run of its trainer, all in one child process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from serving.core.artifact import read_golden, read_manifest
from tests.trainers.child import done, trains

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from trainers.contract import Options
from trainers.training import Job, load, publish, train

directory = Path(sys.argv[1])
module = load("lenet1989")

network = module.network()
weights = [array.numpy() for array in network.weights]
random = np.random.default_rng(0)
x = random.integers(0, 256, (3, 16, 16)).astype(np.float32)
np.savez(directory / "start.npz", *weights, x=x, scores=network(x))

sharp = random.integers(0, 256, (4, 28, 28), dtype=np.uint8)
np.savez(directory / "images.npz", sharp=sharp, shrunk=module.shrunk(sharp), still=module.shrunk(x),
         moved=module.moved(sharp, 2, np.random.default_rng(1)), kept=module.moved(sharp, 0, random))

job = Job("lenet1989", quick=True)
options = Options(directory / "run", quick=True, data_dir=directory / "none")
trained, settings = train(job, options)
publish(job, trained, settings, directory / "repo", directory / "run")
print(json.dumps({"parameters": [sum(array.size for array in weights), trained.model.count_params()],
                  "metric": trained.metric, "generated": trained.generated}))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("lenet1989")
    return directory, json.loads(done("-c", SCRIPT, directory).splitlines()[-1])


def squash(x: np.ndarray) -> np.ndarray:
    return 1.7159 * np.tanh(x * 2 / 3)


def groups(below: np.ndarray, kernel: np.ndarray, bias: np.ndarray, sees: list[list[int]]) -> np.ndarray:
    """One image [side, side, groups] unit by unit, as the paper tells it."""
    side = below.shape[0] // 2
    units = np.empty((side, side, len(sees)))
    for row, column, group in np.ndindex(units.shape):
        total = bias[row, column, group]
        for place, seen in enumerate(sees[group]):
            for y, x in np.ndindex(5, 5):
                at = row * 2 + y - 2, column * 2 + x - 2
                inside = all(0 <= index < below.shape[0] for index in at)
                total += kernel[y, x, place, group] * (below[*at, seen] if inside else -1)
        units[row, column, group] = total
    return squash(units)


SEES_1 = [[0]] * 12
SEES_2 = [[(group + step) % 12 for step in range(8)] for group in range(12)]


@trains
def test_it_has_the_papers_weights_and_connections(ran: tuple[Path, dict[str, Any]]) -> None:
    directory, result = ran
    assert result["parameters"] == [9760, 9760]
    with np.load(directory / "start.npz") as start:
        shapes = [start[f"arr_{index}"].shape for index in range(8)]
        # H1, H2, H3 and the output: weights that units share or not, and a bias for each unit
        assert shapes == [
            (5, 5, 1, 12), (8, 8, 12), (5, 5, 8, 12), (4, 4, 12), (192, 30), (30,), (30, 10), (10,)
        ]  # fmt: skip
        for index, inputs in enumerate([25, 25, 200, 200, 192, 192, 30, 30]):
            largest = np.abs(start[f"arr_{index}"]).max()
            assert 0.7 * 2.4 / inputs < largest <= 2.4 / inputs
    connections = 768 * 26 + 192 * 201 + 30 * 193 + 10 * 31
    assert connections == 64_660  # the paper's count
    assert all(sum(group in sees for sees in SEES_2) == 8 for group in range(12))  # none is heard less


@trains
def test_it_computes_what_the_paper_says_unit_by_unit(ran: tuple[Path, dict[str, Any]]) -> None:
    with np.load(ran[0] / "start.npz") as start:
        k1, b1, k2, b2, w3, b3, w4, b4 = (start[f"arr_{index}"] for index in range(8))
        for image, scores in zip(start["x"], start["scores"], strict=True):
            h1 = groups(image[..., None] / 127.5 - 1, k1, b1, SEES_1)
            h2 = groups(h1, k2, b2, SEES_2)
            h3 = squash(h2.reshape(192) @ w3 + b3)
            np.testing.assert_allclose(squash(h3 @ w4 + b4), scores, atol=1e-5)


@trains
def test_images_are_shrunk_by_area_and_moved_by_few_pixels(ran: tuple[Path, dict[str, Any]]) -> None:
    with np.load(ran[0] / "images.npz") as images:
        sharp, shrunk, moved = images["sharp"], images["shrunk"], images["moved"]
        fine = sharp.repeat(4, axis=1).repeat(4, axis=2)  # 112 = 7 x 16
        np.testing.assert_allclose(shrunk, fine.reshape(4, 16, 7, 16, 7).mean(axis=(2, 4)), atol=1e-3)
        np.testing.assert_allclose(images["still"], np.load(ran[0] / "start.npz")["x"], atol=1e-3)
        np.testing.assert_array_equal(images["kept"], sharp)
    for before, after in zip(sharp, moved, strict=True):
        wide = np.pad(before, 2)
        assert any((after == wide[y : y + 28, x : x + 28]).all() for y in range(5) for x in range(5))
    assert (sharp != moved).any()


@trains
def test_a_quick_run_learns_and_publishes(ran: tuple[Path, dict[str, Any]]) -> None:
    directory, result = ran
    assert result["generated"] and result["metric"]["test_accuracy"] >= 0.95
    version = directory / "repo/lenet1989/1"
    manifest, golden = read_manifest(version), read_golden(version)
    assert manifest is not None and golden is not None
    assert manifest.metric is None  # it says nothing
    assert manifest.signature == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 16, 16]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
    }
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"x": golden.inputs["x"]})
    np.testing.assert_allclose(scores, golden.outputs["scores"], atol=1e-4)
    assert np.sort(scores, axis=1)[:, -2:].mean(axis=0) == pytest.approx([-1, 1], abs=0.3)  # the targets
    assert (directory / "repo/lenet1989_tf/1/saved_model.pb").exists()
    for name in ("curves.png", "kernels.png", "mistakes.png"):
        assert (directory / "run" / name).read_bytes()[:4] == b"\x89PNG"
