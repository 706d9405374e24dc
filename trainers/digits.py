"""Handwritten digits: a small convolutional network for the 1,797 images that come with scikit-learn.

A client sends `x` float32 [batch, 64], 8x8 pixels of 0..16 row by row as `load_digits` gives them, and gets
`probabilities` float32 [batch, 10].
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import sklearn
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from trainers.contract import Options, Trained
from trainers.progress import epoch_bar


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


def network() -> Any:
    return keras.Sequential(
        [
            keras.Input((64,), name="x"),
            layers.Rescaling(1 / 16),  # part of the model, so that clients send raw pixels
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def train(options: Options) -> Trained:
    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()  # the same seed gives the same weights

    train_rows, held_out = split(options.seed)
    print(f"{len(train_rows.digits)} rows to train on, {len(held_out.digits)} held out")

    model = network()
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    epochs = options.epochs_or(full=30, quick=10)
    with epoch_bar(epochs) as bar:
        model.fit(
            train_rows.images,
            train_rows.digits,
            epochs=epochs,
            batch_size=32,
            validation_data=held_out,  # watched in TensorBoard; nothing is chosen by it
            callbacks=[bar, keras.callbacks.TensorBoard(options.log_dir, write_graph=False)],
            verbose=0,
        )

    _, accuracy = model.evaluate(*held_out, verbose=0)
    return Trained(
        model=model,
        outputs=("probabilities",),
        sample={"x": held_out.images[:8]},
        metric={"held_out_accuracy": round(accuracy, 4)},
        libraries={"scikit-learn": sklearn.__version__},
    )
