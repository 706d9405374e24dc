"""In which numbers a network computes. Its weights are float32 in any case."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import keras

Precision = Literal["float32", "bfloat16"]


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """Layers that are made in here compute so. bfloat16 is what GPUs since 2020, TPUs and some CPUs multiply fastest.
    It has the range of float32, so that the loss needs no scaling, which it does in float16.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
