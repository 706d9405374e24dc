"""What a model answers for many rows, and how many of the answers are right."""

from typing import Any

import numpy as np


def predict(model: Any, rows: np.ndarray, size: int = 500) -> np.ndarray:
    """The model's outputs for all rows, computed `size` rows at a time."""
    parts = [np.asarray(model(rows[at : at + size], training=False)) for at in range(0, len(rows), size)]
    return np.concatenate(parts)


def accuracy(model: Any, rows: np.ndarray, classes: np.ndarray) -> float:
    """The share of rows whose largest output is that of their class (whole numbers)."""
    return float(np.mean(predict(model, rows).argmax(axis=1) == classes))
