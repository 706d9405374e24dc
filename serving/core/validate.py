"""Holds a request against a model's signature before anything is queued. Pure; on the event loop, for every request.

The texts are the ones that clients of the Open Inference Protocol know.
"""

from dataclasses import dataclass, field

import numpy as np

from serving.core.dtypes import BY_NUMPY
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import InferRequest, Signature, TensorSpec

_BATCH_NOTE = (
    "NOTE: axis 0 is the batch dimension of this model, so each input shape must begin with the number of rows."
)


@dataclass(frozen=True)
class Contract:
    """What one loaded model promises to take.

    `max_batch_size` 0 means that axis 0 is no batch axis: requests run one at a time and count as one row.
    """

    model: str
    signature: Signature
    max_batch_size: int
    inputs: tuple[TensorSpec, ...] = field(init=False)
    outputs: tuple[str, ...] = field(init=False)
    fixed: bool = field(init=False)  # no open axis behind axis 0, so all requests have the same trailing shapes

    def __post_init__(self) -> None:
        inputs = tuple(self.signature.inputs.values())
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "outputs", tuple(self.signature.outputs))
        object.__setattr__(self, "fixed", all(-1 not in spec.row_shape for spec in inputs))

    def check(self, request: InferRequest) -> int:
        """The number of rows of a valid request.

        Raises:
            ServingError: INVALID, naming the input or output, what was expected and what came.
        """
        given, model, batched = request.inputs, self.model, self.max_batch_size > 0
        if len(given) != len(self.inputs):
            raise self._wrong_inputs(request)
        rows = -1
        for spec in self.inputs:
            array = given.get(spec.name)
            if array is None:
                raise self._wrong_inputs(request)
            if array.dtype != spec.dtype.numpy:
                raise invalid(
                    f"inference input '{spec.name}' data-type is '{_oip_name(array.dtype)}', "
                    f"but model '{model}' expects '{spec.dtype.name}'"
                )
            shape = array.shape
            if not spec.accepts(shape):
                if batched and not shape:
                    raise invalid(f"input '{spec.name}' has no shape but model requires batch dimension for '{model}'")
                raise invalid(
                    f"unexpected shape for input '{spec.name}' for model '{model}'. "
                    f"Expected {_text(spec.shape)}, got {_text(shape)}. {_BATCH_NOTE if batched else ''}"
                )
            if batched and shape[0] != rows:
                if rows >= 0:
                    raise invalid(f"input '{spec.name}' batch size does not match other inputs for '{model}'")
                rows = shape[0]
        if request.outputs:
            self._check_outputs(request)
        if not batched:
            return 1
        if rows > self.max_batch_size:
            raise invalid(
                f"inference request batch-size must be <= {self.max_batch_size} for '{model}', got {rows} rows"
            )
        if rows == 0:
            spec = self.inputs[0]
            raise invalid(
                f"input byte size mismatch for input '{spec.name}' for model '{model}'. "
                f"Expected {spec.row_bytes}, got 0: the batch is empty, at least one row is needed"
            )
        return rows

    def wanted(self, request: InferRequest) -> tuple[str, ...]:
        """The outputs that a checked request asks for, in the model's order."""
        if not request.outputs:
            return self.outputs
        return tuple(name for name in self.outputs if name in request.outputs)

    def lane(self, request: InferRequest, outputs: tuple[str, ...]) -> tuple[object, ...]:
        """Requests of equal lanes may share a run: they ask for the same outputs and their rows have equal shapes."""
        if self.fixed:
            return outputs
        return (outputs, *(request.inputs[spec.name].shape[1:] for spec in self.inputs))

    def _wrong_inputs(self, request: InferRequest) -> ServingError:
        known = self.signature.inputs
        for name in request.inputs:
            if name not in known and len(request.inputs) >= len(known):
                return invalid(
                    f"unexpected inference input '{name}' for model '{self.model}', which takes {_names(list(known))}"
                )
        missing = [name for name in known if name not in request.inputs]
        return invalid(
            f"expected {len(known)} inputs but got {len(request.inputs)} inputs for model '{self.model}'. "
            f"Got input(s) {_names(list(request.inputs))}, but missing required input(s) {_names(missing)}. "
            "Please provide all required input(s)."
        )

    def _check_outputs(self, request: InferRequest) -> None:
        seen = set()
        for name in request.outputs:
            if name not in self.signature.outputs:
                raise ServingError(
                    ErrorKind.INVALID,
                    f"unexpected inference output '{name}' for model '{self.model}', "
                    f"which gives {_names(list(self.signature.outputs))}",
                )
            if name in seen:
                raise invalid(f"output '{name}' already exists in request")
            seen.add(name)


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _names(names: list[str]) -> str:
    return "[" + ", ".join(f"'{n}'" for n in names) + "]"


def _oip_name(dtype: np.dtype) -> str:
    known = BY_NUMPY.get(dtype)
    return known.name if known else str(dtype)
