"""The first convolutional network that backpropagation trained on real handwriting: LeCun, Boser, Denker, Henderson,
Howard, Hubbard and Jackel, "Backpropagation applied to handwritten zip code recognition" (1989).

A 16x16 image goes to H1, 12 groups of 8x8 units; each unit looks at 5x5 pixels, two pixels on from its neighbour, and
all units of a group share their weights, not their biases. H2 is 12 groups of 4x4 units that look at 5x5 units of H1
in the same manner, each group at 8 of the 12 groups below. H3 is 30 units and the output 10, fully connected. That
makes 9,760 weights and biases, as in the paper. Not as in the paper: which 8 groups (it does not say), batches of a few
images where it took one at a time, momentum and a learning rate that falls in place of its estimated second
derivatives, and digits of MNIST, moved a little and shrunk to 16x16, in place of its own from the post office.

A client sends `x` float32 [batch, 16, 16], pixels of 0 (paper) to 255 (ink), and gets `scores` float32 [batch, 10]:
near 1 for the digit, near -1 for the nine others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from trainers.batches import Batches
from trainers.contract import Goal, Trained
from trainers.data import mnist
from trainers.measure import accuracy, predict
from trainers.plots import figure, pictures
from trainers.run import Run

GOAL = Goal("test_accuracy", "maximize")
SIDE = 16
BACKGROUND = -1.0  # what units at the border see beyond it
SEEN = 8  # groups of H1 that a group of H2 sees


@dataclass(frozen=True)
class Settings:
    batch: int = 16
    learning_rate: float = 0.03  # falls to 0 along a quarter of a cosine
    momentum: float = 0.9
    shift: int = 1  # pixels of 28 by which an image is moved at most before it is shrunk, another way at each step


def squash(x: Any) -> Any:
    """The paper's scaled hyperbolic tangent: 1 at 1, -1 at -1, and not yet flat there."""
    return 1.7159 * ops.tanh(2 / 3 * x)


def small(inputs: int) -> Any:
    """The paper's random weights for a unit with so many inputs."""
    return keras.initializers.RandomUniform(-2.4 / inputs, 2.4 / inputs)


class Groups(layers.Layer):
    """Groups of units on a grid of half the side; a group shares 5x5 weights for each group below that it sees."""

    def __init__(self, sees: Sequence[Sequence[int]], **kwargs: Any) -> None:
        """`sees`: for each group the groups below that it looks at."""
        super().__init__(**kwargs)
        self.sees = np.array(sees)

    def build(self, shape: Sequence[int]) -> None:
        _, side, _, below = shape
        groups, seen = self.sees.shape
        start = small(5 * 5 * seen)
        self.kernel = self.add_weight(shape=(5, 5, seen, groups), initializer=start, name="kernel")
        self.bias = self.add_weight(shape=(side // 2, side // 2, groups), initializer=start, name="bias")
        self.below = np.eye(below, dtype=np.float32)[self.sees]  # [group, which it sees, below]

    def call(self, x: Any) -> Any:
        kernel = ops.einsum("hwsg,gsb->hwbg", self.kernel, self.below)  # 0 for a group that is not seen
        x = ops.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=BACKGROUND)
        return squash(ops.conv(x, kernel, strides=2, padding="valid") + self.bias)


def network() -> Any:
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE), name="x"),
            layers.Rescaling(2 / 255, offset=-1),  # part of the model, so that clients send raw pixels
            layers.Reshape((SIDE, SIDE, 1)),
            Groups([[0]] * 12, name="h1"),
            Groups([[(group + step) % 12 for step in range(SEEN)] for group in range(12)], name="h2"),
            layers.Flatten(),
            layers.Dense(30, squash, kernel_initializer=small(192), bias_initializer=small(192), name="h3"),
            layers.Dense(10, squash, kernel_initializer=small(30), bias_initializer=small(30), name="scores"),
        ]
    )


def shrunk(images: np.ndarray) -> np.ndarray:
    """Square images [images, side, side] as float32 [images, 16, 16]: a new pixel is the mean of what it covers."""
    side = images.shape[1]
    edges = np.arange(SIDE + 1) * side / SIDE
    old = np.arange(side)
    overlap = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    share = overlap.clip(0) * SIDE / side  # [16, side]
    new: np.ndarray = share @ images @ share.T
    return new.astype(np.float32)


def moved(images: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Each image shifted by up to so many pixels along both axes, empty (0) where it came from."""
    side = images.shape[1]
    padded = np.pad(images, ((0, 0), (most, most), (most, most)))
    corners = random.integers(0, 2 * most + 1, (len(images), 2))
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(padded, corners, strict=True)])


def train(run: Run, settings: Settings) -> Trained:
    data = mnist.load(run.options)
    test_images = shrunk(data.test_images)
    targets = np.where(np.eye(10, dtype=bool), np.float32(1), np.float32(-1))[data.train_labels]
    batches = Batches(data.train_images, targets, size=settings.batch, seed=run.seed)
    total = run.length(full=30, quick=15, per_epoch=batches.per_epoch)

    model = network()
    optimizer = keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(settings.learning_rate, total), momentum=settings.momentum
    )
    optimizer.build(model.trainable_variables)

    @tf.function
    def train_step(x: Any, target: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - target))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    run.keep(model=model, optimizer=optimizer)
    run.graph(train_step, test_images[:1], targets[:1])
    for step in run.steps(total):
        images, target = batches[step]
        images = moved(images, settings.shift, np.random.default_rng((run.seed, step)))
        run.log(loss=train_step(shrunk(images), target))
        if run.every(batches.per_epoch):
            run.log(test_accuracy=accuracy(model, test_images, data.test_labels))

    draw(run, model, test_images, data.test_labels)
    return Trained(
        model=model,
        outputs=("scores",),
        sample={"x": test_images[:8]},
        metric={"test_accuracy": round(accuracy(model, test_images, data.test_labels), 4)},
        data=f"{data.about}; shrunk to 16x16",
        generated=data.generated,
    )


def draw(run: Run, model: Any, images: np.ndarray, digits: np.ndarray) -> None:
    """The curves, the twelve kernels of H1, and which digits are taken for which."""
    with figure(run.path("curves.png"), 1, 2, width=5) as axes:
        loss, right = axes.flat
        loss.plot(*run.curve("loss"), linewidth=0.8)
        loss.set(title="squared error of each batch", xlabel="step", yscale="log")
        right.plot(*run.curve("test_accuracy"))
        right.set(title="accuracy on the test set", xlabel="step")

    kernels = model.get_layer("h1").kernel.numpy()[:, :, 0].transpose(2, 0, 1)
    pictures(run.path("kernels.png"), kernels, title="the 5x5 weights of the 12 groups of H1", columns=6)
    run.image("h1", ((kernels - kernels.min()) / np.ptp(kernels))[..., None])

    taken = np.zeros((10, 10), int)
    np.add.at(taken, (digits, predict(model, images).argmax(axis=1)), 1)
    mistakes = np.where(np.eye(10, dtype=bool), 0, taken)
    with figure(run.path("mistakes.png"), width=5, height=4.6) as axes:
        axes.imshow(mistakes, cmap="Blues")
        for digit, answer in zip(*mistakes.nonzero(), strict=True):
            count = mistakes[digit, answer]
            colour = "white" if count > mistakes.max() / 2 else "black"
            axes.text(answer, digit, count, ha="center", va="center", color=colour, fontsize=8)
        axes.set(title=f"{mistakes.sum()} mistakes in {len(digits):,}", xlabel="answer", ylabel="digit")
        axes.set(xticks=range(10), yticks=range(10))
        axes.grid(False)
