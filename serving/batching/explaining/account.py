"""What a batcher did, added up: of all time, and of the last minute or so. On the event loop alone, so without locks.

Runs go into the slot of a second that they end in. A slot that is over goes into the sum of all time and is kept for a
minute, so a run costs a few additions, once, and an account never grows. Seconds without requests are not counted as
time in which an instance could have worked: otherwise what is said would depend on how long nobody asked.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from serving.batching.item import Closed

SLOT_S = 1.0
RECENT_SLOTS = 60


class Refused(Enum):
    """Why a request never ran."""

    FULL = "queue_full"  # no room in the queue
    HOPELESS = "hopeless"  # it could not have made its deadline, so it was refused at once
    EXPIRED = "expired"  # its deadline passed while it waited
    CANCELLED = "cancelled"  # its caller left while it waited


@dataclass(slots=True)
class Close:
    """Of the runs that closed for one reason. `oldest_s`: how long the oldest request in them had waited."""

    runs: int = 0
    items: int = 0
    rows: int = 0
    oldest_s: float = 0.0


@dataclass(slots=True)
class Tally:
    """Sums over runs. `items` are requests; `padded` are rows that were run besides `rows`, for nothing.

    `*_s` are of runs, but for `queue_s` and `compute_s`, which are of requests: each one in a run waits for all of it.
    `sizes` counts runs by their rows, in powers of two: 1, 2, up to 4, up to 8, ...
    """

    runs: int = 0
    items: int = 0
    rows: int = 0
    padded: int = 0
    largest: int = 0
    queue_s: float = 0.0
    longest_s: float = 0.0
    input_s: float = 0.0
    run_s: float = 0.0
    output_s: float = 0.0
    compute_s: float = 0.0
    closed: dict[Closed, Close] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    refused: dict[Refused, int] = field(default_factory=dict)

    def add(self, other: "Tally") -> None:
        self.runs += other.runs
        self.items += other.items
        self.rows += other.rows
        self.padded += other.padded
        self.largest = max(self.largest, other.largest)
        self.queue_s += other.queue_s
        self.longest_s = max(self.longest_s, other.longest_s)
        self.input_s += other.input_s
        self.run_s += other.run_s
        self.output_s += other.output_s
        self.compute_s += other.compute_s
        for reason, close in other.closed.items():
            mine = self.closed.setdefault(reason, Close())
            mine.runs += close.runs
            mine.items += close.items
            mine.rows += close.rows
            mine.oldest_s += close.oldest_s
        for size, runs in other.sizes.items():
            self.sizes[size] = self.sizes.get(size, 0) + runs
        for cause, count in other.refused.items():
            self.refused[cause] = self.refused.get(cause, 0) + count

    @property
    def busy_s(self) -> float:
        """Of all instances together."""
        return self.input_s + self.run_s + self.output_s


@dataclass(frozen=True)
class Period:
    """What was done in so many seconds, until now. `active_s`: of those slots in which requests were dealt with."""

    seconds: float
    active_s: float
    instances: int
    tally: Tally

    @property
    def busy(self) -> float:
        """The share of the instances' active time in which they ran something, from 0 to 1."""
        # A run counts where it ends, so a slot may hold more work than time.
        return min(1.0, self.tally.busy_s / (self.active_s * self.instances)) if self.active_s > 0 else 0.0


@dataclass(frozen=True)
class Snapshot:
    recent: Period
    total: Period


@dataclass(frozen=True, slots=True)
class _Slot:
    number: int
    active_s: float
    tally: Tally


class Account:
    """
    Args:
        instances: how many runs may be under way at the same time.
        clock: seconds that never go back.
    """

    def __init__(self, instances: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.instances = instances
        self._clock = clock
        self._began = clock()
        self._past = Tally()  # all slots that are over
        self._past_active_s = 0.0
        self._slots: deque[_Slot] = deque(maxlen=RECENT_SLOTS)  # the latest of them in which there were requests
        self._number = int(self._began // SLOT_S)
        self._ends = (self._number + 1) * SLOT_S
        self._now = Tally()

    def __repr__(self) -> str:
        total = self.snapshot().total.tally
        return f"<Account {total.runs} runs, {total.items} requests, {total.rows} rows>"

    def ran(
        self,
        items: int,
        rows: int,
        padded: int,
        closed: Closed,
        queue_s: float,
        oldest_s: float,
        input_s: float,
        run_s: float,
        output_s: float,
    ) -> None:
        """A run has ended.

        Args:
            items: requests in it.
            rows: of them.
            padded: rows that were run besides.
            queue_s: how long its requests had waited, added up; `oldest_s`: the one that waited longest.
            input_s: for joining them; `run_s`: for the run; `output_s`: for cutting the answer apart.
        """
        if self._clock() >= self._ends:
            self._turn()
        tally = self._now
        tally.runs += 1
        tally.items += items
        tally.rows += rows
        tally.padded += padded
        tally.queue_s += queue_s
        tally.input_s += input_s
        tally.run_s += run_s
        tally.output_s += output_s
        tally.compute_s += (input_s + run_s + output_s) * items
        if rows > tally.largest:
            tally.largest = rows
        if oldest_s > tally.longest_s:
            tally.longest_s = oldest_s
        size = 1 << (rows - 1).bit_length() if rows else 0
        tally.sizes[size] = tally.sizes.get(size, 0) + 1
        close = tally.closed.get(closed)
        if close is None:
            close = tally.closed[closed] = Close()
        close.runs += 1
        close.items += items
        close.rows += rows
        close.oldest_s += oldest_s

    def refused(self, reason: Refused) -> None:
        """A request will never run."""
        if self._clock() >= self._ends:
            self._turn()
        counts = self._now.refused
        counts[reason] = counts.get(reason, 0) + 1

    def snapshot(self) -> Snapshot:
        """Copies, which do not change any more."""
        now = self._clock()
        if now >= self._ends:
            self._turn()
        recent, total = Tally(), Tally()
        first = self._number - RECENT_SLOTS + 1
        active_s = 0.0
        for slot in self._slots:
            if slot.number >= first:
                recent.add(slot.tally)
                active_s += slot.active_s
        recent.add(self._now)
        total.add(self._past)
        total.add(self._now)
        now_s = self._active_s(now)
        return Snapshot(
            self._period(now - max(self._began, first * SLOT_S), active_s + now_s, recent),
            self._period(now - self._began, self._past_active_s + now_s, total),
        )

    def _period(self, seconds: float, active_s: float, tally: Tally) -> Period:
        # Runs that take longer than a slot leave slots without any end of a run.
        return Period(seconds, min(seconds, max(active_s, tally.busy_s / self.instances)), self.instances, tally)

    def _active_s(self, until: float) -> float:
        """Of the slot that is not over."""
        began = max(self._began, self._number * SLOT_S)
        return until - began if self._now.runs or self._now.refused else 0.0

    def _turn(self) -> None:
        """A slot is over. What comes next may begin much later, if nothing happened for a while."""
        active_s = self._active_s(self._ends)
        if active_s:
            self._past.add(self._now)
            self._past_active_s += active_s
            self._slots.append(_Slot(self._number, active_s, self._now))
            self._now = Tally()
        self._number = int(self._clock() // SLOT_S)
        self._ends = (self._number + 1) * SLOT_S
