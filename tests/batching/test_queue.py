"""What the queue admits, which batch is next, and what is answered without running. Time is an argument."""

import weakref
from collections.abc import Callable

import numpy as np
import pytest

from serving.batching.item import Item, ItemState
from serving.batching.queue import BatchQueue
from serving.core.errors import ErrorKind, ServingError


def item(rows: int = 1, lane: str = "a", deadline: float | None = None) -> Item:
    return Item({"x": np.zeros((rows, 1))}, ("y",), rows, lane, deadline)


def queue_of(*items: Item, max_rows: int = 4, max_queue_rows: int = 100, delay: float = 0.0) -> BatchQueue:
    """A queue at which the items arrived at 0, 1, 2, ... seconds."""
    queue = BatchQueue(max_rows, max_queue_rows, delay)
    for now, each in enumerate(items):
        queue.add(each, float(now))
    return queue


def batches(queue: BatchQueue, now: float = 100.0) -> list[list[int]]:
    """The numbers of the items in each batch, until no batch is left."""
    taken = []
    while batch := queue.take(now).items:
        taken.append([i.number for i in batch])
    return taken


# Batches


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1, 1, 1], [[0, 1, 2]]),
        ([1, 1, 1, 1, 1], [[0, 1, 2, 3], [4]]),
        ([4, 4], [[0], [1]]),
        ([2, 1, 2], [[0, 1], [2]]),
        ([3, 3, 1], [[0], [1, 2]]),  # the last one would fit beside the first, and may not overtake
        ([], []),
    ],
)
def test_a_batch_holds_so_many_rows_in_order_of_arrival(rows: list[int], expected: list[list[int]]) -> None:
    assert batches(queue_of(*(item(n) for n in rows), max_rows=4)) == expected


def test_an_item_of_more_rows_runs_alone_where_that_is_allowed() -> None:
    queue = BatchQueue(4, 100, 0.0, max_item_rows=9)
    for now, rows in enumerate((1, 9, 1, 1, 5)):
        queue.add(item(rows), float(now))
    assert batches(queue) == [[0], [1], [2, 3], [4]]
    with pytest.raises(ServingError, match="batch-size must be <= 9, got 10 rows"):
        queue.add(item(10), 0.0)


@pytest.mark.parametrize(
    ("lanes", "expected"),
    [
        ("aba", [[0, 2], [1]]),
        ("abb", [[0], [1, 2]]),
        ("abcab", [[0, 3], [1, 4], [2]]),
        ("aabaa" + "aa", [[0, 1, 3, 4], [2], [5, 6]]),  # b is older than what is left of a
    ],
)
def test_lanes_are_not_mixed_and_the_oldest_head_goes_first(lanes: str, expected: list[list[int]]) -> None:
    assert batches(queue_of(*(item(lane=lane) for lane in lanes), max_rows=4)) == expected


def test_a_head_that_left_makes_way_for_the_next_oldest() -> None:
    first, other, second = item(lane="a"), item(lane="b"), item(lane="a")
    queue = queue_of(first, other, second)
    queue.cancel(first)
    assert batches(queue) == [[other.number], [second.number]]


def test_what_arrives_before_the_batch_is_taken_joins_it() -> None:
    queue = queue_of(item())
    queue.add(item(), 50.0)
    assert batches(queue) == [[0, 1]]


def test_what_is_taken_no_longer_waits() -> None:
    queue = queue_of(item(2), item(3))
    (taken,) = queue.take(10.0).items
    assert taken.state is ItemState.TAKEN
    assert (queue.rows, len(queue)) == (3, 1)


# Delay


def test_without_a_delay_a_batch_is_due_at_once() -> None:
    queue = queue_of(item())
    assert queue.due() == 0.0
    assert len(queue.take(0.0).items) == 1


