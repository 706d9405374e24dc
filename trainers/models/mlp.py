"""A feed-forward network: as Rumelhart, Hinton and Williams trained it in 1986, and what was changed since.

Theirs has sigmoid units, small random weights, squared error, and after each pass over all rows an update with
momentum, dw(t) = -rate * dE/dw + 0.9 * dw(t - 1): the settings in `RUMELHART_1986`. The defaults are a network of
today. What lies between them can be set one by one: the activation, the scale of the first weights ("xavier": Glorot
and Bengio 2010; "he": He et al. 2015), the optimiser (Hessian-free: `hessian_free.py`), batch normalisation
(Ioffe and Szegedy 2015). `python -m trainers survey mlp` compares them.

The problem is scikit-learn's 1,797 handwritten digits. A client sends `x` float32 [batch, 64], 8x8 pixels of 0..16 row
by row, and gets `probabilities` float32 [batch, 10] (after squared error: of each digit alone, so their sum may differ
from 1).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import sklearn
import tensorflow as tf
from keras import layers, ops

from trainers.batches import Batches
from trainers.contract import Goal, Trained, TrainingError
from trainers.models.digits import Rows, split
from trainers.models.hessian_free import HessianFree
from trainers.plots import curves
from trainers.run import Run

GOAL = Goal("held_out_accuracy", "maximize")

Activation = Literal["linear", "sigmoid", "tanh", "relu", "leaky_relu", "prelu"]
Initialisation = Literal["random", "xavier", "he"]
Optimiser = Literal["sgd", "momentum", "rmsprop", "adagrad", "adam", "adadelta", "hessian_free"]

RATES = {"sgd": 0.2, "momentum": 0.05, "rmsprop": 0.005, "adagrad": 0.1, "adam": 0.01, "adadelta": 5.0}


@dataclass(frozen=True)
class Settings:
    activation: Activation = "relu"
    initialisation: Initialisation = "he"
    optimiser: Optimiser = "adam"
    batch_norm: bool = True
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    depth: int = 2  # hidden layers
    width: int = 64  # units in each
    batch: int = 32  # rows; 0: all of them, which hessian_free always takes
    learning_rate: float = 0.0  # 0: what RATES has for the optimiser; hessian_free needs none

    @property
    def whole(self) -> bool:
        """Each step is for all rows."""
        return self.batch == 0 or self.optimiser == "hessian_free"


RUMELHART_1986 = Settings(
    activation="sigmoid",
    initialisation="random",
    optimiser="momentum",
    batch_norm=False,
    loss="squared_error",
    depth=1,
    batch=0,
    learning_rate=0.1,
)


def network(settings: Settings) -> Any:
    """Ends in what the loss is convex in: scores before a softmax, or sigmoid units for the squared error."""
    scale = {
        "random": keras.initializers.RandomNormal(stddev=0.05),  # whatever the size of the layer
        "xavier": keras.initializers.GlorotNormal(),  # variance 2 / (inputs + outputs)
        "he": keras.initializers.HeNormal(),  # variance 2 / inputs
    }[settings.initialisation]
    memory = 0.0 if settings.whole else 0.9  # of batch normalisation's averages, which all rows alone give exactly
    model = keras.Sequential([keras.Input((64,), name="x"), layers.Rescaling(1 / 16)])
    for _ in range(settings.depth):
        model.add(layers.Dense(settings.width, kernel_initializer=scale.clone()))
        if settings.batch_norm:
            model.add(layers.BatchNormalization(momentum=memory))
        model.add(activation(settings.activation))
    last = "sigmoid" if settings.loss == "squared_error" else None
    model.add(layers.Dense(10, activation=last, kernel_initializer=scale.clone()))
    return model


def activation(name: Activation) -> Any:
    if name == "leaky_relu":
        return layers.LeakyReLU(negative_slope=0.01)
    if name == "prelu":
        return layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25))
    return layers.Activation(name)


def loss_of(settings: Settings, outputs: Any, digits: Any) -> Any:
    """Mean over the rows."""
    if settings.loss == "cross_entropy":
        return ops.mean(ops.sparse_categorical_crossentropy(digits, outputs, from_logits=True))
    return ops.mean(ops.sum((outputs - ops.one_hot(digits, 10)) ** 2, axis=1)) / 2


def optimiser_of(settings: Settings, model: Any) -> Any:
    """What keeps the optimiser's memory; a checkpoint holds it."""
    if settings.optimiser == "hessian_free":
        return HessianFree(sum(int(np.prod(weight.shape)) for weight in model.trainable_variables))
    rate = settings.learning_rate or RATES[settings.optimiser]
    optimiser = {
        "sgd": lambda: keras.optimizers.SGD(rate),
        "momentum": lambda: keras.optimizers.SGD(rate, momentum=0.9),
        "rmsprop": lambda: keras.optimizers.RMSprop(rate),
        "adagrad": lambda: keras.optimizers.Adagrad(rate),
        "adam": lambda: keras.optimizers.Adam(rate),
        "adadelta": lambda: keras.optimizers.Adadelta(rate),
    }[settings.optimiser]()
    optimiser.build(model.trainable_variables)
    return optimiser


