"""Two runs of a model held against each other."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.core.compare import difference, distance, largest_difference

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
        ([NAN, 1], [1, 1.5], np.float32, "'y' is NaN in 1 of 2 elements, expected numbers"),
        ([NAN, 1, NAN], [1, NAN, NAN], np.float32, "'y' is NaN in 1 of 3 elements, expected numbers"),
        ([1, INF], [NAN, NAN], np.float32, "'y' is a number in 2 of 2 elements, expected NaN"),
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


@pytest.mark.parametrize(
    ("actual", "expected", "dtype", "same", "absolute", "relative"),
    [
        ([1.0, -4.0], [1.0, -4.0], np.float32, True, 0, 0),
        ([1.0, -4.5], [1.0, -4.0], np.float32, False, 0.5, 0.125),
        ([1.0, -4.25], [1.0, -4.0], np.float64, True, 0.25, 0.0625),  # within 0.1 + 0.05 x 4
        ([0.5, 4.0], [0.0, 4.0], np.float32, False, 0.5, 0.125),  # not against the 0 of that element
        ([0.5, 0.0], [0.0, 0.0], np.float32, False, 0.5, INF),
        (1.5, 1.0, np.float32, False, 0.5, 0.5),
        ([], [], np.float32, True, 0, 0),
        ([NAN, INF, -INF, 1.0], [NAN, INF, -INF, 1.0], np.float32, True, 0, 0),
        ([NAN, 1.0], [1.0, 1.0], np.float32, False, INF, INF),
        ([1.0, 1.0], [NAN, 1.0], np.float32, False, INF, INF),
        ([1.0, 1.0], [INF, 1.0], np.float32, False, INF, INF),
        ([-INF], [INF], np.float32, False, INF, INF),
        ([1.5], [1.0], ml_dtypes.bfloat16, False, 0.5, 0.5),
        ([4, 5], [4, 4], np.int32, False, 1, 0.25),
        ([2**62 + 1], [2**62], np.int64, False, 0, 0),
        ([0], [255], np.uint8, False, 255, 1),
        ([True], [True], np.bool_, True, 0, 0),
        ([True], [False], np.bool_, False, INF, INF),
        ([b"a"], [b"a"], object, True, 0, 0),
        ([b"a"], [b"b"], object, False, INF, INF),
        ([1.0], [1.0, 1.0], np.float32, False, INF, INF),
    ],
)
def test_how_far_answers_are_apart(
    actual: Any, expected: Any, dtype: Any, same: bool, absolute: float, relative: float
) -> None:
    found = distance({"y": np.array(actual, dtype)}, {"y": np.array(expected, dtype)}, atol=0.1, rtol=0.05)
    assert (found.same, found.absolute, found.relative) == (same, absolute, relative)


def test_the_tensor_that_is_farthest_counts() -> None:
    one, two = np.array([1.0]), np.array([2.0])
    found = distance({"a": one, "b": one, "c": one}, {"a": one, "b": two}, atol=0, rtol=0)
    assert (found.same, found.absolute, found.relative) == (False, 1.0, 0.5)
    assert distance({"a": one}, {"a": one, "b": one}, atol=0, rtol=0).absolute == INF


_FLOATS = st.floats(width=32) | st.sampled_from([0.0, 1.0, INF, -INF, NAN])
_PAIRS = st.one_of(
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_]).flatmap(
        lambda dtype: st.tuples(*2 * [hnp.arrays(dtype, (3,), elements=_FLOATS if dtype is np.float32 else None)])
    ),
)


@given(_PAIRS, st.sampled_from([0, 0.5, 1e3]), st.sampled_from([0, 0.1]))
def test_they_are_the_same_where_no_difference_is_found(
    pair: tuple[np.ndarray, np.ndarray], atol: float, rtol: float
) -> None:
    actual, expected = ({"y": array} for array in pair)
    told = difference(actual, expected, atol=atol, rtol=rtol)
    assert distance(actual, expected, atol=atol, rtol=rtol).same == (told is None)
