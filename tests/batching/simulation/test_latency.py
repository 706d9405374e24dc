"""How long runs take: lines, points and noise."""

from statistics import fmean, pstdev

import pytest

from serving.batching.simulation.latency import Linear, Measured, Noisy, capacity


def test_a_run_takes_its_fixed_time_and_that_of_its_rows() -> None:
    assert Linear(4, 0.5)(6) == 7


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [(1, 3), (2, 3), (3, 4), (4, 5), (8, 5), (12, 7), (16, 9), (24, 13)],
)
def test_points_are_joined_by_lines_of_which_the_last_goes_on(rows: int, seconds: float) -> None:
    assert Measured({16: 9, 2: 3, 8: 5, 4: 5})(rows) == seconds


def test_of_one_point_time_is_in_proportion_to_rows() -> None:
    assert [Measured({4: 2})(rows) for rows in (1, 4, 10)] == [2, 2, 5]


def test_a_line_that_falls_does_not_fall_below_no_time() -> None:
    assert Measured({1: 4, 2: 1})(10) == 0


@pytest.mark.parametrize("points", [{}, {0: 1.0}, {1: -1.0}])
def test_points_that_cannot_be_are_refused(points: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="seconds of runs by their rows"):
        Measured(points)


@pytest.mark.parametrize("times", [(-1, 0), (0, -1)])
def test_times_below_zero_are_refused(times: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="less than no time"):
        Linear(*times)


def test_noise_has_the_mean_and_the_spread_that_were_asked_for() -> None:
    noisy = Noisy(Linear(2, 0), 0.5, seed=3)
    drawn = [noisy(1) for _ in range(20_000)]
    assert (fmean(drawn), pstdev(drawn)) == pytest.approx((2, 1), rel=0.03)
    again = Noisy(Linear(2, 0), 0.5, seed=3)
    assert drawn == [again(1) for _ in drawn]
    with pytest.raises(ValueError, match="not negative"):
        Noisy(Linear(1, 1), -0.1, 1)


def test_the_most_that_runs_can_make_is_at_their_best_size() -> None:
    assert capacity(Linear(4, 1), 4, instances=2) == (2 * 4 / 8, 4)
    assert capacity(Measured({1: 1, 4: 1, 8: 4}), 8) == (4, 4)
