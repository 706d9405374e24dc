"""Threshold logic units: what one of them can compute, what it cannot, and the two layers that can.

A unit fires (1) if the weighted sum of its inputs and its bias is not negative (McCulloch and Pitts 1943). With weights
set by hand it computes identity, NOT, AND and OR, and Rosenblatt's rule (1958) finds such weights by itself. For XOR
and XNOR there are none to find (Minsky and Papert 1969): XOR asks for

    b < 0,    w1 + b >= 0,    w2 + b >= 0,    w1 + w2 + b < 0

and the middle two add up to w1 + w2 + b >= -b > 0. A layer between, trained by backpropagation, computes both.

A client sends `x` float32 [batch, 2], zeros and ones, and gets `identity` and `not` (of the first number), `and` and
`or` from units with fixed weights, `xor` and `xnor` as probabilities from the trained network: float32 [batch, 1] each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from rich.console import Console
from rich.table import Table

from trainers.contract import Goal, Trained
from trainers.plots import COLOURS, LINES, figure
from trainers.run import Run

GOAL = Goal("truth_table_accuracy", "maximize")

ROWS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)  # all there is to know
TABLES = {  # what each function says of them
    "identity": np.array([0, 0, 1, 1]),
    "not": np.array([1, 1, 0, 0]),
    "and": np.array([0, 0, 0, 1]),
    "or": np.array([0, 1, 1, 1]),
    "xor": np.array([0, 1, 1, 0]),
    "xnor": np.array([1, 0, 0, 1]),
}
EPOCHS = 20  # that Rosenblatt's rule is given; the four that can be learned need six at most


class Unit(NamedTuple):
    """A threshold unit with two inputs."""

    w1: float
    w2: float
    bias: float

    def fires(self, rows: np.ndarray) -> np.ndarray:
        """0 or 1 for each row [.., 2]."""
        return np.asarray(rows @ (self.w1, self.w2) + self.bias >= 0, dtype=int)

    def mistakes(self, table: np.ndarray) -> int:
        return int(np.sum(self.fires(ROWS) != table))


BY_HAND = {
    "identity": Unit(1, 0, -0.5),
    "not": Unit(-1, 0, 0.5),
    "and": Unit(1, 1, -1.5),
    "or": Unit(1, 1, -0.5),
}


@dataclass(frozen=True)
class Settings:
    hidden: int = 4  # units between input and output; two are enough where the start is lucky
    learning_rate: float = 1.0


class Learned(NamedTuple):
    """What Rosenblatt's rule made of a unit: weights, and mistakes in each epoch (none in the last if learned)."""

    unit: Unit
    mistakes: list[int]
    cycle: int | None  # epochs after which weights come again that led to mistakes: then they come again for ever


def rosenblatt(table: np.ndarray, epochs: int = EPOCHS) -> Learned:
    """Starts from zero and shows the rows in their order; each mistake moves the weights by the row, to or fro."""
    unit = Unit(0, 0, 0)
    seen = {unit: 0}
    mistakes: list[int] = []
    cycle = None
    for epoch in range(1, epochs + 1):
        mistakes.append(0)
        for (x1, x2), wanted in zip(ROWS, table, strict=True):
            error = int(wanted - unit.fires(np.array([x1, x2])))
            mistakes[-1] += abs(error)
            unit = Unit(unit.w1 + error * x1, unit.w2 + error * x2, unit.bias + error)
        if mistakes[-1] == 0:
            break
        if cycle is None and unit in seen:
            cycle = epoch - seen[unit]
        seen.setdefault(unit, epoch)
    return Learned(unit, mistakes, cycle)


def best_of_grid(table: np.ndarray) -> tuple[Unit, int]:
    """Of all units with weights and bias from -2 to 2 in steps of 1/4: one with the fewest mistakes, and how many."""
    values = np.linspace(-2, 2, 17)
    grid = np.stack(np.meshgrid(values, values, values, indexing="ij"), axis=-1).reshape(-1, 3)
    sums = grid[:, :2] @ ROWS.T + grid[:, 2:]
    mistakes = np.sum((sums >= 0) != table, axis=1)
    distance = np.abs(sums).min(axis=1) / (np.linalg.norm(grid[:, :2], axis=1) + 1e-9)  # of its line from any row
    best = np.lexsort((-np.minimum(distance, 1), mistakes))[0]
    return Unit(*map(float, grid[best])), int(mistakes[best])


def units_by_hand(x: Any) -> list[Any]:
    """The fixed units as one layer each."""
    outputs = []
    for name, (w1, w2, bias) in BY_HAND.items():
        total = ops.matmul(x, np.array([[w1], [w2]], np.float32)) + bias
        outputs.append(layers.Identity(name=f"{name}_unit")(ops.cast(total >= 0, "float32")))
    return outputs


