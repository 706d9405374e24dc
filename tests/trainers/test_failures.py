"""What can end a training from outside, with the digits trainer for all: full and read-only disks, Ctrl-C, damaged
files. Each is one line and exit status 1, leaves no half-written version, and `--resume` goes on afterwards.

All of it happens in two child processes (TensorFlow is slow to start), and the tests look at what they say and leave.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.core.artifact import read_manifest, verify
from tests.trainers.child import done, fork, run, trains

STOPPED = """
import os, signal, sys
from trainers.command import main
from trainers.training import load

signal.signal(signal.SIGINT, signal.default_int_handler)  # one that is started in the background ignores it
load("digits")
import trainers.run as run

def log_and_stop(self, **values):
    log(self, **values)
    if self._done == 5:
        os.kill(os.getpid(), signal.SIGINT)

log, run.Run.log, run.CHECKPOINT_S = run.Run.log, log_and_stop, 0.0
sys.exit(main())
"""

# Runs the command again and again, as if each time in a process of its own, and says what came of it.
CHILD = """
import json, shutil, subprocess, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
import trainers.training
from trainers.command import main

trainers.training.load("digits")
import trainers.run
trainers.run.CHECKPOINT_S = 0.0  # a checkpoint at every step

place, disks = Path(sys.argv[1]), sys.argv[2] == "disks"

def run(case, *arguments, name="digits", repo="repo", logs="logs"):
    sys.argv[1:] = [name, *map(str, arguments), "--repo", str(place / repo), "--log-dir", str(place / logs)]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        status = main()
    left = sorted(str(path.relative_to(place)) for path in (place / repo).glob("*/*"))
    parts = sorted(path.name for path in (place / logs).glob("*/*/checkpoints/*") if "temp" in path.name)
    print(json.dumps({"case": case, "status": status, "out": out.getvalue(), "errors": errors.getvalue(),
                      "left": left, "parts": parts}), flush=True)

def disk(name, options):
    (place / name).mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place / name], check=True)

(stopped,) = (place / "logs/digits").iterdir()
for name, damage in {
    "truncated": lambda data, index, last: data.write_bytes(data.read_bytes()[:-100]),
    "altered": lambda data, index, last: data.write_bytes(bytes(len(data.read_bytes()))),
    "missing": lambda data, index, last: data.unlink(),
    "no index": lambda data, index, last: index.write_bytes(b"damaged"),
    "no last": lambda data, index, last: last.write_text("damaged"),
}.items():
    copy = place / "damaged" / name.replace(" ", "-")
    shutil.copytree(stopped, copy)
    damage(*(copy / "checkpoints" / file for file in ("ckpt-5.data-00000-of-00001", "ckpt-5.index", "checkpoint")))
    run(name, "--resume", copy)

run("no data", "--data-dir", place / "nothing", name="mnist_softmax")
(place / "data").mkdir()
for file in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
    (place / "data" / file).write_bytes(b"damaged")
run("damaged data", "--data-dir", place / "data", name="mnist_softmax")

if disks:
    disk("small", "size=1m")
    run("disk full of checkpoints", "--steps", 8, logs="small")
    disk("tiny", "size=64k")
    run("disk full of curves", "--steps", 8, logs="tiny")
    disk("full", "size=64k")
    run("no room for ONNX", "--resume", stopped, repo="full")
    disk("half", "size=300k")
    run("no room for a SavedModel", "--resume", stopped, repo="half")
    disk("locked", "ro")
    run("read-only repo", repo="locked")
    run("read-only log", logs="locked")
    subprocess.run(["mount", "-o", "remount,size=8m", place / "small"], check=True)
    run("room again", "--resume", logs="small", repo="repo2")
