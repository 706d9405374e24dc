"""How far a setting is measured, and which of two is better."""

import math

import pytest

from serving.tuning.goal import GAIN, HighestRate, LowestLatency
from serving.tuning.setting import Outcome, Setting, Trial
from tests.tuning.pretend import Pretend

SMALL, LARGE = Setting(max_batch_size=4), Setting(max_batch_size=64)


def held(rate: float, p99_ms: float = 5.0, setting: Setting = SMALL) -> Outcome:
    trial = Trial(rate, 1.0, 100, 100, 1.0, p99_ms, 1.0)
    return Outcome(setting, (trial,), trial, 2 * rate)


class TestHighestRate:
    def test_finds_about_the_highest_rate_that_holds(self) -> None:
        """Waiting is such that a p99 of four runs is reached at three quarters of the capacity."""
        bench = Pretend()
        outcome = HighestRate(4 * bench.run_ms(LARGE)).judge(bench, LARGE, None, 1.0)
        assert outcome.best is not None and outcome.best.holds(4 * bench.run_ms(LARGE))
        assert 0.68 <= outcome.best.rate / bench.per_s(LARGE) <= 0.751
        assert outcome.capacity == bench.per_s(LARGE)
        assert bench.now <= 100 + 5.5

    def test_goes_far_down_for_a_bound_that_is_hard_to_hold(self) -> None:
        bench = Pretend()
        outcome = HighestRate(1.1 * bench.run_ms(SMALL)).judge(bench, SMALL, None, 1.0)
        assert outcome.best is not None and outcome.best.rate < 0.1 * bench.per_s(SMALL)

    def test_a_bound_that_nothing_holds(self) -> None:
        bench = Pretend()
        outcome = HighestRate(0.5 * bench.run_ms(SMALL)).judge(bench, SMALL, None, 1.0)
        assert outcome.best is None and not outcome.lost and len(outcome.trials) > 2

    def test_what_cannot_win_is_not_tried(self) -> None:
        bench = Pretend()
        outcome = HighestRate(100).judge(bench, SMALL, held(bench.per_s(SMALL)), 1.0)
        assert outcome.lost and outcome.trials == () and bench.now == 100.5

    def test_one_trial_shows_that_it_is_not_better(self) -> None:
        bench = Pretend()
        outcome = HighestRate(2 * bench.run_ms(SMALL)).judge(bench, SMALL, held(0.5 * bench.per_s(SMALL)), 1.0)
        assert outcome.lost and outcome.best is None and len(outcome.trials) == 1

    def test_what_wins_is_measured_to_the_end(self) -> None:
        bench = Pretend()
        goal = HighestRate(4 * bench.run_ms(LARGE))
        outcome = goal.judge(bench, LARGE, held(0.4 * bench.per_s(LARGE)), 1.0)
        assert outcome.best is not None and outcome.best.rate > 0.65 * bench.per_s(LARGE)
        assert goal.better(outcome, held(0.4 * bench.per_s(LARGE)))

    def test_more_than_enough_is_not_asked_for(self) -> None:
        bench = Pretend()
        goal = HighestRate(1000, most=50)
        enough = goal.judge(bench, LARGE, None, 1.0)
        assert enough.best is not None and enough.best.rate == 50 and len(enough.trials) == 1
        asked = len(bench.asked)
        assert goal.judge(bench, SMALL, enough, 1.0).lost and len(bench.asked) == asked

    def test_better_is_clearly_better(self) -> None:
        goal = HighestRate(10)
        assert goal.better(held(GAIN * 100), held(100)) and not goal.better(held(104), held(100))
        nothing = Outcome(SMALL)
        assert goal.better(held(1), nothing) and not goal.better(nothing, held(1))
        assert not goal.better(nothing, nothing)

    def test_of_two_that_do_not_hold_the_nearer_is_better(self) -> None:
        goal = HighestRate(1)
        far, near = (Outcome(SMALL, held(10, p99_ms).trials) for p99_ms in (9.0, 3.0))
        assert goal.better(near, far) and not goal.better(far, near) and not goal.better(near, near)

    def test_what_was_lucky_is_found_out(self) -> None:
        """In the search, all that is measured is ten times too good."""
        bench = Pretend(luck=lambda _setting, _number: 0.1)
        goal = HighestRate(2 * bench.run_ms(SMALL))
        outcome = goal.judge(bench, SMALL, None, 1.0)
        assert outcome.best is not None and outcome.best.rate > 0.7 * bench.per_s(SMALL)
        bench.luck = lambda _setting, _number: 1.0
        again = goal.confirm(bench, outcome, outcome, 1.0)
        assert again.best is None or again.best.rate <= 0.5 * bench.per_s(SMALL)
        assert again.trials[: len(outcome.trials)] == outcome.trials

    def test_what_was_unlucky_gets_another_chance(self) -> None:
        bench = Pretend(luck=lambda _setting, _number: 100.0)
        goal = HighestRate(4 * bench.run_ms(SMALL))
        outcome = goal.judge(bench, SMALL, None, 1.0)
        assert outcome.best is None
        bench.luck = lambda _setting, _number: 1.0
        again = goal.confirm(bench, outcome, held(0.5 * bench.per_s(SMALL)), 1.0)
        assert again.best is not None and again.best.rate == 0.5 * bench.per_s(SMALL)
        assert goal.confirm(bench, outcome, outcome, 1.0) is outcome  # nothing is claimed


class TestLowestLatency:
    def test_one_trial_at_the_rate_that_was_given(self) -> None:
        bench = Pretend()
        goal = LowestLatency(100, rate=10)
        outcome = goal.judge(bench, SMALL, None, 1.0)
        assert outcome.best is not None and outcome.best.rate == 10 and len(outcome.trials) == 1
        assert len(goal.confirm(bench, outcome, outcome, 1.0).trials) == 2

    def test_a_rate_that_is_too_high(self) -> None:
        bench = Pretend()
        assert LowestLatency(100, rate=2 * bench.per_s(SMALL)).judge(bench, SMALL, None, 1.0).best is None

    def test_better(self) -> None:
        goal = LowestLatency(10, 100)
        assert goal.better(held(100, 4.0), held(100, 5.0)) and not goal.better(held(100, 4.9), held(100, 5.0))
        assert goal.better(held(100), Outcome(SMALL)) and not goal.better(Outcome(SMALL), held(100))


@pytest.mark.parametrize(
    ("answered", "p99_ms", "holds"), [(100, 5.0, True), (99, 5.0, False), (100, 5.1, False), (100, math.inf, False)]
)
def test_a_trial_holds_if_all_was_answered_in_time(answered: int, p99_ms: float, holds: bool) -> None:
    assert Trial(1.0, 1.0, 100, answered, 1.0, p99_ms, 1.0).holds(5.0) is holds
