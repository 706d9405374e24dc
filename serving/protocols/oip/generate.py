"""The generate extension: a flat JSON object in, one out, keys by the names of tensors. Pure.

For models whose inputs are values or lists of them, such as a prompt.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import InferRequest, InferResponse, Signature, TensorSpec
from serving.protocols import jsonio
from serving.protocols.http import HttpReply, retry_headers
from serving.protocols.jsonio import describe
from serving.protocols.oip import parameters
from serving.protocols.oip.parameters import parse_version
from serving.protocols.oip.rest_codec import json_data, read_id
from serving.protocols.oip.tensors import output_dtype
from serving.protocols.status import Family, http_status
from serving.repository.version import Version

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


def signatures(version: Version) -> dict[str, Signature]:
    """Those of a version by name; "" is the default one."""
    return {"": version.contract.signature} | {name: c.signature for name, c in version.contracts.items()}


def decode(
    model: str, version: str | None, body: bytes, signatures: Mapping[str, Signature], arrived: float | None = None
) -> tuple[InferRequest, None]:
    """Reads a generate request: keys that name an input are tensors, also within `parameters`; `id` is the request's,
    and all others are its parameters.

    Args:
        signatures: as the function of that name gives them.
        arrived: when the request did (monotonic), from which on its timeout counts; None: now.

    Raises:
        ServingError: INVALID, naming the key; PRECONDITION, if there is no such signature.
    """
    value = jsonio.parse(body)
    if type(value) is not dict:
        raise invalid(f"the request JSON must be an object, got {describe(value)}")
    nested = value.get("parameters")
    name = value.get("signature_name") or (type(nested) is dict and nested.get("signature_name")) or ""
    if type(name) is not str:
        raise invalid(f"Unable to parse 'signature_name': expected a string, got {describe(name)}")
    if name not in signatures:
        raise ServingError(ErrorKind.PRECONDITION, f'Serving signature key "{name}" not found.')
    specs = signatures[name].inputs
    request = InferRequest(model, {}, parse_version(version))
    given: dict[str, Any] = {}
    others: dict[str, Any] = {}
    level = value
    if "id" not in specs:
        request.id = read_id(value)
        level = {key: v for key, v in value.items() if key != "id"}
    while level:
        for key, v in level.items():
            if key in given:
                raise invalid(f"input '{key}' already exists in request")
            if key in specs:
                given[key] = v
            elif key != "parameters":
                others[key] = v
        level = {} if "parameters" in specs else _nested(level)
    jsonio.refuse_duplicates(body, dict.fromkeys(given, 1))
    parameters.apply(parameters.from_json(others), request, arrived)
    request.inputs = {name: _tensor(specs[name], v) for name, v in given.items()}
    return request, None


def _nested(level: Mapping[str, Any]) -> dict[str, Any]:
    found = level.get("parameters", {})
    if type(found) is not dict:
        raise invalid(f"Unable to parse 'parameters': expected an object, got {describe(found)}")
    return found


def _tensor(spec: TensorSpec, value: Any) -> np.ndarray:
    flat = value if type(value) is list else [value]
    shape = _fitted(spec.shape, len(flat))
    if shape is None or not {list, dict, type(None)}.isdisjoint(map(type, flat)):
        raise invalid(
            f"The schema can not convert input '{spec.name}' to tensor with proper shape: it takes values of "
            f"{spec.dtype.name} {'of any shape' if spec.shape is None else list(spec.shape)}"
        )
    return jsonio.to_array(spec.name, spec.dtype, shape, flat, may_hold_bools=True)


def _fitted(shape: tuple[int, ...] | None, count: int) -> tuple[int, ...] | None:
    """The shape of so many elements: the innermost open dimension takes what the fixed ones leave, other open ones are
    1. None if there is none."""
    if shape is None:
        return (count,)
    fixed = prod(d for d in shape if d != -1)
    if -1 not in shape:
        return shape if count == fixed else None
    if not fixed or count % fixed:
        return None
    fitted = [1 if d == -1 else d for d in shape]
    fitted[len(shape) - 1 - shape[::-1].index(-1)] = count // fixed
    return tuple(fitted)


def encode(response: InferResponse, _: None, stream: bool) -> HttpReply:
    """Outputs beside the names of model and version, keys in alphabetical order; one element alone is no list.

    Args:
        stream: as the one event of a stream.

    Raises:
        ServingError: INVALID, if an output cannot be written as JSON.
    """
    value: dict[str, Any] = {"id": response.id} if response.id else {}
    value["model_name"] = response.model
    value["model_version"] = str(response.version)
    for name, array in response.outputs.items():
        data = json_data(name, output_dtype(response, name), array)
        value[name] = data if len(data) != 1 else data[0] if type(data) is list else data.item()
    text = jsonio.dump(dict(sorted(value.items())))
    return HttpReply(200, _event(text), [EVENTS]) if stream else HttpReply(200, text)


def is_heavy_to_write(response: InferResponse, _: None) -> bool:
    """Would `encode` keep the event loop for too long?"""
    return jsonio.is_heavy_to_write(response.outputs.values())


def error_event(error: ServingError) -> HttpReply:
    """What the model's failure looks like as the first event of a stream."""
    text = jsonio.dump({"error": error.message})
    return HttpReply(http_status(error.kind, Family.OIP), _event(text), [EVENTS, *retry_headers(error)])


def _event(text: bytes) -> bytes:
    return b"data: %b\n\n" % text
