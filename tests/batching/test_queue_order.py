"""Priorities, deadlines, sizes and policies in the queue, on a made-up clock."""

import numpy as np
import pytest

from serving.batching.item import Batch, Closed, Item
from serving.batching.policies import FixedDelay
from serving.batching.queue import BatchQueue
from serving.core.errors import ErrorKind, ServingError


def item(rows: int = 1, deadline: float | None = None, lane: str | None = "a", priority: int = 0) -> Item:
    return Item({"x": np.zeros((rows, 1))}, ("y",), rows, lane, deadline, priority=priority)


def queue_of(
    *items: Item, now: float = 0.0, known: tuple[tuple[int, float], ...] = (), **settings: object
) -> BatchQueue:
    """`known`: rows and seconds of runs."""
    options: dict[str, object] = {"max_batch_rows": 8, "max_queue_rows": 100, **settings}
    queue = BatchQueue(**options)  # type: ignore[arg-type]
    for rows, seconds in known:
        for _ in range(20):
            queue.ran(rows, seconds)
    for each in items:
        queue.add(each, now)
    return queue


LINEAR = ((1, 0.010), (8, 0.080))  # 10 ms a row


def numbers(batch: Batch) -> list[int]:
    return [each.number for each in batch.items]


def test_more_urgent_ones_go_first_and_each_level_in_order() -> None:
    queue = queue_of(*(item(priority=p) for p in (3, 1, 2, 1, 3)), max_batch_rows=2)
    assert [numbers(queue.take(1.0)) for _ in range(3)] == [[1, 3], [2, 0], [4]]


def test_lane_with_the_most_urgent_item_goes_first() -> None:
    queue = queue_of(item(lane="a", priority=2), item(lane="b", priority=1))
    assert numbers(queue.take(1.0)) == [1]


def test_delay_counts_from_the_oldest_whatever_its_priority() -> None:
    queue = queue_of(item(priority=2), max_delay_s=5.0)
    queue.add(item(priority=1), 4.0)
    assert queue.due() == 5.0


def test_urgent_item_cancelled_leaves_the_others_in_order() -> None:
    first, second, third = item(priority=2), item(priority=1), item(priority=2)
    queue = queue_of(first, second, third)
    queue.cancel(second)
    assert numbers(queue.take(0.0)) == [0, 2]


# Deadlines


def refusal(queue: BatchQueue, newcomer: Item, free_at: float) -> ServingError:
    with pytest.raises(ServingError) as refused:
        queue.add(newcomer, 0.0, free_at)
    return refused.value


def test_who_cannot_be_ready_in_time_is_refused_at_once_and_told_when_to_come_again() -> None:
    """Eight wait, for 80 ms, behind a run that ends in 50 ms: with its own 10 ms the ninth would be ready at 140 ms."""
    queue = queue_of(*(item() for _ in range(8)), known=LINEAR)
    error = refusal(queue, item(deadline=0.100), free_at=0.050)
    assert error.kind is ErrorKind.EXPIRED and "behind the 8 rows that wait" in error.message
    assert error.retry_after_s == pytest.approx(0.040, abs=0.02)
    queue.add(item(deadline=0.200), 0.0, 0.050)
    assert len(queue) == 9


def test_more_instances_are_ready_earlier() -> None:
    waiting = [item() for _ in range(16)]
    refusal(queue_of(*waiting, known=LINEAR), item(deadline=0.150), free_at=0.010)
    queue_of(*(item() for _ in range(16)), known=LINEAR, instances=2).add(item(deadline=0.150), 0.0, 0.010)


def test_less_urgent_ones_are_not_waited_for() -> None:
    waiting = [item(priority=2) for _ in range(16)]
    queue = queue_of(*waiting, known=LINEAR)
    refusal(queue, item(deadline=0.100, priority=2), free_at=0.010)
    queue.add(item(deadline=0.100, priority=1), 0.0, 0.010)


