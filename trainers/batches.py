"""Rows in random order, batch by batch, such that a run that is resumed sees exactly what it would have seen."""

from functools import lru_cache

import numpy as np

from trainers.contract import TrainingError


class Batches:
    """`batches[step]` is the batch of that step: the rows in a new random order each epoch, and the last, smaller batch
    of an epoch left out. The same seed gives the same batches, in whatever order they are asked for.
    """

    def __init__(self, *arrays: np.ndarray, size: int, seed: int) -> None:
        """
        Args:
            arrays: of equal length; rows are on axis 0.
            size: rows a batch; all there are, if they are fewer.
        """
        if size < 1:
            raise TrainingError(f"a batch of {size} rows: expected 1 or more")
        self._arrays = arrays
        self._rows = len(arrays[0])
        self.size = min(size, self._rows)
        self.per_epoch = self._rows // self.size
        self._order = lru_cache(2)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(self._rows))

    def rows(self, step: int) -> np.ndarray:
        """Which rows the batch of this step has."""
        epoch, batch = divmod(step, self.per_epoch)
        chosen: np.ndarray = self._order(epoch)[batch * self.size : (batch + 1) * self.size]
        return chosen

    def __getitem__(self, step: int) -> tuple[np.ndarray, ...]:
        rows = self.rows(step)
        return tuple(array[rows] for array in self._arrays)
