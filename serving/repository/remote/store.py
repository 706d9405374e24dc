"""Asks an object store through fsspec: what is there, and for pieces of it. Blocking; any thread but the event loop's.

fsspec and the library of the store are imported when the first one is opened. Every answer is limited in time where
the library allows it; every failure becomes a `StoreError` in our words, since texts of libraries may hold secrets.
"""

import errno
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

LISTING_LIMIT_S = 120.0
LIMIT_S = 60.0

# Retries are ours to space out, so the libraries shall give up soon. What waits at a socket ends by these limits.
_S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 15, "retries": {"total_max_attempts": 2}}}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {"s3": _S3, "s3a": _S3}
_LIBRARIES = ("aiobotocore", "botocore", "fsspec", "gcsfs", "s3fs")
# What tells two contents of one object apart: of these all that there are, or else when it was written.
_SURE = ("ETag", "etag", "generation", "md5Hash")
_LIKELY = ("mtime", "LastModified", "last_modified", "updated", "modified", "modify", "created")

_BROKEN_CONNECTIONS = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "ProxyError",
    "gaierror",
}
_OTHER_LENGTH = "it is not as long as the listing says"

_SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|KEY", re.IGNORECASE)


class StoreError(Exception):
    """The store did not give what it was asked for; the message says why, in one line without secrets.

    Attributes:
        of_store: nothing else that is asked of it now will fare better.
        lasting: waiting alone will not help.
    """

    def __init__(self, message: str, *, of_store: bool = True, lasting: bool = False) -> None:
        super().__init__(message)
        self.of_store = of_store
        self.lasting = lasting


@dataclass(frozen=True)
class Object:
    """`path` is relative to the URL, empty if the URL is the object itself; `token` changes with the content."""

    path: str
    size: int
    token: str
    name: str  # as the store knows it


def is_url(path: str) -> bool:
    return "://" in path


def redacted(url: str) -> str:
    """The URL as it may be shown: without user, password and query."""
    return re.sub(r"^(\w[\w+.-]*://)[^/]*@", r"\1", url.partition("?")[0])


