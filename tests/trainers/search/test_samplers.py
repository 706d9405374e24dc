"""Samplers, on functions that cost nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest

from trainers.contract import TrainingError
from trainers.search.samplers import Sampler, check, names, sampler
from trainers.search.space import Space

PLANE = Space.model_validate(
    {
        "parameters": {
            "x": {"type": "real", "min": 0.001, "max": 10, "scale": "log"},
            "y": {"type": "real", "min": -1, "max": 1},
        }
    }
)
MIXED = Space.model_validate(
    {
        "parameters": {
            "x": {"type": "real", "min": 0.001, "max": 10, "scale": "log", "points": 3},
            "n": {"type": "integer", "min": 1, "max": 8, "points": 2},
            "kind": {"type": "categorical", "values": ["a", "b"]},
        }
    }
)


def hill(point: dict[str, Any]) -> float:
    """Smooth, 1 at x = 0.1, y = 0.3."""
    return float(np.exp(-((np.log10(point["x"]) + 1) ** 2) - 3 * (point["y"] - 0.3) ** 2))


def search(
    kind: Sampler,
    space: Space,
    value: Callable[[dict[str, Any]], float | None],
    trials: int,
    seed: int = 0,
    direction: str = "maximize",
) -> Any:
    """A study as `trainers.search.study` makes one, in memory; a trial without a value fails."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=direction)
    for number in range(trials):
        study.sampler = sampler(kind, space, seed=seed, number=number, startup=5)
        trial = study.ask(space.distributions())
        got = value(trial.params)
        study.tell(trial, got, state=optuna.trial.TrialState.FAIL if got is None else None)
    return study


@pytest.mark.parametrize("kind", names(Sampler))
def test_every_sampler_fills_the_space_and_repeats_itself(kind: Sampler) -> None:
    first, again = ([trial.params for trial in search(kind, MIXED, lambda point: point["x"], 9).trials] for _ in "ab")
    assert first == again
    assert len({tuple(point.items()) for point in first}) >= 7
    other = [trial.params for trial in search(kind, MIXED, lambda point: point["x"], 9, seed=1).trials]
    assert other != first


def test_a_gaussian_process_finds_a_hill_sooner_than_chance() -> None:
    best = {
        kind: [search(kind, PLANE, hill, 16, seed).best_value for seed in range(3)]
        for kind in ("random", "gaussian-process")
    }
    assert min(best["gaussian-process"]) > 0.99
    assert np.mean(best["gaussian-process"]) > np.mean(best["random"]) + 0.02


def test_a_gaussian_process_walks_down_where_it_is_to_minimize() -> None:
    study = search("gaussian-process", PLANE, lambda point: 1 - hill(point), 14, direction="minimize")
    assert study.best_value < 0.01


def test_a_gaussian_process_learns_from_trials_that_failed() -> None:
    study = search("gaussian-process", PLANE, lambda point: None if point["y"] > 0 else hill(point), 20)
    failed = [trial.state == optuna.trial.TrialState.FAIL for trial in study.trials]
    assert sum(failed[8:]) < 5  # chance: about half of 12
    assert study.best_value > 0.6  # at most 0.76 is left where y <= 0


def test_a_grid_is_searched_whole_and_once() -> None:
    study = search("grid", MIXED, lambda point: point["x"], len(MIXED.grid()))
    points = [tuple(trial.params.items()) for trial in study.trials]
    assert sorted(points) == sorted(tuple(point.items()) for point in MIXED.grid())
    assert points != [tuple(point.items()) for point in MIXED.grid()]


def test_quasi_random_points_leave_no_hole() -> None:
    points = [trial.params for trial in search("quasi-random", PLANE, hill, 16).trials]
    cells = {(int(np.log10(point["x"]) + 3), int((point["y"] + 1) * 2)) for point in points}
    assert len(cells) == 16  # one in each of 4 x 4 cells


def test_cma_es_needs_two_numbers() -> None:
    check("cma-es", PLANE)
    one = Space.model_validate({"parameters": {"x": {"type": "real", "min": 0, "max": 1}}})
    with pytest.raises(TrainingError, match="cma-es needs two or more"):
        check("cma-es", one)