def test_with_an_instance_free_nobody_is_refused_on_hearsay() -> None:
    queue = queue_of(known=LINEAR)
    queue.add(item(rows=8, deadline=0.001), 0.0, 0.0)
    batch = queue.take(0.0)
    assert numbers(batch) == [0] and batch.late == []


def test_who_cannot_be_ready_in_time_is_not_run() -> None:
    """When the instance takes its batch of 8 rows at 1.0, it is known to be ready at 1.08."""
    hopeless, tight, easy = item(deadline=1.05), item(deadline=1.09), item()
    queue = queue_of(hopeless, tight, easy, *(item() for _ in range(8)), known=LINEAR)
    batch = queue.take(1.0)
    assert batch.late == [hopeless]
    assert batch.items[:2] == [tight, easy] and batch.rows == 8


def test_who_is_in_a_hurry_goes_alone_if_nobody_else_waits_behind() -> None:
    tight, easy, easier = item(deadline=1.015), item(), item()
    queue = queue_of(easy, tight, easier, known=LINEAR)
    first = queue.take(1.0)
    assert first.items == [tight] and first.closed is Closed.DEADLINE and first.late == []
    assert queue.take(1.0).items == [easy, easier]


def test_if_all_are_late_the_one_with_the_most_time_is_run_so_that_something_is_learned() -> None:
    queue = queue_of(item(deadline=1.001), item(deadline=1.002), item(deadline=1.001), known=LINEAR)
    batch = queue.take(1.0)
    assert numbers(batch) == [1] and [each.number for each in batch.late] == [0, 2]
    assert len(queue) == 0


def test_whose_time_is_up_is_not_run() -> None:
    batch = queue_of(item(deadline=1.0), item(deadline=0.5), known=LINEAR).take(1.0)
    assert (batch.items, batch.size) == ([], 0) and [each.number for each in batch.late] == [0, 1]


def test_nobody_waits_for_company_until_it_is_too_late() -> None:
    queue = queue_of(item(deadline=1.0), max_delay_s=5.0, known=LINEAR)
    due = queue.due()
    assert due is not None and 0.97 < due < 0.99
    assert numbers(queue.take(due)) == [0]


def test_full_queue_says_when_there_is_room() -> None:
    queue = queue_of(*(item() for _ in range(100)), known=LINEAR)
    error = refusal(queue, item(rows=3), 0.0)
    assert error.kind is ErrorKind.QUEUE_FULL and error.retry_after_s == pytest.approx(0.080)


# Sizes


def test_smaller_batches_are_padded() -> None:
    queue = queue_of(*(item() for _ in range(3)), allowed_sizes=(4, 8))
    batch = queue.take(0.0)
    assert (batch.rows, batch.size) == (3, 4)


def test_what_costs_less_as_two_runs_is_two() -> None:
    queue = queue_of(*(item() for _ in range(5)), allowed_sizes=(1, 4, 8), known=LINEAR)
    batch = queue.take(0.0)
    assert (batch.rows, batch.size, batch.closed) == (4, 4, Closed.SIZE)
    assert (queue.take(0.0).size, len(queue)) == (1, 0)


def test_item_that_is_larger_than_the_smaller_size_is_not_cut() -> None:
    queue = queue_of(item(rows=5), allowed_sizes=(1, 4, 8), known=LINEAR)
    batch = queue.take(0.0)
    assert (batch.rows, batch.size) == (5, 8)


def test_largest_size_that_is_allowed_is_the_most() -> None:
    queue = queue_of(*(item() for _ in range(9)), max_batch_rows=64, allowed_sizes=(2, 4))
    assert [queue.take(0.0).rows for _ in range(3)] == [4, 4, 1]


# Why a batch has no more rows


