"""The repository that is served: models with their settings, and links to directories of versions in the cache.

A version comes, changes and goes by one rename, so a reader finds the one or the other. Blocking.
"""

import filecmp
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from serving.repository.disk.layout import version_number
from serving.repository.remote.cache import Cache, failures

_NEW = ".new"  # hidden, so that nobody takes it for a model, a version or a file


class Tree:
    """All methods may raise CacheError.

    Attributes:
        changes: how often something has come, changed or gone.
    """

    def __init__(self, cache: Cache) -> None:
        self.changes = 0
        self._cache = cache
        self.root = cache.directory / "tree"
        with failures(cache.directory):
            self.root.mkdir(exist_ok=True)

    def models(self) -> list[str]:
        with failures(self.root):
            return sorted(entry.name for entry in self.root.iterdir() if not entry.name.startswith("."))

    def versions(self, model: str) -> dict[int, str]:
        """Names of the versions' directories in the cache, by number."""
        found = {}
        with failures(self.root), suppress(FileNotFoundError):
            for entry in (self.root / model).iterdir():
                number = version_number(entry.name)
                if number is not None and entry.is_symlink():
                    found[number] = entry.readlink().name
        return found

    def put_version(self, model: str, number: int, name: str) -> None:
        directory = self.root / model
        with failures(self.root):
            directory.mkdir(exist_ok=True)
            if self.versions(model).get(number) == name:
                return
            new = directory / _NEW
            new.unlink(missing_ok=True)
            new.symlink_to(os.path.relpath(self._cache.version_dir(name), directory))
            new.rename(directory / str(number))
        self.changes += 1

    def remove_versions(self, model: str, numbers: Collection[int]) -> None:
        with failures(self.root):
            for number in numbers:
                (self.root / model / str(number)).unlink(missing_ok=True)
                self.changes += 1

    def put_loose(self, model: str, contents: Mapping[str, str]) -> None:
        """Makes these the files that the model has beside its versions: hashes by path."""
        directory = self.root / model
        with failures(self.root):
            directory.mkdir(exist_ok=True)
            wanted = {directory / path for path in contents}
            for path in sorted(directory.rglob("*"), reverse=True):  # what is in a directory before the directory
                if path.is_dir() and not path.is_symlink():
                    with suppress(OSError):
                        path.rmdir()  # unless there is something in it
                elif path not in wanted and not path.is_symlink():  # links are versions
                    path.unlink()
                    self.changes += 1
            for name, content in contents.items():
                self._put_file(directory / name, content)

    def _put_file(self, path: Path, content: str) -> None:
        there = self._cache.object(content)
        if path.is_file() and (path.samefile(there) or filecmp.cmp(path, there, shallow=False)):
            return
        new = path.with_name(_NEW)
        new.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._cache.link(content, new)
        new.rename(path)
        self.changes += 1

    def remove(self, model: str) -> None:
        gone = self.root / f"{_NEW}-gone"
        with failures(self.root):
            shutil.rmtree(gone, ignore_errors=True)
            (self.root / model).rename(gone)
            shutil.rmtree(gone)
        self.changes += 1
