"""Tensors that come without the last axes of their signature, where these have the size 1. Pure.

TensorFlow Serving does not hold shapes against signatures, and the first example of its documentation sends three
numbers, `[3]`, to an input of shape `[-1, 1]`; `[3]` comes back. Here such a tensor gets the axes that it lacks, and
the outputs lose as many.
"""

import numpy as np

from serving.core.types import InferResponse, Tensors, TensorSpec


def lacking(tensor: np.ndarray, spec: TensorSpec) -> int:
    """How many axes of size 1 have to be added for the tensor to have as many axes as its signature says."""
    if spec.shape is None or tensor.ndim >= len(spec.shape):
        return 0
    rest = spec.shape[tensor.ndim :]
    return len(rest) if set(rest) == {1} else 0


def widened(tensor: np.ndarray, axes: int) -> np.ndarray:
    return tensor.reshape(tensor.shape + (1,) * axes) if axes else tensor


def narrowed(response: InferResponse, axes: int) -> Tensors:
    """The outputs without so many last axes, where their signature says that these have the size 1."""
    if not axes:
        return response.outputs
    dropped = (1,) * axes
    return {
        name: tensor.reshape(tensor.shape[:-axes])
        if (response.signature.outputs[name].shape or ())[-axes:] == dropped == tensor.shape[-axes:]
        else tensor
        for name, tensor in response.outputs.items()
    }
