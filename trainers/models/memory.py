"""How far back a recurrent network remembers, and how far back gradients come: measured and drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.plots import LINES, figure

LOOK_BACK = 60  # words that gradients are followed back
FAR = 10  # they are looked at where a word agrees with one before that
Curve = tuple[list[int], list[float]]  # steps and values
REACHES = ((0, 0), (1, 2), (3, 5), (6, 10), (11, 20), (21, 1000))  # words back, from and to
_NAMES = ("free", *(f"{low}–{high}" for low, high in REACHES[1:-1]), f"{REACHES[-1][0]} or more")


def by_reach(excess: np.ndarray, reach: np.ndarray) -> list[float]:
    """The mean excess of the words of each of REACHES (nan where there are none), both of any one shape."""
    chosen = [excess[(reach >= low) & (reach <= high)] for low, high in REACHES]
    return [float(part.mean()) if part.size else float("nan") for part in chosen]


def rows_that_look_back(numbers: np.ndarray, reach: np.ndarray, at_most: int = 200) -> np.ndarray:
    """Parts of a text that end with a word that agrees with one far back: [rows, LOOK_BACK + 1]."""
    ends = np.flatnonzero((reach > FAR) & (reach <= LOOK_BACK))
    ends = ends[ends >= LOOK_BACK][:at_most]
    return np.stack([numbers[end - LOOK_BACK : end + 1] for end in ends])


def gradient_back(embed: Any, cell: Any, output: Any, words: np.ndarray) -> np.ndarray:
    """How much each earlier state still matters: the norm of d loss / d state, mean over the rows: [length - 1].

    The loss is that of a row's last word; the state is all that the cell hands on (h, and c where there is one) after
    each word before it.
    """
    rows, length = words.shape
    sizes = cell.state_size
    nothing = tf.zeros((length - 1, rows, sum(sizes)))  # added to the states, so that there is a gradient for each

    @tf.function
    def gradient() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(nothing)
            inputs, states = embed(words), [tf.zeros((rows, size)) for size in sizes]
            for at in range(length - 1):
                _, states = cell(inputs[:, at], states)
                parts = tf.split(nothing[at], sizes, axis=-1)
                states = [state + part for state, part in zip(states, parts, strict=True)]
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(words[:, -1], output(states[0]))
        return tf.norm(tape.gradient(loss, nothing), axis=-1)

    mean: np.ndarray = gradient().numpy().mean(axis=1)
    return mean


def draw_learning(path: Path, loss: dict[str, Curve], perplexity: dict[str, Curve], lowest: float) -> None:
    """
    Args:
        lowest: the perplexity that cannot be gone below.
    """
    mean_of = 15  # neighbours
    with figure(path, 1, 2, width=5.2) as all_axes:
        left, right = all_axes[0]
        for (cell, (steps, values)), style in zip(loss.items(), LINES, strict=False):
            width = min(mean_of, len(values))
            left.plot(steps[width - 1 :], np.convolve(values, np.full(width, 1 / width), "valid"), style, label=cell)
        for (cell, (steps, values)), style in zip(perplexity.items(), LINES, strict=False):
            right.plot(steps, values, style, marker="o", label=cell)
        right.axhline(lowest, color="black", linewidth=1, label="the grammar itself")
        left.set(title="training text, running mean", xlabel="step", ylabel="loss, nats a word", xscale="log")
        right.set(title="held-out text", xlabel="step", ylabel="perplexity")
        right.legend()


def reach_table(missed: dict[str, list[float]]) -> list[str]:
    """What `by_reach` gave for some cells, as lines of Markdown."""
    rows = [[f"`{cell}`", *(f"{nats:.3f}" for nats in values)] for cell, values in missed.items()]
    return ["| " + " | ".join(row) + " |" for row in (["words back", *_NAMES], ["---"] * (1 + len(REACHES)), *rows)]


def draw_reach(path: Path, missed: dict[str, list[float]]) -> None:
    with figure(path) as axes:
        for (cell, values), style in zip(missed.items(), LINES, strict=False):
            axes.plot(_NAMES, values, style, marker="o", label=cell)
        axes.set(title="What a cell misses, by how far a word depends back", xlabel="words back", ylabel="excess, nats")
        axes.set_ylim(bottom=0)
        axes.legend()


def draw_gradients(path: Path, panels: dict[str, dict[str, np.ndarray]]) -> None:
    with figure(path, 1, len(panels), width=5.2) as all_axes:
        for (title, lines), axes in zip(panels.items(), all_axes[0], strict=True):
            for (cell, norms), style in zip(lines.items(), LINES, strict=False):
                axes.plot(range(len(norms)), norms[::-1] / norms[-1], style, label=cell)
            axes.set(title=title, xlabel="words back", ylabel="|d loss / d state|, the last state's as 1")
            axes.set_yscale("log")
        all_axes[0, 0].legend()
