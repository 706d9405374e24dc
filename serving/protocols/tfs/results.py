"""What classify and regress answer, made from the outputs of a signature. Pure; `n` is the number of examples."""

from dataclasses import dataclass

import numpy as np

from serving.core import dtypes
from serving.core.errors import ServingError, invalid
from serving.core.types import InferResponse
from serving.protocols.tfs.json_tensors import text_of
from serving.protocols.tfs.signatures import CLASSES, SCORES, VALUES


@dataclass(frozen=True, slots=True)
class Classes:
    """The same number of classes for each example: `labels` by example and class, `scores` [n, classes] FP32."""

    labels: list[list[str]]
    scores: np.ndarray


def classes(response: InferResponse, n: int) -> Classes:
    """Labels come from the model or, if it gives none, from the labels that its owner has set for `scores`.

    Raises:
        ServingError: INVALID: the outputs are not of the form that classify can answer with.
    """
    given, scored = response.outputs.get(CLASSES), response.outputs.get(SCORES)
    for name, dtype in ((CLASSES, dtypes.BYTES), (SCORES, dtypes.FP32)):
        tensor = response.outputs.get(name)
        if tensor is None:
            continue
        if tensor.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_brackets(tensor)}")
        if response.signature.outputs[name].dtype is not dtype:
            got = response.signature.outputs[name].dtype.tensorflow
            raise invalid(f"Expected {name} Tensor of {dtype.tensorflow}. Got: {got}")
        if len(tensor) != n:
            raise invalid(f"Expected {name} output batch size of {n}. Got: {len(tensor)}")
    if given is not None and scored is not None and given.shape != scored.shape:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {given.shape[1]} vs. {scored.shape[1]}"
        )
    shape = (scored if given is None else given).shape  # type: ignore[union-attr]
    scores = np.zeros(shape, np.float32) if scored is None else scored
    if given is not None:
        return Classes([[text_of(CLASSES, label) for label in row] for row in given], scores)
    known = list(response.class_labels.get(SCORES, ()))[: shape[1]]
    return Classes([known + [""] * (shape[1] - len(known))] * n, scores)


def values(response: InferResponse, n: int) -> np.ndarray:
    """One FP32 value for each example, [n].

    Raises:
        ServingError: INVALID: the output is not of the form that regress can answer with.
    """
    tensor = response.outputs[VALUES]
    if tensor.ndim != 1 and tensor.shape[1:] != (1,):
        raise _unfit(f"shape to be either [batch_size] or [batch_size, 1] but got {_brackets(tensor)}")
    if len(tensor) != n:
        raise invalid(f"Input batch size did not match output batch size: {n} vs. {len(tensor)}")
    dtype = response.signature.outputs[VALUES].dtype
    if dtype is not dtypes.FP32:
        raise _unfit(f"of DT_FLOAT.  Got: {dtype.tensorflow}")
    return tensor.reshape(-1)


def _unfit(why: str) -> ServingError:
    return invalid(f"Expected output Tensor {why}")


def _brackets(tensor: np.ndarray) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"
