"""One inference over REST: JSON, and raw tensors behind it. Bodies in, bodies out; pure but for shared memory."""

import re
from collections.abc import Mapping
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np

from serving.core import dtypes
from serving.core.errors import ServingError, invalid
from serving.core.memo import Memo
from serving.core.types import InferRequest, InferResponse, Signature, TensorSpec
from serving.core.validate import Contract
from serving.protocols import jsonio
from serving.protocols.compression import compress, is_heavy_to_compress
from serving.protocols.http import BINARY, JSON, Headers, HttpReply
from serving.protocols.jsonio import describe
from serving.protocols.oip import parameters
from serving.protocols.oip.heads import MAX_BYTES, Head, Span, form_of_answer
from serving.protocols.oip.heads import Form as AnswerForm
from serving.protocols.oip.outputs import AS_BINARY, AS_JSON, Form, Wants, form_of, formed
from serving.protocols.oip.parameters import parse_version
from serving.protocols.oip.shared_memory import SharedMemory, slot_of
from serving.protocols.oip.tensors import (
    MAX_INT64,
    add_input,
    check_shape,
    datatype,
    from_raw,
    raw_view,
)

HEADER_LENGTH = b"inference-header-content-length"

_COMPRESS_FROM = 512  # bytes
_INTEGER = re.compile(rb"[+-]?[0-9]{1,100}")


def decode(
    model: str, version: str | None, body: bytes, header_size: int | None, memory: SharedMemory | None = None
) -> tuple[InferRequest, Wants]:
    """Reads an infer request; arrays are views of `body` wherever it holds raw tensors.

    Args:
        header_size: the bytes of the JSON at the start of `body`; None: all of it.
        memory: where inputs and outputs may lie; None: nowhere.

    Raises:
        ServingError: INVALID, naming what is wrong, or NOT_FOUND for a region of shared memory.
    """
    header, raw = body, memoryview(b"")
    if header_size is not None:
        header, raw = body[:header_size], memoryview(body)[header_size:]
    value = jsonio.parse(header)
    if type(value) is not dict:
        raise invalid(f"the request JSON must be an object, got {describe(value)}")
    request = InferRequest(model, {}, parse_version(version))
    request.id = read_id(value)
    given = value.get("parameters")
    if given is not None:
        parameters.apply(parameters.from_json(given), request)
    inputs = value.get("inputs")
    if type(inputs) is not list:
        raise _absent_or_wrong("inputs", value, "an array")
    may_hold_bools = any(type(entry) is dict and "data" in entry for entry in inputs) and jsonio.may_hold_bools(header)
    at = 0
    for entry in inputs:
        if type(entry) is not dict:
            raise invalid(f"Unable to parse 'inputs': expected objects, got {describe(entry)}")
        name = entry.get("name")
        if type(name) is not str:
            raise _absent_or_wrong("name", entry, "a string")
        dtype = datatype(name, entry.get("datatype"))
        shape = _shape(name, model, entry)
        source = _source(name, entry)
        if source == "data":
            array = jsonio.to_array(name, dtype, shape, entry["data"], may_hold_bools)
        elif source == "binary_data_size":
            end = at + _binary_size(name, entry)
            if end > len(raw):
                raise invalid(
                    f"unexpected size for input '{name}', expecting {end - len(raw)} additional bytes "
                    f"for model '{model}'"
                )
            array = from_raw(name, model, dtype, shape, raw[at:end])
            at = end
        else:
            array = from_raw(name, model, dtype, shape, slot_of(memory, name, entry["parameters"]).read())
            request.lent = True
        add_input(request, name, array)
    if at != len(raw):
        raise invalid(
            f"unexpected additional input data for model '{model}': {len(raw) - at} bytes that no input claims"
        )
    return request, _wants(request, value.get("outputs"), memory)


class Reader:
    """Reads infer requests as `decode` does, but JSON in front of raw tensors only once if it comes again and again."""

    def __init__(self, memory: SharedMemory | None = None) -> None:
        self._memory = memory
        self._heads: Memo[tuple[str, str | None, bytes], tuple[Head, list[Span]]] = Memo()

    def decode(
        self, model: str, version: str | None, body: bytes, header_size: int | None
    ) -> tuple[InferRequest, Wants]:
        """See `decode`."""
        if header_size is None or header_size > MAX_BYTES:
            return decode(model, version, body, header_size, self._memory)
        header = body[:header_size]
        known = self._heads.get((model, version, header))
        if known is not None:
            head, spans = known
            if len(body) == spans[-1][1]:
                request = head.request(body, spans)
                if request is not None:
                    return request, head.wants
        request, wants = decode(model, version, body, header_size, self._memory)
        if request.inputs and not request.id:  # what has an id does not come again
            ends = list(accumulate((array.nbytes for array in request.inputs.values()), initial=header_size))
            learnt = Head.of(request, wants)
            if learnt is not None and ends[-1] == len(body):  # no tensor but empty ones came as JSON
                self._heads.keep((model, version, header), (learnt, list(pairwise(ends))))
        return request, wants


