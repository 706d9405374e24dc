"""The residual network: its blocks, its step on one device, on two and in two processes, and runs of the trainer."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from serving.core.artifact import read_golden, read_manifest
from serving.core.compare import difference
from tests.trainers.child import ROOT, done, fork, trains

# Every row of the batch is there twice, one after the other, so that two devices get the same rows, whose mean and
# deviation are those of the whole batch: the steps have to come out alike.
STEPS = """
import keras
import numpy as np
import tensorflow as tf
from trainers.distribute import devices, shared
from trainers.models import resnet_cifar10 as resnet

def after_steps(distribution):
    keras.utils.set_random_seed(1)
    strategy = devices(distribution)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8).repeat(2, axis=0)
    labels = np.arange(8).repeat(2)
    with strategy.scope():
        model = resnet.network("v2", 8)
        optimizer = keras.optimizers.SGD(resnet.learning_rates(0.1, 4), 0.9)
        optimizer.build(model.trainable_variables)
    step = resnet.training_step(strategy, model, optimizer, 16, 2e-4)
    losses = [float(step(shared(strategy, images, labels))) for _ in range(4)]
    return strategy.num_replicas_in_sync, losses, np.concatenate([weight.ravel() for weight in model.get_weights()])
"""

SCRIPT = f"""
import json, sys
from pathlib import Path
from trainers.training import Job, load, publish, train
resnet = load("resnet_cifar10")
from trainers.quiet import quiet_import
with quiet_import():
    import tensorflow as tf
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                               [tf.config.LogicalDeviceConfiguration()] * 2)
{STEPS}
from trainers.contract import Options, TrainingError

directory = Path(sys.argv[1])
one, two = after_steps("none"), after_steps("mirrored")
result = {{"devices": [one[0], two[0]], "losses": [one[1], two[1]], "apart": float(np.abs(one[2] - two[2]).max())}}
result["one strategy"] = devices("mirrored") is devices("mirrored")  # two would mix up their gradients

# Layers with weights on the way through the blocks, and the weights themselves.
result["depths"] = {{}}
for block, depth in (("v1", 14), ("v2", 14), ("bottleneck", 20), ("v1", 20)):
    model = resnet.network(block, depth)
    kernels = [weight for weight in model.trainable_variables if weight.path.endswith("kernel")]
    result["depths"][f"{{block}} {{depth}}"] = len(kernels), model.count_params()

# A block whose last convolution computes nothing gives what it was given.
x = np.random.default_rng(0).normal(size=(2, 8, 8, 64)).astype(np.float32)
inputs = keras.Input(x.shape[1:])
for name, channels in (("v1", 64), ("v2", 64), ("bottleneck", 16)):
    model = keras.Model(inputs, resnet.BLOCKS[name](inputs, channels, 1))
    last = [layer for layer in model.layers if "conv2d" in layer.name][-1]
    last.kernel.assign(np.zeros_like(last.kernel))
    expected = np.maximum(x, 0) if name == "v1" else x
    result[f"{{name}} passes on"] = bool(np.array_equal(model(x), expected))

result["wrong depths"] = []
for block, depth in (("v2", 9), ("bottleneck", 44), ("v1", 2)):
    try:
        resnet.network(block, depth)
    except TrainingError as error:
        result["wrong depths"].append(str(error))

rates = resnet.learning_rates(0.1, 100)
result["rates"] = [round(float(rates(step)), 6) for step in (0, 50, 51, 75, 76, 99)]

job = Job("resnet_cifar10", quick=True, values={{"precision": "bfloat16"}})
trained, settings = train(job, Options(directory / "run", quick=True, data_dir=directory / "none"))
publish(job, trained, settings, directory / "repo", directory / "run")
result |= {{"metric": trained.metric, "generated": trained.generated, "settings": settings}}
result["types"] = sorted({{weight.dtype for weight in trained.model.variables}})
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("resnet")
    return directory, json.loads(done("-c", SCRIPT, directory).splitlines()[-1])


@trains
def test_two_devices_do_what_one_does(ran: tuple[Path, dict[str, Any]]) -> None:
    _, result = ran
    assert result["devices"] == [1, 2] and result["one strategy"]
    one, two = result["losses"]
    assert one[-1] < one[0]
    assert np.allclose(one, two, atol=1e-4)
    assert result["apart"] < 1e-3


@trains
def test_the_network_is_as_deep_as_it_says(ran: tuple[Path, dict[str, Any]]) -> None:
    depths = ran[1]["depths"]
    # The convolutions on the way around: where a stage begins with other channels or fewer pixels. Blocks v2 have one
    # more, at the first stage: there it takes the normalised input.
    assert [count for count, _ in depths.values()] == [14 + 2, 14 + 2, 20 + 3, 20 + 2]
    weights = 3 * 9 * 16 + 64 * 10 + 10
    weights += 6 * 9 * 16 * 16 + 9 * 16 * 32 + 5 * 9 * 32 * 32 + 9 * 32 * 64 + 5 * 9 * 64 * 64 + 16 * 32 + 32 * 64
    normalisations = 4 * (7 * 16 + 7 * 32 + 7 * 64)
    assert depths["v1 20"][1] == weights + normalisations
    assert ran[1]["wrong depths"] == [
        "depth 9: with v2 blocks it is 6n + 2, so 8, 14, ...",
        "depth 44: with bottleneck blocks it is 9n + 2, so 11, 20, ...",
        "depth 2: with v1 blocks it is 6n + 2, so 8, 14, ...",
    ]


@trains
def test_a_block_adds_to_what_it_was_given(ran: tuple[Path, dict[str, Any]]) -> None:
    assert all(ran[1][f"{block} passes on"] for block in ("v1", "v2", "bottleneck"))


