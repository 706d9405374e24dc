"""The survey of `mlp`: every activation with every initialisation and optimiser, with and without batch normalisation;
the way from 1986 to today, one change at a time; and what becomes of the gradient on its way down through the layers.

Prints its tables and writes them (`survey.md`, and in full `survey.csv` and `since_1986.csv`), with `curves.png`,
`since_1986.png` and `vanishing.png`.
With --quick, only the variants that `curves.png` shows.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from trainers.comparison import Result, compare, write_csv
from trainers.models.digits import Rows, split
from trainers.models.mlp import (
    RATES,
    RUMELHART_1986,
    Activation,
    Initialisation,
    Optimiser,
    Settings,
    fit,
    loss_of,
    network,
)
from trainers.plots import COLOURS, LINES, figure
from trainers.run import Run

ACTIVATIONS, INITIALISATIONS, OPTIMISERS = get_args(Activation), get_args(Initialisation), get_args(Optimiser)
BASE = Settings(depth=4, width=32, batch=64, batch_norm=False)  # deep enough to tell good starts from bad ones
SLOW = replace(BASE, initialisation="xavier", optimiser="sgd")

Variants = dict[str, Settings]


def named(settings: Settings) -> str:
    parts = [settings.activation, settings.initialisation, settings.optimiser]
    return "-".join([*parts, "batch_norm"] if settings.batch_norm else parts)


PANELS: dict[str, Variants] = {  # of curves.png: by title, by what differs
    "Optimisers (ReLU, He)": {name: replace(BASE, optimiser=name) for name in OPTIMISERS},
    "Activations (Xavier, momentum)": {
        name: replace(BASE, activation=name, initialisation="xavier", optimiser="momentum") for name in ACTIVATIONS
    },
    "First weights (ReLU, SGD)": {
        name: replace(BASE, initialisation=name, optimiser="sgd") for name in INITIALISATIONS
    },
    "Batch normalisation (Xavier, SGD)": {
        f"{settings.activation}, {'with' if norm else 'without'}": replace(settings, batch_norm=norm)
        for settings in (replace(SLOW, activation="sigmoid"), replace(SLOW, activation="tanh"))
        for norm in (False, True)
    },
}

GRID: Variants = {
    named(settings): settings
    for settings in (
        replace(BASE, batch_norm=norm, activation=activation, initialisation=initialisation, optimiser=optimiser)
        for norm, initialisation, activation, optimiser in product(
            (False, True), INITIALISATIONS, ACTIVATIONS, OPTIMISERS
        )
    )
}

CHANGES: dict[str, dict[str, Any]] = {  # each on top of those before
    "batches of 32": {"batch": 32},
    "cross entropy": {"loss": "cross_entropy"},
    "ReLU, He": {"activation": "relu", "initialisation": "he", "learning_rate": 0.0},
    "Adam": {"optimiser": "adam"},
    "batch normalisation": {"batch_norm": True},
    "two hidden layers": {"depth": 2},
}
EPOCHS_1986 = 2000  # of the first, which has one update in each


def since_1986() -> Variants:
    variants = {"1986": RUMELHART_1986}
    settings = RUMELHART_1986
    for name, change in CHANGES.items():
        variants[name] = settings = replace(settings, **change)
    return variants


def survey(run: Run) -> None:
    rows, held_out = split(run.seed)
    shown = {named(settings): settings for panel in PANELS.values() for settings in panel.values()}
    variants = shown if run.quick else GRID
    _draw_vanishing(run, rows)

    def train(part: Run, settings: Settings) -> dict[str, Any]:
        many = settings == RUMELHART_1986
        fitted = fit(part, settings, rows, held_out, full=EPOCHS_1986 if many else 20, quick=50 if many else 5)
        return {
            "train_loss": fitted.loss,
            "held_out_accuracy": fitted.accuracy,
            "train_losses": part.curve("train_loss")[1],
            "held_out_accuracies": part.curve("held_out_accuracy")[1],
        }

    steps = since_1986()
    since = compare(run.part("since_1986"), steps, train)
    grid = compare(run.part("grid"), variants, train)
    write_csv(run.path("since_1986.csv"), _rows(steps, since))
    write_csv(run.path("survey.csv"), _rows(variants, grid))
    _draw_since(run, since)
    _draw_curves(run, grid)
    _show(
        run.path("survey.md"),
        {
            "Held-out accuracy in %, without batch normalisation": grid_table(False, grid),
            "Held-out accuracy in %, with batch normalisation": grid_table(True, grid),
            "From 1986 to today": since_table(since),
        },
    )
    print(f"tables and pictures: {run.directory}")


def _rows(variants: Variants, results: Mapping[str, Result]) -> list[dict[str, Any]]:
    rows = []
    for name, settings in variants.items():
        rate = settings.learning_rate or RATES.get(settings.optimiser, 0.0)
        measured: dict[str, Any] = {"train_loss": "", "held_out_accuracy": "", "cpu_s": "", "diverged": ""}
        measured |= {key: value for key, value in results[name].items() if key in measured}
        rows.append({"name": name, **asdict(settings), "learning_rate": rate or "", **measured})
    return rows


def percent(result: Result | None) -> str:
    if result is None:
        return ""
    return "diverged" if "diverged" in result else f"{100 * result['held_out_accuracy']:.1f}"


def grid_table(norm: bool, results: Mapping[str, Result]) -> list[list[str]]:
    """Held-out accuracy by activation and first weights, and by optimiser; below, what a run costs."""
    rows = [["activation", "first weights", *OPTIMISERS]]
    spent: list[list[float]] = [[] for _ in OPTIMISERS]
    for activation, initialisation in product(ACTIVATIONS, INITIALISATIONS):
        row = replace(BASE, activation=activation, initialisation=initialisation, batch_norm=norm)
        found = [results.get(named(replace(row, optimiser=optimiser))) for optimiser in OPTIMISERS]
        if any(found):
            rows.append([activation, initialisation, *map(percent, found)])
        for times, result in zip(spent, found, strict=True):
            times += [result["cpu_s"]] if result else []
    return [*rows, ["CPU s a run", "", *(f"{np.mean(times):.1f}" if times else "" for times in spent)]]


def since_table(results: Mapping[str, Result]) -> list[list[str]]:
    rows = [["change, on top of those above", "held-out accuracy, %", "epochs", "CPU s"]]
    for name, result in results.items():
        rows.append([name, percent(result), str(len(result.get("train_losses", []))), f"{result['cpu_s']:.1f}"])
    return rows


def _show(path: Path, tables: Mapping[str, list[list[str]]]) -> None:
    """Prints the tables, and writes them as Markdown."""
    lines = []
    for title, (header, *rows) in tables.items():
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        Console(width=120).print(table)
        lines += [f"{title}:", "", _line(header), _line(["---"] * len(header)), *map(_line, rows), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _draw_since(run: Run, results: Mapping[str, Result]) -> None:
    with figure(run.path("since_1986.png")) as axes:
        for index, (name, result) in enumerate(results.items()):
            errors = 100 * (1 - np.array(result.get("held_out_accuracies", [])))
            axes.plot(range(1, len(errors) + 1), errors, LINES[index % len(LINES)], label=name)
        axes.set(title="From 1986 to today: held-out errors", xlabel="epoch", ylabel="%", xscale="log", yscale="log")
        axes.set(ylim=(0.5, 120), yticks=(1, 3, 10, 30, 100), yticklabels=("1", "3", "10", "30", "100"))
        axes.legend(loc="lower right", ncols=2, fontsize=8)


def _draw_curves(run: Run, results: Mapping[str, Result]) -> None:
    with figure(run.path("curves.png"), 2, 2, width=4.6, height=3.4) as places:
        for axes, (title, panel) in zip(places.flat, PANELS.items(), strict=True):
            for index, (label, settings) in enumerate(panel.items()):
                losses = results[named(settings)].get("train_losses", [])
                axes.plot(range(1, len(losses) + 1), losses, LINES[index % len(LINES)], label=label)
            axes.set(title=title, yscale="log", xlabel="epoch", ylabel="loss on the training rows")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(fontsize=8)


LAYERS = 12  # of the network whose gradients are looked at
DEEP = replace(BASE, depth=LAYERS)
GRADIENTS: Variants = {
    "sigmoid, random": replace(DEEP, activation="sigmoid", initialisation="random"),
    "sigmoid, Xavier": replace(DEEP, activation="sigmoid", initialisation="xavier"),
    "sigmoid, Xavier, batch norm.": replace(DEEP, activation="sigmoid", initialisation="xavier", batch_norm=True),
    "tanh, Xavier": replace(DEEP, activation="tanh", initialisation="xavier"),
    "ReLU, Xavier": replace(DEEP, activation="relu", initialisation="xavier"),
    "ReLU, He": replace(DEEP, activation="relu", initialisation="he"),
}


def gradient_norms(settings: Settings, rows: Rows) -> np.ndarray:
    """Norm of the loss's derivative by each layer's weights, from the first layer to the last, before any training."""
    model = network(settings)
    matrices = [weight for weight in model.trainable_variables if len(weight.shape) == 2]
    with tf.GradientTape() as tape:
        loss = loss_of(settings, model(rows.images, training=True), rows.digits)
    return np.array([float(tf.norm(slope)) for slope in tape.gradient(loss, matrices)])


def _draw_vanishing(run: Run, rows: Rows) -> None:
    with figure(run.path("vanishing.png"), 1, 2, width=4.6, height=3.6) as places:
        derivatives, norms = places[0]
        z = np.linspace(-6, 6, 241)
        sigmoid = 1 / (1 + np.exp(-z))
        slopes = {"sigmoid": sigmoid * (1 - sigmoid), "tanh": 1 - np.tanh(z) ** 2, "ReLU": (z > 0).astype(float)}
        for (name, values), colour, line in zip(slopes.items(), COLOURS, LINES, strict=False):
            derivatives.plot(z, values, line, color=colour, label=name)
        derivatives.axhline(0.25, color="black", linewidth=0.8, linestyle=":")
        derivatives.set(title="Derivative of the activation", xlabel="weighted sum", yticks=(0, 0.25, 0.5, 0.75, 1))
        derivatives.legend(loc="upper left")

        for index, (name, settings) in enumerate(GRADIENTS.items()):
            keras.utils.set_random_seed(run.seed)
            values = gradient_norms(settings, rows)
            norms.plot(range(1, len(values) + 1), values, LINES[index % len(LINES)], marker="o", ms=3, label=name)
        norms.set(title=f"Gradient by layer, {LAYERS} hidden layers", xlabel="layer", ylabel="norm", yscale="log")
        norms.legend(fontsize=8, loc="lower right")
