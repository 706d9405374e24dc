"""The classification extension: an output's highest values with their places and labels, as text. Pure."""

from collections.abc import Sequence
from math import prod

import numpy as np

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import invalid

_UNSUPPORTED = (dtypes.BYTES, dtypes.BOOL, dtypes.FP16, dtypes.BF16)


def classify(array: np.ndarray, dtype: DType, count: int, labels: Sequence[str], batched: bool) -> np.ndarray:
    """The `count` highest values of each row, or all if it has fewer, highest first.

    Args:
        labels: of a row's elements, in their order; where there are too few, the last elements have none.
        batched: axis 0 of `array` counts rows; otherwise all of it is one row.

    Returns:
        BYTES [rows, min(count, elements of a row)], or without the first axis if not batched: `value:index[:label]`,
        floats with six decimals. Of equal values the first comes first; NaN is the lowest.

    Raises:
        ServingError: INVALID, for a type of which there are no classes.
    """
    if dtype in _UNSUPPORTED:
        raise invalid(f"class result not available for output due to unsupported type '{dtype.name}'")
    batched = batched and array.ndim > 0
    shape = (array.shape[0], prod(array.shape[1:])) if batched else (1, array.size)
    rows = array.reshape(shape)
    count = min(count, shape[1])
    form = "%f:%d" if dtype.is_float else "%d:%d"
    result = np.empty((shape[0], count), dtype=object)
    for row, texts in zip(rows, result, strict=True):
        places = _highest(row, count)
        pairs = zip(row[places].tolist(), places.tolist(), strict=True)
        texts[:] = [(form % (value, i) + (f":{labels[i]}" if i < len(labels) else "")).encode() for value, i in pairs]
    return result if batched else result.reshape(count)


def _highest(row: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` highest values of a vector, highest first."""
    if row.dtype.kind == "f":
        row = np.where(np.isnan(row), -np.inf, row)
    places = np.arange(row.size)
    if 0 < count < row.size:  # most of a long row is not worth sorting
        least = np.partition(row, row.size - count)[row.size - count]
        places = np.flatnonzero(row >= least)  # more than `count` if some are equal
    backwards = places[::-1]  # a stable sort upwards, read backwards, keeps the first of equals first
    return backwards[np.argsort(row[backwards], kind="stable")][::-1][:count]