@trains
def test_the_learning_rate_falls_in_stages(ran: tuple[Path, dict[str, Any]]) -> None:
    assert ran[1]["rates"] == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


@trains
def test_a_quick_run_in_bfloat16_learns_and_publishes_float32(ran: tuple[Path, dict[str, Any]]) -> None:
    directory, result = ran
    assert result["generated"] and result["metric"]["test_accuracy"] >= 0.6
    assert result["types"] == ["float32"]
    assert result["settings"]["depth"] == 8 and result["settings"]["precision"] == "bfloat16"
    for name in ("resnet_cifar10", "resnet_cifar10_tf"):
        manifest = read_manifest(directory / "repo" / name / "1")
        assert manifest is not None and manifest.metric is None
        assert manifest.signature == {
            "inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
        }
    version = directory / "repo/resnet_cifar10/1"
    golden = read_golden(version)
    assert golden is not None and golden.inputs["x"].dtype == np.uint8
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    answers = {"probabilities": session.run(None, golden.inputs)[0]}
    assert difference(answers, golden.outputs, atol=1e-4, rtol=0) is None
    assert (directory / "run/learning.png").read_bytes()[:4] == b"\x89PNG"
    assert (directory / "run/cifar10-tfrecords/about.json").exists()


@trains
def test_workers_without_a_cluster_are_one_line(tmp_path: Path) -> None:
    places = ("--repo", tmp_path / "repo", "--log-dir", tmp_path / "runs", "--data-dir", tmp_path)
    result = fork("-m", "trainers", "resnet_cifar10", "--quick", "--set", "distribution=workers", *places, TF_CONFIG="")
    assert result.returncode == 1
    assert result.stderr == (
        "error: distribution 'workers' needs TF_CONFIG with two workers or more in the environment\n"
    )


def two_workers(*arguments: object) -> list[subprocess.Popen[str]]:
    """Starts the same command twice, as two workers on loopback."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]
    started = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                cwd=ROOT,
                env=os.environ | {"TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def answers_of(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What they print, where all succeed."""
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            found.append(out)
    finally:
        for process in processes:
            process.kill()
    return found


ONE_AND_WORKERS = f"""
import json, sys
from trainers.training import load
load("resnet_cifar10")
{STEPS}
workers = after_steps("workers")
one = after_steps("none")
print(json.dumps([workers[0], workers[1], one[1], float(np.abs(workers[2] - one[2]).max())]))
"""


@trains
@pytest.mark.slow
def test_two_workers_do_what_one_process_does() -> None:
    for out in answers_of(two_workers("-c", ONE_AND_WORKERS)):
        replicas, together, alone, apart = json.loads(out.splitlines()[-1])
        assert replicas == 2
        assert np.allclose(together, alone, atol=1e-4)
        assert apart < 1e-3


@trains
@pytest.mark.slow
def test_of_two_workers_the_chief_alone_writes_and_publishes(tmp_path: Path) -> None:
    settings = ("resnet_cifar10", "--quick", "--steps", 4, "--set", "distribution=workers")
    places = ("--repo", tmp_path / "repo", "--log-dir", tmp_path / "runs", "--data-dir", tmp_path / "none")
    chief, other = answers_of(two_workers("-m", "trainers", *settings, *places))
    assert f"published {tmp_path / 'repo/resnet_cifar10/1'}" in chief
    assert other.splitlines()[-1] == "trained; the chief publishes"
    assert len(list((tmp_path / "runs/resnet_cifar10").iterdir())) == 1
    for name in ("resnet_cifar10", "resnet_cifar10_tf"):
        assert [path.name for path in (tmp_path / "repo" / name).iterdir()] == ["1"]


KILLED = """
import os, signal, sys
from trainers.command import main
from trainers.quiet import quiet_import
with quiet_import():
    import trainers.run as run

log = run.Run.log
def log_or_die(self, **values):
    if self._done == 5 and '"index": 0' not in os.environ.get("TF_CONFIG", ""):
        os.kill(os.getpid(), signal.SIGKILL)
    log(self, **values)
run.CHECKPOINT_S = 0.0
run.Run.log = log_or_die
sys.exit(main())
"""


@trains
@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_others_with_one_line(tmp_path: Path) -> None:
    settings = ("resnet_cifar10", "--quick", "--steps", 1000, "--set", "distribution=workers")
    places = ("--repo", tmp_path / "repo", "--log-dir", tmp_path / "runs", "--data-dir", tmp_path / "none")
    chief, killed = two_workers("-c", KILLED, *settings, *places)
    try:
        _, err = chief.communicate(timeout=300)
        killed.communicate(timeout=60)
    finally:
        chief.kill()
        killed.kill()
    assert (chief.returncode, killed.returncode) == (1, -9), err
    assert err == "error: another worker is gone: start all of them again, with --resume\n"
    assert list((tmp_path / "repo").iterdir()) == []


@trains
@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_ends_as_one_that_never_was(tmp_path: Path) -> None:
    settings = ("resnet_cifar10", "--quick", "--steps", 8, "--data-dir", tmp_path / "none")

    def places(name: str) -> tuple[object, ...]:
        return ("--repo", tmp_path / name / "repo", "--log-dir", tmp_path / name / "runs")

    done("-m", "trainers", *settings, *places("whole"))
    assert fork("-c", KILLED, *settings, *places("killed")).returncode == -9
    resumed = ("resnet_cifar10", "--resume", "--data-dir", tmp_path / "none", *places("killed"))
    done("-m", "trainers", *resumed)
    whole, again = (read_golden(tmp_path / name / "repo/resnet_cifar10/1") for name in ("whole", "killed"))
    assert whole is not None and again is not None
    assert difference(again.outputs, whole.outputs, atol=0, rtol=0) is None
