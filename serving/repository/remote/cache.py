"""The directory of one remote source on this machine. Blocking; the threads of its mirror only.

    lock         held by the server that uses the directory: there is never a second one
    objects/     contents, by SHA-256; read-only
    keys/        what was listed before, as links to its contents: what is here is not fetched again
    partial/     what has been fetched of contents that are not whole yet
    versions/    directories of versions, by what is in them; their files are links to objects
    tree/        the repository that is served, see `tree.py`
    synced       as old as the last time when everything was in line with the store

Each entry comes to be by one rename or link, so it is whole whenever the process is killed. Only `partial` grows in
place; what is there is used when it is complete, and the store still has the object that it is a part of.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from serving.repository.remote.store import Object, redacted

GRACE_S = 3600.0

_NEW = ".new-"
_BLOCK_BYTES = 4096  # what a file takes more than its size
# Where a file cannot have several names, it is copied instead.
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EXDEV, errno.ENOSYS)


class CacheError(Exception):
    """The cache cannot be used or written; the message is one line that says why. `full`: for want of space."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


def directory_for(cache_dir: Path, url: str) -> Path:
    """Where the cache of this URL is: a name that people know again, and that no other URL has."""
    readable = re.sub(r"[^\w.-]+", "-", redacted(url))[:80].strip("-.")
    return cache_dir / f"{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def key_of(item: Object) -> str:
    """The same for as long as the store has the same content under the same name, as far as it tells."""
    return hashlib.sha256(f"{item.name}\0{item.size}\0{item.token}".encode()).hexdigest()


class Cache:
    """
    Args:
        grace_s: how long what nothing needs any more is kept, so that going back is quick.

    Raises:
        CacheError: the directory cannot be made or written, or another server uses it.
    """

    def __init__(self, directory: Path, *, grace_s: float = GRACE_S) -> None:
        self.directory = directory
        self._grace_s = grace_s
        self._objects = directory / "objects"
        self._keys = directory / "keys"
        self._partial = directory / "partial"
        self._versions = directory / "versions"
        self._lock: int | None = None
        self._unneeded: dict[Path, float] = {}  # since when (monotonic)
        with failures(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._take(lock)
        except BaseException:
            self.close()
            raise

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CacheError(
                f"the cache '{self.directory}' is in use by another server: give this one its own --cache-dir"
            ) from None
        except OSError as error:
            raise CacheError(f"the cache '{self.directory}' cannot be locked: {error.strerror}") from None
        with failures(self.directory):
            for made in (self._objects, self._keys, self._partial, self._versions):
                made.mkdir(exist_ok=True)
            for left in self._versions.glob(f"{_NEW}*"):  # by a server that was killed
                shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Lets others have the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # Objects

    def lacks(self, items: Collection[Object]) -> int:
        """How many bytes it takes to have these too."""
        lacking = 0
        for item in items:
            key = key_of(item)
            if self.known(key) is None:
                there = self.partial(key).stat().st_size if self.partial(key).exists() else 0
                lacking += max(0, item.size - there) + _BLOCK_BYTES
        return lacking

    def free_bytes(self) -> int:
        """Raises: CacheError."""
        with failures(self.directory):
            return shutil.disk_usage(self.directory).free

    def drop(self, items: Collection[Object]) -> None:
        """Gives up what has been fetched of these, so that there is room for others."""
        for item in items:
            _remove(self.partial(key_of(item)))

    def known(self, key: str) -> str | None:
        """The hash of the content that goes by this key; None: it is not here."""
        try:
            content = (self._keys / key).readlink().name
        except OSError:
            return None
        return content if self.object(content).is_file() else None

    def object(self, content: str) -> Path:
        return self._objects / content

    def partial(self, key: str) -> Path:
        return self._partial / f"{key}.part"

    def keep(self, key: str) -> str:
        """Makes an object of the partial one, which is complete, and returns its hash. Raises: CacheError."""
        part = self.partial(key)
        with failures(self.directory):
            with part.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            part.chmod(0o444)
            self.remember(key, content)
            part.rename(self.object(content))
        return content

    def remember(self, key: str, content: str) -> None:
        link = self._keys / f"{_NEW}{key}"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..", self._objects.name, content))
        link.rename(self._keys / key)

    # Versions

    def version(self, contents: Mapping[str, str]) -> str:
        """Makes the directory of a version, unless it is here, and returns its name. Raises: CacheError.

        Args:
            contents: hashes by path.
        """
        name = version_name(contents)
        directory = self._versions / name
        if not directory.is_dir():
            new = self._versions / f"{_NEW}{name}"
            with failures(self.directory):
                shutil.rmtree(new, ignore_errors=True)
                for path, content in contents.items():
                    (new / path).parent.mkdir(parents=True, exist_ok=True)
                    self.link(content, new / path)
                new.rename(directory)
        return name

    def version_dir(self, name: str) -> Path:
        return self._versions / name

    def link(self, content: str, path: Path) -> None:
        """Gives an object another name. Raises: OSError."""
        try:
            os.link(self.object(content), path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(self.object(content), path)

    # Housekeeping

    def collect(
        self, versions: Collection[str], contents: Collection[str], keys: Collection[str], *, at_once: bool = False
    ) -> None:
        """Removes what has not been needed for the time of grace.

        Args:
            versions: names of those that are needed,
            contents: hashes of the objects that are,
            keys: and keys; those of what is being fetched too.
            at_once: without grace.
        """
        needed = {self.version_dir(name) for name in versions} | {self.object(content) for content in contents}
        needed |= {self._keys / key for key in keys} | {self.partial(key) for key in keys}
        now = time.monotonic()
        there = [path for kept in (self._keys, self._versions, self._objects, self._partial) for path in kept.iterdir()]
        since = {path: self._unneeded.get(path, now) for path in there if path not in needed}
        for path, beginning in list(since.items()):
            if at_once or now - beginning >= self._grace_s:
                _remove(path)
                del since[path]
        self._unneeded = since

    @property
    def synced_at(self) -> float:
        """When everything was in line with the store, in seconds since the epoch; 0: never."""
        with suppress(OSError):
            return (self.directory / "synced").stat().st_mtime
        return 0.0

    def synced(self) -> None:
        with failures(self.directory):
            (self.directory / "synced").touch()


def version_name(contents: Mapping[str, str]) -> str:
    text = "".join(f"{path}\0{content}\n" for path, content in sorted(contents.items()))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        gone = path.with_name(f"{_NEW}gone")  # a version is there as a whole or not at all
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(OSError):
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def failures(directory: Path) -> Iterator[None]:
    """Turns what the file system refuses into a CacheError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "no space is left" if full else error.strerror or str(error)
        raise CacheError(f"the cache '{directory}' cannot be written: {reason}", full=full) from None