def test_a_batch_that_is_not_full_waits_for_the_delay_of_its_head() -> None:
    queue = queue_of(item(), item(), delay=10.0)
    assert queue.due() == 10.0
    assert queue.take(9.9).items == []
    assert batches(queue, 10.0) == [[0, 1]]
    assert queue.due() is None


def test_a_full_batch_does_not_wait() -> None:
    queue = queue_of(item(3), item(), item(), delay=10.0, max_rows=4)
    assert batches(queue, 2.0) == [[0, 1]]
    assert queue.due() == 12.0  # the third one came at 2


def test_a_batch_to_which_the_next_cannot_be_added_is_full() -> None:
    queue = queue_of(item(3), item(2), delay=10.0, max_rows=4)
    assert batches(queue, 1.0) == [[0]]


def test_a_full_lane_goes_before_an_older_one_that_may_wait() -> None:
    queue = queue_of(item(lane="slow"), item(4, "full"), delay=10.0, max_rows=4)
    assert batches(queue, 1.0) == [[1]]
    assert batches(queue, 10.0) == [[0]]


def test_full_lanes_cannot_hold_up_one_that_is_due() -> None:
    queue = queue_of(item(lane="slow"), delay=10.0, max_rows=4)
    queue.add(item(4, "full"), 10.5)
    assert batches(queue, 11.0) == [[0], [1]]


def test_cancelling_may_make_a_batch_wait_again() -> None:
    leaving = item(3)
    queue = queue_of(item(), leaving, delay=10.0, max_rows=4)
    assert queue.due() == 0.0
    queue.cancel(leaving)
    assert queue.due() == 10.0


# Admission


def refused(queue: BatchQueue, newcomer: Item, now: float = 0.0) -> ErrorKind:
    before = repr(queue)
    with pytest.raises(ServingError) as error:
        queue.add(newcomer, now)
    assert repr(queue) == before
    return error.value.kind


def test_more_rows_than_one_run_holds_can_never_be_scheduled() -> None:
    assert refused(queue_of(max_rows=4), item(5)) is ErrorKind.INVALID


def test_more_rows_than_may_ever_wait_can_never_be_scheduled() -> None:
    """Not QUEUE_FULL: the client would try again for ever."""
    assert refused(queue_of(max_rows=4, max_queue_rows=3), item(4)) is ErrorKind.INVALID


def test_a_full_queue_refuses_by_rows() -> None:
    queue = queue_of(item(3), item(4), max_queue_rows=10)
    assert refused(queue, item(4)) is ErrorKind.QUEUE_FULL
    queue.add(item(3), 0.0)
    assert refused(queue, item(1)) is ErrorKind.QUEUE_FULL


@pytest.mark.parametrize(
    "leave",
    [
        lambda queue, _: queue.take(0.0).items,
        lambda queue, waiting: queue.cancel(waiting),
        lambda queue, _: queue.expire(5.0),
        lambda queue, _: queue.drain(),
    ],
    ids=["taken", "cancelled", "expired", "drained"],
)
def test_whoever_leaves_makes_room(leave: Callable[[BatchQueue, Item], object]) -> None:
    waiting = item(4, deadline=5.0)
    queue = queue_of(waiting, max_queue_rows=4)
    leave(queue, waiting)
    queue.add(item(4), 6.0)
    assert (queue.rows, len(queue), queue.lanes) == (4, 1, 1)


@pytest.mark.parametrize(("deadline", "expired"), [(9.0, True), (10.0, True), (10.1, False)])
def test_a_deadline_that_has_passed_is_told_at_once(deadline: float, expired: bool) -> None:
    queue = queue_of()
    if expired:
        assert refused(queue, item(deadline=deadline), now=10.0) is ErrorKind.EXPIRED
    else:
        queue.add(item(deadline=deadline), 10.0)


# Cancellation and expiry


