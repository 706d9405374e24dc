"""How well the answers of a model that was made smaller agree with those of the original. Pure."""

from dataclasses import dataclass

import numpy as np

from serving.core.compare import distance
from serving.core.types import Tensors


@dataclass(frozen=True)
class Agreement:
    """
    Attributes:
        rows: that were compared.
        absolute: the largest difference of two elements.
        relative: the same against the largest element of that output.
        top1: the share of rows whose highest class is the same; None: no output looks like scores of classes.
    """

    rows: int
    absolute: float
    relative: float
    top1: float | None


def agreement(actual: Tensors, expected: Tensors) -> Agreement:
    """How outputs compare; rows are on axis 0."""
    apart = distance(actual, expected, atol=0.0, rtol=0.0)
    shares = [
        float(np.mean(actual[name].argmax(axis=1) == want.argmax(axis=1)))
        for name, want in expected.items()
        if want.dtype.kind == "f" and want.ndim == 2 and want.shape[1] > 1 and actual[name].shape == want.shape
    ]
    rows = max((array.shape[0] if array.ndim else 1 for array in expected.values()), default=0)
    return Agreement(rows, apart.absolute, apart.relative, min(shares, default=None))


def refusal(found: Agreement, tolerance: float, least_top1: float) -> str:
    """Why these answers are not good enough; empty: they are.

    Args:
        tolerance: the largest difference, against the largest element of the output.
        least_top1: the share of rows whose highest class has to be the same.
    """
    if not found.relative <= tolerance:
        return f"its answers differ by up to {found.relative:.2g} of the largest value, and {tolerance:g} is allowed"
    if found.top1 is not None and found.top1 < least_top1:
        return f"the highest class is the same in {found.top1:.1%} of the rows, and {least_top1:.1%} is asked for"
    return ""
