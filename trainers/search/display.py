"""What a search shows while it runs: a line for each trial that has ended, and on a terminal how the others go."""

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from trainers.contract import Goal
from trainers.search.report import line, shown


class Display:
    """A bar for the search; below it a line for each trial that runs."""

    def __init__(self, console: Console, goal: Goal, total: int, done: int) -> None:
        self._console = console
        self._goal = goal
        self._progress = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,  # elsewhere the lines say all
        )
        self._search = self._progress.add_task("trials", total=total, completed=done)
        self._trials: dict[int, TaskID] = {}

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def watch(self, event: str, trial: FrozenTrial) -> None:
        """Is told by the study of what happens."""
        tried = "  ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
        if event == "ended":
            self._progress.remove_task(self._trials.pop(trial.number))
            self._progress.advance(self._search)
            self._console.print(line(trial, self._goal), soft_wrap=True, markup=False, highlight=False)
            return
        if trial.number not in self._trials:
            self._trials[trial.number] = self._progress.add_task("", total=None)
        reports = trial.intermediate_values
        measured = f"  {self._goal.metric} {shown(reports[max(reports)])}" if reports else ""
        self._progress.update(self._trials[trial.number], description=f"trial {trial.number}  {tried}{measured}")
