"""The table of data types is complete, and its columns agree with numpy, ONNX Runtime and each other."""

import copy
import pickle

import ml_dtypes
import numpy as np
import onnx
import pytest

from serving.core import dtypes
from serving.core.dtypes import DType
from tests import models

each = pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)


def test_every_type_of_the_protocol_is_there() -> None:
    integers = [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
    assert {d.name for d in dtypes.ALL} == {"BOOL", *integers, "FP16", "BF16", "FP32", "FP64", "BYTES"}


@pytest.mark.parametrize(
    ("table", "key"), [(dtypes.BY_NAME, "name"), (dtypes.BY_ONNX, "onnx"), (dtypes.BY_NUMPY, "numpy")]
)
def test_the_tables_hold_each_type_once(table: dict[object, DType], key: str) -> None:
    assert {id(found) for found in table.values()} == {id(d) for d in dtypes.ALL}
    assert len(table) == len(dtypes.ALL)
    assert all(getattr(found, key) == at for at, found in table.items())


@each
def test_onnx_and_numpy_mean_the_same(dtype: DType) -> None:
    expected = onnx.helper.tensor_dtype_to_np_dtype(models.DTYPES[dtype.name])
    assert np.dtype(expected) == dtype.numpy


@each
def test_itemsize_is_the_size_on_the_wire(dtype: DType) -> None:
    assert dtype.itemsize == (0 if dtype is dtypes.BYTES else dtype.numpy.itemsize)


@each
def test_kinds(dtype: DType) -> None:
    assert dtype.is_integer == np.issubdtype(dtype.numpy, np.integer)
    assert dtype.is_float == (np.issubdtype(dtype.numpy, np.floating) or dtype.numpy == ml_dtypes.bfloat16)
    assert repr(dtype) == dtype.name


def test_tensorflow_names_are_distinct_and_spelled_as_tensorflow_does() -> None:
    assert {d.name: d.tensorflow for d in (dtypes.FP16, dtypes.BF16, dtypes.FP32, dtypes.FP64, dtypes.BYTES)} == {
        "FP16": "DT_HALF",
        "BF16": "DT_BFLOAT16",
        "FP32": "DT_FLOAT",
        "FP64": "DT_DOUBLE",
        "BYTES": "DT_STRING",
    }
    assert len({d.tensorflow for d in dtypes.ALL}) == len(dtypes.ALL)


@each
def test_a_type_stays_the_one_object_wherever_it_goes(dtype: DType) -> None:
    assert all(pickle.loads(pickle.dumps(dtype, protocol)) is dtype for protocol in range(pickle.HIGHEST_PROTOCOL + 1))
    assert copy.deepcopy({"a": [dtype]})["a"][0] is dtype
