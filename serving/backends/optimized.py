"""Graphs as ONNX Runtime has optimized them, kept on disk: `cache_optimized: true` in model.yaml. Blocking.

A later load then reads what an earlier one worked out. Kept is what does not depend on the processor; the rest ONNX
Runtime does at each load. An entry that is damaged, or cannot be written, is as good as none. Any process may use the
same directory at the same time.
"""

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from serving.core.artifact import MANIFEST

log = logging.getLogger(__name__)

directory: Path | None = None  # of this process; None: nothing is kept

MOST_BYTES = 10_000_000_000  # of all entries; those that were not used for longest go
_MODEL_BYTES = 1_500_000_000  # protobuf cannot hold 2 GB in one file
_MODEL, _HASH = "model.onnx", "sha256"


def find_or_make(artifact: Path, runtime: str, write: Callable[[Path], object]) -> Path | None:
    """The optimized form of a graph; None: there is none, and the artifact has to do.

    Args:
        runtime: which one optimizes, and how.
        write: writes the optimized graph to a path. May raise anything.
    """
    if directory is None:
        return None
    made: Path | None = None
    try:
        files = [path for path in artifact.parent.iterdir() if path.is_file()]
        if sum(path.stat().st_size for path in files) > _MODEL_BYTES:
            return None
        entry = directory / _key(artifact, files, runtime)
        if not _whole(entry):
            directory.mkdir(parents=True, exist_ok=True)
            made = Path(mkdtemp(prefix=".tmp-", dir=directory))
            write(made / _MODEL)
            (made / _HASH).write_text(_sha256(made / _MODEL))
            made.replace(entry)
            _make_room()
        (entry / _HASH).touch()
        return entry / _MODEL
    except Exception as error:  # the file system's, and whatever the runtime raises
        log.info("%s: loaded without a cached graph: %s", artifact, error)
        return None
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def drop(model: Path) -> None:
    """Removes an entry that turned out not to load."""
    shutil.rmtree(model.parent, ignore_errors=True)


def _key(artifact: Path, files: list[Path], runtime: str) -> str:
    """Stands for the content of a model: what its manifest says or, without one, its files as long as nobody touches
    them."""
    manifest = artifact.parent / MANIFEST
    if manifest.exists():
        content = manifest.read_text()
    else:
        infos = sorted((str(path.absolute()), path.stat()) for path in files)
        content = repr([(name, info.st_size, info.st_mtime_ns, info.st_ino) for name, info in infos])
    return hashlib.sha256(repr((content, artifact.name, runtime)).encode()).hexdigest()


def _whole(entry: Path) -> bool:
    """Whether it is what was written. Removes it if not."""
    try:
        if (entry / _HASH).read_text() == _sha256(entry / _MODEL):
            return True
    except FileNotFoundError:
        pass
    shutil.rmtree(entry, ignore_errors=True)
    return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_room() -> None:
    total = 0
    for _, size, entry in sorted(_entries(), reverse=True):
        total += size
        if total > MOST_BYTES:
            shutil.rmtree(entry, ignore_errors=True)


def _entries() -> Iterator[tuple[float, int, Path]]:
    """When each was last used, its bytes, and where it is."""
    assert directory is not None
    for entry in directory.iterdir():
        with suppress(OSError):  # another process has just removed it
            yield (entry / _HASH).stat().st_mtime, (entry / _MODEL).stat().st_size, entry
