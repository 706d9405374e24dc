"""How answers of two forms of a model compare, and when that is good enough."""

import numpy as np
import pytest

from serving.cli.agreement import Agreement, agreement, refusal
from serving.core.types import Tensors

SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [1.0, 0.0]], np.float32)


def test_the_same() -> None:
    assert agreement({"y": SCORES}, {"y": SCORES}) == Agreement(4, 0.0, 0.0, 1.0)


def test_how_far_they_are_apart() -> None:
    found = agreement({"y": SCORES * 4 + 0.5}, {"y": SCORES * 4})
    assert found.absolute == pytest.approx(0.5) and found.relative == pytest.approx(0.125)
    assert found.top1 == 1.0


def test_the_share_of_rows_whose_highest_class_is_the_same() -> None:
    assert agreement({"y": SCORES[:, ::-1]}, {"y": SCORES}).top1 == 0.0
    other = SCORES.copy()
    other[2] = other[2, ::-1]
    assert agreement({"y": other, "z": SCORES}, {"y": SCORES, "z": SCORES}).top1 == 0.75


@pytest.mark.parametrize(
    "output", [SCORES[:, 0], SCORES[:, :1], np.arange(4, dtype=np.int64).reshape(2, 2), np.array([b"a"], object)]
)
def test_what_is_no_score_of_classes(output: np.ndarray) -> None:
    assert agreement({"y": output}, {"y": output}).top1 is None


@pytest.mark.parametrize(
    "actual", [{}, {"y": SCORES[:2]}, {"y": SCORES.astype(np.float64)}, {"y": np.full_like(SCORES, np.nan)}]
)
def test_what_cannot_be_compared_is_refused(actual: Tensors) -> None:
    found = agreement({"y": SCORES[:1], **actual}, {"y": SCORES})
    assert refusal(found, tolerance=1e9, least_top1=0.0)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Agreement(8, 1.0, 0.01, 0.99), ""),
        (Agreement(8, 1.0, 0.01, None), ""),
        (Agreement(8, 1.0, 0.011, 1.0), "its answers differ by up to 0.011 of the largest value, and 0.01 is allowed"),
        (
            Agreement(8, 1.0, 0.0, 0.875),
            "the highest class is the same in 87.5% of the rows, and 99.0% is asked for",
        ),
    ],
)
def test_refusal(found: Agreement, words: str) -> None:
    assert refusal(found, tolerance=0.01, least_top1=0.99) == words
