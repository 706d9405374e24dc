"""Made-up inputs fit the signature that they are made for."""

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.generate import concrete_shape, random_array, random_inputs
from serving.core.types import Signature, TensorSpec


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3), (2, 0)])
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_every_type_in_every_shape(dtype: DType, shape: tuple[int, ...]) -> None:
    array = random_array(dtype, shape, rng())
    assert isinstance(array, np.ndarray)
    assert array.dtype == dtype.numpy and array.shape == shape
    if dtype is dtypes.BYTES:
        assert all(type(element) is bytes and element.isdigit() for element in array.flat)
    elif dtype is not dtypes.BOOL:
        values = array.astype(np.float64)
        assert ((values >= 0) & (values < (4 if dtype.is_integer else 1.0001))).all()


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_values_differ_and_can_be_made_again(dtype: DType) -> None:
    array = random_array(dtype, (8, 4), rng())
    assert len(set(array.flat)) > 1
    np.testing.assert_array_equal(array, random_array(dtype, (8, 4), rng()))


@pytest.mark.parametrize(
    ("shape", "rows", "open_size", "expected"),
    [
        ((-1, 4), 3, 1, (3, 4)),
        ((-1, -1), 3, 5, (3, 5)),
        ((-1, -1), None, 5, (5, 5)),
        ((2, -1), 3, 5, (2, 5)),
        ((2, 4), 3, 5, (2, 4)),
        ((), 3, 5, ()),
        ((-1,), 3, 5, (3,)),
    ],
)
def test_open_axes_get_a_size(
    shape: tuple[int, ...], rows: int | None, open_size: int, expected: tuple[int, ...]
) -> None:
    assert concrete_shape(TensorSpec("x", dtypes.FP32, shape), rows, open_size) == expected


def test_every_input_of_a_signature_is_made() -> None:
    specs = (TensorSpec("a", dtypes.FP32, (-1, 2)), TensorSpec("b", dtypes.BYTES, (-1, -1)))
    inputs = random_inputs(Signature({s.name: s for s in specs}, {}), 3, rng(), open_size=4)
    assert {name: (a.dtype, a.shape) for name, a in inputs.items()} == {
        "a": (np.dtype(np.float32), (3, 2)),
        "b": (np.dtype(object), (3, 4)),
    }
    assert all(s.accepts(inputs[s.name].shape) for s in specs)
