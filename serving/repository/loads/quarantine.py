"""Versions that have proved to be bad, by what they hold: one is not tried again before that has changed.

A record is found by model and number and compared by content, so a `touch`, the same bytes copied again or a restart
change nothing. On the event loop; files are read in threads.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from serving.core.errors import ServingError
from serving.core.spec import Latest, ModelSpec
from serving.repository.control.state import Store
from serving.repository.version import Version

log = logging.getLogger(__name__)

_MOST = 1000  # records: models that were uploaded under ever new names must not fill the memory


class Quarantine:
    """
    Args:
        store: has the records of earlier servers, and keeps those of this one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records = dict(store.saved.quarantine)  # by model and number: key and reason

    async def reason(self, version: Version) -> str | None:
        """Why a version must not be loaded; None: it may be. A record of what it no longer holds ends here."""
        name = (version.model, version.number)
        record = self._records.get(name)
        if record is None:
            return None
        key, reason = record
        now = await asyncio.to_thread(_key, version)
        if now == key:
            return reason
        if now is not None and self._records.get(name) == record:
            await self._end(version.model, version.number)
        return None

    async def add(self, version: Version, reason: str) -> bool:
        """Keeps out what has just failed. False: its files have changed since they were found, so that what failed may
        not be what is there now, and it has to be looked at again."""
        key = await asyncio.to_thread(_key, version)
        if key is None:
            return False
        self._records.pop((version.model, version.number), None)
        self._records[version.model, version.number] = (key, reason)
        if len(self._records) > _MOST:
            await self._end(*next(iter(self._records)))
        try:
            await self._store.save_quarantine(version.model, version.number, key, reason)
        except ServingError as error:
            log.warning("the quarantine of %s ends with this server: %s", version, error.message)
        return True

    async def release(self, model: str, number: int | None = None) -> None:
        """One version, or all of a model, may be tried again as they are."""
        numbers = [n for name, n in self._records if name == model and number in (None, n)]
        await self._end(model, *numbers)

    def held(self) -> Mapping[tuple[str, int], str]:
        """The reason for each record, by model and number."""
        return {name: reason for name, (_, reason) in self._records.items()}

    async def _end(self, model: str, *numbers: int) -> None:
        for number in numbers:
            self._records.pop((model, number), None)
        try:
            if numbers:
                await self._store.end_quarantine(model, numbers)
        except ServingError as error:
            log.warning("the quarantine of '%s' will be there again after a restart: %s", model, error.message)


def _key(version: Version) -> str | None:
    """Stands for the content of a version's files and for the settings that it is made with. None: the files are not
    those that were found, or cannot be read. Blocking."""
    before = {path: rest for path, *rest in version.found.fingerprint}
    try:
        if not _unchanged(version.found.path, before):
            return None
        key = _digest(version.found.path, before, version.spec)
        return key if _unchanged(version.found.path, before) else None
    except OSError:
        return None


def _unchanged(version_path: Path, before: Mapping[str, Sequence[int]]) -> bool:
    """Raises: OSError: a file is gone, or cannot be read."""
    if any(path.is_file() and str(path) not in before for path in version_path.rglob("*")):
        return False
    for path, (size, changed_ns, inode) in before.items():
        info = Path(path).stat()
        if (info.st_size, info.st_mtime_ns, info.st_ino) != (size, changed_ns, inode):
            return False
    return True


def _digest(version_path: Path, files: Iterable[str], spec: ModelSpec) -> str:
    """Raises: OSError."""
    digest = hashlib.sha256()
    for path in sorted(map(Path, files)):
        if path.is_relative_to(version_path):  # not the settings: what they mean counts, below
            _add(digest, path.relative_to(version_path).as_posix(), _sha256(path))
    samples = {each.file for sample in spec.samples for each in sample.inputs.values() if each.file is not None}
    for name in sorted({*spec.class_labels.values(), *samples}):
        path = version_path.parent / name
        _add(digest, name, _sha256(path) if path.is_file() else "missing")
    unimportant = {"versions": Latest(), "version_labels": {}, "traffic": None}
    _add(digest, "settings", spec.model_copy(update=unimportant).model_dump_json(exclude_defaults=True))
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", *texts: str) -> None:
    for text in texts:
        encoded = os.fsencode(text)
        digest.update(len(encoded).to_bytes(8) + encoded)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
