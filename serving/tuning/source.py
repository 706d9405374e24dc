"""Finds the model that is tuned, with its settings as the server would read them. Blocking."""

from dataclasses import dataclass
from pathlib import Path

from serving.core.spec import SPEC_FILE, ModelSpec, SpecError
from serving.protocols.oip.pbtxt import READERS
from serving.repository.disk.layout import FoundModel, FoundVersion, Kind, LayoutError, kind_of, scan
from serving.repository.disk.reading import Reading
from serving.repository.policy import wanted


class SourceError(Exception):
    """There is no such model, or it cannot be used; the message is one line."""


@dataclass(frozen=True)
class Subject:
    """
    Attributes:
        file: where the settings are, or will be; None: there is no place for them, `because`.
    """

    name: str
    version: FoundVersion
    spec: ModelSpec
    file: Path | None
    because: str = ""


def find(path: Path, number: int | None = None) -> Subject:
    """
    Args:
        path: a model's directory, an artifact, or a repository of one model.
        number: the version; None: the highest that would be served.

    Raises:
        SourceError: there is none, or it cannot be used.
    """
    try:
        kind = kind_of(path)
        models = {name: model for name, model in scan(path, kind=kind).items() if model.versions}
    except LayoutError as error:
        raise SourceError(str(error)) from None
    if not models:
        raise SourceError(f"'{path}' holds no model")
    if len(models) > 1:
        raise SourceError(
            f"'{path}' holds {len(models)} models: name one of them, such as '{path / next(iter(models))}'"
        )
    (model,) = models.values()
    read = Reading(READERS).settings(model)
    if isinstance(read, SpecError):
        raise SourceError(str(read))
    if number is None:
        number = max(wanted(model.versions.keys(), read.spec), default=max(model.versions))
    if number not in model.versions:
        raise SourceError(f"'{model.name}' has no version {number}; there are {', '.join(map(str, model.versions))}")
    file, because = _place(model, kind)
    return Subject(model.name, model.versions[number], read.spec, file, because)


def _place(model: FoundModel, kind: Kind) -> tuple[Path | None, str]:
    if kind is Kind.FILE:
        return None, f"a model file has no {SPEC_FILE} beside it that counts; a directory <name>/<version>/ has"
    if model.spec_file is not None and model.spec_file.name != SPEC_FILE:
        return None, f"the settings are in {model.spec_file}, which a {SPEC_FILE} would replace as a whole"
    return model.path / SPEC_FILE, ""
