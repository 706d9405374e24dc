"""What a request, an answer and a model's signature are, independent of wire and runtime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from serving.core.dtypes import DType

Tensors = dict[str, np.ndarray]
Parameters = dict[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named input or output. `shape` holds -1 for a dimension that the model leaves open; axis 0 included."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    def accepts(self, shape: tuple[int, ...]) -> bool:
        if len(shape) != len(self.shape):
            return False
        return all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, open dimensions counted as 1; 0 for BYTES."""
        return prod(max(d, 1) for d in self.row_shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives, in the model's own order."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(slots=True)
class InferRequest:
    """One inference. Arrays may be read-only views of the received body."""

    model: str
    inputs: Tensors
    version: int | None = None
    outputs: tuple[str, ...] = ()  # empty: all
    id: str = ""
    deadline: float | None = None  # time.monotonic(); answered with EXPIRED if still waiting then
    parameters: Parameters = field(default_factory=dict)


@dataclass(slots=True)
class Timing:
    """Seconds that one request spent waiting for an instance, and in the model's run with its batch."""

    queue_s: float = 0.0
    compute_s: float = 0.0


@dataclass(slots=True)
class InferResponse:
    """Outputs in the model's order; arrays may be views of a batch's output, so they are read, not written."""

    model: str
    version: int
    outputs: Tensors
    signature: Signature
    id: str = ""
    timing: Timing = field(default_factory=Timing)