def two_layers(hidden: int) -> Any:
    """The network that learns XOR and XNOR: its outputs are probabilities [batch, 2]."""
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(hidden, activation="tanh"),
            layers.Dense(2, activation="sigmoid"),
        ]
    )


def published(network: Any) -> Any:
    """All six outputs in one model."""
    x = keras.Input((2,), name="x")
    both = network(x)
    return keras.Model(x, [*units_by_hand(x), both[:, :1], both[:, 1:]])


def right(model: Any) -> dict[str, float]:
    """For each function the share of rows of its truth table that the model has right."""
    answers = dict(zip(TABLES, model(ROWS, training=False), strict=True))
    return {name: float(np.mean((answers[name].numpy()[:, 0] > 0.5) == table)) for name, table in TABLES.items()}


def train(run: Run, settings: Settings) -> Trained:
    learned = {name: rosenblatt(table) for name, table in TABLES.items()}
    _show(learned)
    _draw_mistakes(run, learned)

    network = two_layers(settings.hidden)
    model = published(network)
    wanted = np.stack([TABLES["xor"], TABLES["xnor"]], axis=1).astype(np.float32)

    @tf.function
    def train_step() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.binary_crossentropy(wanted, network(ROWS, training=True)))
        weights = network.trainable_variables
        for weight, slope in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(settings.learning_rate * slope)  # downhill, by hand
        return loss

    run.keep(network=network)
    run.graph(train_step)
    for _ in run.steps(run.length(full=2000, quick=1000)):
        run.log(loss=train_step())
        if run.every(100):
            run.log(truth_table_accuracy=float(np.mean(list(right(model).values()))))

    _draw_boundaries(run, network)
    shares = right(model)
    return Trained(
        model=model,
        outputs=tuple(TABLES),
        sample={"x": ROWS},
        metric={"truth_table_accuracy": float(np.mean(list(shares.values()))), **shares},
        data="the four rows of each truth table, which are all there are",
    )


def _show(learned: Mapping[str, Learned]) -> None:
    table = Table("function", "by hand", "Rosenblatt's rule", "best of 4,913 units")
    for name, (_, mistakes, _) in learned.items():
        rule = f"learned, right in epoch {len(mistakes)}" if not mistakes[-1] else "never: the weights repeat"
        by_hand = "{:g}, {:g}, bias {:g}".format(*BY_HAND[name]) if name in BY_HAND else "none"
        table.add_row(name, by_hand, rule, f"{4 - best_of_grid(TABLES[name])[1]} of 4 rows right")
    Console().print(table)


def _draw_mistakes(run: Run, learned: Mapping[str, Learned]) -> None:
    with figure(run.path("rosenblatt.png")) as axes:
        for index, (name, (_, mistakes, _)) in enumerate(learned.items()):
            epochs = range(1, len(mistakes) + 1)
            axes.plot(epochs, mistakes, LINES[index % len(LINES)], marker="o", markersize=4, label=name.upper())
        axes.set(title="Rosenblatt's rule: mistakes in each epoch", xlabel="epoch", ylabel="rows of four")
        axes.set(xlim=(0.5, EPOCHS + 0.5), ylim=(-0.1, 4.3), xticks=range(1, EPOCHS + 1, 2), yticks=range(5))
        axes.legend(loc="center right")


def _draw_boundaries(run: Run, network: Any) -> None:
    """Where each function says 0 and 1: the fixed units, the best single unit for XOR and XNOR, the network."""
    side = np.linspace(-0.5, 1.5, 121, dtype=np.float32)
    plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    both = network(plane, training=False).numpy()
    panels = [(name, f"{name.upper()}, one unit", unit.fires(plane)) for name, unit in BY_HAND.items()]
    for name in ("xor", "xnor"):
        unit, mistakes = best_of_grid(TABLES[name])
        panels.append((name, f"{name.upper()}, one unit: {mistakes} wrong", unit.fires(plane)))
    for column, name in enumerate(("xor", "xnor")):
        panels.append((name, f"{name.upper()}, two layers", both[:, column]))

    with figure(run.path("boundaries.png"), 2, 4, width=2.5, height=2.5) as axes:
        for place, (name, title, values) in zip(axes.flat, panels, strict=True):
            shown = values.reshape(len(side), len(side))
            place.pcolormesh(side, side, shown, vmin=0, vmax=1, cmap="Blues", alpha=0.7, rasterized=True)
            for value, marker, colour in ((0, "o", "white"), (1, "o", COLOURS[1])):
                rows = ROWS[TABLES[name] == value]
                place.plot(rows[:, 0], rows[:, 1], marker, color=colour, markeredgecolor="black", markersize=9)
            place.set(title=title, xticks=(0, 1), yticks=(0, 1), aspect="equal")
            place.grid(visible=False)