def decode_raw(contract: Contract, version: str | None, body: bytes) -> tuple[InferRequest, Wants]:
    """Reads a request that is nothing but the model's one input; its shape is what the size of `body` makes it.

    Raises:
        ServingError: INVALID, if the model has several inputs, or the shape is not certain.
    """
    inputs = contract.inputs
    if len(inputs) != 1:
        raise invalid(
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(inputs)} inputs in "
            f"'{contract.model}' model configuration"
        )
    (spec,) = inputs
    batched = contract.max_batch_size > 0
    shape = _deduced(spec, batched, len(body))
    request = InferRequest(contract.model, {}, parse_version(version))
    if spec.dtype is dtypes.BYTES:
        array = np.empty(1, dtype=object)
        array[0] = body
        request.inputs[spec.name] = array.reshape(shape)
    else:
        request.inputs[spec.name] = from_raw(spec.name, contract.model, spec.dtype, shape, body)
    return request, Wants({}, AS_BINARY)


def _deduced(spec: TensorSpec, batched: bool, size: int) -> tuple[int, ...]:
    uncertain = invalid(
        f"The shape of the raw input '{spec.name}' can not be deduced because there are more than one variable-sized "
        "dimension"
    )
    if spec.shape is None:
        raise uncertain
    dimensions = list(spec.row_shape if batched else spec.shape)
    if dimensions.count(-1) > 1:
        raise uncertain
    if spec.dtype is dtypes.BYTES:
        if any(d != 1 for d in dimensions):
            raise invalid(f"For BYTE datatype raw input '{spec.name}', the model must have input shape [1]")
    elif -1 in dimensions:
        step = prod(d for d in dimensions if d != -1) * spec.dtype.itemsize
        dimensions[dimensions.index(-1)] = size // step if step else 0  # a rest is for the check of the size to refuse
    return (1, *dimensions) if batched else tuple(dimensions)


def header_size(text: bytes | None, available: int) -> int | None:
    """The bytes of JSON that Inference-Header-Content-Length claims of a body of `available` bytes; None without it.

    Raises:
        ServingError: INVALID.
    """
    if text is None:
        return None
    if not _INTEGER.fullmatch(text):
        raise invalid(f"Unable to parse Inference-Header-Content-Length, got: {text[:40].decode('latin-1')}")
    size = int(text)
    if not -(2**31) <= size < 2**31:
        raise invalid(
            "Unable to parse Inference-Header-Content-Length, value is out of range "
            f"[ -2147483648, 2147483647 ], got: {text[:40].decode('latin-1')}"
        )
    if not 0 <= size <= available:
        raise invalid(f"inference header size should be in range (0, {available}), got: {size}")
    return size


def read_id(value: Mapping[str, Any]) -> str:
    """Raises: ServingError: INVALID."""
    found = value.get("id", "")
    if type(found) is not str:
        raise invalid(f"Unable to parse 'id': expected a string, got {describe(found)}")
    return found


def _absent_or_wrong(key: str, where: dict[str, Any], expected: str) -> ServingError:
    if key not in where:
        return invalid(f"Unable to parse '{key}': attempt to access non-existing object member '{key}'")
    return invalid(f"Unable to parse '{key}': expected {expected}, got {describe(where[key])}")


