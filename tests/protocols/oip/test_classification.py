"""Classes as text: the highest values, their places and labels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.protocols.oip.classification import classify
from tests.protocols.build import dtype_id, refused

NUMBERS = tuple(d for d in dtypes.ALL if d.is_integer or d in (dtypes.FP32, dtypes.FP64))


def classes(values: Any, count: int, dtype: DType = dtypes.FP32, labels: Any = (), batched: bool = True) -> Any:
    return classify(np.array(values, dtype.numpy), dtype, count, labels, batched).tolist()


def test_value_place_and_label() -> None:
    assert classes([[1.25, 3.3, 2]], 2, labels=("cat", "dog", "bird")) == [[b"3.300000:1:dog", b"2.000000:2:bird"]]


def test_integers_are_plain() -> None:
    assert classes([[30, 5, 45]], 3, dtypes.INT32) == [[b"45:2", b"30:0", b"5:1"]]


def test_every_row_for_itself() -> None:
    assert classes([[1, 2], [4, 3]], 1, dtypes.INT8) == [[b"2:1"], [b"4:0"]]


def test_without_rows_all_is_one() -> None:
    assert classes([[1, 2], [4, 3]], 2, dtypes.INT8, batched=False) == [b"4:2", b"3:3"]
    assert classes(5, 2, dtypes.INT8, batched=False) == [b"5:0"]
    assert classes(5, 2, dtypes.INT8) == [b"5:0"]  # a scalar has no rows, whatever is said of it


def test_a_row_of_several_axes_is_flat() -> None:
    array = np.arange(12, dtype=np.int16).reshape(2, 3, 2)
    assert classify(array, dtypes.INT16, 1, (), True).tolist() == [[b"5:5"], [b"11:5"]]


def test_labels_may_be_too_few() -> None:
    assert classes([[1, 2, 3]], 3, dtypes.UINT8, labels=("a", "b")) == [[b"3:2", b"2:1:b", b"1:0:a"]]


def test_labels_are_utf8() -> None:
    assert classes([[1]], 1, dtypes.UINT8, labels=("Tür",)) == [["1:0:Tür".encode()]]


@pytest.mark.parametrize("count", [1, 3, 4, 2**62])
def test_at_most_what_there_is(count: int) -> None:
    assert classes([[7, 8, 9]], count, dtypes.UINT16) == [[b"9:2", b"8:1", b"7:0"][:count]]


@pytest.mark.parametrize(("shape", "expected"), [((0, 3), (0, 2)), ((2, 0), (2, 0)), ((0, 0), (0, 0))])
def test_nothing(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    found = classify(np.empty(shape, np.float32), dtypes.FP32, 2, (), True)
    assert found.shape == expected and found.dtype == object


def test_of_equals_the_first_comes_first() -> None:
    assert classes([[1, 5, 5, 1, 5]], 2, dtypes.INT64) == [[b"5:1", b"5:2"]]
    assert classes([[0.5] * 1000], 3) == [[b"0.500000:0", b"0.500000:1", b"0.500000:2"]]


def test_nan_is_the_lowest() -> None:
    nan, inf = np.nan, np.inf
    assert classes([[nan, 1, inf, nan, -5]], 3) == [[b"inf:2", b"1.000000:1", b"-5.000000:4"]]
    assert classes([[nan, nan]], 1) == [[b"nan:0"]]


@pytest.mark.parametrize("dtype", NUMBERS, ids=dtype_id)
def test_the_limits_of_every_type(dtype: DType) -> None:
    info: Any = np.iinfo(dtype.numpy) if dtype.is_integer else np.finfo(dtype.numpy)
    array = np.array([[info.min, 1, info.max]], dtype.numpy)
    for count in (1, 2, 3):
        places = [int(text.split(b":")[1]) for text in classify(array, dtype, count, (), True)[0]]
        assert places == [2, 1, 0][:count]


@pytest.mark.parametrize("dtype", [dtypes.BYTES, dtypes.BOOL, dtypes.FP16, dtypes.BF16], ids=dtype_id)
def test_types_that_have_no_classes(dtype: DType) -> None:
    assert refused(lambda: classify(np.zeros((1, 2), dtype.numpy), dtype, 1, (), True)) == (
        f"class result not available for output due to unsupported type '{dtype.name}'"
    )


@given(st.lists(st.integers(-5, 5), max_size=40), st.integers(1, 45))
def test_as_a_sort_has_it(values: list[int], count: int) -> None:
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert classes([values], count, dtypes.INT32) == [[b"%d:%d" % (values[i], i) for i in expected]]
