"""What requests and answers say besides their tensors, kept for the next ones that say the same. On the event loop.

Nearly all that a client sends twice is the same but for tensors and ids: names, datatypes, shapes, outputs, parameters.
Reading and checking that takes several times as long as finding the tensors. So what was once read, and found right,
is kept under its very bytes. What is unusual (typed contents, shared memory, strings) is not kept, but read each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.core.types import InferRequest, InferResponse, Parameters
from serving.protocols.oip import parameters
from serving.protocols.oip.outputs import Wants

MAX_BYTES = 2048  # of what is kept under its bytes

Tensor = tuple[str, np.dtype, tuple[int, ...], int]  # name, type, shape, bytes
Span = tuple[int, int]  # where something begins and ends


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A request without the bytes of its tensors, which are all raw and of fixed sizes."""

    model: str
    version: int | None
    id: str
    tensors: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    wants: Wants
    parameters: Parameters

    @classmethod
    def of(cls, request: InferRequest, wants: Wants) -> "Head | None":
        """Of a request all of whose tensors came raw; None if the next one like it has to be read too."""
        if request.lent or any(form.slot for form in wants.named.values()):
            return None
        if any(array.dtype == object for array in request.inputs.values()):
            return None
        tensors = tuple((name, array.dtype, array.shape, array.nbytes) for name, array in request.inputs.items())
        return cls(
            request.model, request.version, request.id, tensors, request.outputs, wants, dict(request.parameters)
        )

    def request(self, data: bytes, spans: Sequence[Span]) -> InferRequest | None:
        """The request whose tensors are views of these places in `data`; None if they do not fit there.

        Args:
            spans: where each begins and ends. More of them than there are tensors are no matter.
        """
        if len(spans) < len(self.tensors):
            return None
        inputs = {}
        for (name, dtype, shape, size), (begin, end) in zip(self.tensors, spans, strict=False):
            if end - begin != size:
                return None
            inputs[name] = np.ndarray(shape, dtype, data, begin)
        request = InferRequest(self.model, inputs, self.version, self.outputs, self.id, form=self)
        if self.parameters:
            parameters.apply(dict(self.parameters), request)
        return request


Form = tuple[object, ...]


def form_of_answer(response: InferResponse, wants: Wants) -> Form | None:
    """What the head of an answer depends on, besides its id and signature; None where it depends on more, or where
    writing it has effects elsewhere."""
    named, others = wants.named, wants.others
    form: list[object] = [response.model, response.version]
    for name, array in response.outputs.items():
        how = named.get(name, others) if named else others
        if array.dtype.hasobject or how.classes or how.slot is not None:
            return None
        form += (name, array.shape, array.nbytes, how.binary)
    return tuple(form)
