"""What a request, an answer and a model's signature are, independent of wire and runtime."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import prod

import numpy as np

from serving.core import dtypes
from serving.core.dtypes import DType

Tensors = dict[str, np.ndarray]
Parameters = dict[str, bool | int | float | str]


DEFAULT_SIGNATURE = "serving_default"


class SignatureMethod(Enum):
    """What a signature is for; the values are those that SavedModels carry."""

    PREDICT = "tensorflow/serving/predict"
    CLASSIFY = "tensorflow/serving/classify"
    REGRESS = "tensorflow/serving/regress"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named input or output.

    `shape` holds -1 for a dimension that the model leaves open, axis 0 included; None if it leaves open how many there
    are. An `optional` input may be missing from a request; the session then uses `default`, or a value of its own.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] | None
    optional: bool = False
    default: np.ndarray | None = field(default=None, compare=False)
    graph_name: str = ""  # what the artifact calls it, such as `x:0`

    def accepts(self, shape: tuple[int, ...]) -> bool:
        if self.shape is None:
            return True
        if len(shape) != len(self.shape):
            return False
        return all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))

    @property
    def row_shape(self) -> tuple[int, ...]:
        return () if self.shape is None else self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, open dimensions counted as 1; 0 for BYTES."""
        return prod(max(d, 1) for d in self.row_shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives, in the model's own order. A SavedModel may have several, by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: SignatureMethod = SignatureMethod.PREDICT

    @property
    def takes_examples(self) -> bool:
        """Its one input is a vector of serialized `tf.Example`s, whatever shape the artifact declares."""
        if self.method is SignatureMethod.PREDICT or len(self.inputs) != 1:
            return False
        (spec,) = self.inputs.values()
        return spec.dtype is dtypes.BYTES and spec.shape in (None, (-1,))


@dataclass(slots=True)
class InferRequest:
    """One inference. Arrays may be read-only views of the received body."""

    model: str
    inputs: Tensors
    version: int | None = None
    outputs: tuple[str, ...] = ()  # empty: all
    id: str = ""
    signature: str = ""  # empty: the model's default
    deadline: float | None = None  # time.monotonic(); answered with EXPIRED if still waiting then
    priority: int = 0  # 1 is the most urgent, 0 the model's default
    allow_empty: bool = False  # a batch of no rows is answered with no rows, not refused
    parameters: Parameters = field(default_factory=dict)
    lent: bool = False  # arrays may change once it is answered, since the client can write to them
    route_key: str | None = None  # requests with the same key go to the same version, where a model's traffic is shared
    form: Hashable = None  # requests of the same one are equal but for the values in their tensors; None: not known


@dataclass(slots=True)
class Timing:
    """Seconds that one request spent waiting for an instance, and with its batch: joined, run, and cut apart again."""

    queue_s: float = 0.0
    compute_s: float = 0.0  # all three of these
    input_s: float = 0.0
    run_s: float = 0.0
    output_s: float = 0.0
    rows: int = 0  # of the whole batch


@dataclass(slots=True)
class InferResponse:
    """Outputs in the model's order; arrays may be views of a batch's output, so they are read, not written."""

    model: str
    version: int
    outputs: Tensors
    signature: Signature
    id: str = ""
    signature_name: str = ""
    timing: Timing = field(default_factory=Timing)
    class_labels: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of an output's last axis, by output
