"""One loaded version: its states and its leases."""

import asyncio
import logging
from itertools import product

import pytest

from serving.repository.version import State, Version
from tests.batching.control import on_loop, turns
from tests.repository.build import version

LEGAL = {
    (State.NEW, State.LOADING),
    (State.LOADING, State.WARMING),
    (State.LOADING, State.FAILED),
    (State.WARMING, State.READY),
    (State.WARMING, State.FAILED),
    (State.READY, State.DRAINING),
    (State.DRAINING, State.UNLOADING),
    (State.UNLOADING, State.END),
    (State.FAILED, State.END),
}


def way_to(state: State) -> list[State]:
    """States to go through from NEW."""
    before = {end: start for start, end in LEGAL if (start, end) != (State.FAILED, State.END)}
    way: list[State] = []
    while state is not State.NEW:
        way.insert(0, state)
        state = before[state]
    return way


def in_state(state: State) -> Version:
    made = version()
    for step in way_to(state):
        made.to(step)
    assert made.state is state
    return made


@pytest.mark.parametrize(("start", "end"), sorted(LEGAL, key=str))
def test_every_arrow_can_be_gone(start: State, end: State) -> None:
    moving = in_state(start)
    moving.to(end, "because")
    assert (moving.state, moving.reason) == (end, "because")


@pytest.mark.parametrize(("start", "end"), sorted(set(product(State, State)) - LEGAL, key=str))
def test_there_is_no_other_arrow(start: State, end: State) -> None:
    stuck = in_state(start)
    with pytest.raises(RuntimeError, match=f"^m/1: no arrow from {start.value} to {end.value}$"):
        stuck.to(end, "never")
    assert (stuck.state, stuck.reason) == (start, "")


@pytest.mark.parametrize(
    ("state", "reason", "line"),
    [(State.READY, "", "m/1 is READY"), (State.FAILED, "no memory", "m/1 is FAILED: no memory")],
)
def test_moves_are_traced(caplog: pytest.LogCaptureFixture, state: State, reason: str, line: str) -> None:
    """Not more than that: the history says it, and with more."""
    moving = in_state(State.WARMING)
    with caplog.at_level(logging.DEBUG, "serving"):
        caplog.clear()
        moving.to(state, reason)
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.DEBUG, line)]


@on_loop
async def test_it_is_not_unloaded_under_its_requests() -> None:
    used = version()
    await used.unleased()  # nobody uses it yet
    used.lease()
    used.lease()
    waiting = asyncio.ensure_future(used.unleased())
    used.release()
    await turns()
    assert not waiting.done() and used.leases == 1
    used.release()
    await waiting
    assert used.leases == 0
    used.lease()  # and in use again
    again = asyncio.ensure_future(used.unleased())
    await turns()
    assert not again.done()
    used.release()
    await again


def test_names_and_repr() -> None:
    made = version(3, "digits")
    assert str(made) == "digits/3"
    assert repr(made) == "<Version digits/3 NEW leases=0>"
    made.lease()
    made.to(State.LOADING)
    assert repr(made) == "<Version digits/3 LOADING leases=1>"
