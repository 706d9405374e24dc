"""The progress bar of a training run. On a terminal it moves; elsewhere its last state is printed once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Steps done of all, what was measured last, and the time."""

    def __init__(self, shown: bool = True) -> None:
        self._progress = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("steps {task.description}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            disable=not shown,
        )
        self._measured: dict[str, float] = {}

    @contextmanager
    def open(self, total: int, done: int) -> Iterator[None]:
        with self._progress:
            self._task = self._progress.add_task("", total=total, completed=done)
            yield

    def advance(self) -> None:
        self._progress.advance(self._task)

    def show(self, numbers: Mapping[str, float]) -> None:
        self._measured |= numbers
        text = "  ".join(f"{name} {value:.4g}" for name, value in self._measured.items())
        self._progress.update(self._task, description=text)
