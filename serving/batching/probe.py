"""Proves at load that a model treats its rows apart, and warms it up.

A graph may leave axis 0 open and still mix rows (subtract their mean, say). Merging requests of such a model would mix
clients' data, so it is merged only if rows give the same answers together and apart. Runs in a loading thread.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from serving.core.compare import difference
from serving.core.generate import random_inputs
from serving.core.types import Signature, Tensors

Run = Callable[[Tensors, tuple[str, ...]], Tensors]

_ROWS = 3
# Sizes to try for axes that the signature leaves open: most models take any, some need a least size.
_OPEN_SIZES = (4, 1, 16, 32, 224)
# Wide enough for another summation order in single precision, far below what mixing rows does.
_RTOL = 1e-2
_ATOL_OF_SCALE = 1e-3


@dataclass(frozen=True)
class Proof:
    """`mergeable`, or in `reason` why not. `sample` is one row of inputs that the model is known to take, if any is."""

    mergeable: bool
    reason: str
    sample: Tensors | None


def prove_rows_apart(run: Run, signature: Signature, golden: Tensors | None = None) -> Proof:
    """Runs rows together and apart and compares.

    Args:
        golden: inputs that the model's owner supplied, at least two rows; generated values are used besides them,
            because rows of a sample may be alike.
    """
    outputs = tuple(signature.outputs)
    generated = _acceptable(run, signature, outputs)
    candidates = [c for c in (golden, generated) if c is not None]
    if not candidates:
        return Proof(
            False,
            "it takes none of the generated inputs, so nothing shows that its rows are independent",
            None,
        )
    sample = _rows(candidates[0], 0, 1)
    for inputs in candidates:
        why = _why_mixed(run, inputs, outputs)
        if why:
            return Proof(False, why, sample)
    return Proof(True, "", sample)


def repeat_rows(sample: Tensors, rows: int) -> Tensors:
    """`sample` (one row) as a batch of equal rows."""
    return {name: np.repeat(a, rows, axis=0) for name, a in sample.items()}


def _acceptable(run: Run, signature: Signature, outputs: tuple[str, ...]) -> Tensors | None:
    for size in _OPEN_SIZES:
        inputs = random_inputs(signature, _ROWS, np.random.default_rng(0), size)
        try:
            run(inputs, outputs)
        except Exception:  # whatever a runtime raises: another size may do
            if all(-1 not in spec.row_shape for spec in signature.inputs.values()):
                return None
            continue
        return inputs
    return None


def _why_mixed(run: Run, inputs: Tensors, outputs: tuple[str, ...]) -> str:
    rows = min(len(next(iter(inputs.values()))), 8)
    inputs = _rows(inputs, 0, rows)
    together = run(inputs, outputs)
    for name, array in together.items():
        if array.ndim == 0 or array.shape[0] != rows:
            return f"output '{name}' has shape {list(array.shape)} for {rows} rows"
    if (why := _compare(run(inputs, outputs), together)) is not None:
        return f"it answers the same question differently each time: {why}"
    apart = [run(_rows(inputs, i, i + 1), outputs) for i in range(rows)]
    try:
        joined = {name: np.concatenate([part[name] for part in apart]) for name in outputs}
    except ValueError:
        return "rows run one by one give outputs of another shape"
    if (why := _compare(joined, together)) is not None:
        return f"rows run one by one give other answers than together: {why}"
    return ""


def _compare(actual: Tensors, expected: Tensors) -> str | None:
    for name, want in expected.items():
        scale = _scale(want)
        why = difference({name: actual[name]}, {name: want}, atol=_ATOL_OF_SCALE * scale, rtol=_RTOL)
        if why is not None:
            return why
    return None


def _scale(array: np.ndarray) -> float:
    """The size of typical values, so that the tolerance suits logits of 100 as well as probabilities."""
    if array.dtype.kind not in "fV" or not array.size:
        return 0.0
    finite = np.abs(array.astype(np.float64))
    finite = finite[np.isfinite(finite)]
    return float(finite.max()) if finite.size else 0.0


def _rows(inputs: Tensors, start: int, end: int) -> Tensors:
    return {name: a[start:end] for name, a in inputs.items()}
