"""Remote repositories for tests: a directory that is looked at through fsspec, and what mirrors it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.core.artifact import MANIFEST
from serving.repository.disk.reading import Reading
from serving.repository.remote.cache import Cache
from serving.repository.remote.fetch import Fetcher
from serving.repository.remote.store import Object, Store
from serving.repository.remote.synchronise import Found, Outcome, Synchroniser
from serving.repository.remote.tree import Tree


def put(root: Path, path: str, content: str | bytes = "x") -> Path:
    """Writes a file in one step; never one with the time that an earlier one had."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.stat().st_mtime_ns if file.exists() else 0
    new = file.with_name(f".{file.name}.new")
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    if new.stat().st_mtime_ns <= before:
        os.utime(new, ns=(before + 10**9, before + 10**9))
    return new.rename(file)


def contents(root: Path) -> dict[str, str]:
    """Every file below a directory, through links to directories too."""
    return {
        str(Path(directory, name).relative_to(root)): Path(directory, name).read_text()
        for directory, _, names in os.walk(root, followlinks=True)
        for name in names
    }


def manifest_of(**files: str) -> str:
    """The text of a manifest; hashes by file, `.` in names as `_`."""
    import json

    return json.dumps({"schema": 1, "files": {name.replace("_", "."): digest for name, digest in files.items()}})


class Mirrored:
    """A remote repository, its cache and its tree, and passes by hand."""

    def __init__(self, tmp_path: Path, *, url: str = "", grace_s: float = 3600.0, name: str | None = None) -> None:
        self.remote = tmp_path / "remote"
        self.remote.mkdir(exist_ok=True)
        url = url or f"file://{self.remote}"
        self.store = Store(url)
        self.cache = Cache(tmp_path / "cache", grace_s=grace_s)
        self.tree = Tree(self.cache)
        self.fetcher = Fetcher(self.store, self.cache)
        self.pass_over = Synchroniser(self.store, self.cache, self.tree, self.fetcher, Reading(), url, name)

    def bring(
        self, only: str = "", *, at_once: bool = True, needs: Callable[[Found, str], set[int]] | None = None
    ) -> Outcome:
        """One pass. Needed are all versions, unless `needs` says others."""
        found = self.pass_over.look(only)
        needed = {name: needs(found, name) if needs else set(found.models[name].versions) for name in found.models}
        return self.pass_over.bring(found, needed, at_once=at_once)

    def here(self) -> dict[str, str]:
        return contents(self.tree.root)

    def close(self) -> None:
        self.fetcher.close()
        self.cache.close()


@contextmanager
def mirrored(tmp_path: Path, **more: object) -> Iterator[Mirrored]:
    made = Mirrored(tmp_path, **more)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


__all__ = ["MANIFEST", "Mirrored", "Object", "contents", "manifest_of", "mirrored", "put"]
