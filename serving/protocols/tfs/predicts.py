"""Predict requests and answers that are like ones before. On the event loop.

`grpc_codec` says what is right; here the same comes out without message objects, where only the numbers are new.
"""

from dataclasses import dataclass

import numpy as np

from serving.core.memo import Memo
from serving.core.types import InferRequest, InferResponse, Signature
from serving.core.validate import Contract
from serving.protocols import wire
from serving.protocols.grpc import Call
from serving.protocols.layouts import Layout, Layouts
from serving.protocols.tfs import grpc_codec, tensor_proto
from serving.protocols.tfs.servables import Target

# Where the tensor is in a PredictRequest: inputs, the value of the one entry, its bytes.
_PLACE = (grpc_codec.INPUTS, grpc_codec.VALUE, tensor_proto.CONTENT)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A PredictRequest without the bytes of its one tensor, as one version understood it."""

    target: Target
    contract: Contract
    signature: str
    input: str
    dtype: np.dtype
    shape: tuple[int, ...]
    outputs: tuple[str, ...]
    axes: int  # see `decode_predict`

    def request(self, data: bytes, begin: int, number: int, call: Call) -> InferRequest:
        inputs = {self.input: np.ndarray(self.shape, self.dtype, data, begin)}
        request = InferRequest(self.contract.model, inputs, number, self.outputs, signature=self.signature, form=self)
        request.deadline = call.deadline
        request.allow_empty = True
        return request


class Reader:
    """Remembers requests that were read."""

    def __init__(self) -> None:
        self._layouts: Layouts[Known] = Layouts()

    def find(self, data: bytes) -> Layout[Known] | None:
        return self._layouts.find(data)

    def learn(self, data: bytes, target: Target, contract: Contract, request: InferRequest, axes: int) -> None:
        """Of a request that `decode_predict` has read."""
        if len(request.inputs) != 1:
            return
        ((name, array),) = request.inputs.items()
        place = None if array.dtype.hasobject or not array.nbytes else wire.place(data, _PLACE)
        if place is None:
            return
        begin, end = place
        if array.tobytes() == data[begin:end]:
            known = Known(target, contract, request.signature, name, array.dtype, array.shape, request.outputs, axes)
            self._layouts.keep(data, begin, end, known)


class Writer:
    """Writes what `encode_predict` does, but what stands before the numbers only once if it comes again and again."""

    def __init__(self) -> None:
        self._heads: Memo[tuple[object, ...], tuple[Signature, list[bytes]]] = Memo()

    def encode(self, response: InferResponse, axes: int) -> bytes:
        form: list[object] = [response.model, response.version, response.signature_name, axes]
        for name, array in response.outputs.items():
            form += (name, array.shape)
        key = tuple(form)
        kept = self._heads.get(key)
        if kept is None or kept[0] is not response.signature:
            parts = grpc_codec.predict_parts(response, axes)
            heads = [b"".join(before) for *before, _ in parts]
            if all(isinstance(tensor, memoryview) for *_, tensor in parts):
                self._heads.keep(key, (response.signature, heads))
            return b"".join([piece for part in parts for piece in part])
        found: list[bytes] = []
        for head, array in zip(kept[1], response.outputs.values(), strict=True):
            found += (head, array.tobytes())
        return b"".join(found)
