"""Colour pictures of 32x32 pixels in ten classes (CIFAR-10): a residual network.

He, Zhang, Ren and Sun, 2015 (Deep residual learning for image recognition) and 2016 (Identity mappings in deep residual
networks). A block adds what its layers compute to what it was given, so that a signal, and a gradient on its way back,
has a way around every block, and a deep network is no harder to train than a shallow one.

    block v1            convolution, normalisation, ReLU, convolution, normalisation; the sum goes through a ReLU (2015)
    block v2            normalisation and ReLU come before each convolution; nothing touches the sum (2016)
    block bottleneck    v2 with convolutions of 1x1, 3x3 and 1x1 pixels, the last of which makes four times the channels

A client sends `x` uint8 [batch, 32, 32, 3], red, green and blue, and gets `probabilities` float32 [batch, 10], in the
order of `trainers.data.cifar10.NAMES`.

`--set distribution=mirrored` trains on all devices of a machine, `workers` on several machines: `trainers.distribute`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainers.batches import Batches
from trainers.contract import Goal, Trained, TrainingError
from trainers.data import tfrecords
from trainers.data.augment import shifted_and_flipped
from trainers.distribute import Distribution, devices, shared, together
from trainers.measure import accuracy
from trainers.plots import COLOURS, figure
from trainers.precision import Precision, computing_in
from trainers.run import Run

GOAL = Goal("test_accuracy", "maximize")
QUICK = {"depth": 8, "batch": 32, "learning_rate": 0.05}

# So that the training pictures' red, green and blue have mean 0 and deviation 1; they have these:
MEAN, DEVIATION = np.array([125.3, 123.0, 113.9]), np.array([63.0, 62.1, 66.7])
CHANNELS = (16, 32, 64)  # of the three stages, 32x32, 16x16 and 8x8 pixels large

Block = Literal["v1", "v2", "bottleneck"]


@dataclass(frozen=True)
class Settings:
    block: Block = "v2"
    depth: int = 44  # layers with weights: 6n + 2, in bottleneck blocks 9n + 2
    batch: int = 128  # pictures a step, on all devices together
    learning_rate: float = 0.1  # a tenth of it after half of the steps, a hundredth after three quarters
    momentum: float = 0.9
    weight_decay: float = 2e-4
    distribution: Distribution = "none"
    precision: Precision = "float32"


def blocks_per_stage(block: Block, depth: int) -> int:
    """Raises TrainingError where no number of blocks gives that depth."""
    each = 9 if block == "bottleneck" else 6
    count, rest = divmod(depth - 2, each)
    if rest or count < 1:
        raise TrainingError(f"depth {depth}: with {block} blocks it is {each}n + 2, so {each + 2}, {2 * each + 2}, ...")
    return count


def convolution(channels: int, size: int, stride: int = 1) -> Any:
    """Without a bias, since the normalisation that follows has one."""
    return layers.Conv2D(channels, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal")


def normalised(x: Any) -> Any:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def activated(x: Any) -> Any:
    return layers.ReLU()(normalised(x))


def block_v1(x: Any, channels: int, stride: int) -> Any:
    way_around = x
    if stride > 1 or x.shape[-1] != channels:
        way_around = normalised(convolution(channels, 1, stride)(x))
    x = activated(convolution(channels, 3, stride)(x))
    x = normalised(convolution(channels, 3)(x))
    return layers.ReLU()(layers.Add()([x, way_around]))


def block_v2(x: Any, channels: int, stride: int) -> Any:
    before = activated(x)
    way_around = x if x.shape[-1] == channels else convolution(channels, 1, stride)(before)
    x = convolution(channels, 3, stride)(before)
    x = convolution(channels, 3)(activated(x))
    return layers.Add()([x, way_around])


def bottleneck(x: Any, channels: int, stride: int) -> Any:
    before = activated(x)
    way_around = x if x.shape[-1] == 4 * channels else convolution(4 * channels, 1, stride)(before)
    x = convolution(channels, 1)(before)
    x = convolution(channels, 3, stride)(activated(x))
    x = convolution(4 * channels, 1)(activated(x))
    return layers.Add()([x, way_around])


BLOCKS = {"v1": block_v1, "v2": block_v2, "bottleneck": bottleneck}


def network(block: Block, depth: int, precision: Precision = "float32") -> Any:
    count = blocks_per_stage(block, depth)
    with computing_in(precision):
        x = inputs = keras.Input((32, 32, 3), dtype="uint8", name="x")
        x = layers.Rescaling((1 / DEVIATION).tolist(), (-MEAN / DEVIATION).tolist())(x)
        x = convolution(CHANNELS[0], 3)(x)
        if block == "v1":
            x = activated(x)
        for stage, channels in enumerate(CHANNELS):
            for number in range(count):
                x = BLOCKS[block](x, channels, stride=2 if stage and not number else 1)
        if block != "v1":
            x = activated(x)
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(10, "softmax", dtype="float32", name="probabilities")(x))


def learning_rates(first: float, steps: int) -> Any:
    boundaries = [steps // 2, steps * 3 // 4]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [first, first / 10, first / 100])


def training_step(strategy: Any, model: Any, optimizer: Any, batch: int, weight_decay: float) -> Any:
    """The function that does one step with the rows of a batch, dealt out to the devices, and returns their loss.

    Each device normalises by the mean and the deviation of its own rows; all else comes out as on one device.
    """
    kernels = [variable for variable in model.trainable_variables if variable.path.endswith("kernel")]

    def on_one_device(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            errors = keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True))
            loss = keras.ops.sum(errors) / batch  # its share: the devices' losses add up to the mean of all rows
            decay = sum(keras.ops.sum(keras.ops.square(kernel)) for kernel in kernels) / 2
            both = loss + weight_decay * decay / strategy.num_replicas_in_sync
        optimizer.apply(tape.gradient(both, model.trainable_variables))  # with the gradients of all devices, added up
        return loss

    @tf.function
    def step(rows: Any) -> Any:
        return strategy.reduce("SUM", strategy.run(on_one_device, rows), axis=None)

    return step


def train(run: Run, settings: Settings) -> Trained:
    blocks_per_stage(settings.block, settings.depth)  # a wrong depth shows before the data is read
    strategy = devices(settings.distribution)
    data = tfrecords.load(run.options)
    batches = Batches(data.train_images, data.train_labels, size=settings.batch, seed=run.seed)
    total = run.length(full=26, quick=4, per_epoch=batches.per_epoch)

    with strategy.scope():
        model = network(settings.block, settings.depth, settings.precision)
        optimizer = keras.optimizers.SGD(learning_rates(settings.learning_rate, total), settings.momentum)
        optimizer.build(model.trainable_variables)
    train_step = training_step(strategy, model, optimizer, batches.size, settings.weight_decay)

    def rows_of(step: int) -> Any:
        images, labels = batches[step]
        return shared(strategy, shifted_and_flipped(images, margin=4, seed=run.seed, step=step), labels)

    run.keep(model=model, optimizer=optimizer)
    run.graph(train_step, rows_of(0))
    with together():
        for step in run.steps(total):
            run.log(loss=train_step(rows_of(step)))
            if run.every(batches.per_epoch):
                run.log(
                    learning_rate=float(optimizer.learning_rate),
                    test_accuracy=accuracy(model, data.test_images, data.test_labels),
                )

    draw(run, settings)
    exported = model if settings.precision == "float32" else network(settings.block, settings.depth)
    exported.set_weights(model.get_weights())
    return Trained(
        model=exported,
        outputs=("probabilities",),
        sample={"x": data.test_images[:8]},
        metric={"test_accuracy": round(accuracy(exported, data.test_images, data.test_labels), 4)},
        data=data.about,
        generated=data.generated,
    )


def draw(run: Run, settings: Settings) -> None:
    """The learning curve: the loss of the batches, as a running mean, and the accuracy on the test set."""
    steps, losses = run.curve("loss")
    with figure(run.path("learning.png"), columns=2, width=5.0, height=3.6) as ((left, right),):
        left.plot(steps, running_mean(losses))
        left.set(title=f"ResNet-{settings.depth}, blocks {settings.block}: training", xlabel="step", ylabel="loss")
        right.plot(*run.curve("test_accuracy"), color=COLOURS[1], marker=".")
        right.set(title="test set", xlabel="step", ylabel="accuracy")


def running_mean(values: list[float], width: int = 10) -> np.ndarray:
    """The mean of each value and up to `width` - 1 before it."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return means