class Store:
    """What is below one URL.

    Args:
        limit_s: how long a piece of an object may take.
        listing_limit_s: and a listing.
    """

    def __init__(self, url: str, *, limit_s: float = LIMIT_S, listing_limit_s: float = LISTING_LIMIT_S) -> None:
        self._url = url
        self._limit_s = limit_s
        self._listing_limit_s = listing_limit_s
        self._opened: tuple[Any, str] | None = None

    def __repr__(self) -> str:
        return f"Store({redacted(self._url)})"

    def look(self, below: str = "") -> list[Object]:
        """Every object at the URL or below it, fresh from the store; none: nothing is there.

        Args:
            below: only those below this path.

        Raises:
            StoreError: the listing is not known to be complete.
        """
        filesystem, root = self._open()
        start = f"{root}/{below}" if below else root
        try:
            filesystem.invalidate_cache()
            if _walks(filesystem):
                infos = self._walk(filesystem, start)
            else:
                infos = self._ask(filesystem, "find", start, self._listing_limit_s, detail=True).values()
        except FileNotFoundError as error:
            if _code(error) == "NoSuchBucket":
                raise StoreError("there is no such bucket", lasting=True) from None
            return []
        except Exception as error:
            raise self._failed(error) from None
        return list(_objects(infos, root))

    def read(self, item: Object, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`.

        Raises:
            StoreError: all of them could not be had.
        """
        filesystem, _ = self._open()
        try:
            data: bytes = self._ask(filesystem, "cat_file", item.name, self._limit_s, start=start, end=end)
        except Exception as error:
            raise self._failed(error, item) from None
        if len(data) != end - start:
            raise StoreError(f"'{item.path}': {_OTHER_LENGTH}", of_store=False)
        return data

    def unchanged(self, item: Object) -> bool:
        """Whether the object is still the one that was listed. Raises: StoreError."""
        filesystem, _ = self._open()
        try:
            info = self._ask(filesystem, "info", item.name, self._limit_s)
        except Exception as error:
            raise self._failed(error, item) from None
        return bool(info.get("size") == item.size and _token(info) == item.token)

    def _walk(self, filesystem: Any, start: str) -> list[Mapping[str, Any]]:
        """Lists directory by directory; fsspec's own walk would leave out those that cannot be read."""
        found, ahead = [], [start]
        while ahead:
            path = ahead.pop()
            for info in self._ask(filesystem, "ls", path, self._listing_limit_s, detail=True):
                if info["type"] == "directory":
                    ahead.append(info["name"])
                else:
                    found.append(info)
        return found

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            scheme = self._url.partition("://")[0]
            if scheme in ("gs", "gcs"):  # no experiments, which ask another service over gRPC first
                os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            try:
                from fsspec.core import url_to_fs
            except ImportError:
                raise StoreError(self._needs("fsspec"), lasting=True) from None
            options = _OPTIONS.get(scheme, {})
            try:
                filesystem, root = url_to_fs(self._url, use_listings_cache=False, skip_instance_cache=True, **options)
            except ImportError:
                raise StoreError(self._needs(f"fsspec's package for {scheme}://"), lasting=True) from None
            except Exception as error:  # whatever a library thinks of the URL or of its settings
                raise StoreError(f"it cannot be opened: {_scrubbed(str(error))}", lasting=True) from None
            if scheme in ("s3", "s3a"):
                filesystem.retries = 2
            for library in _LIBRARIES:  # what they would say, and more than once, is said here
                logging.getLogger(library).setLevel(logging.CRITICAL)
            root = str(root).rstrip("/")
            if not root:
                raise StoreError("it names no bucket or directory", lasting=True)
            self._opened = filesystem, root
        return self._opened

    def _needs(self, what: str) -> str:
        return f"{what} is not installed: pip install 'serving[remote]'"

    @staticmethod
    def _ask(filesystem: Any, method: str, path: str, limit_s: float, **more: Any) -> Any:
        """Calls a method of the file system, for at most `limit_s` where that can be ended."""
        if not filesystem.async_impl:
            return getattr(filesystem, method)(path, **more)
        from fsspec.asyn import sync

        return sync(filesystem.loop, getattr(filesystem, f"_{method}"), path, timeout=limit_s, **more)

    def _failed(self, error: Exception, item: Object | None = None) -> StoreError:
        failure = _in_words(error, item)
        if failure.lasting and failure.of_store:
            self._opened = None  # credentials may have been renewed meanwhile: the next one reads them again
        return failure


def _objects(infos: Iterable[Mapping[str, Any]], root: str) -> Iterator[Object]:
    for info in infos:
        name = info["name"]
        if info.get("type") == "directory" or name.endswith("/"):  # an empty object that stands for a directory
            continue
        size = info.get("size")
        if not isinstance(size, int):
            raise StoreError("it does not say how large its files are, so they cannot be mirrored", lasting=True)
        yield Object(name.removeprefix(root).lstrip("/"), size, _token(info), name)


def _token(info: Mapping[str, Any]) -> str:
    keys = [key for key in _SURE if info.get(key)] or [key for key in _LIKELY if info.get(key)]
    # One library gives a time as a number here and as a date there.
    return " ".join(str(v.timestamp() if isinstance(v := info[key], datetime) else v) for key in keys)


def _walks(filesystem: Any) -> bool:
    """Whether it lists with fsspec's own walk, rather than in a way of its own."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    kind = type(filesystem)
    if filesystem.async_impl:
        return bool(kind._find is AsyncFileSystem._find)
    return bool(kind.find is AbstractFileSystem.find)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _code(error: BaseException) -> str:
    """The store's own code for an error; empty: it gave none."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code", ""))
        if (code := getattr(link, "code", None)) is not None:
            return str(code)
    return ""


def _in_words(error: Exception, item: Object | None) -> StoreError:
    # Errors are known by name, since the libraries that define them may not be there.
    names = {kind.__name__ for link in _chain(error) for kind in type(link).__mro__}
    code = _code(error)
    what = f"'{item.path}': " if item else ""
    if names & {"TimeoutError", "FSTimeoutError", "ConnectTimeoutError", "ReadTimeoutError"}:
        return StoreError("no answer in time")
    if names & {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ProfileNotFound"}:
        return StoreError("no credentials were found for it", lasting=True)
    if "PermissionError" in names or code in ("401", "403") or str(error).startswith("Forbidden"):
        return StoreError(f"{what}access denied", of_store=item is None, lasting=True)
    if "FileNotFoundError" in names:
        return StoreError(f"{what}not there any more", of_store=False)
    if names & _BROKEN_CONNECTIONS:
        return StoreError("it cannot be reached, or the connection breaks")
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EREMOTEIO, errno.EBUSY) or code[:1] == "5" or code in ("429", "InternalError", "SlowDown"):
        return StoreError(f"it answers with errors{f' ({code})' if code else ''}")
    if item is not None and code in ("416", "InvalidRange"):
        return StoreError(f"{what}{_OTHER_LENGTH}", of_store=False)
    return StoreError(f"{what}{type(error).__name__}: {_scrubbed(str(error))}", of_store=item is None)


def _scrubbed(text: str) -> str:
    """One line of at most 300 characters, without what looks like a secret of this process."""
    text = " ".join(text.split())
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    text = re.sub(r"//[^/\s@]+@", "//***@", text)
    text = re.sub(r"\?\S+", "?***", text)
    return text[:300]