run("resumed", "--resume", stopped)
"""
UNDER = ("unshare", "--user", "--map-root-user", "--mount")  # mounts that nobody else sees


@dataclass(frozen=True)
class Case:
    case: str
    status: int
    out: str
    errors: str
    left: list[str]  # in the repository: models and their versions, hidden ones too
    parts: list[str]  # of checkpoints that were not written to the end


@dataclass(frozen=True)
class Story:
    place: Path
    stopped: subprocess.CompletedProcess[str]
    cases: dict[str, Case]

    @property
    def run(self) -> Path:
        """Of the run that Ctrl-C stopped."""
        (run,) = (self.place / "logs/digits").iterdir()
        return run

    def failed(self, case: str) -> str:
        """The one line that it says, where it fails as it should."""
        came = self.cases[case]
        assert came.status == 1, came
        assert came.errors.startswith("error: ") and came.errors.count("\n") == 1, came
        assert "Traceback" not in came.out
        return came.errors.removeprefix("error: ").removesuffix("\n")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    place = tmp_path_factory.mktemp("failures")
    settings = ("digits", "--steps", 10, "--repo", place / "repo", "--log-dir", place / "logs")
    stopped = fork("-c", STOPPED, *settings)
    assert not list((place / "repo").iterdir())
    mounts = [*UNDER, "mount", "-t", "tmpfs", "none", str(place)]
    if subprocess.run(mounts, capture_output=True, check=False).returncode == 0:
        command = [*UNDER, sys.executable, "-c", CHILD, str(place), "disks"]
        result = run(command)
        assert (result.returncode, result.stderr) == (0, "")
        out = result.stdout
    else:
        out = done("-c", CHILD, place, "none")
    cases = [Case(**json.loads(line)) for line in out.splitlines()]
    return Story(place, stopped, {case.case: case for case in cases})


@pytest.fixture
def disks(story: Story) -> Story:
    if "read-only repo" not in story.cases:
        pytest.skip("this system lets nobody mount a file system of their own")
    return story


def whole(version: Path) -> None:
    manifest = read_manifest(version)
    assert manifest is not None and verify(version, manifest) == []


@trains
def test_a_run_that_is_stopped_says_so_and_can_be_resumed(story: Story) -> None:
    assert (story.stopped.returncode, story.stopped.stderr) == (1, "stopped\n")
    resumed = story.cases["resumed"]
    assert (resumed.status, resumed.errors) == (0, ""), resumed
    assert f"run {story.run}\n" in resumed.out and "10/10 steps" in resumed.out
    steps = [json.loads(line)["step"] for line in (story.run / "history.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 11))
    for model in ("digits", "digits_tf"):
        whole(story.place / "repo" / model / "1")


@trains
@pytest.mark.parametrize("case", ["truncated", "altered", "missing", "no index"])
def test_a_damaged_checkpoint_is_one_line(story: Story, case: str) -> None:
    path = story.place / "damaged" / case.replace(" ", "-") / "checkpoints/ckpt-5"
    assert story.failed(case).startswith(f"{path}: cannot be resumed from: ")


@trains
def test_where_no_checkpoint_is_the_last_a_run_does_not_begin_again(story: Story) -> None:
    path = story.place / "damaged/no-last/checkpoints/checkpoint"
    assert story.failed("no last") == f"{path}: does not say which checkpoint is the last"


@trains
def test_a_missing_and_a_damaged_data_set_are_one_line(story: Story) -> None:
    assert str(story.place / "nothing") in story.failed("no data")
    images = story.place / "data/train-images-idx3-ubyte"
    assert story.failed("damaged data").startswith(f"{images}: not such an IDX file")
    assert not [left for left in story.cases["damaged data"].left if left.startswith("mnist")]


@trains
@pytest.mark.parametrize(("case", "log"), [("disk full of checkpoints", "small"), ("disk full of curves", "tiny")])
def test_a_disk_that_is_full_while_a_run_is_written_is_one_line(disks: Story, case: str, log: str) -> None:
    line = disks.failed(case)
    assert line.startswith(f"{disks.place / log}/digits/")
    assert line.endswith(": cannot be written: No space left on device")
    assert disks.cases[case].left == disks.cases[case].parts == []


@trains
def test_with_room_again_such_a_run_is_resumed(disks: Story) -> None:
    again = disks.cases["room again"]
    assert (again.status, again.errors) == (0, ""), again
    assert "8/8 steps" in again.out
    assert again.left == ["repo2/digits/1", "repo2/digits_tf/1"]
    for left in again.left:
        whole(disks.place / left)


@trains
def test_a_disk_that_is_full_while_a_version_is_published_leaves_none(disks: Story) -> None:
    assert disks.failed("no room for ONNX") == f"{disks.place / 'full'}: No space left on device"
    assert disks.cases["no room for ONNX"].left == []

    line = disks.failed("no room for a SavedModel")
    assert line == f"{disks.place / 'half/digits_tf'}: cannot be written: No space left on device"
    assert disks.cases["no room for a SavedModel"].left == ["half/digits/1"]


@trains
def test_directories_that_cannot_be_written_are_told_before_the_training(disks: Story) -> None:
    assert disks.failed("read-only repo") == f"--repo {disks.place / 'locked'}: not writable"
    assert disks.failed("read-only log") == f"--log-dir {disks.place / 'locked'}: not writable"
    assert disks.cases["read-only repo"].out == disks.cases["read-only log"].out == ""
