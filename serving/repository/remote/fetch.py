"""Downloads objects into the cache, a few at a time, each from where an earlier attempt ended. Blocking, in threads of
its own."""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from threading import Event

from serving.repository.remote.cache import Cache, failures, key_of
from serving.repository.remote.store import Object, Store, StoreError

PARALLEL = 4

# An interruption loses at most a piece of each; a slow connection gets small ones, so that none takes too long.
_LEAST_BYTES = 256 * 1024
_MOST_BYTES = 16 * 1024 * 1024
_QUICK_S, _SLOW_S = 1.0, 4.0


class FetchStoppedError(Exception):
    """Somebody has called `interrupt`; what has been fetched so far is kept."""


class Fetcher:
    """
    Attributes:
        fetched_bytes: since the start.
    """

    def __init__(self, store: Store, cache: Cache, *, parallel: int = PARALLEL) -> None:
        self._store = store
        self._cache = cache
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="fetch")
        self._interrupted = Event()
        self._refused: StoreError | None = None  # what one of them was told holds for the others
        self.fetched_bytes = 0

    def begin(self, objects: Iterable[Object]) -> dict[Object, "Future[str]"]:
        """Starts to fetch what is not here; each future gives the hash of a content.

        Raises, in the futures:
            StoreError: it could not be had, or is no longer what was listed.
            CacheError: it could not be written.
            FetchStoppedError
        """
        self._refused = None
        return {item: self._pool.submit(self._fetch, item) for item in dict.fromkeys(objects)}

    def end(self, begun: Iterable["Future[str]"]) -> None:
        """Gives up what has not ended; nothing is being fetched when this returns."""
        begun = list(begun)
        for future in begun:
            future.cancel()
        wait_for(begun)

    def interrupt(self) -> None:
        """What is being fetched, and will be until `resume`, ends after its current piece."""
        self._interrupted.set()

    def resume(self) -> None:
        self._interrupted.clear()

    def close(self) -> None:
        """Does not wait for what is being fetched."""
        self.interrupt()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, item: Object) -> str:
        key = key_of(item)
        content = self._cache.known(key)
        if content is not None:
            return content
        self._go_on()
        if self._refused is not None:
            raise StoreError(str(self._refused), lasting=self._refused.lasting)
        try:
            self._complete(item, key)
            unchanged = self._store.unchanged(item)
        except StoreError as error:
            if error.of_store:
                self._refused = error
            raise
        if not unchanged:
            with failures(self._cache.directory):
                self._cache.partial(key).unlink(missing_ok=True)
            raise StoreError(f"'{item.path}': it changed while it was fetched", of_store=False)
        return self._cache.keep(key)

    def _go_on(self) -> None:
        if self._interrupted.is_set():
            raise FetchStoppedError

    def _complete(self, item: Object, key: str) -> None:
        """Appends to the partial object what it lacks."""
        size = _LEAST_BYTES
        with failures(self._cache.directory), self._cache.partial(key).open("ab", buffering=0) as file:
            done = file.tell()
            if done > item.size:  # by no doing of ours
                file.truncate(0)
                done = 0
            while done < item.size:
                self._go_on()
                began = time.monotonic()
                data = self._store.read(item, done, min(done + size, item.size))
                took_s = time.monotonic() - began
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                done += len(data)
                self.fetched_bytes += len(data)
                if took_s < _QUICK_S:
                    size = min(2 * size, _MOST_BYTES)
                elif took_s > _SLOW_S:
                    size = max(size // 2, _LEAST_BYTES)
