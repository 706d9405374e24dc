"""When an instance is woken at once, and when the loop reads on first. Time and turns are arguments."""

import pytest

from serving.batching.gather import MAX_GATHER_S, QUIET_TURNS, Gather


def gather_used_to(size: int) -> Gather:
    gather = Gather()
    gather.took(size)
    return gather


def turns_waited(gather: Gather, waiting: int, turn_s: float = 1e-6) -> int:
    """Turns until the instance is woken while nothing arrives."""
    turns = 0
    while gather.wait(waiting, turns * turn_s):
        turns += 1
    return turns


def test_a_request_that_comes_alone_never_waits() -> None:
    gather = Gather()
    for _ in range(3):
        assert not gather.wait(1, 0.0)
        gather.took(1)


def test_a_group_of_the_usual_size_is_run_at_once() -> None:
    gather = gather_used_to(8)
    assert gather.enough(8) and not gather.enough(7)
    assert not gather.wait(8, 0.0)


def test_an_incomplete_group_waits_while_requests_arrive() -> None:
    gather = gather_used_to(8)
    assert all(gather.wait(waiting, 0.0) for waiting in range(1, 8))
    assert not gather.wait(8, 0.0)


def test_an_incomplete_group_is_run_when_no_more_arrive() -> None:
    assert turns_waited(gather_used_to(8), 3) == QUIET_TURNS


def test_each_arrival_starts_the_count_anew() -> None:
    gather = gather_used_to(8)
    for waiting in (1, 2, 3):
        assert all(gather.wait(waiting, 0.0) for _ in range(QUIET_TURNS))


def test_slow_turns_end_the_wait_by_time() -> None:
    assert turns_waited(gather_used_to(8), 3, turn_s=MAX_GATHER_S / 4) == 4


def test_waiting_in_vain_is_soon_given_up() -> None:
    gather = gather_used_to(32)
    waits = []
    for _ in range(8):
        waits.append(turns_waited(gather, 1))
        gather.took(1)
    assert waits[0] == QUIET_TURNS
    assert waits[-1] == 0


def test_stragglers_do_not_make_the_usual_group_small() -> None:
    gather = gather_used_to(32)
    gather.took(2)
    assert not gather.enough(20)


@pytest.mark.parametrize("size", [1, 5])
def test_groups_may_grow(size: int) -> None:
    gather = gather_used_to(size)
    gather.took(size + 3)
    assert not gather.enough(size + 2)
