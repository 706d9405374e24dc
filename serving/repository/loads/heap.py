"""Gives the memory of models back to the system when they go. Any thread.

Left to itself, glibc keeps what was freed. It raises its thresholds with the large blocks that it sees freed, until
nearly all come from arenas, of which each thread has its own, and stay there; `malloc_trim` gives back what is free
between other blocks, but not the end of an arena that is not the main thread's. For requests that is right: the same
arrays come again and again, and to fetch their pages anew costs more than to copy them. Of a model of 100 MB, 190 to
240 MB stayed.

So while a model is loaded or unloaded (`returned_at_once`), larger blocks are mappings of their own, which go with the
block, and an arena gives its end back whenever something large is freed in it. The rest goes by `trim`. At other times
freed memory is kept, as much as glibc itself would in the end.

Where the C library is another one than glibc, nothing happens here.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MIB = 1024 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt
_KEPT = (64 * _MIB, 32 * _MIB)  # at the end of an arena, and as one block: the most that glibc takes
_RETURNED = (_MIB, _MIB)

_lock = threading.Lock()
_returning = 0  # loads and unloads under way


def _function(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


_mallopt, _malloc_trim = _function("mallopt"), _function("malloc_trim")


@contextmanager
def returned_at_once() -> Iterator[None]:
    """While a thread is inside, large blocks that any thread takes and frees go back to the system."""
    global _returning
    with _lock:
        _returning += 1
        _set(_RETURNED)
    try:
        yield
    finally:
        with _lock:
            _returning -= 1
            if not _returning:
                _set(_KEPT)


def trim() -> None:
    """Gives back what is free between blocks that are in use. Blocks for some 10 ms per 100 MB; others can go on."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def _set(thresholds: tuple[int, int]) -> None:
    if _mallopt is not None and _malloc_trim is not None:
        trim_bytes, mmap_bytes = thresholds
        _mallopt(_M_TRIM_THRESHOLD, trim_bytes)
        _mallopt(_M_MMAP_THRESHOLD, mmap_bytes)
