"""What is tried, in which order, and when it ends. Nothing is measured and no time passes."""

import pytest

from serving.tuning.goal import HighestRate, LowestLatency
from serving.tuning.search import Found, axes, search
from serving.tuning.setting import Outcome, Setting
from tests.tuning.pretend import Pretend

SPLITS = [(1, 1), (1, 2), (2, 1)]
START = Setting(max_batch_size=8, max_queue_delay_ms=5.0)


def found_by(bench: Pretend, p99_ms: float, start: Setting = START, budget_s: float = 60.0, most: int = 256) -> Found:
    return search(bench, HighestRate(p99_ms), start, axes(SPLITS, p99_ms, most), budget_s, bench.clock)


def test_finds_what_is_best_for_a_bound_that_is_easy_to_hold() -> None:
    found = found_by(Pretend(), 1000)
    assert found.complete
    assert (found.best.setting.instances, found.best.setting.threads) == (2, 1)
    assert found.best.setting.max_batch_size >= 64  # a run costs 1 ms and 0.2 ms a row: larger is better
    assert found.start.setting == START and found.tried[0].setting == START
    assert found.best.best is not None and found.start.best is not None
    assert found.best.best.rate > 2 * found.start.best.rate


def test_a_bound_that_is_hard_to_hold_wants_small_batches_and_no_delay() -> None:
    found = found_by(Pretend(), 4.0, Setting(max_batch_size=64))
    assert found.best.best is not None and found.start.best is None
    assert found.best.setting.max_batch_size <= 16 and found.best.setting.max_queue_delay_ms == 0


def test_what_is_set_stays_if_nothing_is_better() -> None:
    best = found_by(Pretend(), 50).best.setting
    again = found_by(Pretend(), 50, best)
    assert again.best.setting == best and again.best is again.start and again.complete


def test_nothing_is_measured_twice() -> None:
    bench = Pretend()
    found = found_by(bench, 100)
    assert len({outcome.setting for outcome in found.tried}) == len(found.tried)
    assert len(bench.asked) == len(set(bench.asked))


@pytest.mark.parametrize("budget_s", [6.0, 20.0, 60.0, 200.0])
def test_the_time_is_kept(budget_s: float) -> None:
    bench = Pretend()
    found_by(bench, 30, budget_s=budget_s)
    assert bench.now - 100 <= 1.1 * budget_s


def test_a_short_time_gives_what_was_found_so_far() -> None:
    found = found_by(Pretend(), 30, budget_s=0.5)
    assert not found.complete and found.best.best is not None


def test_a_lucky_setting_does_not_win() -> None:
    """All that is tried looks ten times better at first; nothing really is."""
    bench = Pretend(row_ms=10.0, gain=1.0, fixed_ms=0.0, luck=lambda s, number: 0.1 if s != START and number < 8 else 1)
    found = found_by(bench, 500)
    assert found.best.best is not None and found.start.best is not None
    assert found.best.setting == START or found.best.best.rate > found.start.best.rate


def test_a_model_that_is_not_batched_has_instances_and_threads_alone() -> None:
    found = found_by(Pretend(), 10, Setting(max_batch_size=0))
    assert {outcome.setting.max_batch_size for outcome in found.tried} == {0}
    assert {(s.instances, s.threads) for s in (outcome.setting for outcome in found.tried)} == set(SPLITS)


def test_limits_of_what_is_tried() -> None:
    found = found_by(Pretend(), 10, Setting(max_batch_size=16), most=16)
    assert max(outcome.setting.max_batch_size for outcome in found.tried) == 16
    assert max(outcome.setting.max_queue_delay_ms for outcome in found.tried) <= 5


def test_a_request_fits_into_a_batch() -> None:
    bench = Pretend()
    found = search(bench, HighestRate(2), Setting(max_batch_size=32), axes(SPLITS, 2, 256, 16), 60, bench.clock)
    assert min(outcome.setting.max_batch_size for outcome in found.tried) == 16


def test_the_least_latency_at_a_rate() -> None:
    bench = Pretend()
    goal = LowestLatency(100, rate=200)
    found = search(bench, goal, START, axes(SPLITS, 100, 256), 60, bench.clock)
    assert found.best.setting.max_queue_delay_ms == 0 and found.best.setting.max_batch_size <= 4
    assert all(trial.rate == 200 for outcome in found.tried for trial in outcome.trials)


def test_it_tells_what_came_of_each() -> None:
    bench = Pretend()
    told: list[Outcome] = []
    found = search(bench, HighestRate(50), START, axes(SPLITS, 50, 64), 60, bench.clock, told.append)
    assert tuple(told[: len(found.tried)]) == found.tried
    assert [outcome.setting for outcome in told[len(found.tried) :]] == [START, found.best.setting]
