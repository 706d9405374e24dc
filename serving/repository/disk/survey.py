"""Reads all the paths that are served, with the settings beside the models. Blocking; runs in a thread, keeps no state.

What it finds is news, not a decision: the manager holds it against what is loaded and what was asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.core.spec import ModelSpec, SpecError
from serving.repository.disk.layout import FoundModel, Kind, LayoutError, kind_of, scan
from serving.repository.disk.reading import Reading


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
    """What one source holds now; `problem`, if it could not be read, in which case nothing is known of it.

    `warnings` are about the settings of models that can be served all the same, by model, a line each.
    """

    source: Source
    kind: Kind | None = None
    models: Mapping[str, FoundModel] = field(default_factory=dict)
    specs: Mapping[str, ModelSpec | SpecError] = field(default_factory=dict)
    problem: str = ""
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def survey(sources: Sequence[Source], kinds: Mapping[Source, Kind], reading: Reading | None = None) -> list[Finding]:
    """Reads each source.

    Args:
        kinds: what sources were found to be before; a repository stays one whatever is put into it.
        reading: how the settings of models come about; None: from `model.yaml` alone.
    """
    reading = reading or Reading()
    return [_read(source, source.kind or kinds.get(source), reading) for source in sources]


def _read(source: Source, kind: Kind | None, reading: Reading) -> Finding:
    try:
        kind = kind or kind_of(source.path)
        models = scan(source.path, source.name, kind)
    except LayoutError as error:
        return Finding(source, kind, problem=str(error))
    specs: dict[str, ModelSpec | SpecError] = {}
    warnings: dict[str, tuple[str, ...]] = {}
    for name, model in models.items():
        read = reading.settings(model)
        specs[name] = read if isinstance(read, SpecError) else read.spec
        if isinstance(read, SpecError):
            if not model.versions:  # otherwise each of them fails with it
                warnings[name] = (str(read),)
        elif read.warnings:
            warnings[name] = read.warnings
    return Finding(source, kind, models, specs, warnings=warnings)
