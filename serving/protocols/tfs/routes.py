"""Which request a REST path of TensorFlow Serving means. Pure; knows no model."""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from serving.core.errors import invalid
from serving.protocols.tfs.servables import Target

_MODEL = r"([^/:]+)"
_CHOICE = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
_POST = re.compile(rf"/v1/models/{_MODEL}{_CHOICE}:(classify|regress|predict)", re.ASCII | re.IGNORECASE)
_GET = re.compile(rf"/v1/models(?:/{_MODEL})?{_CHOICE}(?:/(metadata))?", re.ASCII | re.IGNORECASE)
_MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Route:
    """`action` is classify, regress, predict, metadata or status."""

    action: str
    target: Target


def route(method: str, path: str) -> Route:
    """Reads a request line; `path` is as it came: percent-encoded, without the query.

    Raises:
        ServingError: INVALID.
    """
    pattern = {"POST": _POST, "GET": _GET}.get(method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise invalid(f"Malformed request: {method} {path}")
    name, version, label, action = match.groups()
    if name is None:
        raise invalid("Missing model name in request.")
    target = Target(_decoded(name, "name"), _number(version), _decoded(label, "version label") if label else "")
    return Route((action or "status").lower(), target)


def _decoded(text: str, what: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise invalid(f"Failed to decode model {what}: {text}") from None


def _number(digits: str | None) -> int | None:
    if digits is None:
        return None
    significant = digits.lstrip("0")
    if len(significant) > 19 or int(digits[-19:]) > _MAX_INT64:
        raise invalid(f"Failed to convert version: {digits} to numeric.")
    return int(digits[-19:])
