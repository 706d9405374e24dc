"""Models that mix the rows of a batch are found out; models that do not are believed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from serving.backends import registry
from serving.backends.base import Session
from serving.batching import probe
from serving.batching.probe import prove_rows_apart, repeat_rows
from serving.core import dtypes
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors, TensorSpec
from serving.core.validate import why_no_batch_axis
from tests import models
from tests.batching import graphs

Load = Callable[[onnx.ModelProto], Session]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    sessions = []

    def load(proto: onnx.ModelProto) -> Session:
        sessions.append(registry.load(models.save(proto, tmp_path / "model.onnx"), ModelSpec()))
        return sessions[-1]

    yield load
    for session in sessions:
        session.close()


APART: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": lambda: models.mlp((20, 16, 5)),
    "elementwise": lambda: models.scale(3.5),
    "two inputs, two outputs": models.add_sub,
    "integers": lambda: models.identity("INT64"),
    "an index into a table": models.lookup,
    "booleans": lambda: models.identity("BOOL"),
    "half precision": lambda: models.identity("FP16"),
    "bfloat16": lambda: models.identity("BF16"),
    "text": lambda: models.identity("BYTES"),
    "text to numbers": graphs.text_to_numbers,
    "rows of any width": lambda: models.identity("FP32", (models.BATCH, "width")),
    "rows without axes": lambda: models.identity("FP32", (models.BATCH,)),
    "images of at least 3": lambda: graphs.convolution(3),
    "images of at least 20": lambda: graphs.convolution(20),
    "large numbers": graphs.large_numbers,
    "softmax over columns": lambda: graphs.one_node("Softmax", axis=1),
}


@pytest.mark.parametrize("name", APART)
def test_models_that_treat_rows_apart_are_merged(load: Load, name: str) -> None:
    session = load(APART[name]())
    proof = prove_rows_apart(session.run, session.signatures[DEFAULT_SIGNATURE])
    assert (proof.mergeable, proof.reason) == (True, "")
    assert proof.sample is not None
    assert {len(array) for array in proof.sample.values()} == {1}
    session.run(repeat_rows(proof.sample, 5), tuple(session.signatures[DEFAULT_SIGNATURE].outputs))


MIXED: dict[str, Callable[[], onnx.ModelProto]] = {
    "centred": models.centred,
    "softmax over rows": graphs.softmax_over_rows,
    "cumulative sum over rows": graphs.cumulative_sum_over_rows,
    "reversed rows": graphs.reversed_rows,
    "a truth about all rows": graphs.above_the_mean,
    "truth values against their mean": graphs.truths_against_their_mean,
    "integers against the least of all rows": graphs.least_of_column,
}


@pytest.mark.parametrize("max_rows", [2, 8])
@pytest.mark.parametrize("name", MIXED)
def test_models_that_mix_rows_are_found_out(load: Load, name: str, max_rows: int) -> None:
    session = load(MIXED[name]())
    assert why_no_batch_axis(session.signatures[DEFAULT_SIGNATURE]) is None  # nothing in the graph tells
    proof = prove_rows_apart(session.run, session.signatures[DEFAULT_SIGNATURE], max_rows=max_rows)
    assert not proof.mergeable
    assert proof.reason.startswith("rows run one by one give other answers than together: 'y' differs")
    assert proof.sample is not None


def test_a_model_that_is_never_the_same_cannot_be_judged(load: Load) -> None:
    session = load(graphs.noise())
    proof = prove_rows_apart(session.run, session.signatures[DEFAULT_SIGNATURE])
    assert not proof.mergeable
    assert proof.reason.startswith("it answers the same question differently each time: 'y' differs")


def test_an_output_with_another_number_of_rows(load: Load) -> None:
    session = load(graphs.sum_of_rows())
    proof = prove_rows_apart(session.run, session.signatures[DEFAULT_SIGNATURE])
    assert (proof.mergeable, proof.reason) == (False, "output 'y' has shape [1, 4] for 4 rows")


def test_a_model_that_takes_no_batch(load: Load) -> None:
    session = load(graphs.batch_of_one())
    proof = prove_rows_apart(session.run, session.signatures[DEFAULT_SIGNATURE])
    assert not proof.mergeable and proof.sample is None
    assert "takes none of the generated inputs" in proof.reason


# Without a runtime: what a model's function does with rows


def signature(*shape: int) -> Signature:
    return Signature({"x": TensorSpec("x", dtypes.FP32, shape)}, {"y": TensorSpec("y", dtypes.FP32, shape)})


def function(of: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors, tuple[str, ...]], Tensors]:
    return lambda inputs, outputs: {name: of(inputs["x"]) for name in outputs}


def test_generated_rows_are_few_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return x

    monkeypatch.setattr(probe, "_BYTES", 3 * 4 * 100)
    assert prove_rows_apart(function(run), signature(-1, 100)).mergeable
    assert max(seen) == 3
    monkeypatch.setattr(probe, "_BYTES", 1)
    seen.clear()
    assert prove_rows_apart(function(run), signature(-1, 100)).mergeable  # two are needed
    assert max(seen) == 2


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_rows_are_repeated(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(probe, "_FILL_BYTES", 50)  # several steps
    row = {"x": np.arange(3, dtype=np.int32)[None], "text": np.array([[b"a", b""]], object), "s": np.ones(1)}
    for name, array in repeat_rows(row, rows).items():
        assert array.dtype == row[name].dtype
        np.testing.assert_array_equal(array, np.repeat(row[name], rows, axis=0))


def test_a_model_that_needs_several_rows_is_not_merged_and_can_be_loaded() -> None:
    """What works together fails apart: no reason to refuse the model, only to leave its requests alone."""

    def at_least_two(x: np.ndarray) -> np.ndarray:
        if len(x) < 2:
            raise ValueError("too few")
        return x

    proof = prove_rows_apart(function(at_least_two), signature(-1, 2))
    assert not proof.mergeable
    assert "one by one" in proof.reason and "too few" in proof.reason
    assert proof.sample is None  # one row is not known to be taken


def test_rows_whose_answers_have_other_shapes_apart() -> None:
    padded = function(lambda x: np.zeros((len(x), len(x))))
    proof = prove_rows_apart(padded, signature(-1, 2))
    assert not proof.mergeable
    assert "shape" in proof.reason


@pytest.mark.parametrize(
    "of",
    [
        lambda x: x * (1 + 1e-6 * len(x)),
        lambda x: x * (1 + 2e-3 * len(x)),
        lambda x: np.concatenate([1000 * x, np.full_like(x, 1e-3 * len(x))], axis=1),
    ],
    ids=["of summation", "of half precision", "of what cancels out beside large values"],
)
def test_small_differences_are_forgiven(of: Callable[[np.ndarray], np.ndarray]) -> None:
    assert prove_rows_apart(function(of), signature(-1, 2)).mergeable


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_answers_too(value: float) -> None:
    half = function(lambda x: np.array(np.where(x > 0.5, value, x)))
    assert prove_rows_apart(half, signature(-1, 8)).mergeable


# A sample from the model's owner


def demanding(x: np.ndarray) -> np.ndarray:
    """Takes nothing that generated inputs hold."""
    if (x < 100).any():
        raise ValueError("out of range")
    return x - 100


def golden(*values: float) -> Tensors:
    return {"x": np.array(values, np.float32).reshape(-1, 1).repeat(2, axis=1)}


def test_a_sample_is_used_where_generated_inputs_are_refused() -> None:
    proof = prove_rows_apart(function(demanding), signature(-1, 2), golden(101, 102, 103))
    assert proof.mergeable
    assert proof.sample is not None and proof.sample["x"].tolist() == [[101, 101]]


def test_a_sample_whose_rows_are_mixed_is_found_out() -> None:
    centred = function(lambda x: demanding(x) - demanding(x).mean(axis=0))
    proof = prove_rows_apart(centred, signature(-1, 2), golden(101, 102, 103))
    assert not proof.mergeable
    assert "one by one" in proof.reason


@pytest.mark.parametrize(
    "values",
    [(101,), (101,) * 3, (*(101,) * 20, 102)],
    ids=["one row", "equal rows", "equal rows as far as they are run"],
)
def test_a_sample_that_cannot_show_mixing_proves_nothing(values: tuple[float, ...]) -> None:
    centred = function(lambda x: demanding(x) - demanding(x).mean(axis=0))
    proof = prove_rows_apart(centred, signature(-1, 2), golden(*values))
    assert not proof.mergeable
    assert proof.reason


def test_a_model_that_takes_its_sample_only_as_a_whole_is_not_merged_and_can_be_loaded() -> None:
    def twenty(x: np.ndarray) -> np.ndarray:
        if len(x) != 20:
            raise ValueError("not twenty")
        return x

    proof = prove_rows_apart(function(twenty), signature(-1, 2), golden(*range(20)))
    assert not proof.mergeable


def test_generated_inputs_are_tried_besides_a_sample() -> None:
    """Which may happen to be of the values that are not mixed."""
    centred = function(lambda x: x if (x > 100).all() else x - x.mean(axis=0))
    assert not prove_rows_apart(centred, signature(-1, 2), golden(101, 102, 103)).mergeable
