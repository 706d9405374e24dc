"""What an account says of the last minute and of all time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.explaining.account import RECENT_SLOTS, SLOT_S, Account, Refused
from serving.batching.item import Closed


class Clock:
    def __init__(self) -> None:
        self.now = 1234.5

    def __call__(self) -> float:
        return self.now


def ran(account: Account, items: int = 1, rows: int = 1, closed: Closed = Closed.FREE, **more: Any) -> None:
    given = {"padded": 0, "queue_s": 0.0, "oldest_s": 0.0, "input_s": 0.0, "run_s": 0.0, "output_s": 0.0, **more}
    account.ran(items, rows, closed=closed, **given)


def test_a_run_is_added_up() -> None:
    clock = Clock()
    account = Account(2, clock)
    ran(account, 3, 5, Closed.FULL, padded=1, queue_s=0.6, oldest_s=0.3, input_s=0.125, run_s=1.0, output_s=0.25)
    ran(account, 1, 1, Closed.DELAY, queue_s=0.4, oldest_s=0.4, run_s=0.125)
    clock.now += 0.5
    seen = account.snapshot().total
    assert seen.seconds == 0.5 and seen.instances == 2
    tally = seen.tally
    assert (tally.runs, tally.items, tally.rows, tally.padded, tally.largest) == (2, 4, 6, 1, 5)
    assert (tally.queue_s, tally.longest_s) == (1.0, 0.4)
    assert tally.busy_s == 1.5 and seen.busy == 1.0
    assert tally.compute_s == 3 * 1.375 + 0.125  # each of three requests waited for all of the run
    assert tally.sizes == {8: 1, 1: 1}
    full = tally.closed[Closed.FULL]
    assert (full.runs, full.items, full.rows, full.oldest_s) == (1, 3, 5, 0.3)
    assert repr(account) == "<Account 2 runs, 4 requests, 6 rows>"


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (64, 64), (65, 128)])
def test_sizes_are_powers_of_two(rows: int, size: int) -> None:
    account = Account(1, Clock())
    ran(account, rows=rows)
    assert account.snapshot().total.tally.sizes == {size: 1}


def test_what_is_recent_ends_and_what_was_does_not() -> None:
    clock = Clock()
    account = Account(1, clock)
    ran(account, rows=7)
    account.refused(Refused.FULL)
    clock.now += SLOT_S * (RECENT_SLOTS - 2)
    ran(account, rows=1)
    seen = account.snapshot()
    assert seen.recent.tally.rows == seen.total.tally.rows == 8
    clock.now += SLOT_S * 2
    seen = account.snapshot()
    assert (seen.recent.tally.rows, seen.total.tally.rows) == (1, 8)
    assert (seen.recent.tally.refused, seen.total.tally.refused) == ({}, {Refused.FULL: 1})
    clock.now += 86_400
    seen = account.snapshot()
    assert (seen.recent.tally.rows, seen.total.tally.rows) == (0, 8)
    assert SLOT_S * (RECENT_SLOTS - 1) <= seen.recent.seconds <= SLOT_S * RECENT_SLOTS
    assert seen.recent.active_s == 0
    assert seen.total.seconds > 86_400


def test_a_snapshot_stays_as_it_is() -> None:
    account = Account(1, Clock())
    ran(account)
    before = account.snapshot()
    ran(account)
    assert before.total.tally.runs == before.recent.tally.runs == 1
    assert before.total.tally.closed[Closed.FREE].runs == 1


def test_nothing_has_happened() -> None:
    seen = Account(1, Clock()).snapshot()
    assert seen.total.tally.runs == 0 and seen.total.busy == seen.recent.busy == 0.0


def test_seconds_in_which_nobody_asked_are_not_idle_ones() -> None:
    clock = Clock()
    clock.now = 1000.0
    account = Account(2, clock)
    for _ in range(5):
        ran(account, run_s=0.25)
        clock.now += SLOT_S
    account.refused(Refused.FULL)
    clock.now += 20
    seen = account.snapshot()
    assert (seen.recent.seconds, seen.recent.active_s, seen.recent.busy) == (25, 6, 1.25 / 12)
    assert (seen.total.active_s, seen.total.busy) == (6, 1.25 / 12)


def test_long_runs_keep_an_instance_busy_over_slots_in_which_none_ends() -> None:
    clock = Clock()
    account = Account(1, clock)
    clock.now += 8
    ran(account, run_s=8.0)
    seen = account.snapshot()
    assert seen.total.active_s == 8 and seen.total.busy == 1.0


def test_an_instance_is_never_busier_than_always() -> None:
    clock = Clock()
    account = Account(1, clock)
    clock.now += 1
    ran(account, run_s=2.0)
    assert account.snapshot().recent.busy == 1.0


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 100), st.sampled_from(Closed)), max_size=60))
def test_no_run_is_lost_or_counted_twice(steps: list[tuple[float, int, Closed]]) -> None:
    clock = Clock()
    account = Account(1, clock)
    done: list[tuple[float, int]] = []
    for pause_s, rows, closed in steps:
        clock.now += pause_s
        ran(account, rows=rows, closed=closed)
        done.append((clock.now, rows))
    seen = account.snapshot()
    assert seen.total.tally.rows == sum(rows for _, rows in done)
    assert sum(close.rows for close in seen.total.tally.closed.values()) == seen.total.tally.rows
    began = clock.now - seen.recent.seconds
    certain = sum(rows for at, rows in done if at > began + 1e-6)
    at_most = sum(rows for at, rows in done if at > began - 1e-6)
    assert certain <= seen.recent.tally.rows <= at_most
