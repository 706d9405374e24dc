"""Softmax regression for handwritten digits: the smallest network there is for MNIST, one layer without a hidden one.

Each of the ten outputs is a weighted sum of all pixels, and softmax turns the ten sums into probabilities. The weights
of a digit are a picture of what speaks for it and against it. The cost is the cross entropy, its minimum is found by
plain gradient descent on batches of 100 (Bridle, 1990, gave softmax its name; the data are of LeCun et al., 1998).

A client sends `x` float32 [batch, 784], the 28x28 pixels of 0..255 row by row as MNIST's files give them, and gets
`probabilities` float32 [batch, 10].
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainers.batches import Batches
from trainers.contract import Goal, Trained
from trainers.data import mnist
from trainers.measure import accuracy
from trainers.plots import figure, pictures
from trainers.run import Run

GOAL = Goal("test_accuracy", "maximize")
PIXELS = 28 * 28


@dataclass(frozen=True)
class Settings:
    batch: int = 100
    learning_rate: float = 0.5


def network() -> Any:
    return keras.Sequential(
        [
            keras.Input((PIXELS,), name="x"),
            layers.Rescaling(1 / 255),  # part of the model, so that clients send raw pixels
            layers.Dense(10, activation="softmax", kernel_initializer="zeros"),  # one layer has no symmetry to break
        ]
    )


def rows(images: np.ndarray) -> np.ndarray:
    """Images uint8 [images, 28, 28] as the model takes them: float32 [images, 784]."""
    return images.reshape(-1, PIXELS).astype(np.float32)


def train(run: Run, settings: Settings) -> Trained:
    data = mnist.load(run.options)
    test_rows = rows(data.test_images)
    batches = Batches(rows(data.train_images), data.train_labels, size=settings.batch, seed=run.seed)

    model = network()
    optimizer = keras.optimizers.SGD(settings.learning_rate)
    optimizer.build(model.trainable_variables)
    cost_of = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def train_step(x: Any, digits: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            probabilities = model(x, training=True)
            cost = cost_of(digits, probabilities)
        optimizer.apply(tape.gradient(cost, model.trainable_variables))
        right = tf.argmax(probabilities, axis=1) == digits
        return cost, tf.reduce_mean(tf.cast(right, tf.float32))

    run.keep(model=model, optimizer=optimizer)
    run.graph(train_step, *batches[0])
    for step in run.steps(run.length(full=20, quick=5, per_epoch=batches.per_epoch)):
        cost, right = train_step(*batches[step])
        run.log(cost=cost, accuracy=right)
        if run.every(batches.per_epoch):
            run.log(test_accuracy=accuracy(model, test_rows, data.test_labels))

    draw(run, model.get_weights()[0])
    return Trained(
        model=model,
        outputs=("probabilities",),
        sample={"x": test_rows[:8]},
        metric={"test_accuracy": round(accuracy(model, test_rows, data.test_labels), 4)},
        data=data.about,
        generated=data.generated,
    )


def draw(run: Run, weights: np.ndarray) -> None:
    """The curves, and each digit's weights [784, 10] as a picture: light speaks for it, dark against it."""
    digits = weights.T.reshape(10, 28, 28)
    largest = np.abs(weights).max()
    run.image("weights", (digits[..., None] / largest + 1) / 2)
    pictures(run.path("weights.png"), digits, title="weights of each digit", columns=5, names=list("0123456789"))
    with figure(run.path("curves.png"), 1, 2, width=5) as axes:
        cost, right = axes.flat
        cost.plot(*run.curve("cost"), linewidth=0.8)
        cost.set(title="cost of each batch", xlabel="step", yscale="log")
        right.plot(*run.curve("accuracy"), linewidth=0.8, alpha=0.4, label="batch")
        right.plot(*run.curve("test_accuracy"), label="test")
        right.set(title="accuracy", xlabel="step", ylim=(0.75, 1))
        right.legend(loc="lower right")