def test_reasons() -> None:
    assert queue_of(item()).take(0.0).closed is Closed.FREE
    assert queue_of(*(item() for _ in range(9))).take(0.0).closed is Closed.FULL
    assert queue_of(item(), item(rows=8)).take(0.0).closed is Closed.FULL
    assert queue_of(item(), max_delay_s=1.0).take(1.0).closed is Closed.DELAY
    assert queue_of(item(lane="a"), item(lane="b")).take(0.0).closed is Closed.LANE
    assert queue_of(item(lane=None)).take(0.0).closed is Closed.ALONE
    objective = queue_of(*(item() for _ in range(6)), slo_s=0.08, known=LINEAR).take(0.0)
    assert (objective.rows, objective.closed) == (4, Closed.SLO)


def test_policy_decides_how_many() -> None:
    queue = queue_of(item(), max_delay_s=1.0, policy=FixedDelay)
    queue.add(item(), 0.5)
    queue.add(item(), 1.5)
    assert numbers(queue.take(2.0)) == [0, 1]
    assert queue.take(2.0).items == []
    assert numbers(queue.take(2.5)) == [2]


# Large and small ones


def parts(whole: Item, most: int) -> list[Item]:
    return [
        item(min(most, whole.rows - start), whole.deadline, whole.lane, whole.priority)
        for start in range(0, whole.rows, most)
    ]


def rows_of(batch: Batch) -> list[int]:
    return [each.rows for each in batch.items]


def test_large_one_alone_is_not_cut() -> None:
    queue = queue_of(item(16), max_batch_rows=20, cut=parts)
    assert rows_of(queue.take(0.0)) == [16]


def test_each_run_takes_a_part_of_a_large_one_and_the_small_ones() -> None:
    queue = queue_of(item(16), item(1), item(2), max_batch_rows=20, cut=parts)
    batch = queue.take(0.0)
    assert (rows_of(batch), batch.closed) == ([4, 1, 2], Closed.LARGE)
    queue.add(item(3), 1.0)
    assert rows_of(queue.take(1.0)) == [4, 3]
    assert rows_of(queue.take(1.0)) == [4, 4], "with no small ones there, it takes what room there is"
    assert (len(queue), queue.rows, queue.lanes) == (0, 0, 0)


def test_large_ones_go_in_order_and_one_after_the_other() -> None:
    first, second = item(8), item(8)
    queue = queue_of(first, second, item(1), max_batch_rows=20, cut=parts)
    assert rows_of(queue.take(0.0)) == [4, 1]
    queue.add(item(1), 1.0)
    assert rows_of(queue.take(1.0)) == [4, 1]
    assert queue.take(1.0).items == [second], "nobody small is there, so it is whole"


def test_many_large_ones_take_the_room_that_small_ones_leave() -> None:
    queue = queue_of(*(item(16) for _ in range(11)), item(1), max_batch_rows=20, max_queue_rows=1000, cut=parts)
    batch = queue.take(0.0)
    assert (rows_of(batch), batch.closed) == ([4, 1, 4, 4, 4], Closed.FULL)
    queue = queue_of(item(16), *(item(3) for _ in range(6)), max_batch_rows=20, cut=parts)
    batch = queue.take(0.0)
    assert (rows_of(batch), batch.closed) == ([4, 3, 3, 3, 3, 3], Closed.FULL), "small ones are left, too"


def test_more_urgent_ones_go_before_large_ones_of_another_priority() -> None:
    queue = queue_of(item(16, priority=2), item(1, priority=1), max_batch_rows=20, cut=parts)
    assert rows_of(queue.take(0.0)) == [1, 16]


def test_large_one_that_leaves_while_it_is_cut_takes_its_parts_along() -> None:
    large = item(16)
    queue = queue_of(large, item(1), max_batch_rows=20, cut=parts)
    queue.take(0.0)
    assert [queue.cancel(piece) for piece in large.pieces()] == [False, True, True, True]
    assert (len(queue), queue.rows) == (0, 0)


def test_deadlines_of_a_large_one_are_those_of_its_parts() -> None:
    large = item(16, deadline=5.0)
    queue = queue_of(large, item(1), max_batch_rows=20, cut=parts)
    queue.take(0.0)
    assert queue.next_deadline() == 5.0
    assert queue.expire(5.0) == list(large.parts[1:])
    assert queue.next_deadline() is None
