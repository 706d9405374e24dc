"""Models that no trainer made: what is published of them, and what is refused.

Frameworks stay in child processes: their imports warn, and a warning fails a test here.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from serving.core.artifact import Golden, Manifest, read_golden, read_manifest, verify
from serving.core.compare import difference
from tests import models
from tests.e2e.conftest import Serve
from tests.trainers.child import ROOT, done, python, trains
from trainers.contract import TrainingError
from trainers.publishing import publish_onnx

COMMON = """
import sys
import numpy as np
from trainers.contract import TrainingError
from trainers.publishing import publish_keras, publish_sklearn, publish_torch

repo = sys.argv[1]

def refused(publish, *arguments, **more):
    try:
        publish(*arguments, repo=repo, **more)
    except TrainingError as error:
        print("refused:", error)
    else:
        print("published")
"""


def needs(*libraries: str) -> pytest.MarkDecorator:
    missing = [name for name in libraries if not find_spec(name)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def run(script: str, repo: Path) -> list[str]:
    """The lines that a script prints, which says nothing else."""
    return done("-c", COMMON + script, repo).splitlines()


def whole(version: Path) -> tuple[Manifest, Golden]:
    manifest, golden = read_manifest(version), read_golden(version)
    assert manifest is not None and golden is not None
    assert verify(version, manifest) == []
    return manifest, golden


def assert_it_gives_the_golden_answers(version: Path) -> None:
    """ONNX Runtime gives the golden answers for any number of rows, and nothing in the files names this machine."""
    manifest, golden = whole(version)
    assert manifest.golden is not None
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    names = list(golden.outputs)
    assert [tensor.name for tensor in session.get_outputs()] == names
    for rows in (slice(0, 1), slice(1, 3), slice(None)):
        answers = dict(zip(names, session.run(names, {k: v[rows] for k, v in golden.inputs.items()}), strict=True))
        expected = {
            k: v[rows].astype(str).astype(object) if v.dtype == object else v[rows] for k, v in golden.outputs.items()
        }
        assert difference(answers, expected, atol=manifest.golden.atol, rtol=manifest.golden.rtol) is None
    assert str(ROOT).encode() not in (version / "model.onnx").read_bytes()


KERAS = """
from trainers.quiet import quiet_import
with quiet_import():
    import keras
from keras import layers

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(40, 4))

plain = keras.Sequential([layers.Dense(8, activation="tanh"), layers.Dense(3, activation="softmax")])
plain(x[:1])
for version in publish_keras("plain", plain, x, repo=repo, metric={"accuracy": 0.5}, data="noise", seed=0):
    print(version)

left, right = keras.Input((4,), name="left"), keras.Input((None, 2), name="right")
both = layers.Concatenate()([left, layers.GlobalAveragePooling1D()(right)])
two = keras.Model([left, right], [layers.Dense(1)(both), layers.Dense(2)(both)])
sample = {"a": x[:5], "b": x.reshape(40, 2, 2)[:5]}
publish_keras("two", two, sample, outputs=("one", "other"), repo=repo)

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)
    def call(self, x):
        return self.dense(x) * 2

publish_keras("subclass", Own(), x.astype("float32"), repo=repo)

refused(publish_keras, "no", two, sample)
refused(publish_keras, "no", two, x)
refused(publish_keras, "no", plain, x[:, :3])
refused(publish_keras, "no", plain, x[:2])
plain.layers[0].kernel.assign(np.full((4, 8), np.nan))
refused(publish_keras, "no", plain, x)
keras.backend.backend = lambda: "jax"
refused(publish_keras, "no", plain, x)
"""


@trains
def test_keras_models(tmp_path: Path) -> None:
    assert run(KERAS, tmp_path) == [
        f"{tmp_path}/plain/1",
        f"{tmp_path}/plain_tf/1",
        "refused: names for 1 outputs of a model that has 2",
        "refused: the sample has 1 inputs, the model 2",
        "refused: a row of 'x' has the shape [3], the model takes [4]",
        "refused: 'no' has a sample of 2 rows, expected at least 3",
        "refused: the model gives no numbers: output 'y' has NaN or infinity",
        "refused: publish_keras needs Keras on TensorFlow: set KERAS_BACKEND=tensorflow",
    ]
    assert not (tmp_path / "no").exists()
    manifest, golden = whole(tmp_path / "plain/1")
    assert (manifest.metric, manifest.seed) == ({"accuracy": 0.5}, 0)
    assert manifest.signature == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert golden.inputs["x"].shape == (32, 4)  # of 40
    manifest, _ = whole(tmp_path / "two/1")
    assert (manifest.metric, manifest.training) == (None, None)
    assert manifest.signature["inputs"][1] == {"name": "b", "datatype": "FP32", "shape": [-1, -1, 2]}
    for name in ("plain", "two", "subclass"):
        assert_it_gives_the_golden_answers(tmp_path / name / "1")
        whole(tmp_path / f"{name}_tf/1")


SKLEARN = """
from sklearn.cluster import KMeans
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC

x, y = load_iris(return_X_y=True)
x = StandardScaler().fit_transform(x)
names = load_iris().target_names[y]
some = x[::10]

