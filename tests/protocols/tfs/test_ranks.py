"""Tensors without the last axes of size 1."""

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.types import Signature
from serving.protocols.tfs.ranks import lacking, narrowed, widened
from tests.protocols.tfs.build import Shape, answered, spec, specs


@pytest.mark.parametrize(
    ("shape", "declared", "axes"),
    [
        ((3,), (-1, 1), 1),
        ((3,), (-1, 1, 1), 2),
        ((3, 1), (-1, 1, 1), 1),
        ((), (1,), 1),
        ((3, 1), (-1, 1), 0),
        ((3,), (-1,), 0),
        ((3,), None, 0),
        ((), (-1,), 0),
        ((3,), (-1, 2), 0),
        ((3,), (-1, -1), 0),
        ((3,), (-1, 2, 1), 0),
        ((3, 1, 1), (-1, 1), 0),
    ],
)
def test_what_an_input_lacks(shape: tuple[int, ...], declared: Shape, axes: int) -> None:
    tensor = np.zeros(shape, np.float32)
    assert lacking(tensor, spec("x", shape=declared)) == axes
    assert widened(tensor, axes).shape == shape + (1,) * axes


@pytest.mark.parametrize(
    ("shape", "declared", "axes", "expected"),
    [
        ((3, 1), (-1, 1), 1, (3,)),
        ((3, 1, 1), (-1, 1, 1), 1, (3, 1)),
        ((3, 1, 1), (-1, 1, 1), 2, (3,)),
        ((3, 1), (-1, 1), 0, (3, 1)),
        ((3, 1), (-1, -1), 1, (3, 1)),  # it might have been another number
        ((1,), (-1,), 1, (1,)),  # the rows
        ((3, 1), (-1, 1), 2, (3, 1)),
        ((3, 1), None, 1, (3, 1)),
        ((3, 2), (-1, 1), 1, (3, 2)),  # a model that does not do as it says
        ((), (), 1, ()),
    ],
)
def test_what_an_output_loses(shape: tuple[int, ...], declared: Shape, axes: int, expected: tuple[int, ...]) -> None:
    signature = Signature({}, specs(spec("y", dtypes.FP32, declared)))
    (y,) = narrowed(answered(signature, {"y": np.zeros(shape, np.float32)}), axes).values()
    assert y.shape == expected
