"""What a request of the Open Inference Protocol says besides its tensors: version and parameters. Pure.

Parameters that the protocol knows have a type each; all others are the model's, and of any simple type.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.core.errors import ServingError, invalid
from serving.core.types import InferRequest, Parameters
from serving.protocols.jsonio import describe
from serving.protocols.oip.tensors import MAX_INT64

MAX_UINT64 = 2**64 - 1
_VERSION = re.compile("(-?)0*([0-9]+)", re.ASCII)
_RESERVED = "triton_"
_FINAL_RESPONSE = "triton_enable_empty_final_response"  # of no effect here: no model gives more than one response


@dataclass(frozen=True, slots=True)
class _Known:
    """`json`: what the value is called in JSON; `fields`: those of InferParameter that may hold it."""

    json: str
    fields: tuple[str, ...]


_UINT, _BOOLEAN, _TEXT = "unsigned-integer", "boolean", "string"
_KNOWN = {
    "signature_name": _Known(_TEXT, ("string_param",)),
    "priority": _Known(_UINT, ("int64_param", "uint64_param")),
    "timeout": _Known(_UINT, ("int64_param",)),
    "sequence_id": _Known(_UINT, ("int64_param", "string_param")),
    "sequence_start": _Known(_BOOLEAN, ("bool_param",)),
    "sequence_end": _Known(_BOOLEAN, ("bool_param",)),
    "binary_data_output": _Known(_BOOLEAN, ("bool_param",)),  # means something over REST only
}
_CUSTOM_FIELDS = ("bool_param", "int64_param", "string_param", "double_param")


def parse_version(text: str | None) -> int | None:
    """A version as requests spell it; None or "" leaves the choice to the server."""
    if not text:
        return None
    match = _VERSION.fullmatch(text)
    if match is None or len(match[2]) > 19 or int(match[2]) > MAX_INT64:
        raise invalid(
            f"failed to get model version from specified version string '{text[:40]}', "
            "version should be an integral value > 0"
        )
    number = int(match[2])
    if match[1] or not number:
        raise invalid(f"invalid model version specified '{text[:40]}' , version should be an integral value > 0")
    return number


def from_json(value: Any) -> Parameters:
    """The `parameters` of a REST request.

    Raises:
        ServingError: INVALID, naming the parameter.
    """
    if type(value) is not dict:
        raise invalid(f"Unable to parse 'parameters': expected an object, got {describe(value)}")
    return {key: _json_value(key, v) for key, v in value.items()}


def _json_value(key: str, value: Any) -> bool | int | float | str:
    if key.startswith(_RESERVED):
        raise invalid(f"parameter keys starting with '{_RESERVED}' are reserved for Triton usage and should not be "
                      "specified.")  # fmt: skip
    kind = type(value)
    known = _KNOWN.get(key)
    if known is None:
        if kind is int and not -MAX_INT64 - 1 <= value <= MAX_INT64:
            return _as_double(key, value)
        if kind not in (bool, int, float, str):
            raise invalid(f"parameter '{key}' has invalid type. It should be either 'int', 'bool', or 'string'.")
    elif known.json == _UINT and kind is int:
        if not 0 <= value <= MAX_UINT64:
            raise _wrong_json(key, known.json, value)
    elif known.json == _BOOLEAN and kind is bool:
        pass
    elif not (kind is str and "string_param" in known.fields):
        raise _wrong_json(key, known.json, value)
    return value  # type: ignore[no-any-return]


def _as_double(key: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise invalid(f"parameter '{key}' is {describe(value)}, which no type of parameter can hold") from None


def _wrong_json(key: str, kind: str, value: Any) -> ServingError:
    return invalid(f"Unable to parse '{key}': attempt to access JSON non-{kind} as {kind}: got {describe(value)}")


def from_messages(parameters: Mapping[str, Any]) -> Parameters:
    """The `parameters` of a gRPC request: InferParameter messages by name.

    Raises:
        ServingError: INVALID, naming the parameter.
    """
    found: Parameters = {}
    for key, parameter in parameters.items():
        field = parameter.WhichOneof("parameter_choice")
        if field is None:
            raise invalid(f"parameter '{key}' has no value")
        value = getattr(parameter, field)
        if key.startswith(_RESERVED):
            if key != _FINAL_RESPONSE:
                raise invalid(
                    f"parameter keys starting with '{_RESERVED}' are reserved for Triton usage and should not be "
                    f"specified. Only the following keys starting with '{_RESERVED}' are allowed: {_FINAL_RESPONSE}"
                )
            allowed: tuple[str, ...] = ("bool_param",)
        else:
            allowed = _KNOWN[key].fields if key in _KNOWN else _CUSTOM_FIELDS
        if field not in allowed:
            raise invalid(f"invalid value type for '{key}' parameter, expected {' or '.join(allowed)}.")
        if key in ("priority", "timeout") and value < 0:
            raise invalid(f"invalid value for '{key}' parameter, expected >= 0, got {value}")
        found[key] = value
    return found


def plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one tensor of a gRPC message, as values; those without a value are left out."""
    fields = {key: (p, p.WhichOneof("parameter_choice")) for key, p in parameters.items()}
    return {key: getattr(p, field) for key, (p, field) in fields.items() if field is not None}


def apply(parameters: Parameters, request: InferRequest, arrived: float | None = None) -> None:
    """Gives `request` its parameters, and takes from them what the engine knows by another name.

    `timeout` is the microseconds that the request may wait, 0 for no limit; a nearer deadline stays.

    Args:
        arrived: when the request did (monotonic); None: now.
    """
    request.parameters = parameters
    get: Any = parameters.get  # what is known has been checked
    request.signature = get("signature_name", "")
    request.priority = get("priority", 0)
    timeout_us = get("timeout")
    if timeout_us:
        latest = (time.monotonic() if arrived is None else arrived) + timeout_us / 1e6
        request.deadline = latest if request.deadline is None else min(latest, request.deadline)
