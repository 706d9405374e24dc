"""Two runs of a model held against each other."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from serving.core.compare import difference, largest_difference

INF, NAN = float("inf"), float("nan")


def compare(actual: Any, expected: Any, dtype: Any = np.float32, atol: float = 0.0, rtol: float = 0.0) -> str | None:
    return difference({"y": np.array(actual, dtype)}, {"y": np.array(expected, dtype)}, atol=atol, rtol=rtol)


@pytest.mark.parametrize(
    ("actual", "expected", "dtype", "atol", "rtol"),
    [
        ([1.5, -2], [1.5, -2], np.float32, 0, 0),
        ([1.05], [1], np.float64, 0.1, 0),
        ([105], [100], np.float64, 0, 0.06),
        ([1.0], [1.0078125], ml_dtypes.bfloat16, 0.01, 0),
        ([NAN, INF, -INF], [NAN, INF, -INF], np.float32, 0, 0),
        ([], [], np.float32, 0, 0),
        (1.0, 1.0, np.float32, 0, 0),
        ([True, False], [True, False], np.bool_, 0, 0),
        ([2**63 - 1], [2**63 - 1], np.int64, 0, 0),
        ([b"a", b""], [b"a", b""], object, 0, 0),
    ],
)
def test_same(actual: Any, expected: Any, dtype: Any, atol: float, rtol: float) -> None:
    assert compare(actual, expected, dtype, atol, rtol) is None


@pytest.mark.parametrize(
    ("actual", "expected", "dtype", "told"),
    [
        ([1.0, 2.0, 3.5], [1, 2.25, 3], np.float32, "'y' differs by up to 0.5 in 2 of 3 elements"),
        ([1.0], [1.0078125], ml_dtypes.bfloat16, "'y' differs by up to 0.00781 in 1 of 1 elements"),
        ([INF], [1], np.float32, "'y' differs by up to inf in 1 of 1 elements"),
        ([INF], [-INF], np.float32, "'y' differs by up to inf in 1 of 1 elements"),
        ([NAN, 1], [1, 1.5], np.float32, "'y' differs by up to 0.5 in 2 of 2 elements"),
        ([NAN], [1], np.float32, "'y' differs by up to nan in 1 of 1 elements"),
        ([1], [NAN], np.float32, "'y' differs by up to nan in 1 of 1 elements"),
        ([True, False], [True, True], np.bool_, "'y' differs in 1 of 2 elements"),
        ([2**63 - 1], [2**63 - 2], np.int64, "'y' differs in 1 of 1 elements"),
        ([b"a", b"b"], [b"a", b"c"], object, "'y' differs in 1 of 2 elements"),
        ([1, 2], [[1, 2]], np.float32, "'y' has shape [2], expected [1, 2]"),
    ],
)
def test_different(actual: Any, expected: Any, dtype: Any, told: str) -> None:
    said = compare(actual, expected, dtype)
    assert said is not None and said.startswith(told)


def test_what_was_allowed_is_told() -> None:
    assert str(compare([2.0], [1.0], atol=0.25, rtol=0.5)).endswith("(allowed: 0.25 + 0.5 x |expected|)")


def test_types_must_match() -> None:
    got = difference({"y": np.ones(2, np.int32)}, {"y": np.ones(2, np.int64)}, atol=1, rtol=1)
    assert got == "'y' is int32, expected int64"


def test_every_expected_tensor_must_be_there_and_others_do_not_matter() -> None:
    one = np.ones(1)
    assert difference({"a": one, "b": one}, {"a": one}, atol=0, rtol=0) is None
    assert difference({"b": one}, {"b": one, "a": one}, atol=0, rtol=0) == "'a' is missing"


@pytest.mark.parametrize(
    ("actual", "expected", "largest"),
    [
        ({"a": [1.0, 2.5], "b": [3.0]}, {"a": [1.0, 2.0], "b": [3.25]}, 0.5),
        ({"a": [NAN, INF, -INF, 1.0]}, {"a": [NAN, INF, -INF, 1.0]}, 0.0),
        ({"a": [INF, 1.0]}, {"a": [1.0, 1.0]}, INF),
        ({"a": [], "more": [9.0]}, {"a": []}, 0.0),
        ({}, {}, 0.0),
    ],
)
def test_the_largest_difference(actual: Any, expected: Any, largest: float) -> None:
    sides = ({name: np.array(values, np.float32) for name, values in side.items()} for side in (actual, expected))
    assert largest_difference(*sides) == largest


def test_only_floats_can_differ_by_something() -> None:
    bits = {"a": np.array([1.0], ml_dtypes.bfloat16), "n": np.array([1]), "s": np.array([b"x"], dtype=object)}
    assert largest_difference(bits, {**bits, "a": np.array([1.5], ml_dtypes.bfloat16)}) == 0.5
