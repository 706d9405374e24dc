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

_ROWS = 4
_MAX_ROWS = 8  # of a sample
_BYTES = 64 * 1024 * 1024  # of generated inputs, where two rows are no more
_FILL_BYTES = 1024 * 1024
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


def prove_rows_apart(run: Run, signature: Signature, golden: Tensors | None = None, max_rows: int = 8) -> Proof:
    """Runs rows together and apart and compares.

    Args:
        golden: inputs that the model's owner supplied and that it is known to take; generated values are used besides
            them.
        max_rows: rows that one run may hold, at least 2.
    """
    outputs = tuple(signature.outputs)
    rows = min(_ROWS, max_rows, max(2, _BYTES // max(1, sum(s.row_bytes for s in signature.inputs.values()))))
    generated = _acceptable(run, signature, outputs, rows)
    sample: Tensors | None = None
    proved = False
    for given in (golden, generated):
        if given is None:
            continue
        inputs = _rows(given, 0, min(_MAX_ROWS, max_rows))
        try:
            together = [run(inputs, outputs) for _ in range(2)]
        except Exception as error:  # whatever a runtime raises: it takes its sample only as a whole
            return Proof(False, f"it does not take {len(next(iter(inputs.values())))} rows: {error}", sample)
        apart, why = _one_by_one(run, inputs, outputs)
        if apart is not None:
            sample = sample or _rows(inputs, 0, 1)
            why = _why_mixed(together, apart)
        if why:
            return Proof(False, why, sample)
        proved = proved or _rows_differ(inputs)
    if not proved:
        return Proof(
            False, "it takes none of the generated inputs, so nothing shows that its rows are independent", sample
        )
    return Proof(True, "", sample)


def repeat_rows(sample: Tensors, rows: int) -> Tensors:
    """`sample` (one row) as a batch of equal rows."""
    return {name: _repeated(array, rows) for name, array in sample.items()}


def _repeated(row: np.ndarray, rows: int) -> np.ndarray:
    """Like `np.repeat`, which would keep the interpreter, and so all requests, for as long as it takes."""
    batch = np.empty((rows, *row.shape[1:]), row.dtype)
    step = max(1, _FILL_BYTES // max(1, row.nbytes))
    for start in range(0, rows, step):
        batch[start : start + step] = row
    return batch


def _acceptable(run: Run, signature: Signature, outputs: tuple[str, ...], rows: int) -> Tensors | None:
    """Generated inputs that the model takes."""
    has_open_axes = any(-1 in spec.row_shape for spec in signature.inputs.values())
    for size in _OPEN_SIZES if has_open_axes else (1,):
        inputs = _different_rows(signature, rows, size)
        try:
            run(inputs, outputs)
        except Exception:  # whatever a runtime raises: another size may do
            continue
        return inputs
    return None


def _different_rows(signature: Signature, rows: int, open_size: int) -> Tensors:
    """Few truth values or small integers are soon alike by chance, and rows that are alike show nothing."""
    for seed in range(10):
        inputs = random_inputs(signature, rows, np.random.default_rng(seed), open_size)
        if _rows_differ(inputs):
            break
    return inputs


def _rows_differ(inputs: Tensors) -> bool:
    return any(len(a) > 1 and bool((a[1:] != a[:1]).any()) for a in inputs.values())


def _one_by_one(run: Run, inputs: Tensors, outputs: tuple[str, ...]) -> tuple[list[Tensors] | None, str]:
    """The answers to each row by itself, or None and why it failed."""
    rows = len(next(iter(inputs.values())))
    try:
        return [run(_rows(inputs, i, i + 1), outputs) for i in range(rows)], ""
    except Exception as error:  # whatever a runtime raises
        return None, f"rows run one by one fail: {error}"


def _why_mixed(together: list[Tensors], apart: list[Tensors]) -> str:
    """Empty if nothing shows that rows influence each other."""
    for name, array in together[0].items():
        if array.ndim == 0 or array.shape[0] != len(apart):
            return f"output '{name}' has shape {list(array.shape)} for {len(apart)} rows"
    if (why := why_different(together[1], together[0])) is not None:
        return f"it answers the same question differently each time: {why}"
    try:
        joined = {name: np.concatenate([part[name] for part in apart]) for name in together[0]}
    except ValueError:
        return "rows run one by one give outputs of another shape"
    if (why := why_different(joined, together[0])) is not None:
        return f"rows run one by one give other answers than together: {why}"
    return ""


def why_different(actual: Tensors, expected: Tensors) -> str | None:
    """None where answers are the same but for another order of summation."""
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
