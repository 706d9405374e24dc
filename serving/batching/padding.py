"""Shows at load that padding does not change a model's answers. Runs in a loading thread."""

from collections.abc import Callable, Mapping

import numpy as np

from serving.batching.item import Item
from serving.batching.merge import merge, split
from serving.batching.probe import why_different
from serving.core.padding import Padding
from serving.core.types import Signature, Tensors

Run = Callable[[Tensors, tuple[str, ...]], Tensors]


def prove_padding_unseen(run: Run, sample: Tensors, signature: Signature, padding: Mapping[str, Padding]) -> str:
    """Runs inputs of several lengths as they are and padded, and compares.

    Args:
        sample: one row or more that the model is known to take.

    Returns:
        Why padding may not be used; empty: nothing speaks against it.
    """
    outputs = tuple(signature.outputs)
    seen = False
    for name, rule in padding.items():
        if name not in sample or rule.axis >= sample[name].ndim:
            return f"input '{name}' has no axis {rule.axis}"
    for inputs in _lengths(sample, padding):
        item = Item(inputs, outputs, len(next(iter(inputs.values()))))
        merged = merge([item], 0, padding)
        if all(merged[name].shape == inputs[name].shape for name in padding):
            continue
        seen = True
        try:
            plain = run(inputs, outputs)
        except Exception:  # whatever a runtime raises: it does not take this length, so nobody will send it
            continue
        try:
            (padded,) = split([item], run(merged, outputs), 0, padding)
        except Exception as error:  # whatever a runtime raises
            return f"the model does not take padded inputs: {error}"
        if (why := why_different(padded, plain)) is not None:
            return f"it changes the answers: {why}"
    return "" if seen else "the sample is longer than all sizes, so nothing shows that the answers stay the same"


def _lengths(sample: Tensors, padding: Mapping[str, Padding]) -> list[Tensors]:
    """The sample as it is, and with its padded axes one element short of a size, for each size."""
    found = [sample]
    for i in range(max(len(rule.sizes) for rule in padding.values())):
        inputs = dict(sample)
        for name, rule in padding.items():
            length = max(1, rule.sizes[min(i, len(rule.sizes) - 1)] - 1)
            inputs[name] = np.take(sample[name], np.arange(length), axis=rule.axis, mode="wrap")
        found.append(inputs)
    return found
