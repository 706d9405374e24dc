"""What a search found: a table, the same as CSV, and a picture. Reads trials, changes nothing."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator, NullFormatter
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from trainers.contract import Goal
from trainers.plots import COLOURS, figure
from trainers.search.space import Categorical, Space

_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_PANELS = 3  # beside each other in the picture


def state(trial: FrozenTrial) -> str:
    return _STATES.get(trial.state, "running")


def shown(value: Any) -> str:
    """A parameter or a metric, short enough for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def seconds(trial: FrozenTrial) -> float:
    """How long its processes worked on it."""
    return float(trial.user_attrs.get("seconds", 0.0))


def line(trial: FrozenTrial, goal: Goal) -> str:
    """A trial that has ended, in one line."""
    tried = "  ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    result = f"{goal.metric} {shown(trial.value)}" if trial.value is not None else trial.user_attrs.get("reason", "")
    return f"trial {trial.number}  {tried}  {state(trial)}  {result}  {seconds(trial):.0f} s"


def table(trials: Sequence[FrozenTrial], space: Space, goal: Goal, best: FrozenTrial | None) -> Table:
    """All trials, the best one first; those that failed last, with the reason."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", *space.parameters, goal.metric, "state", "time"):
        found.add_column(name, justify="left" if name == "state" else "right")
    for trial in ranked(trials, goal):
        reason = trial.user_attrs.get("reason")
        found.add_row(
            str(trial.number),
            *(shown(trial.params.get(name, "")) for name in space.parameters),
            "" if trial.value is None else shown(trial.value),
            state(trial) + (f": {reason}" if reason else ""),
            f"{seconds(trial):.0f} s",
            style="bold" if best is not None and trial.number == best.number else "",
        )
    return found


def ranked(trials: Sequence[FrozenTrial], goal: Goal) -> list[FrozenTrial]:
    sign = -1 if goal.direction == "maximize" else 1
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1}
    return sorted(trials, key=lambda trial: (order.get(trial.state, 2), sign * (trial.value or 0.0), trial.number))


def write_csv(path: Path, trials: Sequence[FrozenTrial], space: Space, goal: Goal) -> None:
    """In the order of their numbers; numbers in full."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", *space.parameters, goal.metric, "state", "seconds", "reason"])
        for trial in trials:
            writer.writerow(
                [
                    trial.number,
                    *(trial.params.get(name, "") for name in space.parameters),
                    "" if trial.value is None else trial.value,
                    state(trial),
                    seconds(trial),
                    trial.user_attrs.get("reason", ""),
                ]
            )


def plot(path: Path, trials: Sequence[FrozenTrial], space: Space, goal: Goal, title: str) -> None:
    """The goal's metric against each parameter, on the parameter's scale; failed trials are marked at the edge."""
    names = list(space.parameters)
    columns = min(_PANELS, len(names))
    rows = -(-len(names) // columns)
    width = 6.4 if columns == 1 else 4.2
    with figure(path, rows, columns, width=width, height=3.8) as axes:
        panels = [axes] if rows * columns == 1 else list(axes.flat)
        for panel, name in zip(panels, names, strict=False):
            _panel(panel, name, trials, space, goal)
        for panel in panels[len(names) :]:
            panel.axis("off")
        panels[0].set(title=title)
        handles, labels = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _panel(axes: Any, name: str, trials: Sequence[FrozenTrial], space: Space, goal: Goal) -> None:
    parameter = space.parameters[name]
    tried = [trial for trial in trials if name in trial.params]
    words = list(map(str, parameter.values)) if isinstance(parameter, Categorical) else []

    def x(trial: FrozenTrial) -> float:
        value = trial.params[name]
        if not words:
            return float(value)
        beside = (float(trial.number) * 0.618 % 1 - 0.5) / 2  # so that those with the same word are not on each other
        return words.index(str(value)) + beside

    values = [trial.value for trial in tried if trial.state == TrialState.COMPLETE and trial.value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.08 * (high - low or 1.0)
    for kind, marker, colour in (("complete", "o", COLOURS[0]), ("pruned", "v", COLOURS[6])):
        points = [(x(trial), trial.value, trial) for trial in tried if state(trial) == kind and trial.value is not None]
        if points:
            axes.scatter(*zip(*(point[:2] for point in points), strict=True), marker=marker, color=colour, label=kind)
        for index, (at, value, trial) in enumerate(sorted(points, key=lambda point: point[0])):
            left = index % 2 == 0  # two that are close to each other get their numbers on two sides
            place = {"xytext": (-4, 4) if left else (4, -11), "ha": "right" if left else "left"}
            axes.annotate(str(trial.number), (at, value), textcoords="offset points", fontsize=8, **place)
    ranking = [trial for trial in ranked(tried, goal) if trial.state == TrialState.COMPLETE]
    if ranking:
        axes.scatter([x(ranking[0])], [ranking[0].value], s=130, facecolors="none", edgecolors=COLOURS[1], label="best")
    if failed := [x(trial) for trial in tried if trial.state == TrialState.FAIL]:
        edge = 0.02 if goal.direction == "maximize" else 0.98
        axes.scatter(
            failed,
            [edge] * len(failed),
            marker="x",
            color=COLOURS[1],
            label="failed",
            transform=axes.get_xaxis_transform(),
        )
    axes.set(xlabel=name, ylabel=goal.metric)
    if values and all(math.isfinite(value) for value in values):
        axes.set_ylim(low - 2 * margin, high + 2 * margin)
    if isinstance(parameter, Categorical):
        axes.set_xticks(range(len(words)), words)
        axes.set_xlim(-0.5, len(words) - 0.5)
    elif parameter.scale == "log":
        axes.set_xscale("log")
        axes.set_xlim(parameter.min / 1.2, parameter.max * 1.2)
        axes.xaxis.set_minor_formatter(NullFormatter())
        if parameter.max / parameter.min < 100:  # fewer than two powers of ten say too little
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
