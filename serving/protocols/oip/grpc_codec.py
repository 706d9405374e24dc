"""One inference over gRPC: a ModelInferRequest in, the bytes of a ModelInferResponse out.

`decode` and `parts` go by protobuf's messages, and say what is right. `Reader` and `Writer` come to the same without
them, where a request or an answer is like one before. Pure but for shared memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from serving.core import dtypes
from serving.core.errors import invalid
from serving.core.memo import Memo
from serving.core.types import InferRequest, InferResponse, Signature
from serving.protocols import wire
from serving.protocols.grpc import Call, read
from serving.protocols.layouts import Layouts
from serving.protocols.messages import oip
from serving.protocols.oip import parameters
from serving.protocols.oip.heads import MAX_BYTES, Head, form_of_answer
from serving.protocols.oip.heads import Form as AnswerForm
from serving.protocols.oip.outputs import AS_BINARY, Form, Wants, form_of, formed
from serving.protocols.oip.parameters import parse_version
from serving.protocols.oip.shared_memory import SharedMemory, slot_of
from serving.protocols.oip.tensors import add_input, check_shape, datatype, from_raw, output_dtype, raw_view
from serving.protocols.oip.walk import walk

# Which field of InferTensorContents holds which datatype; FP16 and BF16 have none.
_CONTENTS = {
    dtypes.BOOL: "bool_contents",
    dtypes.INT8: "int_contents", dtypes.INT16: "int_contents", dtypes.INT32: "int_contents",
    dtypes.INT64: "int64_contents",
    dtypes.UINT8: "uint_contents", dtypes.UINT16: "uint_contents", dtypes.UINT32: "uint_contents",
    dtypes.UINT64: "uint64_contents",
    dtypes.FP32: "fp32_contents",
    dtypes.FP64: "fp64_contents",
    dtypes.BYTES: "bytes_contents",
}  # fmt: skip
_WIDE = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}  # of several datatypes

_MAX_MESSAGE = 2**31 - 1
_RAW_OUTPUT = oip.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
_ID = oip.ModelInferResponse.ID_FIELD_NUMBER

Parts = list[bytes | memoryview]  # of a serialized message


@dataclass(slots=True)
class Asked:
    """A request as far as it is known before its tensors are looked at."""

    model: str
    id: str
    decode: Callable[[], tuple[InferRequest, Wants]]  # raises ServingError, see `decode`


class Reader:
    """Reads the bytes of ModelInferRequests; arrays are views of them."""

    def __init__(self, memory: SharedMemory | None = None) -> None:
        self._memory = memory
        self._heads: Memo[bytes, Head] = Memo()
        self._layouts: Layouts[Head] = Layouts()

    def read(self, data: bytes, call: Call) -> Asked:
        """Raises: ServingError: INVALID, if these bytes are no ModelInferRequest."""
        layout = self._layouts.find(data)
        if layout is not None:
            request = layout.value.request(data, ((layout.begin, len(data) - len(layout.behind)),))
            if request is not None:
                return _asked(layout.value, request, "", call)
        try:
            head, request_id, spans = walk(data)
        except wire.UnusualError:
            message = read(oip.ModelInferRequest, data)
            return Asked(message.model_name, message.id, partial(decode, message, call, self._memory))
        known = self._heads.get(head)
        if known is not None:
            request = known.request(data, spans)
            if request is not None:
                if len(spans) == 1 and not request_id:  # what has an id is never the same
                    self._layouts.keep(data, *spans[0], known)
                return _asked(known, request, request_id, call)
        message = read(oip.ModelInferRequest, head)
        message.id = request_id
        view = memoryview(data)
        raw = [view[begin:end] for begin, end in spans]
        return Asked(message.model_name, request_id, partial(self._decode, message, call, raw, head))

    def _decode(self, message: Any, call: Call, raw: Sequence[memoryview], head: bytes) -> tuple[InferRequest, Wants]:
        request, wants = decode(message, call, self._memory, raw)
        if len(head) <= MAX_BYTES and (raw or not message.inputs):
            known = Head.of(request, wants)
            if known is not None:
                self._heads.keep(head, known)
        return request, wants


def _asked(known: Head, request: InferRequest, request_id: str, call: Call) -> Asked:
    request.id = request_id  # not that of the one which was known first
    if call.deadline is not None:
        request.deadline = min(call.deadline, request.deadline or call.deadline)
    return Asked(known.model, request_id, partial(_given, request, known.wants))


def _given(request: InferRequest, wants: Wants) -> tuple[InferRequest, Wants]:
    return request, wants


def decode(
    message: Any, call: Call, memory: SharedMemory | None = None, raw: Sequence[bytes | memoryview] | None = None
) -> tuple[InferRequest, Wants]:
    """Reads a ModelInferRequest; arrays are views of the raw contents.

    Args:
        memory: where inputs and outputs may lie; None: nowhere.
        raw: the raw contents, if they are not in the message.

    Raises:
        ServingError: INVALID, naming what is wrong, or NOT_FOUND for a region of shared memory.
    """
    model = message.model_name
    request = InferRequest(model, {}, parse_version(message.model_version), id=message.id)
    request.deadline = call.deadline
    if message.parameters:
        parameters.apply(parameters.from_messages(message.parameters), request)
    if raw is None:
        raw = message.raw_input_contents
    used = 0  # of the raw contents: inputs in shared memory have none
    for tensor in message.inputs:
        name = tensor.name
        dtype = datatype(name, tensor.datatype)
        shape = tuple(tensor.shape)
        check_shape(name, model, shape)
        given = parameters.plain(tensor.parameters) if tensor.parameters else {}
        if "shared_memory_region" in given:
            if tensor.HasField("contents"):
                raise invalid(
                    f"unexpected 'content' provided when using shared memory for input tensor '{name}' "
                    f"for model '{model}'"
                )
            array = from_raw(name, model, dtype, shape, slot_of(memory, name, given).read())
            request.lent = True
        elif not raw:
            array = _from_contents(name, model, dtype, shape, tensor)
        elif tensor.HasField("contents"):
            raise invalid(
                f"contents field must not be specified when using raw_input_contents for '{name}' for model '{model}'"
            )
        elif used >= len(raw):
            raise invalid(f"unable to find data for input tensor '{name}' for model '{model}' in request.")
        else:
            array = from_raw(name, model, dtype, shape, raw[used])
            used += 1
        add_input(request, name, array)
    if not message.outputs:
        return request, Wants({}, AS_BINARY)
    request.outputs = tuple(output.name for output in message.outputs)
    return request, Wants({output.name: _form(output, memory) for output in message.outputs}, AS_BINARY)


def _form(output: Any, memory: SharedMemory | None) -> Form:
    if not output.parameters:
        return AS_BINARY
    given = parameters.plain(output.parameters)
    if given.get("classification") == 0:
        raise invalid("invalid value for 'classification' parameter, expected >= 0")  # it says so, and means > 0
    return form_of(output.name, given, memory)


def _from_contents(name: str, model: str, dtype: dtypes.DType, shape: tuple[int, ...], tensor: Any) -> np.ndarray:
    if not tensor.HasField("contents"):
        raise invalid(f"unable to find data for input tensor '{name}' for model '{model}' in request.")
    want = _CONTENTS.get(dtype)
    if want is None:
        raise invalid(f"input '{name}': {dtype.name} has no contents field; send it in raw_input_contents")
    contents = tensor.contents
    for descriptor, _ in contents.ListFields():
        if descriptor.name != want:
            raise invalid(
                f"unexpected explicit tensor data for input tensor '{name}' for model '{model}' "
                f"of type '{dtype.name}': expected {want}, got {descriptor.name}"
            )
    values = getattr(contents, want)
    size = prod(shape)
    if len(values) != size:
        raise invalid(
            f"input '{name}' for model '{model}' has shape {list(shape)} ({size} elements), got {len(values)} in {want}"
        )
    if dtype is dtypes.BYTES:
        texts = np.empty(len(values), dtype=object)
        texts[:] = list(values)
        return texts.reshape(shape)
    wide = np.fromiter(values, _WIDE.get(want, dtype.numpy), size)
    array = wide.astype(dtype.numpy, copy=False)
    if array is not wide and (array != wide).any():
        raise invalid(f"input '{name}' for model '{model}' holds values that {dtype.name} cannot")
    return array.reshape(shape)


class Writer:
    """Writes ModelInferResponses; `flags` become parameters of each."""

    def __init__(self, **flags: bool) -> None:
        self._flags = flags
        self._heads: Memo[AnswerForm, tuple[Signature, bytes, list[bytes]]] = Memo()

    def parts(self, response: InferResponse, wants: Wants) -> Parts:
        """See `parts`, whose bytes these are."""
        form = form_of_answer(response, wants)
        if form is None or not response.outputs:
            return parts(response, wants, **self._flags)
        kept = self._heads.get(form)
        if kept is None or kept[0] is not response.signature:
            kept = self._head(response)
            self._heads.keep(form, kept)
        _, head, before = kept
        found: Parts = [head]
        if response.id:
            text = response.id.encode()
            found += (wire.field(_ID, len(text)), text)
        for field, array in zip(before, response.outputs.values(), strict=True):
            found += (field, raw_view(array))
        return found

    def _head(self, response: InferResponse) -> tuple[Signature, bytes, list[bytes]]:
        """What comes before the id, and before each tensor."""
        head = oip.ModelInferResponse(model_name=response.model, model_version=str(response.version))
        rest = oip.ModelInferResponse()
        for key, flag in self._flags.items():
            rest.parameters[key].bool_param = flag
        before = []
        for name, array in response.outputs.items():
            rest.outputs.add(name=name, datatype=output_dtype(response, name).name, shape=array.shape)
            before.append(wire.field(_RAW_OUTPUT, array.nbytes))
        before[0] = rest.SerializeToString() + before[0]
        return response.signature, head.SerializeToString(), before

    def encode(self, response: InferResponse, wants: Wants) -> bytes:
        """See `encode`."""
        return joined(self.parts(response, wants))


def encode(response: InferResponse, wants: Wants) -> bytes:
    """A ModelInferResponse; tensors always go into raw_output_contents, one entry per output in order: an empty one
    where the output is in shared memory.

    Raises:
        ServingError: INVALID, if an output cannot be written in the form that was asked for.
    """
    return joined(parts(response, wants))


def parts(response: InferResponse, wants: Wants, **flags: bool) -> Parts:
    """The same in pieces, tensors as views where they can be; `flags` become parameters of the response."""
    head = oip.ModelInferResponse(model_name=response.model, model_version=str(response.version), id=response.id)
    for key, flag in flags.items():
        head.parameters[key].bool_param = flag
    raw: Parts = []
    for name, dtype, array, form in formed(response, wants):
        head.outputs.add(name=name, datatype=dtype.name, shape=array.shape)
        data = b"" if form.slot else raw_view(array)
        raw += (wire.field(_RAW_OUTPUT, len(data)), data)  # protobuf itself would copy the data three times
    return [head.SerializeToString(), *raw]


def joined(content: Parts) -> bytes:
    """Raises: ServingError: INVALID, if no message can be so large."""
    size = sum(map(len, content))
    if size > _MAX_MESSAGE:
        raise invalid(f"Response has byte size {size} which exceeds gRPC's byte size limit {_MAX_MESSAGE}.")
    return b"".join(content)
