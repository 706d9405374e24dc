"""Runs over fixed buffers, on the processor: all but the capture of graphs, for which a GPU is needed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from serving.backends.onnx_graphs import GraphRuns
from tests import models


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[GraphRuns]:
    """y = 2 x, with fixed buffers for 2 and 4 rows."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    path = models.save(models.scale(2), tmp_path / "model.onnx")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    made = GraphRuns(ort, session, (2, 4), "cpu")
    yield made
    made.close()


def values(rows: int, first: float = 0.0) -> np.ndarray:
    return first + np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9])
def test_answers_are_right_whatever_the_size(runs: GraphRuns, rows: int) -> None:
    for first in range(5):
        (y,) = runs(["y"], {"x": values(rows, first)})
        np.testing.assert_array_equal(y, 2 * values(rows, first))


def test_only_sizes_that_are_wanted_have_buffers(runs: GraphRuns) -> None:
    for rows in (1, 2, 2, 3, 4, 4):
        runs(["y"], {"x": values(rows)})
    assert len(runs._buffers) == 2
    numbers = {each.options.get_run_config_entry("gpu_graph_id") for each in runs._buffers.values()}
    assert numbers == {"1", "2"}


def test_answers_stay_when_the_buffers_are_written_to_again(runs: GraphRuns) -> None:
    answers = [runs(["y"], {"x": values(2, first)})[0] for first in range(6)]
    for first, y in enumerate(answers):
        np.testing.assert_array_equal(y, 2 * values(2, first))


def test_inputs_of_any_memory_order(runs: GraphRuns) -> None:
    x = np.asfortranarray(values(4))
    for _ in range(3):
        np.testing.assert_array_equal(runs(["y"], {"x": x[::-1]})[0], 2 * x[::-1])


def test_several_threads(runs: GraphRuns) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda first: runs(["y"], {"x": values(2, first)})[0], range(40)))
    for first, y in enumerate(answers):
        np.testing.assert_array_equal(y, 2 * values(2, first))


def test_what_the_model_raises_comes_through(runs: GraphRuns) -> None:
    with pytest.raises(Exception, match="Got invalid dimensions for input: x"):
        runs(["y"], {"x": np.zeros((2, 5), np.float32)})
    np.testing.assert_array_equal(runs(["y"], {"x": values(2)})[0], 2 * values(2))
