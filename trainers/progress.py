"""The progress bar of a training run. On a terminal it moves; elsewhere its last state is printed once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def epoch_bar(epochs: int) -> Iterator[Any]:
    """A Keras callback that shows epochs done, what the last one measured on its own rows, and the time."""
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("epochs {task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("", total=epochs)

        def show(epoch: int, logs: dict[str, float]) -> None:
            measured = "  ".join(f"{name} {value:.3f}" for name, value in logs.items() if name[:4] != "val_")
            progress.update(task, completed=epoch + 1, description=measured)

        yield keras.callbacks.LambdaCallback(on_epoch_end=show)
