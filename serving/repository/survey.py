"""Reads all the paths that are served, with the settings beside the models. Blocking; runs in a thread, keeps no state.

What it finds is news, not a decision: the manager holds it against what is loaded and what was asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.core.spec import ModelSpec, SpecError, parse_spec
from serving.repository.layout import FoundModel, Kind, LayoutError, kind_of, scan


@dataclass(frozen=True)
class Source:
    """A path to serve from. `name` overrides the model's name where the path is one model.

    `kind` says what the path is, whatever it looks like; None: that is found out when it is first read.
    """

    path: Path
    name: str | None = None
    kind: Kind | None = None


@dataclass(frozen=True)
class Finding:
    """What one source holds now; `problem`, if it could not be read, in which case nothing is known of it."""

    source: Source
    kind: Kind | None = None
    models: Mapping[str, FoundModel] = field(default_factory=dict)
    specs: Mapping[str, ModelSpec | SpecError] = field(default_factory=dict)
    problem: str = ""


def survey(sources: Sequence[Source], kinds: Mapping[Source, Kind]) -> list[Finding]:
    """Reads each source.

    Args:
        kinds: what sources were found to be before; a repository stays one whatever is put into it.
    """
    return [_read(source, source.kind or kinds.get(source)) for source in sources]


def _read(source: Source, kind: Kind | None) -> Finding:
    try:
        kind = kind or kind_of(source.path)
        models = scan(source.path, source.name, kind)
    except LayoutError as error:
        return Finding(source, kind, problem=str(error))
    return Finding(source, kind, models, {name: read_spec(model) for name, model in models.items()})


def read_spec(model: FoundModel) -> ModelSpec | SpecError:
    """The model's settings: those of its `model.yaml`, or what is wrong with it."""
    if model.spec_file is None:
        return ModelSpec()
    try:
        return parse_spec(model.spec_file.read_text(), str(model.spec_file))
    except SpecError as error:
        return error
    except (OSError, UnicodeDecodeError) as error:
        return SpecError(f"{model.spec_file}: cannot be read: {error}")
