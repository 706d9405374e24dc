"""Who chooses what a trial tries.

A sampler is made anew for every trial, with a seed that depends on the search's seed and the trial's number: a search
that was killed and resumed then goes on as it would have. What a sampler has to remember, it finds in the study.
"""

import math
import random
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr
from scipy.stats import qmc
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from trainers.contract import TrainingError
from trainers.search.space import Categorical, Space
from trainers.settings import Value

Sampler = Literal["random", "grid", "quasi-random", "tpe", "gaussian-process", "cma-es"]


def sampler(kind: Sampler, space: Space, *, seed: int, number: int, startup: int) -> BaseSampler:
    """The sampler for one trial.

    Args:
        number: the trial's.
        startup: how many trials are spread over the space before what they gave is made use of.
    """
    own = np.random.SeedSequence((seed, number)).generate_state(1)[0].item()
    match kind:
        case "random":
            return RandomSampler(seed=own)
        case "grid":
            return Grid(space, seed)
        case "quasi-random":
            return QuasiRandom(space, seed)
        case "gaussian-process":
            return GaussianProcess(space, seed, startup)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if kind == "tpe":
            # The "liar" keeps trials that run at the same time apart.
            return TPESampler(seed=own, n_startup_trials=startup, multivariate=True, constant_liar=True)
        return CmaEsSampler(seed=own, n_startup_trials=startup, warn_independent_sampling=False)


def check(kind: Sampler, space: Space) -> None:
    """Raises TrainingError where a sampler cannot search a space."""
    ranges = [name for name, parameter in space.parameters.items() if not isinstance(parameter, Categorical)]
    if kind == "cma-es" and len(ranges) < 2:
        raise TrainingError("cma-es needs two or more real or integer parameters: choose another --sampler")


class _Whole(BaseSampler):
    """Chooses all parameters together, the first trial's as well."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    def point(self, study: Study, trial: FrozenTrial) -> dict[str, Value]:
        raise NotImplementedError

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.point(study, trial)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        raise TrainingError(f"'{param_name}' is not in the space of this search")


class Grid(_Whole):
    """Every combination once, in random order, so that a part of the grid is spread over the space, too."""

    def point(self, study: Study, trial: FrozenTrial) -> dict[str, Value]:
        grid = self._space.grid()
        random.Random(self._seed).shuffle(grid)
        return grid[int(trial.number) % len(grid)]


class QuasiRandom(_Whole):
    """Sobol's points, which leave smaller holes than random ones."""

    def point(self, study: Study, trial: FrozenTrial) -> dict[str, Value]:
        sequence = qmc.Sobol(len(self._space.parameters), seed=self._seed)
        if trial.number:
            sequence.fast_forward(trial.number)
        return self._space.at(sequence.random(1)[0])


class GaussianProcess(_Whole):
    """A Gaussian process through what was measured; the next trial is where most improvement is to be expected
    (Jones, Schonlau and Welch, 1998)."""

    def __init__(self, space: Space, seed: int, startup: int) -> None:
        super().__init__(space, seed)
        self._startup = startup

    def point(self, study: Study, trial: FrozenTrial) -> dict[str, Value]:
        before = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
        tried = [other for other in before if other.params.keys() == self._space.parameters.keys()]
        measured = [other for other in tried if other.state.is_finished() and other.value is not None]
        if len(measured) < max(2, self._startup):
            return QuasiRandom(self._space, self._seed).point(study, trial)

        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        known = np.array([sign * (other.value or 0.0) for other in measured])
        worst, mean = known.min(), known.mean()
        values = np.array([_value(other, sign, worst, mean) for other in tried])
        # One that went all wrong would leave no difference between the others.
        values = np.maximum(values, np.median(values) - 3 * (values.max() - np.median(values)))

        rng = np.random.default_rng((self._seed, trial.number))
        points = np.array([self._space.coordinates(other.params) for other in tried])
        candidates = self._candidates(tried[int(values.argmax())].params, rng)
        seen = {tuple(other.params.items()) for other in tried}
        fresh = [point for point in candidates if tuple(point.items()) not in seen] or candidates
        expected = _improvement(points, values, np.array([self._space.coordinates(point) for point in fresh]), rng)
        return fresh[int(expected.argmax())]

    def _candidates(self, best: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Value]]:
        """Points all over the space, and more of them near the best one."""
        parameters = self._space.parameters
        centre = [
            (parameter.values.index(best[name]) + 0.5) / len(parameter.values)
            if isinstance(parameter, Categorical)
            else parameter.where(best[name])
            for name, parameter in parameters.items()
        ]
        anywhere = rng.random((512, len(parameters)))
        near = np.array(centre) + rng.normal(size=(256, len(parameters))) * rng.choice([0.01, 0.05, 0.2], (256, 1))
        return [self._space.at(shares) for shares in np.concatenate([anywhere, near.clip(0, 1)])]


def _value(trial: FrozenTrial, sign: int, worst: float, mean: float) -> float:
    """What a trial gave; one that failed counts as the worst, and one that still runs as neither good nor bad."""
    if trial.state == TrialState.FAIL:
        return worst
    return mean if trial.value is None else sign * trial.value


def _improvement(points: np.ndarray, values: np.ndarray, candidates: np.ndarray, rng: np.random.Generator) -> Any:
    """How much better than the best value each candidate is expected to be."""
    kernel = ConstantKernel(1.0) * Matern(np.full(points.shape[1], 0.5), (0.05, 10.0), nu=2.5)
    process = GaussianProcessRegressor(
        kernel + WhiteKernel(1e-3, (1e-6, 0.3)),
        normalize_y=True,
        n_restarts_optimizer=0,
        random_state=int(rng.integers(2**31)),
    )
    # One thread: the matrices are small, and the other processors are busy with trials.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound
        process.fit(points, values)
        mean, deviation = process.predict(candidates, return_std=True)
    deviation = np.maximum(deviation, 1e-12)
    ahead = mean - values.max()
    z = ahead / deviation
    return ahead * ndtr(z) + deviation * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def startup_trials(trials: int) -> int:
    """A quarter of a search looks around."""
    return min(10, max(4, trials // 4))


def names(kinds: Any) -> Sequence[str]:
    return tuple(kinds.__args__)
