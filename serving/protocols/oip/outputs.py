"""The form in which a request wants its outputs, the same over REST and gRPC. Pure but for shared memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import invalid
from serving.core.types import InferResponse
from serving.protocols.jsonio import describe
from serving.protocols.oip.classification import classify
from serving.protocols.oip.shared_memory import SharedMemory, Slot, slot_of
from serving.protocols.oip.tensors import raw_view


@dataclass(frozen=True, slots=True)
class Form:
    """How one output is wanted."""

    binary: bool = False  # over REST: raw bytes behind the JSON
    classes: int = 0  # so many of its highest values as text, instead of the values
    slot: Slot | None = None  # not in the answer but there


AS_JSON, AS_BINARY = Form(), Form(binary=True)


@dataclass(slots=True)
class Wants:
    """The outputs that a request names have a form each, all others share one."""

    named: dict[str, Form]
    others: Form

    @property
    def all_binary(self) -> bool:
        """Whether all that is named is wanted as raw bytes, and the others, if nothing is."""
        return all(form.binary for form in self.named.values()) if self.named else self.others.binary


def form_of(output: str, parameters: Mapping[str, Any], memory: SharedMemory | None) -> Form:
    """Reads what a request says of one output.

    Raises:
        ServingError: INVALID, or NOT_FOUND for a region of shared memory.
    """
    binary = parameters.get("binary_data", False)
    if type(binary) is not bool:
        raise invalid(f"Unable to parse 'binary_data': output '{output}' expects a boolean, got {describe(binary)}")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise invalid(
            f"Unable to parse 'classification': output '{output}' expects an integer >= 0, got {describe(classes)}"
        )
    if parameters.get("shared_memory_region") is None:
        return Form(binary, classes) if classes else AS_BINARY if binary else AS_JSON
    if binary:
        raise invalid(f"Output can't set both 'shared_memory_region' and 'binary_data': output '{output}'")
    if classes:
        raise invalid(f"Output can't set both 'shared_memory_region' and 'classification': output '{output}'")
    return Form(slot=slot_of(memory, output, parameters))


def formed(response: InferResponse, wants: Wants) -> Iterator[tuple[str, DType, np.ndarray, Form]]:
    """Name, type, array and form of each output, in order; those for shared memory have been written there.

    Raises:
        ServingError: INVALID.
    """
    for name, array in response.outputs.items():
        form = wants.named.get(name, wants.others)
        spec = response.signature.outputs[name]
        dtype = spec.dtype
        if form.classes:
            # Rows are told apart wherever axis 0 is open, also if the model cannot run several together.
            rows = spec.shape is None or spec.shape[:1] == (-1,)
            array = classify(array, dtype, form.classes, response.class_labels.get(name, ()), rows)
            dtype = dtypes.BYTES
        if form.slot is not None:
            form.slot.write(name, raw_view(array))
        yield name, dtype, array, form
