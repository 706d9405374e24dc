"""Holds a list of models that shall be all that is served against what is on disk, before anything changes. Pure, but
for the links that it follows in the names of served paths."""

import os
from collections.abc import Collection, Container, Iterable, Sequence
from pathlib import Path

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.spec import ModelSpec, Versions
from serving.repository.control.orders import Wanted
from serving.repository.disk.layout import FoundModel, Kind
from serving.repository.disk.survey import Finding, Source
from serving.repository.policy import wanted as wanted_versions


def of_operator(models: Sequence[Wanted]) -> tuple[list[Source], dict[str, ModelSpec]]:
    """What an operator's own list comes to, whose paths may be anywhere: sources, and settings by model."""
    specs = {model.name: ModelSpec(versions=model.versions, version_labels=dict(model.labels)) for model in models}
    return [Source(Path(os.path.normpath(model.path)), model.name, Kind.MODEL) for model in models], specs


def places(
    models: Sequence[Wanted], served: Iterable[Source], roots: Iterable[Path] = ()
) -> list[tuple[Wanted, Source | None]]:
    """Where each model of the list is; None: where its name leads to in one of the `served` paths.

    Args:
        roots: directories that are not served, and in which models may be all the same.

    Raises:
        ServingError: INVALID: a name comes twice. FORBIDDEN: a path is not inside one that is served.
    """
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise invalid(f"Illegal to list model {name} multiple times in config list")
    return [(model, _place(model, served, roots) if model.path else None) for model in models]


def _place(model: Wanted, served: Iterable[Source], roots: Iterable[Path]) -> Source | None:
    """A relative path begins at a served one."""
    for source in served:
        path = Path(os.path.normpath(source.path / model.path))
        below = _below(path, source.path)
        if below is not None:
            is_its_own = below == Path(model.name) or (not below.parts and model.name == (source.name or path.name))
            return None if is_its_own else Source(path, model.name, Kind.MODEL)
    path = Path(os.path.normpath(model.path))
    if any(_below(path, root) is not None for root in roots):
        return Source(path, model.name, Kind.MODEL)
    allowed = ", ".join(f"'{each}'" for each in (*(source.path for source in served), *roots))
    raise ServingError(
        ErrorKind.FORBIDDEN,
        f"model '{model.name}': the path '{model.path}' is not inside one that this server was started with: {allowed}",
    )


def is_served(place: Source, served: Iterable[Source], roots: Iterable[Path] = ()) -> bool:
    """Whether a place is inside one of the `served` paths, or of the `roots`."""
    return any(_below(place.path, path) is not None for path in (*(source.path for source in served), *roots))


def _below(path: Path, directory: Path) -> Path | None:
    """The way from the directory to `path`. Links that lead out are followed: operators made them, not clients."""
    for root in (directory, directory.resolve()):
        if path.is_relative_to(root):
            return path.relative_to(root)
    return None


def find(findings: Sequence[Finding], name: str, place: Source | None, served: Container[Source]) -> FoundModel:
    """The model's directory as it was just read: `place`, or, if that is None, in one of the `served` paths.

    Raises:
        ServingError: INVALID: there is none, or it holds no version.
    """
    problems = []
    for finding in findings:
        if finding.source == place or (place is None and finding.source in served):
            model = finding.models.get(name)
            if model is not None and model.versions:
                return model
            problems.append(finding.problem)
    told = "; ".join(filter(None, problems))
    raise invalid(f"failed to load '{name}', failed to poll from model repository{': ' if told else ''}{told}")


def check(
    models: Sequence[tuple[Wanted, Source | None]], findings: Sequence[Finding], served: Container[Source]
) -> None:
    """Raises:
    ServingError: INVALID: a model, or every version that is wanted of it, is not there. PRECONDITION: a label is for a
        version that will not be served.
    """
    for wanted, place in models:
        there = find(findings, wanted.name, place, served)
        numbers = wanted_versions(there.versions, ModelSpec(versions=wanted.versions))
        if not numbers:
            raise none_of(wanted.name, wanted.versions, there)
        check_labels(wanted, numbers)


def none_of(name: str, versions: Versions, there: FoundModel) -> ServingError:
    return invalid(
        f"failed to load '{name}': none of the wanted versions {list(versions)} "
        f"is in '{there.path}', which has {sorted(there.versions)}"
    )


def check_labels(model: Wanted, available: Collection[int]) -> None:
    """Raises: ServingError: PRECONDITION: a label is for a version that is not `available`."""
    for number in model.labels.values():
        if number not in available:
            raise ServingError(
                ErrorKind.PRECONDITION,
                f"Request to assign label to version {number} of model {model.name}, "
                "which is not currently available for inference",
            )
