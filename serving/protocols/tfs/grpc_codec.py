"""Predict, classify and regress over gRPC: message bytes to requests, answers to message bytes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.core.dtypes import BY_NUMPY
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import DEFAULT_SIGNATURE, InferRequest, InferResponse, Signature, SignatureMethod, Tensors
from serving.protocols import messages as m
from serving.protocols import wire
from serving.protocols.grpc import Call, read, write
from serving.protocols.tfs import examples, results, signatures, tensor_proto
from serving.protocols.tfs.ranks import lacking, narrowed, widened
from serving.protocols.tfs.servables import Target
from serving.repository.version import Version

_SMALL = 4096  # bytes; the message class reads such a request faster than `wire` does

INPUTS = m.tfs.PredictRequest.DESCRIPTOR.fields_by_name["inputs"].number
_OUTPUTS = m.tfs.PredictResponse.DESCRIPTOR.fields_by_name["outputs"].number
KEY, VALUE = 1, 2  # of an entry of any map


def target(message: Any) -> Target:
    """Which version a message means that has one ModelSpec.

    Raises:
        ServingError: INVALID: it names no model.
    """
    if not message.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec = message.model_spec
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    return Target(spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label)


# Predict


@dataclass(frozen=True, slots=True)
class Sent:
    """The TensorProto of one input, and its large fields, if they were taken out of it."""

    tensor: Any
    large: dict[int, memoryview] | None = None


def read_predict(data: bytes) -> tuple[Any, dict[str, Sent]]:
    """A PredictRequest, and its inputs by name; what is large stays where it lies in `data`.

    Raises:
        ServingError: INVALID: it is no such message.
    """
    if len(data) > _SMALL:
        try:
            return _split(memoryview(data))
        except wire.UnusualError:
            pass
    message = read(m.tfs.PredictRequest, data)
    return message, {name: Sent(tensor) for name, tensor in message.inputs.items()}


def _split(data: memoryview) -> tuple[Any, dict[str, Sent]]:
    entries, rest = wire.split(data, (INPUTS,))
    inputs: dict[str, Sent] = {}
    for _, entry in entries:
        fields, more = wire.split(entry, (KEY, VALUE))
        parts = dict(fields)
        if more or len(parts) < len(fields) or VALUE not in parts:
            raise wire.UnusualError
        try:
            name = str(parts.get(KEY, b""), "utf-8")
        except UnicodeDecodeError:
            raise wire.UnusualError from None
        inputs[name] = Sent(*tensor_proto.split(parts[VALUE]))
    return read(m.tfs.PredictRequest, rest), inputs


def decode_predict(
    message: Any, sent: Mapping[str, Sent], call: Call, found: Version | ServingError
) -> tuple[InferRequest, int]:
    """Reads a PredictRequest; arrays are views of its bytes. Also gives how many last axes they came without.

    Raises:
        ServingError: INVALID, PRECONDITION, or what was found instead of a version.
    """
    if isinstance(found, ServingError):
        raise found
    name = message.model_spec.signature_name or DEFAULT_SIGNATURE
    contract = found.contracts.get(name)
    if contract is None:
        raise ServingError(ErrorKind.PRECONDITION, f'Serving signature key "{name}" not found.')
    signature = contract.signature
    _check_names(sent, signature)
    inputs: Tensors = {}
    axes = 0
    for i, (alias, expected) in enumerate(signature.inputs.items()):
        if alias in sent:
            given = sent[alias]
            array = tensor_proto.decode(alias, given.tensor, given.large)
            if array.dtype != expected.dtype.numpy:
                kinds = tensor_proto.type_name(expected.dtype), tensor_proto.type_name(BY_NUMPY[array.dtype])
                raise invalid(f"Expects arg[{i}] to be {kinds[0]} but {kinds[1]} is provided: input '{alias}'")
            added = lacking(array, expected)
            inputs[alias] = widened(array, added)
            axes = max(axes, added)
    outputs = tuple(message.output_filter)
    _check_outputs(outputs, signature)
    request = InferRequest(found.model, inputs, found.number, outputs, signature=name, deadline=call.deadline)
    request.allow_empty = True
    return request, axes


def _check_names(sent: Mapping[str, Sent], signature: Signature) -> None:
    known = signature.inputs
    missing = [name for name in known if name not in sent and not known[name].optional]
    extra = [name for name in sent if name not in known]
    if missing or extra:
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(known)} len({_set(sent)}) != len({_set(known)}). "
            f"Sent extra: {_set(extra)}. Missing but required: {_set(missing)}."
        )


def _check_outputs(names: tuple[str, ...], signature: Signature) -> None:
    for i, name in enumerate(names):
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_set(signature.outputs)}."
            )
        if name in names[:i]:
            raise invalid(f"duplicate output tensor alias: {name}")


def _set(names: Any) -> str:
    return f"{{{','.join(sorted(names))}}}"


def encode_predict(response: InferResponse, axes: int) -> bytes:
    """A PredictResponse; floats are copied once, into its bytes."""
    return b"".join([piece for part in predict_parts(response, axes) for piece in part])


def predict_parts(response: InferResponse, axes: int) -> list[list[tensor_proto.Buffer]]:
    """The pieces of a PredictResponse: those of each output, whose numbers are the last of them."""
    head: list[tensor_proto.Buffer] = [m.tfs.PredictResponse(model_spec=answered(response)).SerializeToString()]
    parts: list[list[tensor_proto.Buffer]] = []
    for name, array in narrowed(response, axes).items():
        tensor = tensor_proto.encode(array, response.signature.outputs[name].dtype)
        size = sum(map(len, tensor))
        key = name.encode()
        entry = [wire.field(KEY, len(key)), key, wire.field(VALUE, size)]
        parts.append([*head, wire.field(_OUTPUTS, size + sum(map(len, entry))), *entry, *tensor])
        head = []
    return parts or [head]


def answered(response: InferResponse) -> Any:
    """The ModelSpec of an answer."""
    spec = m.tfs.ModelSpec(name=response.model, signature_name=response.signature_name)
    spec.version.value = response.version
    return spec


# Classify and regress


def decode_examples(
    message: Any, method: SignatureMethod, call: Call, found: Version | ServingError
) -> tuple[InferRequest, int]:
    """What a request with examples asks, and how many there are.

    Raises:
        ServingError: INVALID, PRECONDITION, or what was found instead of a version.
    """
    if isinstance(found, ServingError):
        raise found
    name = message.model_spec.signature_name or DEFAULT_SIGNATURE
    vector = examples.from_input(message.input)
    request = signatures.examples_request(found.model, found.number, signatures.of(found), name, method, vector)
    request.deadline = call.deadline
    return request, len(vector)


def encode_classify(response: InferResponse, n: int) -> bytes:
    """A ClassificationResponse."""
    return write(m.tfs.ClassificationResponse(model_spec=answered(response), result=classes(response, n)))


def encode_regress(response: InferResponse, n: int) -> bytes:
    """A RegressionResponse."""
    return write(m.tfs.RegressionResponse(model_spec=answered(response), result=values(response, n)))


def classes(response: InferResponse, n: int) -> Any:
    """A ClassificationResult."""
    found = results.classes(response, n)
    result = m.tfs.ClassificationResult()
    for labels, scores in zip(found.labels, found.scores.tolist(), strict=True):
        row = result.classifications.add()
        for label, score in zip(labels, scores, strict=True):
            row.classes.add(label=label, score=score)
    return result


def values(response: InferResponse, n: int) -> Any:
    """A RegressionResult."""
    values = results.values(response, n).tolist()
    return m.tfs.RegressionResult(regressions=[m.tfs.Regression(value=value) for value in values])
