"""Which loaded version a request of TensorFlow Serving's API means, and what it is told of the others.

Reads a catalog, never changes one. The texts are those that TensorFlow Serving's clients know.
"""

from dataclasses import dataclass
from typing import Any

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.protocols import messages as m
from serving.repository.catalog import Catalog, CatalogModel, IndexEntry
from serving.repository.version import State, Version

_STATES = {
    State.NEW: "START",
    State.LOADING: "LOADING",
    State.WARMING: "LOADING",
    State.READY: "AVAILABLE",
    State.DRAINING: "UNLOADING",
    State.UNLOADING: "UNLOADING",
    State.END: "END",
    State.FAILED: "END",
}


@dataclass(frozen=True, slots=True)
class Target:
    """The version of a model that a request names: by number, by label, or as neither, which leaves the choice."""

    model: str
    version: int | None = None
    label: str = ""


def resolve(catalog: Catalog, target: Target) -> Version:
    """The ready version that a question is about.

    Raises:
        ServingError: INVALID for an unknown label, otherwise NOT_FOUND: also where the version exists and is not ready.
    """
    model, number = _named(catalog, target)
    version = None if model is None else model.default if number is None else model.ready.get(number)
    return _found(target, number, version)


def route(catalog: Catalog, target: Target, key: str | None = None) -> Version:
    """The ready version that answers a request; see `Catalog.route`.

    Raises:
        ServingError: as `resolve`.
    """
    model, number = _named(catalog, target)
    version = None if model is None else model.pick(key) if number is None else model.ready.get(number)
    return _found(target, number, version)


def _named(catalog: Catalog, target: Target) -> tuple[CatalogModel | None, int | None]:
    model = catalog.models.get(target.model)
    if not target.label:
        return model, target.version
    number = model.labels.get(target.label) if model else None
    if number is None:
        raise invalid(f"Unrecognized servable version label: {target.label}")
    return model, number


def _found(target: Target, number: int | None, version: Version | None) -> Version:
    if version is None:
        asked = f"Latest({target.model})" if number is None else f"Specific({target.model}, {number})"
        raise ServingError(ErrorKind.NOT_FOUND, f"Servable not found for request: {asked}")
    return version


def status(catalog: Catalog, model: str, number: int | None = None) -> Any:
    """A GetModelStatusResponse: the version of that number, or all of them, highest first.

    Raises:
        ServingError: NOT_FOUND.
    """
    lines = [line for line in catalog.index if line.model == model and line.number is not None]
    known = catalog.models.get(model)
    asleep = known.asleep.versions if known is not None and known.asleep is not None else frozenset()
    if number is not None:
        lines = [line for line in lines if line.number == number]
    if not lines:
        what = "any versions" if number is None else f"version {number}"
        raise ServingError(ErrorKind.NOT_FOUND, f"Could not find {what} of model {model}")
    lines.sort(key=lambda line: line.number or 0, reverse=True)
    return m.tfs.GetModelStatusResponse(
        model_version_status=[_version_status(line, line.number in asleep) for line in lines]
    )


def _version_status(line: IndexEntry, takes_requests: bool) -> Any:
    """
    Args:
        takes_requests: although it is not loaded; the next one will load it.
    """
    failed = line.state is State.FAILED
    return m.tfs.ModelVersionStatus(
        version=line.number,
        state="AVAILABLE" if takes_requests else _STATES[line.state or State.NEW],
        status=m.tfs.StatusProto(error_code="UNKNOWN" if failed else "OK", error_message=line.reason if failed else ""),
    )
