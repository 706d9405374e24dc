"""What has happened to models, and why: each decision is a line in the log, a count in the metrics and an entry of the
history, which outlives the server where it has a state directory. On the event loop."""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum

from serving.repository.control.state import EVENTS_KEPT, EventRow, Store

log = logging.getLogger(__name__)

_COUNTS = 10_000  # models that were uploaded under ever new names must not fill the memory


class Kind(Enum):
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"  # will be tried again
    QUARANTINED = "quarantined"  # will not, before its content changes
    UNLOADED = "unloaded"
    REFUSED = "refused"  # not begun: no memory for it
    ASLEEP = "asleep"  # unloaded because nobody asked for it
    AWAKE = "awake"
    LABELLED = "labelled"
    TRAFFIC = "traffic"  # shares, stickiness, shadow or limits changed
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    REPOSITORY = "repository"  # a source that cannot be read, or can be read again


_WARNINGS = {Kind.FAILED, Kind.QUARANTINED, Kind.REFUSED, Kind.ROLLED_BACK, Kind.REPOSITORY}


@dataclass(frozen=True)
class Event:
    """`number` rises by one with each event of a server, over restarts too; `at` is in seconds since the epoch."""

    number: int
    at: float
    kind: Kind
    model: str  # empty: of the server
    version: int | None
    text: str

    def __str__(self) -> str:
        what = f"{self.model}/{self.version}" if self.version is not None else self.model
        return f"{what + ' ' if what else ''}{self.kind.value.replace('_', ' ')}{': ' if self.text else ''}{self.text}"


class History:
    """The latest events, oldest first.

    Args:
        store: has the events of earlier servers, and keeps those of this one.

    Raises:
        StateError: those of earlier servers cannot be understood.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.counts: dict[tuple[str, str], int] = {}  # by model and kind, since the start
        self._store = store or Store()
        try:
            self._events = deque(map(_event, self._store.saved.events), maxlen=EVENTS_KEPT)
        except ValueError as error:
            raise self._store.damaged(f"an event cannot be understood: {error}") from None
        self._next = self._events[-1].number + 1 if self._events else 1
        self._news = asyncio.Event()
        self._hurried = False

    def hurry(self) -> None:
        """From now on nobody waits for an event."""
        self._hurried = True
        self._news.set()

    def add(self, kind: Kind, model: str, version: int | None = None, text: str = "") -> Event:
        event = Event(self._next, time.time(), kind, model, version, text)
        self._next += 1
        self._events.append(event)
        self._store.add_event((event.number, event.at, kind.value, model, version, text))
        self._count(model, kind)
        log.log(logging.WARNING if kind in _WARNINGS else logging.INFO, "%s", event)
        self._news.set()
        self._news = asyncio.Event()
        return event

    def _count(self, model: str, kind: Kind) -> None:
        key = (model, kind.value)
        self.counts[key] = self.counts.pop(key, 0) + 1
        if len(self.counts) > _COUNTS:
            del self.counts[next(iter(self.counts))]  # the one that has not risen for the longest time

    async def after(self, number: int = 0, model: str = "", limit: int = 100, wait_s: float = 0.0) -> list[Event]:
        """The newest `limit` events behind event `number`, oldest first. None of them is lost if the process is killed.

        Args:
            model: only those of this model; empty: all.
            wait_s: how long to wait for the first one, if there is none.
        """
        deadline = time.monotonic() + wait_s
        while True:
            found = [e for e in self._events if e.number > number and model in ("", e.model)][-limit:]
            left = deadline - time.monotonic()
            if found or left <= 0 or self._hurried:
                await self._store.flush()
                return found
            news = self._news
            try:
                async with asyncio.timeout(left):
                    await news.wait()
            except TimeoutError:
                pass


def _event(row: EventRow) -> Event:
    number, at, kind, model, version, text = row
    return Event(number, at, Kind(kind), model, version, text)
