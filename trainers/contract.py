"""What a trainer is given and what it hands back: all that the command and a trainer know of each other.

Knows no machine learning library, so that `--list` is instant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from serving.core.types import Tensors


class TrainingError(Exception):
    """Training cannot go on; the message is one line for the person who started it."""


class DataError(TrainingError):
    """A data set is missing, damaged or not what was expected; the message names the file."""


class DivergenceError(TrainingError):
    """What is computed is no number any more."""


@dataclass(frozen=True)
class Goal:
    """What a search makes better: an entry of `Trained.metric`, which `Run.report` gives on the way too."""

    metric: str
    direction: Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Options:
    """What the command line asks of a training run.

    Attributes:
        directory: all that a run leaves beside the published versions is in here.
        quick: as short as it can be while the model still learns; on generated data where there is no other.
        epochs, steps: how long to train; None: the trainer's own choice.
        data_dir: where data sets are looked for.
        download: they may be fetched into it.
        resume: goes on where the last checkpoint in `directory` was written.
        report: is told the step and the goal's metric whenever a run measures it; may raise to end the run.
    """

    directory: Path
    seed: int = 0
    quick: bool = False
    epochs: int | None = None
    steps: int | None = None
    data_dir: Path = Path("data")
    download: bool = False
    resume: bool = False
    report: Callable[[int, float], None] = lambda step, value: None


@dataclass(frozen=True)
class Trained:
    """A trained Keras model and what its manifest says about it.

    The model's inputs carry the names that clients send (`keras.Input(name=...)`); axis 0 is the batch.
    `outputs` names its outputs in their order. `sample` holds at least three held-out rows for each input. An
    exported copy may differ from the model by `atol + rtol * |output|`. What is said of `data` is one line; where
    it was `generated`, the metric is shown and not published, for it says nothing.
    """

    model: Any
    outputs: tuple[str, ...]
    sample: Tensors
    metric: dict[str, float]
    data: str
    generated: bool = False
    files: Mapping[str, bytes] = field(
        default_factory=dict
    )  # more that a client needs, by name: published with the model
    libraries: Mapping[str, str] = field(default_factory=dict)  # beyond those that export.py names for every model
    atol: float = 1e-4
    rtol: float = 0.0
