"""Outputs as classes and values, and outputs that are neither."""

from collections.abc import Mapping

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.types import Signature, SignatureMethod
from serving.protocols.tfs import results
from tests.protocols.build import refused
from tests.protocols.tfs.build import CLASSIFY, REGRESS, SCORES_ONLY, answered, spec, specs, strings

LABELS = strings([b"a", b"b", b"c", "ü".encode()], (2, 2))
SCORES = np.array([[0.1, 0.9], [1, 0]], np.float32)


def test_classes_with_labels_and_scores() -> None:
    found = results.classes(answered(CLASSIFY, {"classes": LABELS, "scores": SCORES}), 2)
    assert found.labels == [["a", "b"], ["c", "ü"]]
    assert np.array_equal(found.scores, SCORES)


def test_scores_alone() -> None:
    found = results.classes(answered(SCORES_ONLY, {"scores": SCORES}), 2)
    assert found.labels == [["", ""], ["", ""]]
    assert np.array_equal(found.scores, SCORES)


@pytest.mark.parametrize(("labels", "expected"), [(["no", "yes", "more"], ["no", "yes"]), (["no"], ["no", ""])])
def test_labels_of_the_models_owner(labels: list[str], expected: list[str]) -> None:
    found = results.classes(answered(SCORES_ONLY, {"scores": SCORES}, {"scores": labels}), 2)
    assert found.labels == [expected, expected]


def test_classes_alone() -> None:
    found = results.classes(answered(CLASSIFY, {"classes": LABELS}), 2)
    assert found.labels == [["a", "b"], ["c", "ü"]]
    assert np.array_equal(found.scores, np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"scores": np.zeros(2, np.float32)}, "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        ({"scores": np.float32(0)}, "Expected Tensor shape: [batch_size num_classes] but got []"),
        ({"classes": strings([b"a", b"b"], (2,))}, "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        ({"scores": np.zeros((3, 1), np.float32)}, "Expected scores output batch size of 2. Got: 3"),
        ({"classes": strings([b"a"], (1, 1))}, "Expected classes output batch size of 2. Got: 1"),
        (
            {"classes": LABELS, "scores": np.zeros((2, 3), np.float32)},
            "Tensors class and score should match in dim_size(1). Got 2 vs. 3",
        ),
    ],
)
def test_what_are_no_classes(outputs: Mapping[str, np.ndarray], text: str) -> None:
    made = {name: np.asarray(array) for name, array in outputs.items()}
    assert refused(lambda: results.classes(answered(CLASSIFY, made), 2)) == text


@pytest.mark.parametrize(
    ("name", "dtype", "text"),
    [
        ("scores", dtypes.FP64, "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        ("classes", dtypes.INT64, "Expected classes Tensor of DT_STRING. Got: DT_INT64"),
    ],
)
def test_classes_of_another_type(name: str, dtype: dtypes.DType, text: str) -> None:
    signature = Signature(CLASSIFY.inputs, specs(spec(name, dtype)), SignatureMethod.CLASSIFY)
    response = answered(signature, {name: np.zeros((2, 2), dtype.numpy)})
    assert refused(lambda: results.classes(response, 2)) == text


def test_labels_that_are_no_text() -> None:
    response = answered(CLASSIFY, {"classes": strings([b"\xff"], (1, 1))})
    assert "not UTF-8" in refused(lambda: results.classes(response, 1))


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_values(shape: tuple[int, ...]) -> None:
    response = answered(REGRESS, {"outputs": np.array([1.5, 2], np.float32).reshape(shape)})
    assert results.values(response, 2).tolist() == [1.5, 2]


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((), "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got []"),
        ((2, 2), "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]"),
        ((2, 1, 1), "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,1,1]"),
        ((3, 1), "Input batch size did not match output batch size: 2 vs. 3"),
    ],
)
def test_what_are_no_values(shape: tuple[int, ...], text: str) -> None:
    response = answered(REGRESS, {"outputs": np.zeros(shape, np.float32)})
    assert refused(lambda: results.values(response, 2)) == text


def test_values_of_another_type() -> None:
    signature = Signature(REGRESS.inputs, specs(spec("outputs", dtypes.FP64)), SignatureMethod.REGRESS)
    text = refused(lambda: results.values(answered(signature, {"outputs": np.zeros(2)}), 2))
    assert text == "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"