def stepper(settings: Settings, model: Any, optimiser: Any) -> Any:
    """The step of the settings' optimiser: takes rows and digits, changes the weights, gives the loss before."""

    @tf.function
    def along_gradient(images: Any, digits: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(settings, model(images, training=True), digits)
        optimiser.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    @tf.function
    def hessian_free(images: Any, digits: Any) -> Any:
        weights = model.trainable_variables
        others = model.non_trainable_variables  # averages of batch normalisation
        sizes = [int(np.prod(weight.shape)) for weight in weights]

        def apart(vector: Any) -> list[Any]:
            parts = zip(tf.split(vector, sizes), weights, strict=True)
            return [tf.reshape(part, weight.shape) for part, weight in parts]

        def predict(vector: Any) -> Any:
            return model.stateless_call(apart(vector), others, images, training=True)[0]

        vector = tf.concat([tf.reshape(weight, [-1]) for weight in weights], axis=0)
        vector, loss = optimiser.step(predict, lambda outputs: loss_of(settings, outputs, digits), vector)
        for weight, values in zip(weights, apart(vector), strict=True):
            weight.assign(values)
        model(images, training=True)  # moves the averages
        return loss

    return hessian_free if settings.optimiser == "hessian_free" else along_gradient


class Fitted(NamedTuple):
    model: Any
    accuracy: float  # held out
    loss: float  # over all rows trained on


def fit(
    run: Run, settings: Settings, train_rows: Rows, held_out: Rows, *, full: int, quick: int, graph: bool = False
) -> Fitted:
    """Trains a network for so many epochs. Logs `train_loss` and `held_out_accuracy` after each; the graph if asked."""
    if min(settings.depth, settings.width - 1, settings.batch, settings.learning_rate) < 0:
        raise TrainingError("settings: depth, batch and learning_rate must not be negative, width must be positive")
    batches = Batches(*train_rows, size=len(train_rows.images) if settings.whole else settings.batch, seed=run.seed)
    model = network(settings)
    optimiser = optimiser_of(settings, model)
    step_of = stepper(settings, model, optimiser)

    @tf.function
    def measure() -> tuple[Any, Any]:
        right = ops.argmax(model(held_out.images, training=False), axis=1) == held_out.digits
        loss = loss_of(settings, model(train_rows.images, training=False), train_rows.digits)
        return loss, ops.mean(ops.cast(right, "float32"))

    run.keep(model=model, optimizer=optimiser)
    if graph:
        run.graph(step_of, *batches[0])
    for step in run.steps(run.length(full=full, quick=quick, per_epoch=batches.per_epoch)):
        step_of(*batches[step])
        if run.every(batches.per_epoch):
            loss, share = measure()
            run.log(train_loss=float(loss), held_out_accuracy=float(share))
    loss, share = measure()
    return Fitted(model, float(share), float(loss))


def train(run: Run, settings: Settings) -> Trained:
    rows, held_out = split(run.seed)
    model, share, _ = fit(run, settings, rows, held_out, full=30, quick=10, graph=True)
    curves(run.path("accuracy.png"), {"held out": run.curve("held_out_accuracy")}, title="mlp", y="accuracy")
    if settings.loss == "cross_entropy":
        model = keras.Sequential([keras.Input((64,), name="x"), model, layers.Softmax()])
    return Trained(
        model=model,
        outputs=("probabilities",),
        sample={"x": held_out.images[:8]},
        metric={"held_out_accuracy": round(share, 4)},
        data="scikit-learn's load_digits: 1,437 rows to train on, 360 held out",
        libraries={"scikit-learn": sklearn.__version__},
    )


def survey(run: Run) -> None:
    from trainers.models.mlp_survey import survey  # knows this module

    survey(run)
