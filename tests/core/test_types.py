"""Shapes that a tensor's declaration takes, and the size of its rows."""

import pytest

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.types import TensorSpec


@pytest.mark.parametrize(
    ("declared", "shape", "accepted"),
    [
        ((-1, 4), (1, 4), True),
        ((-1, 4), (0, 4), True),
        ((-1, 4), (1, 5), False),
        ((-1, 4), (4,), False),
        ((-1, 4), (1, 4, 1), False),
        ((-1, -1), (7, 9), True),
        ((2, 4), (2, 4), True),
        ((2, 4), (1, 4), False),
        ((), (), True),
        ((), (1,), False),
    ],
)
def test_accepts(declared: tuple[int, ...], shape: tuple[int, ...], accepted: bool) -> None:
    assert TensorSpec("x", dtypes.FP32, declared).accepts(shape) is accepted


@pytest.mark.parametrize(
    ("dtype", "declared", "row_bytes"),
    [
        (dtypes.FP32, (-1, 16), 64),
        (dtypes.BF16, (-1, 2, 3), 12),
        (dtypes.INT64, (-1,), 8),
        (dtypes.UINT8, (-1, -1, 3), 3),
        (dtypes.BYTES, (-1, 16), 0),
    ],
)
def test_row_bytes(dtype: DType, declared: tuple[int, ...], row_bytes: int) -> None:
    assert TensorSpec("x", dtype, declared).row_bytes == row_bytes
