"""When requests are due and of which kind each is: a Poisson process, drawn from a seed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Schedule:
    """By request, in order: seconds after the start at which it is due, and the number of its kind."""

    due_s: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.due_s)


def poisson(rate: float, seconds: float, weights: Sequence[float], seed: int) -> Schedule:
    """Arrivals of `rate` per second on average, for `seconds`; kind k comes with probability in proportion to weight k.

    The same arguments give the same schedule. ValueError unless rate, seconds and the sum of the weights are positive.
    """
    if rate <= 0 or seconds <= 0 or sum(weights) <= 0 or min(weights) < 0:
        raise ValueError(f"no schedule of {rate} requests a second for {seconds} s with weights {list(weights)}")
    rng = np.random.default_rng(seed)
    # Given their number, the arrivals of a Poisson process are independent and uniform.
    due_s = np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))
    shares = np.asarray(weights, np.float64) / sum(weights)
    return Schedule(due_s, rng.choice(len(shares), len(due_s), p=shares).astype(np.int16))
