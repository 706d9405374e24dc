"""The network of 2012 as the paper has it, and a quick run of its trainer, all in one child process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from serving.core.artifact import read_golden, read_manifest
from serving.core.compare import difference
from tests.trainers.child import done, trains

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from trainers.contract import Options
from trainers.training import Job, load, publish, train

directory = Path(sys.argv[1])
alexnet = load("alexnet")

full = alexnet.network("imagenet")
result = {"parameters": full.count_params(), "full": [list(layer.output.shape[1:]) for layer in full.layers],
          "layers": [type(layer).__name__ for layer in full.layers]}
small = alexnet.network("cifar", precision="bfloat16")
result["same layers"] = [type(layer).__name__ for layer in small.layers] == result["layers"]
result["computes in"] = sorted({layer.compute_dtype for layer in small.layers})
del full

random = np.random.default_rng(0)
x = random.normal(0, 60, (2, 3, 4, 9)).astype(np.float32)
np.savez(directory / "normalised.npz", x=x, y=alexnet.LocalResponseNormalization()(x))

job = Job("alexnet", quick=True, steps=62)  # half as many as it takes by itself
trained, settings = train(job, Options(directory / "run", quick=True, steps=62, data_dir=directory / "none"))
publish(job, trained, settings, directory / "repo", directory / "run")
result |= {"metric": trained.metric, "generated": trained.generated}
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("alexnet")
    return directory, json.loads(done("-c", SCRIPT, directory).splitlines()[-1])


@trains
def test_at_full_size_the_network_is_the_paper_s(ran: tuple[Path, dict[str, Any]]) -> None:
    _, result = ran
    shapes = [shape for shape, layer in zip(result["full"], result["layers"], strict=True) if layer != "Dropout"]
    assert shapes == [
        [227, 227, 3],
        [55, 55, 96], [55, 55, 96], [27, 27, 96],
        [27, 27, 256], [27, 27, 256], [13, 13, 256],
        [13, 13, 384], [13, 13, 384], [13, 13, 256], [6, 6, 256],
        [9216], [4096], [4096], [1000],
    ]  # fmt: skip
    assert result["layers"].count("Dropout") == 2 and result["layers"].count("LocalResponseNormalization") == 2
    # 60,965,224 in the paper, where three of the convolutions see half of the channels on either GPU.
    halves = (5 * 5 * 48 * 256) + (3 * 3 * 192 * 384) + (3 * 3 * 192 * 256)
    assert result["parameters"] == 60_965_224 + halves
    assert result["same layers"]
    assert result["computes in"] == ["bfloat16", "float32"]


@trains
def test_a_response_is_divided_by_those_of_the_channels_around_it(ran: tuple[Path, dict[str, Any]]) -> None:
    with np.load(ran[0] / "normalised.npz") as stored:
        x, y = stored["x"], stored["y"]
    expected = np.empty(x.shape)
    for channel in range(9):
        around = x[..., max(0, channel - 2) : channel + 3].astype(np.float64)
        expected[..., channel] = x[..., channel] / (2 + 1e-4 * (around**2).sum(axis=-1)) ** 0.75
    assert np.allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(y * 2**0.75 - x).max() > 10  # at this scale the channels around do count


@trains
def test_a_quick_run_learns_and_publishes_the_normalisation_as_one_operation(ran: tuple[Path, dict[str, Any]]) -> None:
    directory, result = ran
    assert result["generated"] and result["metric"]["test_accuracy"] >= 0.6
    version = directory / "repo/alexnet/1"
    manifest, golden = read_manifest(version), read_golden(version)
    assert manifest is not None and golden is not None and manifest.metric is None
    assert manifest.signature == {
        "inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
    }
    nodes = [node for node in onnx.load(version / "model.onnx").graph.node if node.op_type == "LRN"]
    assert len(nodes) == 2
    for node in nodes:
        values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert values["size"] == 5
        # ONNX divides alpha by the size.
        assert np.allclose([values["bias"], values["alpha"] / 5, values["beta"]], [2, 1e-4, 0.75])
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    answers = {"probabilities": session.run(None, golden.inputs)[0]}
    assert difference(answers, golden.outputs, atol=1e-4, rtol=0) is None


@trains
def test_a_run_leaves_the_maps_of_the_first_layer(ran: tuple[Path, dict[str, Any]]) -> None:
    run = ran[0] / "run"
    for name in ("accuracy.png", "feature_maps.png"):
        assert (run / name).read_bytes()[:4] == b"\x89PNG"
    (events,) = run.glob("events.out.tfevents.*")
    assert b"feature_maps" in events.read_bytes()


FULL = """
import json, sys
from pathlib import Path
import numpy as np
from trainers.contract import Options, TrainingError
from trainers.training import Job, load, train
alexnet = load("alexnet")
from trainers.data import folders
import tensorflow as tf

directory = Path(sys.argv[1])
options = Options(directory / "run", steps=2, data_dir=directory)
job = Job("alexnet", steps=2, values={"size": "imagenet", "batch": 4})
result = {"problems": []}

def problem(work, *arguments):
    try:
        work(*arguments)
    except TrainingError as error:
        result["problems"].append(str(error))

problem(train, job, options)
random = np.random.default_rng(0)
for split, name, ending, shape in (("train", "cat", "JPEG", (60, 40)), ("train", "dog", "png", (30, 90)),
                                   ("val", "cat", "jpg", (227, 227)), ("val", "dog", "png", (300, 250))):
    folder = directory / "imagenet" / split / name
    folder.mkdir(parents=True)
    for number in range(3):
        pixels = np.full((*shape, 3), 40 * number + 30 * (name == "dog"), np.uint8)
        encode = tf.io.encode_png if ending == "png" else tf.io.encode_jpeg
        (folder / f"{number}.{ending}").write_bytes(encode(pixels).numpy())
images = folders.load(options, 64, 1000)
result["labels"] = images.train_labels.tolist(), images.test_labels.tolist()
result["means"] = images.train_images[np.array([5, 0, 1])].mean(axis=(1, 2, 3)).round().tolist()
result["shape"] = images.test_images[:2].shape
trained, _ = train(job, options)
result["output"] = list(trained.model.outputs[0].shape), trained.data
(directory / "imagenet/train/cat/0.JPEG").write_bytes(b"nothing")
problem(lambda: images.train_images[:1])
print(json.dumps(result))
"""


@trains
@pytest.mark.slow
def test_at_full_size_it_learns_from_folders_of_pictures(tmp_path: Path) -> None:
    result = json.loads(done("-c", FULL, tmp_path).splitlines()[-1])
    folder = tmp_path / "imagenet/train"
    assert result["labels"] == [[0, 0, 0, 1, 1, 1]] * 2
    assert result["means"] == [110, 0, 40]
    assert result["shape"] == [2, 64, 64, 3]
    assert result["output"] == [[None, 1000], "2 folders of pictures, 6 to train on, 6 held out"]
    missing, damaged = result["problems"]
    assert missing == f"{folder}: 0 folders, expected one for each class, 1000 at most"
    assert damaged.startswith(f"{folder / 'cat/0.JPEG'}: not a picture: ")