def publish(name, estimator):
    publish_sklearn(name, estimator, some, repo=repo, data="iris")

publish("pipeline", make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y))
publish("text", RandomForestClassifier(10, random_state=0).fit(x, names))
publish("truth", LogisticRegression().fit(x, y == 0))
publish("svc", SVC().fit(x, y))
publish("linear_svc", LinearSVC().fit(x, names))

features, target = load_diabetes(return_X_y=True)
both = np.stack([target, -target], 1)
publish_sklearn("boosted", GradientBoostingRegressor(random_state=0).fit(features, target), features, repo=repo)
publish_sklearn("values", LinearRegression().fit(features, both), features, repo=repo)

refused(publish_sklearn, "no", KMeans(2, random_state=0).fit(x), some)
refused(publish_sklearn, "no", LogisticRegression(), some)
refused(publish_sklearn, "no", LogisticRegression().fit(x, y), some[:, :3])
refused(publish_sklearn, "no", LogisticRegression().fit(x, y), some[0])
refused(publish_sklearn, "no", make_pipeline(FunctionTransformer(np.sin), LogisticRegression()).fit(x, y), some)
# Two rows that are the same in float32.
fine = np.repeat([[1.0], [1.0 + 1e-9]], 10, axis=0)
sharp = make_pipeline(StandardScaler(), LogisticRegression(C=1e9)).fit(fine, [0] * 10 + [1] * 10)
refused(publish_sklearn, "no", sharp, fine)
sys.modules["skl2onnx"] = None
refused(publish_sklearn, "no", LogisticRegression().fit(x, y), some)
"""


@needs("sklearn", "skl2onnx")
def test_estimators(tmp_path: Path, serve: Serve) -> None:
    assert run(SKLEARN, tmp_path) == [
        "refused: KMeans is neither a classifier nor a regressor",
        "refused: the estimator does not take its sample: This LogisticRegression instance is not fitted yet. "
        "Call 'fit' with appropriate arguments before using this estimator.",
        "refused: the estimator does not take its sample: X has 3 features, but LogisticRegression is expecting 4 "
        "features as input.",
        "refused: the sample has the shape [4], expected [rows, features]",
        "refused: 'no' cannot be converted to ONNX: FunctionTransformer is not supported unless the transform function "
        "is None (= identity). You may raise an issue at https://github.com/onnx/sklearn-onnx/issues.",
        "refused: the ONNX model does not answer as the estimator does: 'probabilities' differs by up to 0.5 in 40 of "
        "40 elements (allowed: 0.0001 + 0.0001 x |expected|)",
        "refused: skl2onnx is not installed: pip install '.[cpu,sklearn]'",
    ]
    shapes = {
        "pipeline": {"label": (15,), "probabilities": (15, 3)},
        "text": {"label": (15,), "probabilities": (15, 3)},
        "truth": {"label": (15,), "probabilities": (15, 2)},
        "svc": {"label": (15,)},
        "linear_svc": {"label": (15,)},
        "boosted": {"prediction": (32, 1)},
        "values": {"prediction": (32, 2)},
    }
    assert {path.name for path in tmp_path.iterdir()} == shapes.keys()
    for name, expected in shapes.items():
        _, golden = whole(tmp_path / name / "1")
        assert {key: array.shape for key, array in golden.outputs.items()} == expected
        assert_it_gives_the_golden_answers(tmp_path / name / "1")

    server = serve(tmp_path)  # which holds every model against its golden sample
    assert {entry["state"] for entry in server.index().values()} == {"READY"}
    rows = [[-0.9, 1.0, -1.3, -1.3], [1.0, -0.1, 0.8, 1.4]]  # in standard deviations
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": rows}]}
    label, _ = server.post("/v2/models/text/infer", json=body).json()["outputs"]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["setosa", "virginica"]}


TORCH = """
import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(40, 4).numpy()

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    def forward(self, left, right):
        both = self.dense(left) + right.float().mean(dim=1, keepdim=True)
        return both, torch.softmax(both, dim=-1)

plain = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
plain(torch.from_numpy(x))
publish_torch("plain", plain, x, repo=repo, metric={"accuracy": 0.5})
print(plain.training)

sample = {"left": x[:6], "right": np.arange(30).reshape(6, 5)}
publish_torch("two", Two(), sample, outputs=("logits", "probabilities"), repo=repo)
images = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
publish_torch("images", layers, images, repo=repo)

class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(6, -1)