def _shape(name: str, model: str, entry: dict[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if type(shape) is not list:
        raise _absent_or_wrong("shape", entry, "an array of integers >= 0")
    for d in shape:
        if type(d) is not int or d < 0:
            raise invalid(
                "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer: "
                f"input '{name}' got {describe(d)}"
            )
        if d > MAX_INT64:
            raise invalid(
                f"the shape of input '{name}' causes total element count to exceed maximum size of {MAX_INT64}"
            )
    check_shape(name, model, tuple(shape))
    return tuple(shape)


_SOURCES = ("data", "binary_data_size", "shared_memory_region")


def _source(name: str, entry: dict[str, Any]) -> str:
    """Where the elements of an input are: one of `_SOURCES`."""
    given = entry.get("parameters")
    if given is None:
        given = {}
    elif type(given) is not dict:
        raise invalid(f"Unable to parse 'parameters': input '{name}' expects an object")
    found = [s for s in _SOURCES if (s in entry if s == "data" else given.get(s) is not None)]
    if len(found) != 1:
        sources = " ".join(f"'{s}'" for s in found)
        raise invalid(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            f"'shared_memory_region' in 'parameters'. But {f'set {sources}' if found else 'no field is set'} "
            f"for input '{name}'"
        )
    return found[0]


def _binary_size(name: str, entry: dict[str, Any]) -> int:
    size = entry["parameters"]["binary_data_size"]
    if type(size) is not int or size < 0:
        raise invalid(
            f"Unable to parse 'binary_data_size': input '{name}' expects an integer >= 0, got {describe(size)}"
        )
    return size


def _wants(request: InferRequest, outputs: Any, memory: SharedMemory | None) -> Wants:
    others = AS_BINARY if request.parameters.get("binary_data_output") else AS_JSON
    if outputs is None:
        return Wants({}, others)
    if type(outputs) is not list:
        raise invalid(f"Unable to parse 'outputs': expected an array, got {describe(outputs)}")
    named: dict[str, Form] = {}
    names = []
    for entry in outputs:
        if type(entry) is not dict:
            raise invalid(f"Unable to parse 'outputs': expected objects, got {describe(entry)}")
        name = entry.get("name")
        if type(name) is not str:
            raise _absent_or_wrong("name", entry, "a string")
        given = entry.get("parameters")
        if given is not None and type(given) is not dict:
            raise invalid(f"Unable to parse 'parameters': output '{name}' expects an object, got {describe(given)}")
        names.append(name)
        named[name] = form_of(name, given, memory) if given else AS_JSON
    request.outputs = tuple(names)
    return Wants(named, others)


def encode(response: InferResponse, wants: Wants, coding: str | None = None) -> HttpReply:
    """Writes an answer; each output is written once.

    Args:
        coding: gzip or deflate: the whole body is compressed so, unless it is small. Many clients accept both without
            being asked, and compressing a small answer costs more than all the rest of it.

    Raises:
        ServingError: INVALID, if an output cannot be written in the form that was asked for.
    """
    outputs = []
    raw: list[bytes | memoryview] = []
    for name, dtype, array, form in formed(response, wants):
        entry: dict[str, Any] = {"name": name, "datatype": dtype.name, "shape": array.shape}
        if form.binary:
            data = raw_view(array)
            raw.append(data)
            entry["parameters"] = {"binary_data_size": len(data)}
        elif form.slot is None:
            entry["data"] = json_data(name, dtype, array)
        outputs.append(entry)
    value: dict[str, Any] = {"id": response.id} if response.id else {}
    value["model_name"] = response.model
    value["model_version"] = str(response.version)
    value["outputs"] = outputs
    header = jsonio.dump(value)
    headers = [BINARY, (HEADER_LENGTH, b"%d" % len(header))] if any(raw) else [JSON]
    body = b"".join((header, *raw))
    if coding is None or len(body) < _COMPRESS_FROM:
        return HttpReply(200, body, headers)
    return HttpReply(200, compress(coding, body), [*headers, (b"content-encoding", coding.encode())])


class Writer:
    """Writes answers as `encode` does, but what stands before raw tensors only once if it comes again and again."""

    def __init__(self) -> None:
        self._heads: Memo[AnswerForm, tuple[Signature, bytes, Headers]] = Memo()

    def __reduce__(self) -> tuple[type["Writer"], tuple[()]]:
        return Writer, ()  # what is kept is for this process

    def encode(self, response: InferResponse, wants: Wants, coding: str | None = None) -> HttpReply:
        """See `encode`."""
        form = None if coding or response.id or not wants.all_binary else form_of_answer(response, wants)
        if form is None:
            return encode(response, wants, coding)
        kept = self._heads.get(form)
        if kept is None or kept[0] is not response.signature:
            reply = encode(response, wants)
            size = next((int(value) for name, value in reply.headers if name == HEADER_LENGTH), 0)
            if size and len(reply.body) == size + sum(array.nbytes for array in response.outputs.values()):
                self._heads.keep(form, (response.signature, reply.body[:size], reply.headers))
            return reply
        _, head, headers = kept
        return HttpReply(200, b"".join((head, *map(raw_view, response.outputs.values()))), headers)


def is_heavy_to_read(body: bytes, header_size: int | None) -> bool:
    """Would `decode` keep the event loop for too long? False where shared memory may be meant: it is in this process
    only."""
    text = body[:header_size]
    return jsonio.is_heavy_to_read(text) and not jsonio.holds(text, b"shared_memory_region", b"_")


def is_heavy_to_write(coding: str | None, response: InferResponse, wants: Wants) -> bool:
    """Would `encode` keep the event loop for too long? False where it writes to shared memory."""
    if not wants.named and not coding:  # as nearly always
        return not wants.others.binary and jsonio.is_heavy_to_write(response.outputs.values())
    forms = [(array, wants.named.get(name, wants.others)) for name, array in response.outputs.items()]
    if any(form.slot for _, form in forms):
        return False
    if coding and is_heavy_to_compress(sum(array.nbytes for array, form in forms if not form.classes)):
        return True
    return jsonio.is_heavy_to_write(array for array, form in forms if not form.binary and not form.classes)


def json_data(name: str, dtype: dtypes.DType, array: np.ndarray) -> Any:
    if dtype is dtypes.FP16 or dtype is dtypes.BF16:
        raise invalid(
            f"sending {dtype.name} data via JSON is not supported. Please use the binary data format for output {name}"
        )
    if dtype is not dtypes.BYTES:
        return np.ascontiguousarray(array).reshape(-1)
    try:
        return [element.decode() for element in array.flat]
    except UnicodeDecodeError:
        raise invalid(
            f"output '{name}' holds bytes that are not UTF-8, which JSON cannot carry; ask for it with binary_data in "
            "an infer request"
        ) from None
