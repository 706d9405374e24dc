"""MultiInference: several of classify and regress on the same version and examples. Pure."""

from collections.abc import Iterable
from typing import Any

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import DEFAULT_SIGNATURE, InferRequest, InferResponse, SignatureMethod
from serving.protocols import messages as m
from serving.protocols.grpc import Call, route_key, write
from serving.protocols.tfs import examples, grpc_codec, servables, signatures
from serving.repository.catalog import Catalog
from serving.repository.version import Version

_METHODS = {method.value: method for method in (SignatureMethod.CLASSIFY, SignatureMethod.REGRESS)}


def decode(message: Any, catalog: Catalog, call: Call) -> tuple[Version, list[tuple[InferRequest, int]]]:
    """The version that all tasks ask, and what each asks of it with how many examples.

    Raises:
        ServingError: INVALID, NOT_FOUND, PRECONDITION, or UNSUPPORTED for another method.
    """
    if not message.tasks:
        raise invalid("ModelSpec has no name specified.")
    if not all(task.model_spec.name for task in message.tasks):
        raise invalid("Found ModelSpec with an empty model name.")
    if len({task.model_spec.name for task in message.tasks}) > 1:
        raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    targets = [grpc_codec.target(task) for task in message.tasks]
    if len(set(targets)) == 1:  # where none names a version, all shall get the same
        version = servables.route(catalog, targets[0], route_key(catalog, targets[0].model, call))
    else:
        version, *others = [servables.resolve(catalog, target) for target in targets]
        if any(other is not version for other in others):
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model version.")
    known = signatures.of(version)
    asked: dict[str, SignatureMethod] = {}
    for task in message.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in asked:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        if name not in known:
            raise invalid(f"Requested signature not found in model graph: {name}")
        method = _METHODS.get(task.method_name)
        if method is None:
            raise ServingError(ErrorKind.UNSUPPORTED, f"Unsupported signature method_name: {task.method_name}")
        asked[name] = method
    vector = examples.from_input(message.input)
    requests = []
    for name, method in asked.items():
        request = signatures.examples_request(version.model, version.number, known, name, method, vector)
        request.deadline = call.deadline
        requests.append((request, len(vector)))
    return version, requests


def result(response: InferResponse, n: int) -> Any:
    """The InferenceResult of one task."""
    found = m.tfs.InferenceResult(model_spec=grpc_codec.answered(response))
    if response.signature.method is SignatureMethod.CLASSIFY:
        found.classification_result.CopyFrom(grpc_codec.classes(response, n))
    else:
        found.regression_result.CopyFrom(grpc_codec.values(response, n))
    return found


def encode(found: Iterable[Any]) -> bytes:
    """A MultiInferenceResponse."""
    return write(m.tfs.MultiInferenceResponse(results=found))
