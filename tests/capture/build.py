"""Records for tests."""

from typing import Any

import numpy as np

from serving.capture.record import Record
from serving.core import dtypes
from serving.core.types import Tensors


def record(**more: Any) -> Record:
    """One of a model `m` whose version 1 answered."""
    values: dict[str, Any] = {
        "at": 1_700_000_000.25,
        "took_s": 0.002,
        "protocol": "oip_rest",
        "model": "m",
        "version": None,
        "id": "",
        "inputs": {"x": np.ones((2, 3), np.float32)},
        "answered_by": 1,
        "answer": {"y": np.zeros((2, 1), np.float32)},
    }
    return Record(**{**values, **more})


def every_dtype() -> Tensors:
    """Two elements of each data type, [2, 1]."""
    arrays = {}
    for dtype in dtypes.ALL:
        if dtype is dtypes.BYTES:
            arrays[dtype.name] = np.array([[b"\xff\0"], [b""]], object)
        else:
            arrays[dtype.name] = np.array([[0], [1]]).astype(dtype.numpy)
    return arrays


def same(a: Tensors, b: Tensors) -> bool:
    return list(a) == list(b) and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)
