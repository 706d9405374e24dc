"""Conditional neural process: sees a few points of a curve and says of any other place how high the curve is there, and
how sure it is (Garnelo et al., "Conditional Neural Processes", 2018; the one-dimensional regression of that paper).

It is trained on many curves, each drawn anew from a Gaussian process, and never on one for long: what it learns is to
guess a curve from its points, as Gaussian process regression does, without being told of the kernel. An encoder makes
128 numbers of each known point, their mean stands for all points together (so neither their order nor their number
matters), and a decoder makes a mean and a standard deviation of these 128 numbers and a place.

A client sends what is known, `context_x` and `context_y` float32 [batch, contexts] and `context_mask` bool
[batch, contexts]; and where it wants to know more, `target_x` float32 [batch, targets]; any number of each. It gets
`mean` and `sigma` float32 [batch, targets]. Requests of different sizes go into one batch if they are padded to one
size: `context_mask` is true where there is a point and false where there is padding, and whatever numbers the padding
holds change nothing. Of padded targets the answers are thrown away. Without a single point the answer is what all
curves have in common, mean 0 and sigma 1. The curves it knows have x in -2..2 and y about -3..3.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from matplotlib.image import imread

from trainers.contract import Goal, Trained
from trainers.plots import COLOURS, curves, figure
from trainers.run import Run

GOAL = Goal("negative_log_likelihood", "minimize")

LENGTH_SCALE = 0.4  # of the curves: how far apart two places are before their heights have little in common
NOISE = 0.02  # standard deviation, added to each height
X = (-2.0, 2.0)
CONTEXTS = (3, 9)  # known points a curve, the fewest and the most
NEW = (2, 9)  # targets besides them

TRAINING, FRESH, SHOWN = range(3)  # streams of random numbers that have nothing in common


@dataclass(frozen=True)
class Settings:
    batch: int = 64
    learning_rate: float = 1e-4
    hidden: int = 128
    decay: float = 0.0  # the last share of the steps, over which the learning rate falls to nothing


QUICK = {"learning_rate": 1e-3}


class Points(NamedTuple):
    """Points of curves, all float32 [curves, points]. The first `contexts` of each are known, all are targets."""

    x: np.ndarray
    y: np.ndarray
    contexts: int

    def inputs(self) -> dict[str, np.ndarray]:
        known_x, known_y = self.x[:, : self.contexts], self.y[:, : self.contexts]
        mask = np.ones(known_x.shape, bool)
        return {"context_x": known_x, "context_y": known_y, "context_mask": mask, "target_x": self.x}


def draw(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Heights, at the places x [curves, points], of curves drawn from the Gaussian process."""
    distance = (x[:, :, None] - x[:, None, :]) / LENGTH_SCALE
    covariance = np.exp(-0.5 * distance**2) + NOISE**2 * np.eye(x.shape[1])
    return (np.linalg.cholesky(covariance) @ generator.standard_normal((*x.shape, 1)))[..., 0].astype(np.float32)


def points(size: int, *seed: int) -> Points:
    """So many new curves, seen at random places; how many places is drawn too, and the same for all of them."""
    generator = np.random.default_rng(seed)
    contexts, new = (int(generator.integers(*between, endpoint=True)) for between in (CONTEXTS, NEW))
    x = generator.uniform(*X, (size, contexts + new))
    return Points(x.astype(np.float32), draw(x, generator), contexts)


def network(hidden: int) -> Any:
    context_x = keras.Input((None,), name="context_x")
    context_y = keras.Input((None,), name="context_y")
    context_mask = keras.Input((None,), dtype="bool", name="context_mask")
    target_x = keras.Input((None,), name="target_x")

    # Encoder: each known point alone, then the mean of what is no padding. One more point of padding makes an empty
    # `context_x` possible: ONNX reads a length of 0 in a shape as something else.
    mask = ops.cast(context_mask, "float32")
    known = ops.stack([context_x * mask, context_y * mask, mask], axis=-1)
    known = ops.pad(known, ((0, 0), (1, 0), (0, 0)))
    point, weight = known[..., :2], known[..., 2:]
    for _ in range(3):
        point = layers.Dense(hidden, "relu")(point)
    point = layers.Dense(hidden)(point)
    number = ops.sum(weight, axis=1)
    curve = ops.sum(point * weight, axis=1) / ops.maximum(number, 1.0)

    # Decoder: each target alone, with all that is known of the curve.
    place = target_x[..., None]
    here = ops.concatenate([curve[:, None, :] + ops.zeros_like(place), place], axis=-1)
    for _ in range(2):
        here = layers.Dense(hidden, "relu")(here)
    here = layers.Dense(2)(here)
    mean, sigma = here[..., 0], 0.1 + 0.9 * ops.softplus(here[..., 1])

    # Where nothing is known, what all curves have in common: training shows a few points always, so cannot teach it.
    some = number > 0
    mean, sigma = ops.where(some, mean, 0.0), ops.where(some, sigma, math.hypot(1.0, NOISE))
    return keras.Model([context_x, context_y, context_mask, target_x], [mean, sigma])


