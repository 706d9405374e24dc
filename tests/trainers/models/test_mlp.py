"""The mlp trainer: the 1986 update, Hessian-free steps against known solutions, first weights, resuming."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from serving.core.artifact import read_manifest
from tests.trainers.child import done, fork, trains
from trainers.survey import FINISHED

# Trains as the command does, then checks its parts in the same process.
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
from trainers.command import main

assert main() == 0

import numpy as np
import tensorflow as tf
import keras
import trainers.run
from trainers.contract import Options, TrainingError
from trainers.models.hessian_free import HessianFree, conjugate_gradients, gauss_newton, line_search
from trainers.models.digits import split
from trainers.models.mlp import RUMELHART_1986, Settings, activation, fit, loss_of, network, optimiser_of, stepper
from trainers.models.mlp_survey import DEEP, gradient_norms
from trainers.run import Run

facts = {}
rows, held_out = split(0)
random = np.random.default_rng(0)

def normal(*shape):
    return random.normal(size=shape).astype(np.float32)

# A sum of squares: its lowest point, and that of its damped form, are known.
a, y, start = normal(30, 8), normal(30), normal(8)

def linear(weights):
    return tf.linalg.matvec(a, weights)

def squares(outputs):
    return tf.reduce_sum((outputs - y) ** 2) / 2

for damping in (0.0, 3.0):
    method = HessianFree(8, damping=damping)
    step = tf.function(method.step)
    got, loss = step(linear, squares, tf.constant(start))
    slope = a.T @ (a @ start - y)
    wanted = start - np.linalg.solve(a.T @ a + damping * np.eye(8), slope)
    facts[f"quadratic, damping {damping}"] = float(np.abs(got - wanted).max())
    facts[f"loss, damping {damping}"] = float(loss) - float(squares(linear(start)))
    facts[f"damping from {damping}"] = float(method.damping)
    facts[f"direction, damping {damping}"] = float(np.abs(method.direction - (wanted - start)).max())

# From 3 the quadratic promises much behind the lowest point, where the loss is higher than before: a shorter step, and
# more damping for the next. Uphill there is no step to take.
def bowl(outputs):
    return tf.reduce_sum(tf.sqrt(1 + outputs**2))

method = HessianFree(1, damping=0.1)
got, loss = tf.function(method.step)(tf.identity, bowl, tf.constant([3.0]))
facts["damping after a poor step"] = float(method.damping)
facts["poor step"] = [float(loss), float(bowl(3 + method.direction)), float(bowl(got))]
search = tf.function(line_search)
facts["step uphill"] = float(search(lambda length: 1 + length, tf.constant(1.0), tf.constant(-1.0)))
facts["step cut"] = float(search(lambda length: (length - 0.2) ** 2, tf.constant(0.04), tf.constant(-0.4)))

# Products with the Gauss-Newton matrix of a small network against the matrix, written down.
x, classes = normal(5, 3), np.array([0, 1, 2, 1, 0])

def small(weights):
    first, second = tf.reshape(weights[:12], (3, 4)), tf.reshape(weights[12:24], (4, 3))
    return tf.tanh(x @ first) @ second

def entropy(outputs):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, outputs))

weights = tf.constant(normal(24))
with tf.GradientTape() as tape:
    tape.watch(weights)
    outputs = tf.reshape(small(weights), [-1])
jacobian = tape.jacobian(outputs, weights).numpy()
with tf.GradientTape() as outer:
    outer.watch(outputs)
    with tf.GradientTape() as inner:
        inner.watch(outputs)
        loss = entropy(tf.reshape(outputs, (5, 3)))
    slope = inner.gradient(loss, outputs)
matrix = jacobian.T @ outer.jacobian(slope, outputs).numpy() @ jacobian
product = tf.function(lambda column: gauss_newton(small, entropy, weights, column))
columns = [product(tf.constant(column)) for column in np.eye(24, dtype=np.float32)]
facts["gauss-newton"] = float(np.abs(np.array(columns) - matrix).max())
facts["gauss-newton size"] = float(np.abs(matrix).max())

# Two updates of 1986, by hand.
settings = replace(RUMELHART_1986, width=8)
model = network(settings)
batch = rows.images[:50], rows.digits[:50]

def slopes():
    with tf.GradientTape() as tape:
        loss = loss_of(settings, model(batch[0]), batch[1])
    return [slope.numpy() for slope in tape.gradient(loss, model.trainable_variables)]

by_hand = [weight.numpy().copy() for weight in model.trainable_variables]
change = [np.zeros_like(weight) for weight in by_hand]
update = stepper(settings, model, optimiser_of(settings, model))
error = []
for _ in range(3):
    change = [-settings.learning_rate * slope + 0.9 * before for slope, before in zip(slopes(), change)]
    by_hand = [weight + moved for weight, moved in zip(by_hand, change)]
    loss = update(*batch)
    error.append(max(float(np.abs(a - b).max()) for a, b in zip(by_hand, model.trainable_variables)))
facts["1986"] = max(error)
outputs = model(batch[0]).numpy()
half = float(np.mean(np.sum((outputs - np.eye(10)[batch[1]]) ** 2, axis=1)) / 2)
facts["squared error"] = half - float(loss_of(settings, outputs, batch[1]))

# Spread of the first weights of a layer with 64 inputs and 400 outputs.
for name in ("random", "xavier", "he"):
    facts[name] = float(np.std(network(Settings(initialisation=name, width=400, depth=1)).trainable_variables[0]))
z = np.array([[-2.0, 0.0, 3.0]], np.float32)
for name in ("linear", "sigmoid", "tanh", "relu", "leaky_relu", "prelu"):
    facts[name] = np.round(activation(name)(z).numpy().astype(float), 4).tolist()[0]

# The gradient on its way down.
for name, initialisation in (("sigmoid", "xavier"), ("relu", "he")):
    keras.utils.set_random_seed(0)
    norms = gradient_norms(replace(DEEP, activation=name, initialisation=initialisation), rows)
    facts[f"gradient {name}"] = norms.tolist()

# Runs that are interrupted and resumed, against runs that are not.
trainers.run.CHECKPOINT_S = 0.0
few = type(rows)(rows.images[:100], rows.digits[:100])
log = Run.log

def trained(name, settings, interrupted):
    options = Options(directory=Path(sys.argv[-1]) / name, steps=6)
    def log_or_stop(self, **values):
        if interrupted and not self.options.resume and self._done == 4:
            raise KeyboardInterrupt
        log(self, **values)
    Run.log = log_or_stop
    try:
        fitted = fit(Run(options, bar=False), settings, few, few, full=1, quick=1)
    except KeyboardInterrupt:
        resumed = Run(replace(options, resume=True), bar=False)
        fitted = fit(resumed, settings, few, few, full=1, quick=1)
        assert resumed.curve("train_loss")[0][-2:] == [5, 6]
    return fitted.model

for optimiser in OPTIMISERS:
    settings = Settings(optimiser=optimiser, depth=1, width=4, batch=20)
    whole = trained(f"{optimiser}-whole", settings, False)
    again = trained(f"{optimiser}-again", settings, True)
    pairs = zip(whole.variables, again.variables, strict=True)
    facts[f"resumed {optimiser}"] = all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)

# The averages of batch normalisation, where all rows were in one batch (the last optimiser is hessian_free).
facts["averages"] = float(np.abs(whole(few.images, training=True) - whole(few.images, training=False)).max())

for wrong in ({"depth": -1}, {"width": 0}, {"learning_rate": -0.1}):
    try:
        fit(Run(Options(directory=Path(sys.argv[-1]))), Settings(**wrong), few, few, full=1, quick=1)
    except TrainingError as error:
        facts[f"wrong {[*wrong][0]}"] = str(error)
print(json.dumps(facts))
"""
OPTIMISERS = ("sgd", "momentum", "rmsprop", "adagrad", "adam", "adadelta", "hessian_free")


