"""Makes valid inputs for a signature: for probes, warm-up, examples and `serving predict --random`."""

import numpy as np

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.types import Signature, Tensors, TensorSpec


def random_inputs(signature: Signature, rows: int | None, rng: np.random.Generator, open_size: int = 1) -> Tensors:
    """Values for every input of `signature` that a request must bring.

    Args:
        rows: the size of axis 0 wherever it is open; None leaves it to `open_size` like every other open axis.
        open_size: the size of the other open axes.
    """
    return {
        spec.name: random_array(spec.dtype, concrete_shape(spec, rows, open_size), rng)
        for spec in signature.inputs.values()
        if not spec.optional
    }


def concrete_shape(spec: TensorSpec, rows: int | None, open_size: int = 1) -> tuple[int, ...]:
    if spec.shape is None:
        return () if rows is None else (rows,)
    shape = [open_size if d == -1 else d for d in spec.shape]
    if rows is not None and spec.shape and spec.shape[0] == -1:
        shape[0] = rows
    return tuple(shape)


def random_array(dtype: DType, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Small values that most models take: floats in [0, 1), integers in 0..3 (an index into the smallest of tables),
    text that also reads as a number."""
    if dtype is dtypes.BYTES:
        texts = np.empty(int(np.prod(shape)), dtype=object)
        texts[:] = [b"%d" % n for n in rng.integers(0, 100, texts.size)]
        return texts.reshape(shape)
    if dtype is dtypes.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype.is_integer:
        return rng.integers(0, 4, shape).astype(dtype.numpy)
    return rng.random(shape, dtype=np.float32).astype(dtype.numpy)
