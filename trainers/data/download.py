"""Fetches files of data sets over HTTP, whole or not at all."""

import fcntl
import hashlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from trainers.contract import DataError

TIMEOUT_S = 30.0  # without a byte
CHUNK_BYTES = 1 << 16
PART, NOTHING_LEFT = 206, 416  # HTTP's answers to the question for the bytes from a position on


def fetch(url: str, sha256: str, to: Path) -> None:
    """Fetches a file that is not there yet. What was received of it waits beside it in a hidden part file, from which a
    later attempt goes on; of several processes that want the file, one fetches it.

    Raises:
        DataError: in one line: no connection, the server's refusal, another checksum, a full disk.
    """
    part = to.with_name(f".{to.name}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if to.exists():  # somebody else was faster
                part.unlink(missing_ok=True)
                return
            _receive(url, file, to.name)
            file.flush()
            if (found := _sha256(part)) != sha256:
                file.truncate(0)
                raise DataError(f"{url}: not the expected file: its SHA-256 is {found}, not {sha256}")
            part.replace(to)
    except OSError as error:  # those of the network are DataErrors by now
        raise DataError(f"{to}: cannot be written: {error.strerror}") from None


class _CutError(Exception):
    """The connection ended before the file did."""


def _receive(url: str, file: BinaryIO, name: str) -> None:
    """Appends what is missing. A cut connection is opened again as long as that brings the file further."""
    columns = TextColumn(name), BarColumn(bar_width=20), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns) as progress:
        task = progress.add_task("", total=None)
        furthest = file.tell()
        while True:
            try:
                for chunk, total in _chunks(url, file):
                    file.write(chunk)
                    progress.update(task, completed=file.tell(), total=total)
                return
            except _CutError as cut:
                if file.tell() <= furthest:
                    kept = f" ({file.tell():,} bytes are here; the next attempt goes on from there)"
                    raise DataError(f"{url}: {cut}{kept if file.tell() else ''}") from None
                furthest = file.tell()


def _chunks(url: str, file: BinaryIO) -> Iterator[tuple[bytes, int | None]]:
    """What comes after the file's end, piece by piece, each with the size of the whole, if it is known. Empties the
    file first if the server sends it from its beginning."""
    size = file.tell()
    try:
        with urlopen(Request(url, headers={"Range": f"bytes={size}-"} if size else {}), timeout=TIMEOUT_S) as answer:
            if size and answer.status != PART:
                size = file.seek(0)
                file.truncate()
            length = answer.headers["Content-Length"]
            total = size + int(length) if length else None
            while chunk := answer.read(CHUNK_BYTES):
                size += len(chunk)
                yield chunk, total
    except HTTPError as error:
        error.close()
        if error.code != NOTHING_LEFT:
            raise DataError(f"{url}: the server answers {error.code} {error.reason}") from None
        return
    except (OSError, HTTPException) as error:
        raise _CutError(f"no connection: {getattr(error, 'reason', error) or type(error).__name__}") from None
    if total is not None and size < total:
        raise _CutError(f"the connection ended after {size:,} of {total:,} bytes")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
