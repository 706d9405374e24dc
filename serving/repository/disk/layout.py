"""Reads directories: which models and versions a path holds. Blocking file work, no state.

A path is a repository (`<name>/<version>/<artifact>`), one model's directory (`<version>/<artifact>`, or the artifact
itself: a SavedModel's directory, for instance), or one `.onnx` file. What an artifact is, backends know.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from stat import S_ISDIR

from serving.backends.registry import find_artifact
from serving.core.artifact import MANIFEST
from serving.core.spec import MAX_VERSION, SPEC_FILE

SPEC_FILES = (SPEC_FILE, "config.pbtxt")  # where a model's settings may be; the first that is there counts

Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class FoundVersion:
    """A version on disk. `fingerprint` changes with any of its files or with that of its model's settings.

    `changed_at` is when the youngest of its files was written, or one came or went (seconds since the epoch).
    """

    number: int
    path: Path
    fingerprint: Fingerprint
    changed_at: float
    has_manifest: bool


@dataclass(frozen=True)
class FoundModel:
    """A model on disk. `spec_file` holds its settings; `passed_over` would, if that were not there."""

    name: str
    path: Path
    spec_file: Path | None
    versions: Mapping[int, FoundVersion] = field(default_factory=dict)
    passed_over: Path | None = None


class LayoutError(Exception):
    """The path holds nothing that could be served; the message is one line for the operator."""


class Kind(Enum):
    """What a path is. Decided once: a repository stays one whatever is put into it."""

    FILE = "model file"
    VERSION = "directory with a model in it"
    MODEL = "directory of one model's versions"
    REPOSITORY = "directory of models"


def kind_of(path: Path) -> Kind:
    """Raises: LayoutError: there is nothing of any kind, or it cannot be read."""
    try:
        if path.is_file():
            if path.name == "saved_model.pb":
                raise LayoutError(f"'{path}' is one file of a SavedModel: name its directory, '{path.parent}'")
            if path.suffix != ".onnx":
                raise LayoutError(f"'{path}' is not a model file: its name does not end in .onnx")
            return Kind.FILE
        if not path.is_dir():
            raise LayoutError(f"no such file or directory: '{path}'")
        if find_artifact(path) is not None:
            return Kind.VERSION
        return Kind.MODEL if _numbered(path) else Kind.REPOSITORY
    except OSError as error:
        raise LayoutError(f"'{path}' cannot be read: {error.strerror}") from None


def scan(path: Path, name: str | None = None, kind: Kind | None = None) -> dict[str, FoundModel]:
    """Everything that `path` holds, by model name.

    Args:
        name: overrides the model's name; only where `path` is one model.
        kind: what `path` was found to be before; None: look.

    Raises:
        LayoutError: no such path, or it cannot be read, or `name` is given for a repository.
    """
    kind = kind or kind_of(path)
    try:
        if not path.exists():
            raise LayoutError(f"no such file or directory: '{path}'")
        if kind is Kind.FILE:
            return _single(path, name or path.stem)
        if kind is Kind.VERSION:
            return _single(path, name or path.resolve().name)
        if kind is Kind.MODEL:
            model = _model(name or path.resolve().name, path)
            return {model.name: model}
        if name is not None:
            raise LayoutError(f"'{path}' is a repository of models, so --model-name cannot name it")
        return {
            entry.name: _model(entry.name, Path(entry.path))
            for entry in sorted(os.scandir(path), key=lambda e: e.name)
            if entry.is_dir() and _is_model_name(entry.name)
        }
    except OSError as error:
        raise LayoutError(f"'{path}' cannot be read: {error.strerror}") from None


def _is_model_name(name: str) -> bool:
    """Not hidden, and text: a name of other bytes could not be written into any answer."""
    return not name.startswith((".", "_")) and name.isprintable()


def _single(path: Path, name: str) -> dict[str, FoundModel]:
    """A file, or a directory that is itself a version, is version 1."""
    spec_file = path / SPEC_FILE
    present = spec_file if spec_file.is_file() else None
    version = _version(1, path, present)
    return {name: FoundModel(name, path, present, {1: version} if version else {})}


def _model(name: str, path: Path) -> FoundModel:
    spec_file, passed_over, *_ = [file for each in SPEC_FILES if (file := path / each).is_file()] + [None, None]
    versions = {}
    for number, version_dir in sorted(_numbered(path).items()):
        version = _version(number, version_dir, spec_file)
        if version is not None:
            versions[number] = version
    return FoundModel(name, path, spec_file, versions, passed_over)


def _numbered(path: Path) -> dict[int, Path]:
    """Version directories. `003` is version 3; of two spellings of one number the plain one counts."""
    found: dict[int, Path] = {}
    for entry in os.scandir(path):
        number = version_number(entry.name)
        if number is not None and entry.is_dir() and (number not in found or entry.name == str(number)):
            found[number] = Path(entry.path)
    return found


def version_number(name: str) -> int | None:
    """The version that a directory of this name holds; None: none."""
    if not (name.isascii() and name.isdigit() and len(name) <= 255):
        return None
    number = int(name)
    return number if 0 < number <= MAX_VERSION else None


def _version(number: int, path: Path, spec_file: Path | None) -> FoundVersion | None:
    """None if it vanished while it was read."""
    stats = []
    changed_at = 0.0
    try:
        for entry in [path, *sorted(path.rglob("*")), *([spec_file] if spec_file else [])]:
            try:
                info = entry.stat()
            except OSError:
                if entry.is_symlink():  # it leads nowhere, as an editor's lock does, so no model can need it
                    continue
                raise
            # ctime too: a copy that preserves times would otherwise look old while it is being written.
            changed_at = max(changed_at, info.st_mtime, info.st_ctime)
            if not S_ISDIR(info.st_mode):
                stats.append((str(entry), info.st_size, info.st_mtime_ns, info.st_ino))
    except FileNotFoundError:
        return None
    return FoundVersion(number, path, tuple(stats), changed_at, (path / MANIFEST).is_file())