def surprise(y: Any, mean: Any, sigma: Any) -> Any:
    """The negative log likelihood of each height, in nats."""
    return 0.5 * ((y - mean) / sigma) ** 2 + ops.log(sigma) + 0.5 * math.log(2 * math.pi)


def score(loss_of: Any, seed: int, size: int) -> float:
    """The mean negative log likelihood a target, in nats, over so many curves that were never trained on.

    Numbers of points are drawn for 50 of them at a time, as they are for the batches of the training.
    """
    total = targets = 0.0
    for batch in range(size // 50):
        new = points(50, seed, FRESH, batch)
        total += float(loss_of(*new.inputs().values(), new.y)) * new.y.size
        targets += new.y.size
    return total / targets


def picture(model: Any, seed: int, path: Path, title: str) -> None:
    """Curves with their known points, and what the model makes of these: mean and one sigma, as in the paper."""
    generator = np.random.default_rng((seed, SHOWN))
    x = np.tile(np.linspace(*X, 161, dtype=np.float32), (3, 1))
    y = draw(x, generator)
    with figure(path, columns=3, width=3.6, height=3.2) as axes:
        for curve, contexts in enumerate((3, 5, 9)):
            known = generator.choice(x.shape[1], contexts, replace=False)
            mask = np.ones((1, contexts), bool)
            answer = model([x[[curve]][:, known], y[[curve]][:, known], mask, x[[curve]]])
            mean, sigma = (np.asarray(output)[0] for output in answer)
            place = axes[0, curve]
            place.fill_between(x[curve], mean - sigma, mean + sigma, color=COLOURS[0], alpha=0.2, lw=0, label="one σ")
            place.plot(x[curve], mean, color=COLOURS[0], label="mean")
            place.plot(x[curve], y[curve], ":", color=COLOURS[6], lw=1.2, label="curve")
            place.plot(x[curve, known], y[curve, known], "o", color="black", ms=4.5, label="known")
            place.set(title=f"{contexts} points known", xlabel="x", ylim=(-3.4, 3.4))
        axes[0, 0].set_ylabel("y")
        handles = axes[0, 0].get_legend_handles_labels()
        axes[0, 0].figure.legend(*handles, loc="outside lower center", ncols=4)
        axes[0, 0].figure.suptitle(title, x=0.01, ha="left")


def rate(settings: Settings, step: int, total: int) -> float:
    """The learning rate of a step, where it falls in the end."""
    return settings.learning_rate * min(1.0, (total - step) / (settings.decay * total))


def train(run: Run, settings: Settings) -> Trained:
    model = network(settings.hidden)
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    optimizer.build(model.trainable_variables)
    places = tf.TensorSpec((None, None))
    signature = [places, places, tf.TensorSpec((None, None), tf.bool), places, places]

    @tf.function(input_signature=signature)
    def loss_of(context_x: Any, context_y: Any, context_mask: Any, target_x: Any, target_y: Any) -> Any:
        mean, sigma = model([context_x, context_y, context_mask, target_x])
        return ops.mean(surprise(target_y, mean, sigma))

    @tf.function(input_signature=signature)
    def train_step(*batch: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(*batch)
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    run.keep(model=model, optimizer=optimizer)
    run.graph(loss_of)
    total = run.length(full=200_000, quick=600)
    for step in run.steps(total):
        if settings.decay:
            optimizer.learning_rate = rate(settings, step, total)
        new = points(settings.batch, run.seed, TRAINING, step)
        run.log(loss=train_step(*new.inputs().values(), new.y))
        if run.every(max(1, total // 50)):
            run.log(negative_log_likelihood=score(loss_of, run.seed, 1_000))  # watched; nothing is chosen by it
        if step + 1 in (total // 200, total // 20, total):
            path = run.path(f"curves_{step + 1:06}.png")
            picture(model, run.seed, path, f"cnp after {step + 1:,} steps")
            run.image("curves", imread(path)[None, :, :, :3])

    lines = {"batch": run.curve("loss"), "1,000 new curves": run.curve("negative_log_likelihood")}
    curves(run.path("loss.png"), lines, title="cnp", y="negative log likelihood")
    sample = points(8, run.seed, SHOWN, 1)
    return Trained(
        model=model,
        outputs=("mean", "sigma"),
        sample=padded(sample),
        metric={"negative_log_likelihood": round(score(loss_of, run.seed, 10_000), 4)},
        data="curves from a Gaussian process, drawn while training; the metric is a mean over 10,000 others",
    )


def padded(sample: Points) -> dict[str, np.ndarray]:
    """Requests of all sizes: the first row knows one point less than the second, and so on; the last knows none."""
    inputs = sample.inputs()
    rows = len(sample.x)
    inputs["context_mask"] = np.arange(rows - 1, -1, -1)[:, None] > np.arange(sample.contexts)
    return inputs
