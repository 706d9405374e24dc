"""Holds a request against a model's signature before anything is queued. Pure; on the event loop, for every request.

The texts are the ones that clients of the Open Inference Protocol know.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from serving.core.dtypes import BY_NUMPY
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.memo import Memo
from serving.core.padding import Padding
from serving.core.types import DEFAULT_SIGNATURE, InferRequest, Signature, TensorSpec

_BATCH_NOTE = (
    "NOTE: axis 0 is the batch dimension of this model, so each input shape must begin with the number of rows."
)


class Admitted(NamedTuple):
    """What a checked request comes to: see `Contract.check`, `wanted` and `lane`."""

    rows: int
    outputs: tuple[str, ...]
    lane: tuple[object, ...] | None


@dataclass(frozen=True)
class Contract:
    """What one loaded model promises to take.

    `max_batch_size` 0 means that axis 0 is no batch axis: requests run one at a time and count as one row. One of more
    than `max_batch_size` rows is cut into several, if `max_request_rows` allows it. With `padding`, rows of inputs that
    are padded to the same length count as equal.
    """

    model: str
    signature: Signature
    max_batch_size: int
    signature_name: str = DEFAULT_SIGNATURE
    unbatched_because: str = ""  # where `max_batch_size` is 0
    max_request_rows: int = 0  # at least `max_batch_size`, once it is made
    padding: Mapping[str, Padding] = field(default_factory=dict)  # by input
    inputs: tuple[TensorSpec, ...] = field(init=False)
    outputs: tuple[str, ...] = field(init=False)
    not_rows: frozenset[str] = field(init=False)  # optional inputs that have no batch axis
    required: int = field(init=False)  # number of inputs that may not be missing
    fixed: bool = field(init=False)  # all requests have the same inputs and trailing shapes
    _admitted: Memo[Hashable, Admitted] = field(init=False, repr=False, compare=False, default_factory=Memo)  # by form

    def __post_init__(self) -> None:
        inputs = tuple(self.signature.inputs.values())
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "outputs", tuple(self.signature.outputs))
        object.__setattr__(self, "max_request_rows", max(self.max_request_rows, self.max_batch_size))
        not_rows = frozenset(s.name for s in inputs if s.optional and s.shape is not None and s.shape[:1] != (-1,))
        object.__setattr__(self, "not_rows", not_rows)
        required = sum(not spec.optional for spec in inputs)
        object.__setattr__(self, "required", required)
        fixed = required == len(inputs) and all(s.shape is not None and -1 not in s.row_shape for s in inputs)
        object.__setattr__(self, "fixed", fixed)

    def admit(self, request: InferRequest) -> Admitted:
        """Checks a request. Raises: ServingError: see `check`."""
        form = request.form
        known = None if form is None else self._admitted.get(form)
        if known is None:
            rows, outputs = self.check(request), self.wanted(request)
            known = Admitted(rows, outputs, self.lane(request, outputs))
            if form is not None:
                self._admitted.keep(form, known)
        return known

    def check(self, request: InferRequest) -> int:
        """The number of rows of a valid request.

        Raises:
            ServingError: INVALID, naming the input or output, what was expected and what came.
        """
        given, model, batched = request.inputs, self.model, self.max_batch_size > 0
        if not self.required <= len(given) <= len(self.inputs):
            raise self._wrong_inputs(request)
        rows = -1
        taken = 0
        for spec in self.inputs:
            array = given.get(spec.name)
            if array is None:
                if spec.optional:
                    continue
                raise self._wrong_inputs(request)
            taken += 1
            if array.dtype != spec.dtype.numpy:
                raise invalid(
                    f"inference input '{spec.name}' data-type is '{_oip_name(array.dtype)}', "
                    f"but model '{model}' expects '{spec.dtype.name}'"
                )
            shape = array.shape
            rowless = not batched or spec.name in self.not_rows
            if not spec.accepts(shape) or not (rowless or shape):
                if not (rowless or shape):
                    raise invalid(f"input '{spec.name}' has no shape but model requires batch dimension for '{model}'")
                raise invalid(
                    f"unexpected shape for input '{spec.name}' for model '{model}'. "
                    f"Expected {_text(spec.shape or ())}, got {_text(shape)}. {_BATCH_NOTE if batched else ''}"
                )
            if not rowless and shape[0] != rows:
                if rows >= 0:
                    raise invalid(f"input '{spec.name}' batch size does not match other inputs for '{model}'")
                rows = shape[0]
        if taken != len(given):
            raise self._wrong_inputs(request)
        if request.outputs:
            self._check_outputs(request)
        if not batched:
            return 1
        if rows > self.max_request_rows:
            raise invalid(
                f"inference request batch-size must be <= {self.max_request_rows} for '{model}', got {rows} rows"
            )
        if rows == 0 and not request.allow_empty:
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

    def lane(self, request: InferRequest, outputs: tuple[str, ...]) -> tuple[object, ...] | None:
        """Requests of equal lanes may share a run: they are for the same signature, bring the same inputs, ask for the
        same outputs and their rows have equal shapes. None: this one runs alone."""
        if self.fixed and self.max_batch_size:
            return (self.signature_name, outputs)
        if not self.max_batch_size or not self.not_rows.isdisjoint(request.inputs):
            return None
        shapes = tuple(
            (s.name, self._row_shape(s.name, request.inputs[s.name])) for s in self.inputs if s.name in request.inputs
        )
        return (self.signature_name, outputs, shapes)

    def _row_shape(self, name: str, array: np.ndarray) -> tuple[int, ...]:
        """At which it is run."""
        padding = self.padding.get(name)
        return array.shape[1:] if padding is None else padding.shape(array.shape[1:])

    def replaces(self, other: "Contract") -> bool:
        """Whether requests that are written for another one find their inputs and outputs here: names and datatypes."""
        ours, theirs = self.signature, other.signature
        needed = {name for name, spec in ours.inputs.items() if not spec.optional}
        return (
            needed <= theirs.inputs.keys()
            and all(name in ours.inputs and ours.inputs[name].dtype is s.dtype for name, s in theirs.inputs.items())
            and all(name in ours.outputs and ours.outputs[name].dtype is s.dtype for name, s in theirs.outputs.items())
        )

    def _wrong_inputs(self, request: InferRequest) -> ServingError:
        known = self.signature.inputs
        required = [name for name, spec in known.items() if not spec.optional]
        for name in request.inputs:
            if name not in known and len(request.inputs) >= len(required):
                return invalid(
                    f"unexpected inference input '{name}' for model '{self.model}', which takes {_names(list(known))}"
                )
        missing = [name for name in required if name not in request.inputs]
        number = (
            f"{len(known)} inputs"
            if len(required) == len(known)
            else f"number of inputs between {len(required)} and {len(known)}"
        )
        return invalid(
            f"expected {number} but got {len(request.inputs)} inputs for model '{self.model}'. "
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


def why_no_batch_axis(signature: Signature) -> str | None:
    """None if axis 0 of every input and output may be the batch axis, otherwise why there is none.

    Inputs that may be missing, and outputs of which nothing is known, are left to the proof at load.
    """
    inputs = [spec for spec in signature.inputs.values() if not spec.optional]
    if not inputs:
        return "it has no inputs" if not signature.inputs else "all of its inputs are optional"
    if signature.takes_examples:
        inputs = []
    for kind, specs in (("input", inputs), ("output", signature.outputs.values())):
        for spec in specs:
            if spec.shape is None:
                if kind == "input":
                    return f"the number of dimensions of input '{spec.name}' is open"
            elif not spec.shape:
                return f"{kind} '{spec.name}' is a scalar"
            elif spec.shape[0] != -1:
                return f"axis 0 of {kind} '{spec.name}' is fixed to {spec.shape[0]}"
    return None


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _names(names: list[str]) -> str:
    return "[" + ", ".join(f"'{n}'" for n in names) + "]"


def _oip_name(dtype: np.dtype) -> str:
    known = BY_NUMPY.get(dtype)
    return known.name if known else str(dtype)
