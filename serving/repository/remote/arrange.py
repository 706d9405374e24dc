"""Makes models and versions of what a store lists. Pure, but for the empty files that `kind_of` shows to the layout.

Whatever the URL is (a repository, one model's directory, one version, one file), what comes out are models with
versions, so that the local copy is always a repository.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from serving.core.spec import SPEC_FILE
from serving.repository.disk import layout
from serving.repository.disk.layout import Kind, version_number
from serving.repository.remote.store import Object

LOOSE_LIMIT_BYTES = 64 * 1024 * 1024  # of settings and labels; what is larger is none of those
_MAX_NAME_BYTES = 255  # what file systems allow


@dataclass
class RemoteModel:
    """What the store has of one model: files by their path below the model's or the version's directory."""

    loose: dict[str, Object] = field(default_factory=dict)  # settings, labels
    versions: dict[int, dict[str, Object]] = field(default_factory=dict)


def kind_of(objects: Iterable[Object], url: str) -> Kind:
    """What the URL is, by the rules for local paths. Blocking.

    Raises:
        LayoutError: none of all.
    """
    paths = [item.path for item in objects]
    if "" in paths:
        if not url.endswith(".onnx"):
            raise layout.LayoutError(f"'{url}' is not a model file: its name does not end in .onnx")
        return Kind.FILE
    with TemporaryDirectory(prefix="serving-") as directory:
        for path in {PurePosixPath(*PurePosixPath(path).parts[:2]) for path in paths if _is_safe(path)}:
            made = Path(directory, path)
            try:
                made.parent.mkdir(exist_ok=True)
                made.touch()
            except OSError:  # one name for a file and a directory, or one that this system does not take
                continue
        return layout.kind_of(Path(directory))


def arrange(objects: Iterable[Object], kind: Kind, name: str) -> dict[str, RemoteModel]:
    """By model name; models without any version are left out.

    Args:
        name: of the model, unless `kind` is a repository.
    """
    models: dict[str, RemoteModel] = {}
    versions: dict[str, dict[str, dict[str, Object]]] = {}  # by model and directory
    for path, item in _without_conflicts(objects).items():
        parts = list(PurePosixPath(path).parts)
        if kind is Kind.REPOSITORY:
            model, *parts = parts
            if not parts or model.startswith((".", "_")):
                continue
        else:
            model = name
        found = models.setdefault(model, RemoteModel())
        if kind is Kind.FILE:
            found.versions[1] = {PurePosixPath(item.name).name: item}
        elif kind is Kind.VERSION:
            found.versions.setdefault(1, {})[path] = item
            if path == SPEC_FILE:
                found.loose[path] = item
        elif version_number(parts[0]) is not None:
            if len(parts) > 1:
                versions.setdefault(model, {}).setdefault(parts[0], {})["/".join(parts[1:])] = item
        elif not parts[0].startswith(".") and item.size <= LOOSE_LIMIT_BYTES:  # hidden: a version that is being written
            found.loose["/".join(parts)] = item
    for model, directories in versions.items():
        # Of two spellings of one number the plain one counts, which is the shortest.
        for directory in sorted(directories, key=len, reverse=True):
            models[model].versions[int(directory)] = directories[directory]
    return {name: model for name, model in sorted(models.items()) if model.versions}


def _without_conflicts(objects: Iterable[Object]) -> Mapping[str, Object]:
    """Those that can be files of one tree: stores have keys that file systems do not."""
    by_path = {item.path: item for item in objects if not item.path or _is_safe(item.path)}
    directories = {str(parent) for path in by_path for parent in PurePosixPath(path).parents}
    return {path: item for path, item in by_path.items() if path not in directories}


def _is_safe(path: str) -> bool:
    """Whether it leads to a file below the directory to which it is appended."""
    return all(
        part not in ("", ".", "..") and "\0" not in part and len(part.encode(errors="replace")) <= _MAX_NAME_BYTES
        for part in path.split("/")
    )