def test_only_what_waits_can_be_cancelled() -> None:
    waiting, runs = item(2), item(4)
    queue = queue_of(runs, waiting)
    queue.take(0.0)
    assert not queue.cancel(runs)
    assert queue.cancel(waiting)
    assert waiting.state is ItemState.GONE
    assert not queue.cancel(waiting)
    assert (queue.rows, len(queue), queue.lanes) == (0, 0, 0)
    assert queue.take(100.0).items == []


def test_cancelled_items_are_passed_over() -> None:
    items = [item() for _ in range(5)]
    queue = queue_of(*items, max_rows=4)
    for index in (0, 2, 4):
        queue.cancel(items[index])
    assert batches(queue) == [[1, 3]]


def test_items_expire_at_their_deadline_in_order() -> None:
    late, never, soon = item(deadline=20.0), item(), item(deadline=10.0)
    queue = queue_of(late, never, soon)
    assert queue.next_deadline() == 10.0
    assert queue.expire(9.9) == []
    assert queue.expire(10.0) == [soon]
    assert queue.next_deadline() == 20.0
    assert queue.expire(99.0) == [late]
    assert queue.next_deadline() is None
    assert len(queue) == 1


@pytest.mark.parametrize("asked", [True, False])
def test_what_was_taken_or_cancelled_does_not_expire(asked: bool) -> None:
    taken, cancelled = item(4, deadline=10.0), item(deadline=11.0)
    queue = queue_of(taken, cancelled)
    queue.take(0.0)
    queue.cancel(cancelled)
    if asked:  # which also tidies up
        assert queue.next_deadline() is None
    assert queue.expire(99.0) == []
    assert queue.next_deadline() is None


def test_drain_gives_everything_that_waits_oldest_first() -> None:
    taken, first, cancelled, second, third = item(4), item(lane="b"), item(), item(lane="c"), item(lane="b")
    queue = queue_of(taken, first, cancelled, second, third)
    queue.take(0.0)
    queue.cancel(cancelled)
    assert queue.drain() == [first, second, third]
    assert (queue.rows, len(queue), queue.lanes) == (0, 0, 0)
    assert queue.drain() == []


# Memory


class Token:
    """Something whose end can be seen."""


def alive(tokens: "list[weakref.ref[Token]]") -> int:
    return sum(token() is not None for token in tokens)


def test_what_ran_is_not_kept_until_its_deadline() -> None:
    """With a timeout of a minute and thousands of requests per second that would be all of the memory."""
    queue = BatchQueue(1, 10)
    tokens = []
    for now in range(1000):
        token = Token()
        tokens.append(weakref.ref(token))
        queue.add(Item({}, ("y",), 1, deadline=1e6, reply=token), float(now))
        queue.take(float(now))
    del token
    assert alive(tokens) < 100


def test_what_was_cancelled_does_not_pile_up_behind_one_that_waits() -> None:
    queue = queue_of(item())
    tokens = []
    for now in range(1000):
        token = Token()
        tokens.append(weakref.ref(token))
        newcomer = Item({}, ("y",), 1, "a", reply=token)
        queue.add(newcomer, float(now))
        queue.cancel(newcomer)
    del token, newcomer
    assert alive(tokens) < 100


def test_tensors_of_what_was_cancelled_are_let_go_at_once() -> None:
    """Also of one that must stay in its lane for a while."""
    leaving = item()
    tensor = weakref.ref(leaving.inputs["x"])
    queue = queue_of(item(), leaving)
    queue.cancel(leaving)
    assert tensor() is None


# Live state


def test_repr_shows_what_waits() -> None:
    first = item(2)
    queue = queue_of(first, item(3, "b"))
    assert repr(queue) == "<BatchQueue 2 items, 5 rows, 2 lanes>"
    assert repr(first) == "<Item 0 waiting rows=2>"
    queue.take(0.0)
    assert repr(queue) == "<BatchQueue 1 items, 3 rows, 1 lanes>"
    assert repr(first) == "<Item 0 taken rows=2>"
