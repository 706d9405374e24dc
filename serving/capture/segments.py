"""Files of records in one directory: writing them with a bound on all together, and reading them again. Blocking.

A file is only ever appended to, by the process that made it, a record at a time. Whatever ends that process, all that
can be cut short is the last record of the last file, and the reader passes over it. When there is more than allowed,
the oldest files go.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serving.capture.record import HEAD_BYTES, DamagedError, Record, decode, size_of

log = logging.getLogger(__name__)

SUFFIX = ".capture"
_SHARE = 8  # of all that is allowed, what one file may take
_MOST_BYTES = 64 * 1024 * 1024  # and that at most


class Writer:
    """Appends records. For one thread.

    Args:
        directory: is made if it is not there, for its owner alone.
        max_bytes: of all files in it, also those of earlier runs.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._file_bytes = max(1, min(max_bytes // _SHARE, _MOST_BYTES))
        self._descriptor: int | None = None
        self._written = 0  # bytes of the file that is open
        self._number = 0

    def append(self, parts: Iterable[bytes | memoryview]) -> bool:
        """Writes one record, given in parts. False: it is larger than all that is allowed.

        Raises:
            OSError: it could not be written; what was is taken back.
        """
        waiting = [memoryview(part) for part in parts if len(part)]
        size = sum(len(part) for part in waiting)
        if size > self._max_bytes:
            return False
        if self._descriptor is not None and self._written + size > self._file_bytes:
            self.close()
        if self._descriptor is None:
            self._make_room(max(size, self._file_bytes))
            self._open()
        assert self._descriptor is not None
        try:
            while waiting:
                done = os.writev(self._descriptor, waiting[:64])
                while waiting and done >= len(waiting[0]):
                    done -= len(waiting.pop(0))
                if done:
                    waiting[0] = waiting[0][done:]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._written)
            self.close()
            raise
        self._written += size
        return True

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = time.time_ns() // 1000
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 1_000_000))
        name = f"{stamp}.{now % 1_000_000:06}-{os.getpid()}-{self._number:06}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._directory / name, flags, 0o600)
        self._written = 0
        self._number += 1

    def _make_room(self, size: int) -> None:
        """Removes the oldest files until `size` bytes more are allowed."""
        sizes: dict[Path, int] = {}
        for path in files(self._directory):
            with suppress(OSError):  # another server may have just removed it
                sizes[path] = path.stat().st_size
        total = sum(sizes.values())
        for path, taken in sizes.items():
            if total + size <= self._max_bytes:
                break
            with suppress(OSError):
                path.unlink()
            total -= taken


def files(directory: Path) -> list[Path]:
    """The files of records, the oldest first; none where there is no directory."""
    return sorted(path for path in directory.glob(f"*{SUFFIX}") if not path.is_symlink())


@dataclass
class Damage:
    """What could not be read: places where a record should have been, and bytes that were passed over."""

    places: int = 0
    bytes: int = 0


def read(path: Path, damage: Damage | None = None) -> Iterator[Record]:
    """The records of a directory, or of one file, as they were written: by the time of their answers.

    Args:
        damage: is told what was passed over. A file that a killed server wrote may end in the middle of a record.

    Raises:
        OSError: a file cannot be read.
    """
    damage = Damage() if damage is None else damage
    for file in files(path) if path.is_dir() else [path]:
        yield from _read(file, damage)


def _read(path: Path, damage: Damage) -> Iterator[Record]:
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left:
            head = file.read(HEAD_BYTES)
            try:
                size = size_of(head, left)
                record = decode(head + file.read(size - HEAD_BYTES))
            except DamagedError as error:
                damage.places += 1
                damage.bytes += error.size or left
                if not error.size:  # nobody knows where the next one begins
                    return
                size = error.size
            else:
                yield record
            left -= size
