"""Predict, classify and regress over REST: bodies in, replies out. Pure, and fit to run in a helper process.

Text is read before anything is said of the model, so bad JSON is reported as such for an unknown model too.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.core.errors import ServingError, invalid
from serving.core.types import DEFAULT_SIGNATURE, InferRequest, InferResponse, Signature, SignatureMethod, TensorSpec
from serving.protocols import jsonio
from serving.protocols.compression import decompress
from serving.protocols.http import HttpReply, json_reply
from serving.protocols.tfs import examples, json_faults, results, signatures
from serving.protocols.tfs.json_tensors import is_base64, to_array, to_json, with_all_axes
from serving.protocols.tfs.ranks import lacking, narrowed, widened

_WORDING = jsonio.Wording("JSON Parse error: Invalid value. ", '{"b64": "..."}')
_POSITION = re.compile(r"(JSON Parse error: Invalid value\. )(.*): line \d+ column \d+ \(char (\d+)\)")


@dataclass(frozen=True, slots=True)
class Body:
    """What a client has sent.

    Attributes:
        encoding: the value of Content-Encoding, if there was one.
        limit: bytes that it may expand to.
    """

    data: bytes
    encoding: bytes | None
    limit: int


@dataclass(frozen=True, slots=True)
class Asked:
    """The model that a request asks, as it was found. `signatures` is the reason if it was not."""

    model: str
    version: int | None
    signatures: Mapping[str, Signature] | ServingError


@dataclass(frozen=True, slots=True)
class Wants:
    """The form of the answer.

    Attributes:
        by_row: of predict.
        axes: how many last axes predict's inputs came without.
        examples: how many classify or regress was given.
    """

    by_row: bool = False
    axes: int = 0
    examples: int = 0


# Predict


def decode_predict(body: Body, asked: Asked) -> tuple[InferRequest, Wants]:
    """Raises: ServingError: INVALID, UNSUPPORTED, or what `asked` holds."""
    text, document = _read(body)
    name = _signature_name(document)
    if isinstance(asked.signatures, ServingError):
        raise asked.signatures
    signature = asked.signatures.get(name)
    if signature is None:
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
    if not signature.inputs:
        raise invalid(f"Failed to get input map for signature: {name}")
    by_row = "instances" in document
    if by_row and "inputs" in document:
        raise _malformed(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    bools = jsonio.may_hold_bools(text)
    if by_row:
        tensors, held = _rows(document, signature.inputs, bools)
    elif "inputs" in document:
        tensors, held = _columns(document["inputs"], signature.inputs, bools)
    else:
        raise invalid("Missing 'inputs' or 'instances' key")
    held["instances" if by_row else "inputs"] += 1
    jsonio.refuse_duplicates(text, held)
    axes = 0
    for alias, tensor in tensors.items():
        tensor = with_all_axes(tensor, signature.inputs[alias])
        added = lacking(tensor, signature.inputs[alias])
        tensors[alias] = widened(tensor, added)
        axes = max(axes, added)
    request = InferRequest(asked.model, tensors, asked.version, signature=name, allow_empty=True)
    return request, Wants(by_row, axes)


def _rows(
    document: dict[str, Any], inputs: Mapping[str, TensorSpec], bools: bool
) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """One tensor for each input, whose rows are the items of `instances`; and how often each name stands there."""
    rows = document["instances"]
    if type(rows) is not list:
        raise _malformed(document, "Expecting 'instances' to be an list/array")
    if not rows:
        raise _malformed(document, "No values in 'instances' array")
    if type(rows[0]) is dict and not is_base64(rows[0]):
        return _rows_of_objects(rows, inputs, bools)
    if len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    (spec,) = inputs.values()
    tensor = to_array(rows, spec.dtype, bools)
    if tensor is None:
        raise json_faults.in_rows(rows, spec)
    return {spec.name: tensor}, Counter()


def _rows_of_objects(
    rows: list[Any], inputs: Mapping[str, TensorSpec], bools: bool
) -> tuple[dict[str, np.ndarray], Counter[str]]:
    names = rows[0].keys()
    required = {name for name, spec in inputs.items() if not spec.optional}
    if not required <= names <= inputs.keys() or not all(type(row) is dict and row.keys() == names for row in rows):
        raise json_faults.in_objects(rows, inputs)
    tensors = {}
    for name in names:
        tensor = to_array([row[name] for row in rows], inputs[name].dtype, bools)
        if tensor is None:
            raise json_faults.in_objects(rows, inputs)
        tensors[name] = tensor
    return tensors, Counter(dict.fromkeys(names, len(rows)))


def _columns(value: Any, inputs: Mapping[str, TensorSpec], bools: bool) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """One tensor for each input, as `inputs` has them; and how often each name stands there."""
    if type(value) is not dict or is_base64(value):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        (spec,) = inputs.values()
        return {spec.name: _tensor(value, spec, bools)}, Counter()
    tensors = {}
    for name, spec in inputs.items():
        if name in value:
            tensors[name] = _tensor(value[name], spec, bools)
        elif not spec.optional:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return tensors, Counter(dict.fromkeys(tensors, 1))


def _tensor(value: Any, spec: TensorSpec, bools: bool) -> np.ndarray:
    tensor = to_array(value, spec.dtype, bools)
    if tensor is None:
        raise json_faults.in_tensor(value, spec.dtype)
    return tensor


def encode_predict(response: InferResponse, wants: Wants) -> HttpReply:
    """Raises: ServingError: an output has no form in JSON."""
    specs = response.signature.outputs
    outputs = narrowed(response, wants.axes)
    if wants.by_row:
        _check_rows(outputs)
    values = {name: to_json(name, specs[name].dtype, tensor) for name, tensor in outputs.items()}
    only = next(iter(values.values())) if len(values) == 1 else None
    if not wants.by_row:
        return json_reply({"outputs": values if only is None else only})
    if only is not None:
        return json_reply({"predictions": only})
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return json_reply({"predictions": rows})


def _check_rows(outputs: Mapping[str, np.ndarray]) -> None:
    rows = None
    for name, tensor in outputs.items():
        if not tensor.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if rows is not None and len(tensor) != rows:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(tensor)} expecting: {rows}")
        rows = len(tensor)


# Classify and regress


def decode_classify(body: Body, asked: Asked) -> tuple[InferRequest, Wants]:
    """Raises: ServingError: INVALID, PRECONDITION, or what `asked` holds."""
    return _decode_examples(body, asked, SignatureMethod.CLASSIFY)


def decode_regress(body: Body, asked: Asked) -> tuple[InferRequest, Wants]:
    """Raises: ServingError: INVALID, PRECONDITION, or what `asked` holds."""
    return _decode_examples(body, asked, SignatureMethod.REGRESS)


def _decode_examples(body: Body, asked: Asked, method: SignatureMethod) -> tuple[InferRequest, Wants]:
    text, document = _read(body)
    name = _signature_name(document)
    context = examples.from_json(document["context"]) if "context" in document else b""
    if "examples" not in document:
        raise _malformed(document, "When method is classify, key 'examples' is expected and was not found")
    items = document["examples"]
    if type(items) is not list:
        raise _malformed(document, "Expecting 'examples' value to be an list/array")
    if not items:
        raise _malformed(document, "'examples' value is an empty array")
    vector = examples.vector([context + examples.from_json(item) for item in items])
    held = Counter(name for item in (*items, document.get("context", ())) for name in item)
    held["examples"] += 1
    jsonio.refuse_duplicates(text, held)
    if isinstance(asked.signatures, ServingError):
        raise asked.signatures
    request = signatures.examples_request(asked.model, asked.version, asked.signatures, name, method, vector)
    return request, Wants(examples=len(vector))


def encode_classify(response: InferResponse, wants: Wants) -> HttpReply:
    """Raises: ServingError: INVALID: the model's outputs are no classes."""
    found = results.classes(response, wants.examples)
    pairs = [list(zip(*row, strict=True)) for row in zip(found.labels, found.scores, strict=True)]
    return json_reply({"results": pairs})


def encode_regress(response: InferResponse, wants: Wants) -> HttpReply:
    """Raises: ServingError: INVALID: the model's output is no regression."""
    return json_reply({"results": np.ascontiguousarray(results.values(response, wants.examples))})


# Both


def _read(body: Body) -> tuple[bytes, dict[str, Any]]:
    text = decompress(body.encoding, body.data, body.limit)
    if not text or text.isspace():
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = jsonio.parse(text, _WORDING)
    except ServingError as error:
        raise ServingError(error.kind, _POSITION.sub(r"\1at offset: \3: \2", error.message)) from None
    if type(document) is not dict:
        raise _malformed(document, "Is not object")
    return text, document


def _signature_name(document: dict[str, Any]) -> str:
    name = document.get("signature_name", "")
    if type(name) is not str:
        raise _malformed(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return name or DEFAULT_SIGNATURE


def _malformed(value: Any, why: str) -> ServingError:
    return invalid(f"JSON Value: {json_faults.text(value)} {why}")
