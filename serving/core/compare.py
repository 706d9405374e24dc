"""Are two sets of tensors the same within a tolerance? Used wherever one run of a model is held against another."""

from dataclasses import dataclass
from math import inf

import numpy as np

from serving.core.types import Tensors


def difference(actual: Tensors, expected: Tensors, *, atol: float, rtol: float) -> str | None:
    """None if every tensor of `expected` is in `actual` with the same shape and nearly the same values.

    Floats may differ by `atol + rtol * |expected|`, NaN equals NaN, everything else must be equal. Otherwise one
    sentence that names the first tensor that differs, and how.
    """
    for name, want in expected.items():
        got = actual.get(name)
        if got is None:
            return f"'{name}' is missing"
        if got.shape != want.shape:
            return f"'{name}' has shape {list(got.shape)}, expected {list(want.shape)}"
        if got.dtype != want.dtype:
            return f"'{name}' is {got.dtype}, expected {want.dtype}"
        if not _is_float(want):
            wrong = np.asarray(got != want)
            if wrong.any():
                return f"'{name}' differs in {np.count_nonzero(wrong)} of {want.size} elements"
            continue
        a, b = got.astype(np.float64), want.astype(np.float64)
        if nan := np.count_nonzero(np.isnan(a) & ~np.isnan(b)):
            return f"'{name}' is NaN in {nan} of {want.size} elements, expected numbers"
        if number := np.count_nonzero(np.isnan(b) & ~np.isnan(a)):
            return f"'{name}' is a number in {number} of {want.size} elements, expected NaN"
        close = np.isclose(a, b, atol=atol, rtol=rtol, equal_nan=True)
        if not close.all():
            return (
                f"'{name}' differs by up to {_largest(a[~close], b[~close]):.3g} "
                f"in {np.count_nonzero(~close)} of {want.size} elements "
                f"(allowed: {atol:g} + {rtol:g} x |expected|)"
            )
    return None


def largest_difference(actual: Tensors, expected: Tensors) -> float:
    """The largest absolute difference between floats of tensors that `difference` found to be the same; 0 if none."""
    pairs = ((actual[name], want) for name, want in expected.items() if _is_float(want))
    return max((_largest(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs), default=0.0)


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind in "fV"  # V: numpy's kind of bfloat16


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    """Equal infinities and NaNs differ by 0."""
    with np.errstate(invalid="ignore"):
        gaps = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(gaps.max(initial=0.0))


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two sets of tensors are apart.

    Attributes:
        same: what `difference` would say.
        absolute: the largest difference of two elements. Infinite where that says nothing: a NaN against a number,
            text, another shape.
        relative: the same against the largest element of that tensor, since one that is nearly 0 makes any difference
            look large.
    """

    same: bool
    absolute: float
    relative: float


def distance(actual: Tensors, expected: Tensors, *, atol: float, rtol: float) -> Distance:
    """Whether they are the same, as `difference` has it, and how far they are apart if not."""
    same, absolute, relative = True, 0.0, 0.0
    for name, want in expected.items():
        got = actual.get(name)
        if got is None or got.shape != want.shape or got.dtype != want.dtype:
            return Distance(False, inf, inf)
        if want.dtype.kind not in "fViu":
            if not np.array_equal(got, want):
                same, absolute, relative = False, inf, inf
            continue
        a, b = np.atleast_1d(got.astype(np.float64), want.astype(np.float64))
        size = np.abs(b)
        with np.errstate(invalid="ignore"):
            gaps = np.abs(a - b)
        if not np.isfinite(gaps).all():
            gaps[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
            gaps[np.isnan(gaps)] = inf
        gap = float(gaps.max(initial=0.0))
        if not gap:  # also of integers beyond what a float64 tells apart
            same = same and (_is_float(want) or np.array_equal(got, want))
            continue
        largest = float(np.max(size, initial=0.0, where=np.isfinite(size)))
        absolute = max(absolute, gap)
        relative = max(relative, gap / largest if largest else inf)
        same = same and gap < inf and _is_float(want) and bool((gaps <= atol + rtol * size).all())
    return Distance(same, absolute, relative)
