"""What is read from files, and read again when these change. A change that cannot be used does not count.

`follow` runs on the event loop; files are looked at and read in a thread.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

_PERIOD_S = 1.0


class UnusableError(ValueError):
    """A file that cannot be used; the message is one line that names it."""


class Watched(Generic[T]):
    """
    Attributes:
        value: what the files said when they could last be used.
    """

    def __init__(
        self, what: str, paths: Sequence[Path], read: Callable[[], T], told: Callable[[T], str] = lambda _: ""
    ) -> None:
        """
        Args:
            what: the files, for log lines.
            read: raises UnusableError.
            told: what a log line says of a new value.

        Raises:
            UnusableError: of `read`.
        """
        self._what = what
        self._paths = paths
        self._read = read
        self._told = told
        self._known = self._marks()  # before the files are read: what changes meanwhile is seen later
        self.value = read()

    async def follow(self, period_s: float = _PERIOD_S) -> None:
        """Looks at the files until it is cancelled. They are read when they have been left alone for one period, since
        a certificate and its key are two files, written one after the other.
        """
        seen = self._known
        while True:
            await asyncio.sleep(period_s)
            now = await asyncio.to_thread(self._marks)
            if now == self._known or now != seen:
                seen = now
                continue
            self._known = now
            try:
                self.value = await asyncio.to_thread(self._read)
            except UnusableError as problem:
                log.error(
                    "%s: what was changed does not count, and what was there before stays: %s", self._what, problem
                )
            except Exception:  # whatever it is, this has to go on
                log.exception("%s: what was changed cannot be read, and what was there before stays", self._what)
            else:
                log.info("%s: read again%s", self._what, self._told(self.value))

    def _marks(self) -> list[tuple[int, ...] | None]:
        return [_mark(path) for path in self._paths]


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def content(path: Path, most: int = 1024 * 1024) -> bytes:
    """What is in a file. Raises: UnusableError: it cannot be read, or is larger than `most` bytes."""
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise UnusableError(f"cannot read '{path}': {error.strerror}") from None
    if len(data) > most:
        raise UnusableError(f"'{path}' is larger than {most} bytes")
    return data
