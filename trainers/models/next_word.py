"""The next word of a text: language models with a simple recurrent network, an LSTM (with peepholes, too) or a GRU.

The cells are in `cells.py`, with their papers. A word becomes a vector, the cell takes it into its state, and
a softmax layer says from the state how probable each word is as the next one (Mikolov et al. 2010). Training goes
through the text in windows, the state carried from one to the next and gradients not: truncated backpropagation through
time (Williams and Peng 1990). Gradients longer than `clip` are shortened to it (Pascanu, Mikolov and Bengio 2013).

The text is a file (`--set text=PATH`), or made up by a grammar whose entropy is known (`trainers/data/grammar.py`).

A client sends `words` int32 [batch, length], the numbers of the words so far, and gets `probabilities` float32
[batch, words in the vocabulary] of the next one. `words.txt` beside the model has a word a line, the first line is
number 0. Rows of different lengths become one batch by zeros anywhere in them: 0 is no word, and changes no answer.
What is no number of a word counts as 1, any unknown word.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from trainers.contract import Goal, Trained, TrainingError
from trainers.data.text import LEAST, Text, Vocabulary, join, made_up, read
from trainers.models import memory
from trainers.models.cells import CELLS
from trainers.plots import curves
from trainers.run import Run

GOAL = Goal("held_out_perplexity", "minimize")
STREAMS = 8  # parts of the held-out text that are read side by side


@dataclass(frozen=True)
class Settings:
    cell: Literal["rnn", "lstm", "lstm_peephole", "gru"] = "lstm"
    embedding: int = 64
    width: int = 128
    text: str = ""  # a file; none: one is made up
    words: int = 200_000  # of a made-up text
    vocabulary: int = 10_000  # words at most
    seen: int = 2  # words that a text has less often are unknown ones
    batch: int = 32  # places of the text that are read at once
    window: int = 32  # words that a gradient goes back
    learning_rate: float = 0.003  # falls to 0 along a cosine
    clip: float = 1.0


class Network:
    """The layers, once for training and once as clients see them."""

    def __init__(self, settings: Settings, words: int) -> None:
        self.embed = layers.Embedding(words, settings.embedding)
        self.cell = CELLS[settings.cell](settings.width)
        self.recurrent = layers.RNN(self.cell, return_sequences=True, return_state=True)
        self.output = layers.Dense(words)

        numbers = keras.Input((None,), dtype="int32", name="words")
        padded = ops.pad(numbers, [[0, 0], [1, 0]])  # so that even no word at all has a first step
        known = ops.where(ops.logical_and(padded >= 0, padded < words), padded, 1)
        last = layers.RNN(self.cell)(self.embed(known), mask=ops.not_equal(known, 0))
        self.served = keras.Model(numbers, ops.softmax(self.output(last)))
        self.compiled_surprise = tf.function(self.surprise, reduce_retracing=True)

    def states(self, rows: int) -> list[Any]:
        """Before the first word."""
        return [tf.zeros((rows, size)) for size in self.cell.state_size]

    def surprise(self, words: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """-log of the probability of each word but the first [rows, length - 1] after those before it in its row, and
        the states after the last but one."""
        outputs, *states = self.recurrent(self.embed(words[:, :-1]), initial_state=states)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(words[:, 1:], self.output(outputs)), states


def streams(numbers: np.ndarray, rows: int) -> np.ndarray:
    """A text as so many parts of equal length, side by side; what is left over at its end is left out."""
    length = len(numbers) // rows
    return numbers[: rows * length].reshape(rows, length)


def windows(length: int, window: int) -> list[slice]:
    """Parts of streams of a length; the last word of each is the first of the next, for it is only foretold here."""
    return [slice(at, min(at + window, length - 1) + 1) for at in range(0, length - 1, window)]


def surprises(network: Network, numbers: np.ndarray) -> np.ndarray:
    """-log probability of a text's words, in nats: [STREAMS, length - 1], as `streams` cuts it. Each stream begins
    without a memory, and its first word is not asked for."""
    parts, states = streams(numbers, STREAMS), network.states(STREAMS)
    found = []
    for window in windows(parts.shape[1], 64):
        of_window, states = network.compiled_surprise(tf.constant(parts[:, window]), states)
        found.append(of_window.numpy())
    return np.concatenate(found, axis=1)


@dataclass(frozen=True)
class Fitted:
    network: Network
    surprise: np.ndarray  # as `surprises` gives it, of the held-out text

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.surprise.mean()))


def fit(run: Run, settings: Settings, text: Text, vocabulary: Vocabulary) -> Fitted:
    """Raises TrainingError."""
    numbers, held_out = vocabulary.numbers(text.train), vocabulary.numbers(text.held_out)
    parts = streams(numbers, settings.batch)
    all_windows = windows(parts.shape[1], settings.window)[:-1]  # the last one may be shorter
    if not all_windows:
        raise TrainingError(f"{len(numbers)} words are too few for {settings.batch} windows of {settings.window}")
    per_epoch = len(all_windows)
    total = run.length(full=10, quick=6, per_epoch=per_epoch)

    network = Network(settings, len(vocabulary))
    weights = network.served.trainable_variables
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(settings.learning_rate, total))
    optimizer.build(weights)
    carried = [tf.Variable(state) for state in network.states(settings.batch)]

    @tf.function
    def train_step(words: Any) -> Any:
        with tf.GradientTape() as tape:
            surprise, states = network.surprise(words, list(carried))
            loss = tf.reduce_mean(surprise)
        gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, weights), settings.clip)
        optimizer.apply(gradients, weights)
        for variable, state in zip(carried, states, strict=True):
            variable.assign(state)
        return loss, norm

    run.keep(model=network.served, optimizer=optimizer, carried=carried)
    run.graph(train_step, parts[:, all_windows[0]])
    for step in run.steps(total):
        if step % per_epoch == 0:  # back at the beginning of the text
            for variable in carried:
                variable.assign(tf.zeros_like(variable))
        loss, norm = train_step(parts[:, all_windows[step % per_epoch]])
        run.log(loss=loss, gradient_norm=norm)
        if run.every(per_epoch):
            run.log(held_out_perplexity=float(np.exp(surprises(network, held_out).mean())))
    return Fitted(network, surprises(network, held_out))


def load(run: Run, settings: Settings) -> tuple[Text, Vocabulary]:
    """Raises TrainingError."""
    for name, least in (
        ("batch", 1),
        ("embedding", 1),
        ("width", 1),
        ("window", 1),
        ("vocabulary", 3),
        ("words", LEAST),
    ):
        if getattr(settings, name) < least:
            raise TrainingError(f"setting '{name}': expected at least {least}, got {getattr(settings, name)}")
    if settings.text:
        text = read(Path(settings.text))
    else:
        text = made_up(min(settings.words, 30_000) if run.quick else settings.words, run.seed)
        run.path("text.txt").write_text(join([*text.train, *text.held_out]), encoding="utf-8")
    return text, Vocabulary.of(text.train, at_most=settings.vocabulary, seen=settings.seen)


def floor(text: Text) -> float | None:
    """The perplexity of whoever knows the grammar, for the words that `surprises` asks for."""
    return None if text.floor is None else float(np.exp(streams(text.floor, STREAMS)[:, 1:].mean()))


def train(run: Run, settings: Settings) -> Trained:
    text, vocabulary = load(run, settings)
    fitted = fit(run, settings, text, vocabulary)
    metric = {"held_out_perplexity": round(fitted.perplexity, 3)}
    lines = {"held out": run.curve("held_out_perplexity")}
    if (lowest := floor(text)) is not None:
        metric["grammar_perplexity"] = round(lowest, 3)  # no model can do better
        steps = lines["held out"][0]
        lines["the grammar itself"] = [steps[0], steps[-1]], [lowest, lowest]
    curves(run.path("perplexity.png"), lines, title=f"next word: {settings.cell}", y="perplexity", log_y=True)
    return Trained(
        model=fitted.network.served,
        outputs=("probabilities",),
        sample={"words": beginnings(vocabulary.numbers(text.held_out))},
        metric=metric,
        data=text.about,
        files={"words.txt": vocabulary.file()},
        atol=1e-5,
    )


def beginnings(numbers: np.ndarray, rows: int = 8, length: int = 24) -> np.ndarray:
    """Rows of 3, 6, 9 ... words with zeros before them."""
    sample = streams(numbers, rows)[:, :length].copy()
    for row in range(rows):
        sample[row, : length - 3 * (row + 1)] = 0
    return sample


# The survey: all cells with about as many weights.


def parameters(settings: Settings, words: int) -> int:
    """How many numbers a network of these settings learns."""
    inputs, width, cell = settings.embedding, settings.width, CELLS[settings.cell]
    peepholes = 3 * width if settings.cell == "lstm_peephole" else 0
    return words * inputs + cell.gates * width * (inputs + width + 1) + peepholes + (width + 1) * words


def as_large_as(settings: Settings, cell: Any, words: int) -> Settings:
    """The same with another cell, as wide as it can be with no more weights."""
    other, most = replace(settings, cell=cell, width=1), parameters(settings, words)
    while parameters(wider := replace(other, width=other.width + 1), words) <= most:
        other = wider
    return other


def survey(run: Run) -> None:
    """Trains each cell on a made-up text; writes `cells.md`, `learning.png`, `reach.png` and `gradients.png`."""
    settings = Settings()
    text, vocabulary = load(run, settings)
    lowest = floor(text)
    assert text.floor is not None and text.reach is not None and lowest is not None
    held_out, reach = vocabulary.numbers(text.held_out), streams(text.reach, STREAMS)[:, 1:]
    rows = memory.rows_that_look_back(held_out, text.reach)
    table = ["| cell | width | weights | held-out perplexity | excess, nats a word |", "|---|---|---|---|---|"]
    loss, perplexity, missed, before, after = {}, {}, {}, {}, {}
    for cell in CELLS:
        print(cell)
        part, own = run.part(cell), as_large_as(settings, cell, len(vocabulary))
        new = Network(own, len(vocabulary))
        before[cell] = memory.gradient_back(new.embed, new.cell, new.output, rows)
        fitted = fit(part, own, text, vocabulary)
        network, surprise = fitted.network, fitted.surprise
        after[cell] = memory.gradient_back(network.embed, network.cell, network.output, rows)
        excess = surprise - streams(text.floor, STREAMS)[:, 1:]
        missed[cell] = memory.by_reach(excess, reach)
        loss[cell], perplexity[cell] = part.curve("loss"), part.curve("held_out_perplexity")
        table.append(
            f"| `{cell}` | {own.width} | {network.served.count_params():,} | {fitted.perplexity:.3f} "
            f"| {excess.mean():.4f} |"
        )
    table.append(f"| the grammar itself | | | {lowest:.3f} | 0 |")
    table += ["", *memory.reach_table(missed)]
    run.path("cells.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    print(*table, sep="\n")
    memory.draw_learning(run.path("learning.png"), loss, perplexity, lowest)
    memory.draw_reach(run.path("reach.png"), missed)
    memory.draw_gradients(run.path("gradients.png"), {"before training": before, "after training": after})