class Branch(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x

refused(publish_torch, "no", Two(), sample)
refused(publish_torch, "no", plain, x[:, :3])
refused(publish_torch, "no", plain, x[:2])
refused(publish_torch, "no", Fixed(), x[:6])
refused(publish_torch, "no", Branch(), x[:6])
"""


@needs("torch", "onnxscript")
def test_modules(tmp_path: Path) -> None:
    result = python("-c", COMMON + TORCH, tmp_path)  # not where TensorFlow is, too
    assert (result.returncode, result.stderr) == (0, "")
    training, *refusals = result.stdout.splitlines()
    assert training == "True"  # the caller's module is as it was
    assert refusals[:3] == [
        "refused: names for 1 outputs of a module that has 2",
        "refused: the module does not take its sample: mat1 and mat2 shapes cannot be multiplied (32x3 and 4x8)",
        "refused: 'no' has a sample of 2 rows, expected at least 3",
    ]
    assert refusals[3].startswith("refused: ONNX Runtime cannot run the model with 1 rows: ")
    assert refusals[4].startswith("refused: 'no' cannot be converted to ONNX: Could not guard on data-dependent")
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "two", "images"}
    for name in ("plain", "two", "images"):
        assert_it_gives_the_golden_answers(tmp_path / name / "1")
    manifest, golden = whole(tmp_path / "two/1")
    assert manifest.signature == {
        "inputs": [
            {"name": "left", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "right", "datatype": "INT64", "shape": [-1, 5]},
        ],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }
    assert golden.inputs["right"].shape == (6, 5)


X = np.arange(12.0).reshape(3, 4)


def refusal(model: bytes | Path, sample: np.ndarray | dict[str, np.ndarray], repo: Path, **more: Any) -> str:
    with pytest.raises(TrainingError) as error:
        publish_onnx("no", model, sample, repo=repo, **more)
    assert not repo.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_finished_file(tmp_path: Path) -> None:
    file = models.save(models.scale(2.0), tmp_path / "model.onnx")
    version = publish_onnx("twice", file, X, repo=tmp_path / "repo", metric={"error": 0.1}, data="none", seed=3)
    assert version == tmp_path / "repo/twice/1"
    manifest, golden = whole(version)
    assert (manifest.metric, manifest.seed, manifest.training) == ({"error": 0.1}, 3, {"data": "none"})
    assert golden.inputs["x"].dtype == np.float32  # as the model takes it
    assert difference(golden.outputs, {"y": np.float32(X * 2)}, atol=0, rtol=0) is None
    assert_it_gives_the_golden_answers(version)

    version = publish_onnx(
        "twice", file.read_bytes(), {"x": X}, answers={"y": np.float32(X * 2)}, repo=tmp_path / "repo"
    )
    assert version == tmp_path / "repo/twice/2"


def test_text_goes_in_and_out_as_bytes(tmp_path: Path) -> None:
    text = np.array([["a", "größe"], ["", "c"], ["d", "e"]])
    version = publish_onnx("text", models.identity("BYTES", ("batch", 2)).SerializeToString(), text, repo=tmp_path)
    _, golden = whole(version)
    assert golden.inputs["x"][0].tolist() == golden.outputs["y"][0].tolist() == [b"a", "größe".encode()]


def test_weights_in_files_of_their_own_are_brought_along(tmp_path: Path) -> None:
    weights = np.arange(8, dtype=np.float32).reshape(4, 2)
    proto = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [models.tensor("x", "FP32", ("batch", 4))],
        [models.tensor("y", "FP32", ("batch", 2))],
        {"w": weights},
    )
    file = tmp_path / "model.onnx"
    onnx.save(proto, file, save_as_external_data=True, location="weights", size_threshold=0)
    version = publish_onnx("outside", file, X, repo=tmp_path / "repo")
    _, golden = whole(version)
    assert difference(golden.outputs, {"y": np.float32(X) @ weights}, atol=1e-5, rtol=0) is None


def test_a_file_that_is_not_published(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    twice = models.scale(2.0).SerializeToString()
    assert refusal(twice, X[:2], repo) == "'no' has a sample of 2 rows, expected at least 3"
    assert "with 3 rows: " in refusal(twice, X[:, :3], repo)
    assert "with 3 rows: " in refusal(twice, {"z": X}, repo)
    assert refusal(twice, X, repo, answers={"y": X}) == (
        "the ONNX model does not answer as the model that it was made from does: 'y' is float32, expected float64"
    )
    told = refusal(twice, X, repo, answers={"y": np.float32(X)})
    assert told.startswith("the ONNX model does not answer as the model that it was made from does: 'y' differs by up")
    fixed = models.identity("FP32", (3, 4)).SerializeToString()
    assert refusal(fixed, X, repo) == "input 'x' takes 3 rows, no more or less: export it with an open axis 0"
    mixed = models.centred().SerializeToString()
    assert refusal(mixed, X, repo).startswith("the ONNX model does not answer as the same model with more rows does: ")
    two = models.every_dtype(("FP32", "INT64")).SerializeToString()
    assert refusal(two, X, repo) == "the model has 2 inputs: in_FP32, in_INT64"
    told = refusal(two, {"in_FP32": X[:, :3], "in_INT64": np.zeros((4, 3))}, repo)
    assert told == "'no' has a sample with [3, 4] rows, expected the same for every input"
    assert refusal(twice, np.full((3, 4), np.nan), repo) == "the model gives no numbers: output 'y' has NaN or infinity"
    assert refusal(b"no model", X, repo).startswith("ONNX Runtime cannot load the model: ")
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(b"no model")
    assert refusal(damaged, X, repo).startswith(f"{damaged}: not an ONNX model: ")
    with pytest.raises(FileNotFoundError):
        publish_onnx("no", tmp_path / "nosuch.onnx", X, repo=repo)
