"""One run out of several requests, and several answers out of one run. Pure."""

from collections.abc import Sequence

import numpy as np

from serving.batching.queue import Item
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import Tensors


def merge(items: Sequence[Item]) -> Tensors:
    """Joins the inputs of items of one lane along axis 0: arrays [rows_i, ...] become [sum of rows_i, ...].

    A single item is not copied, except an array whose address does not suit its dtype (a view into the middle of a
    received body): runtimes read such memory with instructions that may demand alignment.
    """
    if len(items) == 1:
        return {name: a if a.flags.aligned else a.copy() for name, a in items[0].inputs.items()}
    return {name: np.concatenate([i.inputs[name] for i in items]) for name in items[0].inputs}


def split(items: Sequence[Item], outputs: Tensors) -> list[Tensors]:
    """Cuts the outputs of a merged run into each item's own rows, as views.

    Raises:
        ServingError: MODEL, if an output does not have one row for each row that went in.
    """
    rows = sum(item.rows for item in items)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise ServingError(
                ErrorKind.MODEL,
                f"the model gave output '{name}' of shape {list(array.shape)} for a batch of {rows} rows",
            )
    if len(items) == 1:
        return [outputs]
    parts = []
    start = 0
    for item in items:
        end = start + item.rows
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts
