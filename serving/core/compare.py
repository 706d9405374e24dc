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
        if want.dtype.kind not in "fV":  # V: numpy's kind of bfloat16
            wrong = np.asarray(got != want)
            if wrong.any():
                return f"'{name}' differs in {np.count_nonzero(wrong)} of {want.size} elements"
            continue
        a, b = got.astype(np.float64), want.astype(np.float64)
        close = np.isclose(a, b, atol=atol, rtol=rtol, equal_nan=True)
        if not close.all():
            with np.errstate(invalid="ignore"):
                gaps = np.abs(a - b)[~close]
            worst = np.nanmax(gaps, initial=0.0) if not np.isnan(gaps).all() else np.nan
            return (
                f"'{name}' differs by up to {worst:.3g} in {np.count_nonzero(~close)} of {want.size} elements "
                f"(allowed: {atol:g} + {rtol:g} x |expected|)"
            )
    return None
