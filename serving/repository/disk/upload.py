"""Models that came over the network: each in a directory of its own, all below one that nobody else may read.

`check_files` is pure; `write` and `remove` block, so they run in a thread. Which directories are still needed is for
the manager to say, on the event loop.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.repository.disk.layout import version_number

_PREFIX = "serving-uploads-"  # of a server's directory, which is locked for as long as the server lives
_MAX_FILES = 10_000
_MAX_NAME_BYTES = 255  # what file systems allow


class Uploads:
    """The directories that hold uploaded models.

    Args:
        allowed: False: nothing may be uploaded, and nothing is written. True: what servers left that were killed is
            removed.
    """

    def __init__(self, allowed: bool) -> None:
        self._root: Path | None = None
        self._lock: int | None = None
        self._held: set[Path] = set()
        if allowed:
            made = Path(tempfile.mkdtemp(prefix="."))
            self._lock = _locked(made)
            self._root = made.rename(made.with_name(_PREFIX + made.name[1:]))
            _remove_left(made.parent)

    def check(self, model: str, files: Mapping[str, bytes]) -> None:
        """Raises: ServingError: FORBIDDEN: not allowed here; INVALID: names the file that cannot be taken."""
        if self._root is None:
            raise ServingError(
                ErrorKind.FORBIDDEN,
                f"failed to load '{model}': files cannot be uploaded to this server; "
                "start it with --allow-model-upload to allow it",
            )
        check_files(model, files)

    def write(self, model: str, files: Mapping[str, bytes]) -> Path:
        """Writes checked files; the model's new directory. Blocking.

        Raises:
            ServingError: UNAVAILABLE: the disk does not take them.
        """
        try:
            directory = Path(tempfile.mkdtemp(dir=self._root))
        except OSError as error:
            raise _not_stored(model, error) from None
        try:
            for name, content in files.items():
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise _not_stored(model, error) from None
        return directory

    def hold(self, directory: Path) -> None:
        """From here on the directory is one of those that `release_all_but` decides on."""
        self._held.add(directory)

    def release_all_but(self, needed: Collection[Path]) -> list[Path]:
        """Gives up the directories that are not `needed`; returns them, for `remove`."""
        given_up = [directory for directory in self._held if directory not in needed]
        self._held.difference_update(given_up)
        return given_up

    def without_paths(self, text: str) -> str:
        """A message in which uploaded files have the names that they came with, and not where they lie."""
        return re.sub(rf"{re.escape(str(self._root))}/[^/]+/", "", text) if self._root is not None else text

    def close(self) -> None:
        """Removes everything. Blocking."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(directory: Path) -> int | None:
    """A descriptor; while it is open, nobody else gets one. None: somebody has it, or there is no such directory."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_left(parent: Path) -> None:
    for directory in parent.glob(f"{_PREFIX}*"):
        lock = _locked(directory)
        if lock is not None:
            remove([directory])
            os.close(lock)


def _not_stored(model: str, error: OSError) -> ServingError:
    text = f"failed to load '{model}': its files cannot be stored: {error.strerror}"
    return ServingError(ErrorKind.UNAVAILABLE, text)


def remove(directories: Collection[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def check_files(model: str, files: Mapping[str, bytes]) -> None:
    """Refuses what could leave the model's directory, or would not make one.

    Args:
        files: contents by path. A path is `<version>/<file>`, directories between them allowed, or one file name:
            settings and labels.

    Raises:
        ServingError: INVALID, naming the path and what is wrong with it.
    """
    if len(files) > _MAX_FILES:
        raise invalid(f"failed to load '{model}': {len(files)} files are too many, at most {_MAX_FILES} are taken")
    for name in files:
        problem = _problem(name)
        if problem:
            raise invalid(f"failed to load '{model}': file '{name[:200]}': {problem}")
    directories = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    for name in files:
        if name in directories:
            raise invalid(f"failed to load '{model}': file '{name}': another file has it as its directory")
    if not any("/" in name for name in files):
        raise invalid(f"failed to load '{model}': no file is in a version's directory, such as '1/model.onnx'")


def _problem(name: str) -> str:
    """What is wrong with a path; empty: nothing."""
    parts = name.split("/")
    if not all(parts):
        return "expected a relative path without empty parts, such as '1/model.onnx'"
    for part in parts:
        if part.startswith("."):
            return "hidden files, '.' and '..' are not taken"
        if "\\" in part or not part.isprintable():
            return "expected printable characters and no backslash"
        if len(part.encode()) > _MAX_NAME_BYTES:
            return f"a name of more than {_MAX_NAME_BYTES} bytes"
    is_version = version_number(parts[0]) is not None
    if is_version and len(parts) == 1:
        return "a version is a directory, such as '1/model.onnx'"
    if not is_version and len(parts) > 1:
        return "the first directory must be a version number, such as '1/model.onnx'"
    return ""