def facts_of(directory: Path, optimisers: tuple[str, ...]) -> dict:
    arguments = ("mlp", "--quick", "--repo", directory / "repo", "--log-dir", directory / "runs")
    script = SCRIPT.replace("OPTIMISERS", repr(optimisers))
    return json.loads(done("-c", script, *arguments).splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A directory with repo/ and runs/ after a quick run, and what the script said."""
    directory = tmp_path_factory.mktemp("mlp")
    return directory, facts_of(directory, ("adam", "hessian_free"))


@trains
def test_a_quick_run_learns_and_publishes(trained: tuple[Path, dict]) -> None:
    for name in ("mlp", "mlp_tf"):
        manifest = read_manifest(trained[0] / "repo" / name / "1")
        assert manifest is not None and manifest.metric is not None
        assert manifest.metric["held_out_accuracy"] >= 0.94
        assert manifest.signature == {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
        }
    (run,) = (trained[0] / "runs/mlp").iterdir()
    assert (run / "accuracy.png").read_bytes()[:4] == b"\x89PNG"


@trains
def test_a_hessian_free_step_solves_a_quadratic(trained: tuple[Path, dict]) -> None:
    facts = trained[1]
    for damping in (0.0, 3.0):
        assert facts[f"quadratic, damping {damping}"] < 1e-4
        assert facts[f"direction, damping {damping}"] < 1e-4
        assert facts[f"loss, damping {damping}"] == pytest.approx(0, abs=1e-3)  # it is that before the step
    assert facts["damping from 0.0"] == 0
    assert facts["damping from 3.0"] == pytest.approx(2)  # all of the promise was kept: less damping


@trains
def test_a_hessian_free_step_goes_no_further_than_the_quadratic_holds(trained: tuple[Path, dict]) -> None:
    facts = trained[1]
    before, whole, taken = facts["poor step"]
    assert whole > before > taken
    assert facts["damping after a poor step"] == pytest.approx(0.15)
    assert facts["step uphill"] == 0
    assert facts["step cut"] == pytest.approx(0.8**5)  # the first from 1 downwards that the loss is lower at


@trains
def test_products_with_the_gauss_newton_matrix_are_those_of_the_matrix(trained: tuple[Path, dict]) -> None:
    facts = trained[1]
    assert facts["gauss-newton"] < 1e-5 < 1e-2 < facts["gauss-newton size"]


@trains
def test_momentum_is_the_update_of_1986(trained: tuple[Path, dict]) -> None:
    assert trained[1]["1986"] < 1e-6
    assert trained[1]["squared error"] == pytest.approx(0, abs=1e-6)


@trains
def test_first_weights_and_activations_are_what_their_names_say(trained: tuple[Path, dict]) -> None:
    facts = trained[1]
    expected = {"random": 0.05, "xavier": np.sqrt(2 / 464), "he": np.sqrt(2 / 64)}
    for name, spread in expected.items():
        assert facts[name] == pytest.approx(spread, rel=0.03)
    assert facts["linear"] == [-2, 0, 3]
    assert facts["sigmoid"] == [0.1192, 0.5, 0.9526]
    assert facts["tanh"] == [-0.964, 0, 0.9951]
    assert facts["relu"] == [0, 0, 3]
    assert facts["leaky_relu"] == [-0.02, 0, 3]
    assert facts["prelu"] == [-0.5, 0, 3]


@trains
def test_the_gradient_vanishes_through_sigmoids_and_not_through_relus(trained: tuple[Path, dict]) -> None:
    sigmoid, relu = trained[1]["gradient sigmoid"], trained[1]["gradient relu"]
    assert len(sigmoid) == len(relu) == 13
    assert all(below < above / 2 for below, above in pairwise(sigmoid))
    assert sigmoid[0] < 1e-6 * sigmoid[-1]
    assert 0.1 < relu[0] / relu[-1] < 10


@trains
def test_a_resumed_run_ends_with_the_same_weights(trained: tuple[Path, dict]) -> None:
    assert trained[1]["resumed adam"] is True
    assert trained[1]["resumed hessian_free"] is True


@trains
@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights_whatever_the_optimiser(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, OPTIMISERS)
    assert [facts[f"resumed {optimiser}"] for optimiser in OPTIMISERS] == [True] * len(OPTIMISERS)


@trains
def test_batch_normalisation_knows_the_averages_of_all_rows_where_a_step_is_for_all(trained: tuple[Path, dict]) -> None:
    assert trained[1]["averages"] < 1e-4


@trains
def test_settings_that_make_no_network_are_one_line(trained: tuple[Path, dict]) -> None:
    for name in ("depth", "width", "learning_rate"):
        assert trained[1][f"wrong {name}"].startswith("settings: ")


@trains
@pytest.mark.slow
def test_the_survey_compares_and_resumes(tmp_path: Path) -> None:
    arguments = ("-m", "trainers", "survey", "mlp", "--log-dir", tmp_path)
    first = done(*arguments, "--quick", "--epochs", 1)
    (run,) = (tmp_path / "mlp-survey").iterdir()
    names = [line.split(",")[0] for line in (run / "survey.csv").read_text().splitlines()]
    assert names[0] == "name" and len(names) == 20
    assert len((run / "since_1986.csv").read_text().splitlines()) == 8
    for name in ("curves.png", "since_1986.png", "vanishing.png"):
        assert (run / name).read_bytes()[:4] == b"\x89PNG"
    (run / "grid/relu-he-adam/result.json").unlink()
    (run / FINISHED).unlink()  # as if it had been interrupted there
    marks = {path: path.stat().st_mtime_ns for path in run.glob("grid/*/result.json")}
    assert len(marks) == 18

    assert done(*arguments, "--resume").partition("held-out")[2] == first.partition("held-out")[2]
    assert {path: path.stat().st_mtime_ns for path in marks} == marks
    assert (run / "grid/relu-he-adam/result.json").exists()

    missing = fork(*arguments, "--resume", tmp_path / "none")
    assert missing.returncode == 1 and missing.stderr.startswith(f"error: {tmp_path}/none/run.json: ")
