"""What is tried next. Pure: it is given the measuring, and the time.

Coordinate descent: one setting after another is changed, in the order in which they matter, and kept where that is
clearly better. A candidate is measured only as far as it may win (`Goal.judge`), so most cost one short measurement.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from serving.tuning.goal import Bench, Goal
from serving.tuning.setting import Outcome, Setting

_PASSES = 3
_MEASUREMENTS = 60  # that the time is divided by
_CONFIRM = 0.25  # of the time
_LEAST_S = 0.1
_MOST_S = 5.0
_DELAYS_MS = (0.5, 2.0, 8.0, 32.0)
_DELAY_SHARE = 0.5  # of the bound

Axis = Callable[[Setting], Iterator[Setting]]


@dataclass(frozen=True)
class Found:
    """`start` and `best` were measured once more in the end; they are the same where nothing is clearly better.

    `tried` is in order, `start` first. `complete`: nothing was left to try when the time was over.
    """

    start: Outcome
    best: Outcome
    tried: tuple[Outcome, ...]
    complete: bool


def axes(splits: Sequence[tuple[int, int]], p99_ms: float, most_rows: int, least_rows: int = 1) -> list[Axis]:
    """The moves from a setting, by what they change.

    Args:
        splits: instances and threads that are worth a try.
        most_rows: of a batch; `least_rows`: those of one request.
    """

    def at_once(now: Setting) -> Iterator[Setting]:
        """Most models want no delay; if this one has one, that is settled before the time is over."""
        if now.max_batch_size and now.max_queue_delay_ms:
            yield replace(now, max_queue_delay_ms=0.0)

    def split(now: Setting) -> Iterator[Setting]:
        for instances, threads in splits:
            yield replace(now, instances=instances, threads=threads)

    def batch(now: Setting) -> Iterator[Setting]:
        """Larger as long as that is better, then smaller."""
        if now.max_batch_size:
            for rows in (
                2 * now.max_batch_size,
                4 * now.max_batch_size,
                now.max_batch_size // 2,
                now.max_batch_size // 4,
            ):
                if least_rows <= rows <= most_rows:
                    yield replace(now, max_batch_size=rows)

    def delay(now: Setting) -> Iterator[Setting]:
        if now.max_batch_size:
            for delay_ms in (0.0, *(each for each in _DELAYS_MS if each <= _DELAY_SHARE * p99_ms)):
                if delay_ms != now.max_queue_delay_ms:
                    yield replace(now, max_queue_delay_ms=delay_ms)

    return [at_once, split, batch, delay]


def search(
    bench: Bench,
    goal: Goal,
    start: Setting,
    moves: Sequence[Axis],
    budget_s: float,
    clock: Callable[[], float],
    tell: Callable[[Outcome], None] = lambda _outcome: None,
) -> Found:
    """
    Args:
        budget_s: of `clock`'s seconds; what is under way when they are over is ended.
        tell: is told what came of each setting, and what came of two of them when they were measured again.
    """
    began = clock()
    seconds = min(_MOST_S, max(_LEAST_S, budget_s / _MEASUREMENTS))
    tried: dict[Setting, Outcome] = {}

    def judge(setting: Setting, best: Outcome | None) -> Outcome:
        tried[setting] = outcome = goal.judge(bench, setting, best, seconds)
        tell(outcome)
        return outcome

    def over() -> bool:
        return clock() - began >= budget_s * (1 - _CONFIRM)

    best = first = judge(start, None)
    complete = False
    for _ in range(_PASSES):
        before = best
        for axis in moves:
            best = _along(axis, best, goal, judge, tried, over)
        if over():
            break
        if best is before:
            complete = True
            break
    confirmed = []
    for outcome in (first,) if best is first else (first, best):
        confirmed.append(goal.confirm(bench, outcome, best, seconds))
        tell(confirmed[-1])
    first, last = confirmed[0], confirmed[-1]
    return Found(first, last if goal.better(last, first) else first, tuple(tried.values()), complete)


def _along(
    axis: Axis,
    best: Outcome,
    goal: Goal,
    judge: Callable[[Setting, Outcome | None], Outcome],
    tried: dict[Setting, Outcome],
    over: Callable[[], bool],
) -> Outcome:
    """The best along one axis; from what is better, it goes on anew."""
    moved = True
    while moved:
        moved = False
        for setting in axis(best.setting):
            if over():
                return best
            if setting in tried:
                continue
            outcome = judge(setting, best)
            if goal.better(outcome, best):
                best, moved = outcome, True
                break
    return best
