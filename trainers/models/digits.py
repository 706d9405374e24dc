"""Handwritten digits: a small convolutional network for the 1,797 images that come with scikit-learn.

A client sends `x` float32 [batch, 64], 8x8 pixels of 0..16 row by row as `load_digits` gives them, and gets
`probabilities` float32 [batch, 10].
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import sklearn
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from trainers.batches import Batches
from trainers.contract import Goal, Trained
from trainers.measure import accuracy
from trainers.plots import curves
from trainers.run import Run

GOAL = Goal("held_out_accuracy", "maximize")


@dataclass(frozen=True)
class Settings:
    batch: int = 32
    learning_rate: float = 0.001
    dropout: float = 0.3


class Rows(NamedTuple):
    images: np.ndarray  # float32 [rows, 64], 0..16
    digits: np.ndarray  # int64 [rows], 0..9


def split(seed: int) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out (a fifth), every digit with the same share in both."""
    images, digits = load_digits(return_X_y=True)
    train_images, held_images, train_digits, held_digits = train_test_split(
        images.astype(np.float32), digits, test_size=0.2, random_state=seed, stratify=digits
    )
    return Rows(train_images, train_digits), Rows(held_images, held_digits)


def network(dropout: float) -> Any:
    return keras.Sequential(
        [
            keras.Input((64,), name="x"),
            layers.Rescaling(1 / 16),  # part of the model, so that clients send raw pixels
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def train(run: Run, settings: Settings) -> Trained:
    train_rows, held_out = split(run.seed)
    batches = Batches(*train_rows, size=settings.batch, seed=run.seed)

    model = network(settings.dropout)
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def train_step(images: Any, digits: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(digits, model(images, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    run.keep(model=model, optimizer=optimizer)
    run.graph(train_step, *batches[0])
    for step in run.steps(run.length(full=30, quick=10, per_epoch=batches.per_epoch)):
        run.log(loss=train_step(*batches[step]))
        if run.every(batches.per_epoch):
            run.log(held_out_accuracy=accuracy(model, *held_out))  # watched; nothing is chosen by it

    curves(run.path("accuracy.png"), {"held out": run.curve("held_out_accuracy")}, title="digits", y="accuracy")
    return Trained(
        model=model,
        outputs=("probabilities",),
        sample={"x": held_out.images[:8]},
        metric={"held_out_accuracy": round(accuracy(model, *held_out), 4)},
        data="scikit-learn's load_digits: 1,437 rows to train on, 360 held out",
        libraries={"scikit-learn": sklearn.__version__},
    )
