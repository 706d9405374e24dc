"""One inference over gRPC: a ModelInferRequest in, the bytes of a ModelInferResponse out.

Pure but for shared memory.
"""

from math import prod
from typing import Any

import numpy as np

from serving.core import dtypes
from serving.core.errors import invalid
from serving.core.types import InferRequest, InferResponse
from serving.protocols import wire
from serving.protocols.grpc import Call
from serving.protocols.messages import oip
from serving.protocols.oip import parameters
from serving.protocols.oip.outputs import AS_BINARY, Form, Wants, form_of, formed
from serving.protocols.oip.parameters import parse_version
from serving.protocols.oip.shared_memory import SharedMemory, slot_of
from serving.protocols.oip.tensors import add_input, check_shape, datatype, from_raw, raw_view

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

Parts = list[bytes | memoryview]  # of a serialized message


def decode(message: Any, call: Call, memory: SharedMemory | None = None) -> tuple[InferRequest, Wants]:
    """Reads a ModelInferRequest; arrays are views of the message's raw contents.

    Args:
        memory: where inputs and outputs may lie; None: nowhere.

    Raises:
        ServingError: INVALID, naming what is wrong, or NOT_FOUND for a region of shared memory.
    """
    model = message.model_name
    request = InferRequest(model, {}, parse_version(message.model_version), id=message.id)
    request.deadline = call.deadline
    if message.parameters:
        parameters.apply(parameters.from_messages(message.parameters), request)
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
