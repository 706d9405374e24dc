"""One run out of several requests, and several answers out of one run. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np

from serving.batching.item import Item
from serving.core.errors import ErrorKind, ServingError
from serving.core.padding import Padding
from serving.core.types import Tensors

_NONE: Mapping[str, Padding] = {}


def merge(items: Sequence[Item], size: int = 0, padding: Mapping[str, Padding] = _NONE) -> Tensors:
    """Joins the inputs of items of one lane along axis 0: arrays [rows_i, ...] become [sum of rows_i, ...].

    A single item is not copied, except an array whose address does not suit its dtype (a view into the middle of a
    received body): runtimes read such memory with instructions that may demand alignment.

    Args:
        size: rows of the result, if there are to be more: the last row is repeated, since a model takes it for certain.
        padding: by input: the rest of a row that is too short.
    """
    more = size - sum(item.rows for item in items)
    joined = {}
    for name in items[0].inputs:
        arrays = [item.inputs[name] for item in items]
        shape = padding[name].shape(arrays[0].shape[1:]) if name in padding else None
        if shape is not None and any(array.shape[1:] != shape for array in arrays):
            joined[name] = _padded(arrays, max(more, 0), shape, padding[name].value)
        elif more > 0:
            last = arrays[-1][-1:]
            joined[name] = np.concatenate([*arrays, np.broadcast_to(last, (more, *last.shape[1:]))])
        elif len(arrays) == 1:
            joined[name] = arrays[0] if arrays[0].flags.aligned else arrays[0].copy()
        else:
            joined[name] = np.concatenate(arrays)
    return joined


def _padded(arrays: list[np.ndarray], more: int, shape: tuple[int, ...], value: bool | int | float | str) -> np.ndarray:
    """Rows of different lengths in one array; the last one once more for each of `more`."""
    rows = sum(len(array) for array in arrays)
    dtype = arrays[0].dtype
    filler = str(value or "").encode() if dtype.kind == "O" else value
    joined = np.full((rows + more, *shape), filler, dtype)
    start = 0
    for array in arrays:
        joined[(slice(start, start + len(array)), *map(slice, array.shape[1:]))] = array
        start += len(array)
    joined[rows:] = joined[rows - 1]
    return joined


def split(
    items: Sequence[Item], outputs: Tensors, size: int = 0, padding: Mapping[str, Padding] = _NONE
) -> list[Tensors]:
    """Cuts the outputs of a merged run into each item's own rows, as views.

    Args:
        size, padding: as given to `merge`.

    Raises:
        ServingError: MODEL, if an output does not have one row for each row that went in.
    """
    rows = max(size, sum(item.rows for item in items))
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise ServingError(
                ErrorKind.MODEL,
                f"the model gave output '{name}' of shape {list(array.shape)} for a batch of {rows} rows",
            )
    if len(items) == 1 and items[0].rows == rows and not padding:
        return [outputs]
    parts = []
    start = 0
    for item in items:
        end = start + item.rows
        part = {name: array[start:end] for name, array in outputs.items()}
        for name, rule in padding.items():
            if name in item.inputs:
                _cut_back(part, rule, item.inputs[name].shape)
        parts.append(part)
        start = end
    return parts


def _cut_back(part: Tensors, rule: Padding, shape: tuple[int, ...]) -> None:
    if rule.axis >= len(shape):
        return
    for output, axis in rule.outputs.items():
        array = part.get(output)
        if array is not None and axis < array.ndim:
            part[output] = array[(slice(None),) * axis + (slice(shape[rule.axis]),)]
