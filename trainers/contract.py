"""What a trainer is given and what it hands back: all that the command and a trainer know of each other.

Knows no machine learning library, so that `--list` is instant.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.core.types import Tensors


@dataclass(frozen=True)
class Options:
    """What the command line asks of a training run."""

    seed: int
    log_dir: Path  # TensorBoard scalars of this run go here
    quick: bool = False  # as short as it can be while the model still learns
    epochs: int | None = None  # None: the trainer's own choice

    def epochs_or(self, *, full: int, quick: int) -> int:
        return self.epochs or (quick if self.quick else full)


@dataclass(frozen=True)
class Trained:
    """A trained Keras model and what its manifest says about it.

    The model's inputs carry the names that clients send (`keras.Input(name=...)`); axis 0 is the batch.
    `outputs` names its outputs in their order. `sample` holds at least three held-out rows for each input. An
    exported copy may differ from the model by `atol + rtol * |output|`.
    """

    model: Any
    outputs: tuple[str, ...]
    sample: Tensors
    metric: dict[str, float]
    libraries: dict[str, str]  # beyond those that export.py names for every model
    atol: float = 1e-4
    rtol: float = 0.0
