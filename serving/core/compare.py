"""Are two sets of tensors the same within a tolerance? Used wherever one run of a model is held against another."""

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
    """Equal infinities and NaNs differ by 0. NaN if each element is a number in one of them and NaN in the other."""
    with np.errstate(invalid="ignore"):
        gaps = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nan if gaps.size and np.isnan(gaps).all() else np.nanmax(gaps, initial=0.0))
