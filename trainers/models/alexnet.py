"""Colour pictures of 32x32 pixels (CIFAR-10), or of 227x227 pixels in 1,000 classes (ImageNet): AlexNet.

Krizhevsky, Sutskever and Hinton, 2012 (ImageNet classification with deep convolutional neural networks): the network
that won ImageNet's contest of 2012 by a wide margin. What made it trainable, and general, is all here: ReLU instead of
tanh; local response normalisation, in which channels compete at each pixel; max-pooling over 3x3 pixels in steps of 2,
so that neighbouring windows overlap; dropout of half of the units in two large dense layers; pictures shifted and
mirrored at random.

    size imagenet    the network of the paper, on one device (there, two GPUs had half of the channels each); it learns
                     from pictures in folders: see `trainers.data.folders`
    size cifar       the same layers in the same order, smaller, for pictures of 32x32 pixels; minutes on a laptop

A client sends `x` uint8 [batch, 32, 32, 3] or [batch, 227, 227, 3], red, green and blue, and gets `probabilities`
float32 [batch, 10] or [batch, 1000].
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from trainers.batches import Batches
from trainers.contract import Goal, Trained
from trainers.data import cifar10, folders
from trainers.data.augment import shifted_and_flipped
from trainers.measure import accuracy
from trainers.plots import curves, pictures
from trainers.precision import Precision, computing_in
from trainers.run import Run

GOAL = Goal("test_accuracy", "maximize")
QUICK = {"batch": 32}

Size = Literal["imagenet", "cifar"]


@dataclass(frozen=True)
class Settings:
    size: Size = "cifar"
    batch: int = 128
    learning_rate: float = 0.003  # a tenth of it after half of the steps, a hundredth after three quarters
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dropout: float = 0.5
    precision: Precision = "float32"


class Plan(NamedTuple):
    """What differs between the sizes."""

    side: int  # of a picture, in pixels
    first: tuple[int, int, str]  # kernel size, stride and padding of the first convolution
    channels: tuple[int, int, int, int, int]
    units: int
    classes: int


PLANS = {
    "imagenet": Plan(227, (11, 4, "valid"), (96, 256, 384, 384, 256), 4096, 1000),
    "cifar": Plan(32, (5, 1, "same"), (32, 64, 96, 96, 64), 512, 10),
}


class LocalResponseNormalization(layers.Layer):
    """Divides each value by (k + alpha * the sum of squares in the n channels around it) ** beta."""

    def __init__(self, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75) -> None:
        super().__init__(
            dtype="float32"
        )  # small terms are added to a large one, and TensorFlow's operation is made for it
        self.n, self.k, self.alpha, self.beta = n, k, alpha, beta

    def call(self, x: Any) -> Any:
        """x: [batch, height, width, channels]."""
        return tf.nn.local_response_normalization(x, self.n // 2, self.k, self.alpha, self.beta)


def network(size: Size, dropout: float = 0.5, precision: Precision = "float32") -> Any:
    plan = PLANS[size]
    a, b, c, d, e = plan.channels
    kernel, stride, padding = plan.first
    with computing_in(precision):
        return keras.Sequential(
            [
                keras.Input((plan.side, plan.side, 3), dtype="uint8", name="x"),
                layers.Rescaling(1.0, offset=-120.0),  # the scale that the constants of the normalisation are made for
                layers.Conv2D(
                    a, kernel, stride, padding, activation="relu", kernel_initializer=gauss(0.01), name="first"
                ),
                LocalResponseNormalization(),
                layers.MaxPooling2D(3, 2),
                layers.Conv2D(b, 5, padding="same", activation="relu", kernel_initializer="he_normal"),
                LocalResponseNormalization(),
                layers.MaxPooling2D(3, 2),
                layers.Conv2D(c, 3, padding="same", activation="relu", kernel_initializer="he_normal"),
                layers.Conv2D(d, 3, padding="same", activation="relu", kernel_initializer="he_normal"),
                layers.Conv2D(e, 3, padding="same", activation="relu", kernel_initializer="he_normal"),
                layers.MaxPooling2D(3, 2),
                layers.Flatten(),
                layers.Dense(plan.units, "relu", kernel_initializer="he_normal"),
                layers.Dropout(dropout),
                layers.Dense(plan.units, "relu", kernel_initializer="he_normal"),
                layers.Dropout(dropout),
                layers.Dense(plan.classes, "softmax", kernel_initializer=gauss(0.01), dtype="float32"),
            ]
        )


def gauss(deviation: float) -> Any:
    return keras.initializers.RandomNormal(0.0, deviation)


def train(run: Run, settings: Settings) -> Trained:
    plan = PLANS[settings.size]
    data = cifar10.load(run.options) if settings.size == "cifar" else folders.load(run.options, plan.side, plan.classes)
    batches = Batches(data.train_images, data.train_labels, size=settings.batch, seed=run.seed)
    total = run.length(full=20, quick=4, per_epoch=batches.per_epoch)

    model = network(settings.size, settings.dropout, settings.precision)
    rates = [settings.learning_rate / part for part in (1, 10, 100)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([total // 2, total * 3 // 4], rates)
    optimizer = keras.optimizers.SGD(schedule, settings.momentum)
    optimizer.build(model.trainable_variables)
    kernels = [variable for variable in model.trainable_variables if variable.path.endswith("kernel")]
    loss_of = keras.losses.SparseCategoricalCrossentropy()

    @tf.function
    def train_step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
            decay = sum(ops.sum(ops.square(kernel)) for kernel in kernels) / 2
            both = loss + settings.weight_decay * decay
        optimizer.apply(tape.gradient(both, model.trainable_variables))
        return loss

    run.keep(model=model, optimizer=optimizer)
    run.graph(train_step, *batches[0])
    for step in run.steps(total):
        images, labels = batches[step]
        run.log(loss=train_step(shifted_and_flipped(images, margin=plan.side // 8, seed=run.seed, step=step), labels))
        if run.every(batches.per_epoch):
            run.log(test_accuracy=accuracy(model, data.test_images, data.test_labels))

    exported = model if settings.precision == "float32" else network(settings.size)
    exported.set_weights(model.get_weights())
    draw(run, exported, data.test_images[:1])
    return Trained(
        model=exported,
        outputs=("probabilities",),
        sample={"x": data.test_images[:8]},
        metric={"test_accuracy": round(accuracy(exported, data.test_images, data.test_labels), 4)},
        data=data.about,
        generated=data.generated,
    )


def draw(run: Run, model: Any, images: np.ndarray) -> None:
    """The learning curve, and what each channel of the first layer makes of one picture."""
    curves(
        run.path("accuracy.png"),
        {"test": run.curve("test_accuracy")},
        title="AlexNet: accuracy on the test set",
        y="accuracy",
    )
    first = keras.Model(model.inputs[0], model.get_layer("first").output)
    maps = np.asarray(first(images))[0].transpose(2, 0, 1)  # [channels, height, width]
    brightest = np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-9)
    run.image("feature_maps", (maps / brightest)[..., None])
    pictures(
        run.path("feature_maps.png"), [images[0], *maps], title="a picture, and the maps of the first layer", columns=11
    )
