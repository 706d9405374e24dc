"""What an account says, as figures that people and programs read: shares, means, milliseconds. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.batching.explaining.account import Close, Period, Refused
from serving.batching.item import Closed


@dataclass(frozen=True)
class CloseFigures:
    """Of the runs that closed for one reason; `share` of all runs, `longest_wait_ms` the mean over the runs."""

    runs: int
    share: float
    rows_per_run: float
    requests_per_run: float
    longest_wait_ms: float


@dataclass(frozen=True)
class Figures:
    """A period in figures. Shares are from 0 to 1; means are 0 where there is nothing to take them of.

    `active_seconds`: those in which requests were dealt with; rates and `busy` are of these.
    `waiting_ms` and `request_ms` (that, and its run) are of a request; `joining_ms`, `running_ms` and `cutting_ms` of a
    run. `sizes`: runs by rows, up to 1, 2, 4, 8, ...
    """

    seconds: float
    active_seconds: float
    runs: int
    requests: int
    rows: int
    requests_per_s: float
    rows_per_s: float
    requests_per_run: float
    rows_per_run: float
    largest_run_rows: int
    padded_share: float
    busy: float
    waiting_ms: float
    longest_wait_ms: float
    request_ms: float
    joining_ms: float
    running_ms: float
    cutting_ms: float
    sizes: Mapping[int, int]
    closed: Mapping[Closed, CloseFigures]
    refused: Mapping[Refused, int]

    @classmethod
    def of(cls, period: Period) -> "Figures":
        tally = period.tally
        runs, items = max(tally.runs, 1), max(tally.items, 1)
        active_s = period.active_s or 1.0
        return cls(
            seconds=period.seconds,
            active_seconds=period.active_s,
            runs=tally.runs,
            requests=tally.items,
            rows=tally.rows,
            requests_per_s=tally.items / active_s,
            rows_per_s=tally.rows / active_s,
            requests_per_run=tally.items / runs,
            rows_per_run=tally.rows / runs,
            largest_run_rows=tally.largest,
            padded_share=tally.padded / max(tally.rows + tally.padded, 1),
            busy=period.busy,
            waiting_ms=1000 * tally.queue_s / items,
            longest_wait_ms=1000 * tally.longest_s,
            request_ms=1000 * (tally.queue_s + tally.compute_s) / items,
            joining_ms=1000 * tally.input_s / runs,
            running_ms=1000 * tally.run_s / runs,
            cutting_ms=1000 * tally.output_s / runs,
            sizes=dict(sorted(tally.sizes.items())),
            closed={
                reason: _close(close, tally.runs)
                for reason, close in sorted(tally.closed.items(), key=lambda each: -each[1].runs)
            },
            refused=dict(tally.refused),
        )

    def share(self, reason: Closed) -> float:
        found = self.closed.get(reason)
        return found.share if found else 0.0

    @property
    def asked(self) -> int:
        """Requests that ran, or were refused."""
        return self.requests + sum(self.refused.values())


def _close(close: Close, runs: int) -> CloseFigures:
    return CloseFigures(
        close.runs,
        close.runs / runs,
        close.rows / close.runs,
        close.items / close.runs,
        1000 * close.oldest_s / close.runs,
    )
