"""Says when a remote repository is looked at, and tells how it goes. On the event loop; the work is done in a thread of
its own.

At first before the server is ready, then every `poll_s` seconds, less and less often while that fails, and when a model
is loaded by hand. Whatever fails, the local tree stays as it is, and so does what is served.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from serving.core.metrics import Metrics
from serving.core.spec import ModelSpec, SpecError
from serving.repository.disk.layout import Kind
from serving.repository.disk.reading import Reading
from serving.repository.disk.survey import Source
from serving.repository.remote.cache import Cache, CacheError, directory_for
from serving.repository.remote.fetch import Fetcher, FetchStoppedError
from serving.repository.remote.store import Store, StoreError, redacted
from serving.repository.remote.synchronise import Synchroniser
from serving.repository.remote.tree import Tree

log = logging.getLogger(__name__)

START_LIMIT_S = 30.0  # at the start, without anything cached: how long nothing may come
CACHED_LIMIT_S = 10.0  # with something: how long the start waits for what is new
LONGEST_PAUSE_S = 300.0

_FIRST_PAUSE_S = 1.0  # between attempts at the start; doubled each time
_CLOSE_LIMIT_S = 0.5
_SILENT = "no answer in time"
_SHOWN = 3  # problems in one event

# Which versions of a model shall be here, of those that the store has: by its name, its settings, the versions that
# there are, and those that are here.
Needs = Callable[[str, ModelSpec | SpecError, Collection[int], Collection[int]], set[int]]

T = TypeVar("T")


class MirrorError(Exception):
    """The source cannot be served; the message is one line that says why."""


def pause_s(poll_s: float, failures: int, chance: float) -> float:
    """How long to wait until the next look, in seconds.

    Args:
        failures: how many looks in a row have failed.
        chance: in [0, 1): servers that were started together shall not ask together.
    """
    pause = min(poll_s * 2.0 ** min(failures, 20), max(poll_s, LONGEST_PAUSE_S))
    return pause * (0.8 + 0.4 * chance)


class Mirror:
    """One remote source.

    Args:
        cache_dir: of all sources; this one has a directory of its own in it.
        name: of the model, if the URL is one model; None: as the URL says.
        poll_s: seconds between two looks, as a rule.
        start_limit_s: at a start without anything cached: how long nothing may come before it is given up.
        cached_limit_s: at a start with something: how long to wait for what is new. Also, when one model is looked for
            by hand: how long nothing may come.

    Attributes:
        url: as it may be shown.
        source: the local copy, an ordinary repository.
        say: is told when the source cannot be read, or for another reason than before, or can be read again.
    """

    def __init__(
        self,
        url: str,
        cache_dir: Path,
        metrics: Metrics,
        *,
        name: str | None = None,
        poll_s: float = 30.0,
        start_limit_s: float = START_LIMIT_S,
        cached_limit_s: float = CACHED_LIMIT_S,
        store: Store | None = None,
    ) -> None:
        self.url = redacted(url)
        self.say: Callable[[str], object] = lambda text: log.warning("%s", text)
        self._name = name
        self._directory = directory_for(cache_dir, url)
        self.source = Source(self._directory / "tree", kind=Kind.REPOSITORY)
        self._poll_s = poll_s
        self._start_limit_s = start_limit_s
        self._cached_limit_s = cached_limit_s
        self._store = store or Store(url)
        self._counts = metrics.sync(self.url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._work: Future[Any] | None = None
        self._parts: _Parts | None = None
        self._turn = asyncio.Lock()  # one pass at a time
        self._all = False  # a pass over all models is under way
        self._first: asyncio.Task[str] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._by_hand: set[asyncio.Task[str]] = set()  # looks for single models
        self._soon = asyncio.Event()
        self._condition = ""
        self._failures = 0  # in a row
        self._lasting = False

    @property
    def busy(self) -> bool:
        """Whether its thread works; it cannot be stopped, also not by `close`."""
        return self._work is not None and not self._work.done()

    async def start(self, needs: Needs, reading: Reading | None = None) -> None:
        """Returns when the local copy can be served: it is in line with the store, or the store does not answer and
        there is what was fetched before.

        Args:
            reading: how the settings of models come about.

        Raises:
            MirrorError: there is nothing to serve, or the cache cannot be used.
        """
        try:
            self._parts = await self._run(self._open, reading or Reading())
        except CacheError as error:
            raise MirrorError(str(error)) from None
        if self._has_versions():
            await self._start_cached(needs)
        else:
            await self._start_empty(needs)

    async def _start_cached(self, needs: Needs) -> None:
        self._first = asyncio.create_task(self._pass(needs, at_once=True))
        await asyncio.wait({self._first}, timeout=self._cached_limit_s)
        problem = self._first.result() if self._first.done() else "it is slow to answer"
        if problem:
            since = datetime.fromtimestamp(self._parts_of().cache.synced_at, UTC).isoformat(timespec="seconds")
            self._tell(problem, f"started from what was fetched before, last in line with it at {since}")
        else:
            self._first = None

    async def _start_empty(self, needs: Needs) -> None:
        fetcher, attempt = self._parts_of().fetcher, 0
        deadline = time.monotonic() + self._start_limit_s
        while True:
            before = fetcher.fetched_bytes
            self._first = asyncio.create_task(self._pass(needs, at_once=True))
            problem = self._first.result() if await self._ended(self._first, self._start_limit_s) else _SILENT
            if fetcher.fetched_bytes > before:
                deadline = time.monotonic() + self._start_limit_s
            if not problem or self._has_versions():
                break
            if self._lasting or not self._first.done() or time.monotonic() >= deadline:
                raise MirrorError(f"'{self.url}': {problem}")
            self._tell(problem, "trying again")
            await asyncio.sleep(min(_FIRST_PAUSE_S * 2.0**attempt, self._start_limit_s / 4))
            attempt += 1
        if self._first.done():
            self._first = None
        self._tell(problem)

    async def _ended(self, work: "asyncio.Task[str]", limit_s: float) -> bool:
        """Waits for the end of a pass as long as something comes. False: nothing has for `limit_s`."""
        fetcher = self._parts_of().fetcher
        while not work.done():
            before = fetcher.fetched_bytes
            await asyncio.wait({work}, timeout=limit_s)
            if not work.done() and fetcher.fetched_bytes == before:
                return False
        return True

    def keep_up(self, needs: Needs, changed: Callable[[], Awaitable[object]]) -> None:
        """From now on looks at the store now and then.

        Args:
            changed: is awaited when the local copy has changed.
        """
        self._watching = asyncio.create_task(self._keep_up(needs, changed))

    async def _keep_up(self, needs: Needs, changed: Callable[[], Awaitable[object]]) -> None:
        tree = self._parts_of().tree
        seen = tree.changes
        if self._first is not None:
            self._tell(await self._first)
            self._first = None
        while True:
            if tree.changes != seen:
                seen = tree.changes
                try:
                    await changed()
                except Exception:  # a bug there must not end this
                    log.exception("taking in what is new at '%s' failed", self.url)
            await self._pause()
            self._tell(await self._pass(needs))

    async def _pause(self) -> None:
        self._soon.clear()
        try:
            async with asyncio.timeout(pause_s(self._poll_s, self._failures, random.random())):
                await self._soon.wait()
        except TimeoutError:
            pass

    async def refresh(self, model: str, needs: Needs) -> str:
        """Looks for one model now, whatever else is being fetched. Returns what went wrong; empty: nothing did."""
        if self._parts is None:
            return ""
        looking = asyncio.create_task(self._look_first(model, needs))
        self._by_hand.add(looking)
        looking.add_done_callback(self._by_hand.discard)
        problem = looking.result() if await self._ended(looking, self._cached_limit_s) else _SILENT
        if not problem and self._failures:
            self._soon.set()
        return problem

    async def _look_first(self, model: str, needs: Needs) -> str:
        if self._all:  # it will go on where it was
            self._parts_of().fetcher.interrupt()
        return await self._pass(needs, model, at_once=True)

    async def close(self) -> None:
        """Stops looking. A call that does not return is left; see `busy`."""
        tasks = [task for task in (self._watching, self._first, *self._by_hand) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._parts is not None:
            self._parts.fetcher.close()
        if self._work is not None:
            ended = asyncio.wrap_future(self._work)
            ended.add_done_callback(lambda work: work.cancelled() or work.exception())  # nobody asks any more
            await asyncio.wait({ended}, timeout=_CLOSE_LIMIT_S)
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._parts is not None and not self.busy:
            self._parts.cache.close()

    # Passes

    async def _pass(self, needs: Needs, only: str = "", *, at_once: bool = False) -> str:
        """Brings all models or one in line. Returns what went wrong; empty: nothing did."""
        while True:
            async with self._turn:
                self._all = not only
                try:
                    return await self._one_pass(needs, only, at_once)
                except FetchStoppedError:
                    pass
                finally:
                    self._all = False
            await asyncio.sleep(0)  # a single model goes first

    async def _one_pass(self, needs: Needs, only: str, at_once: bool) -> str:
        if self._by_hand and not only:
            raise FetchStoppedError
        parts = self._parts_of()
        parts.fetcher.resume()
        lasting = False
        try:
            found = await self._run(parts.synchroniser.look, only)
            needed = {
                name: needs(name, found.specs.get(name, ModelSpec()), model.versions.keys(), found.held[name])
                for name, model in found.models.items()
            }
            outcome = await self._run(partial(parts.synchroniser.bring, found, needed, at_once=at_once))
            problem = _joined(outcome.problems)
            if outcome.waiting:
                log.info("'%s': waiting for versions that may still be being written: %s", self.url, outcome.waiting)
        except (StoreError, CacheError) as error:
            problem, lasting = str(error), isinstance(error, StoreError) and error.lasting
        except FetchStoppedError:
            raise
        except Exception as error:  # a bug, or a library's: the next pass may fare better
            log.exception("bringing '%s' in line failed", self.url)
            problem = type(error).__name__
        finally:
            self._counts.fetched_bytes = parts.fetcher.fetched_bytes
        self._counts.failures += bool(problem)
        if not only:
            self._failures = self._failures + 1 if problem else 0
            self._lasting = lasting
            self._counts.synced_at = parts.cache.synced_at
        return problem

    def _open(self, reading: Reading) -> "_Parts":
        cache = Cache(self._directory)
        tree = Tree(cache)
        fetcher = Fetcher(self._store, cache)
        synchroniser = Synchroniser(self._store, cache, tree, fetcher, reading, self.url, self._name)
        return _Parts(cache, tree, fetcher, synchroniser)

    def _parts_of(self) -> "_Parts":
        assert self._parts is not None, "start comes first"
        return self._parts

    def _has_versions(self) -> bool:
        tree = self._parts_of().tree
        return any(tree.versions(model) for model in tree.models())

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        """Does blocking work in the mirror's thread."""
        self._work = self._thread.submit(work, *args)
        return await asyncio.wrap_future(self._work)

    def _tell(self, problem: str, more: str = "what was fetched before stays") -> None:
        """Says what is wrong now; what was said the last time is not said again."""
        if problem and problem != self._condition:
            self.say(f"'{self.url}': {problem}; {more}")
        elif self._condition and not problem:
            self.say(f"'{self.url}' is in line again")
        self._condition = problem


@dataclass(frozen=True)
class _Parts:
    cache: Cache
    tree: Tree
    fetcher: Fetcher
    synchroniser: Synchroniser


def _joined(problems: Sequence[str]) -> str:
    shown = "; ".join(sorted(problems)[:_SHOWN])
    return f"{shown}; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else shown
