"""The artifact contract: manifest, golden sample, and that a version appears whole or not at all."""

import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from serving.core import artifact
from serving.core.artifact import (
    GOLDEN,
    MANIFEST,
    Golden,
    Manifest,
    publish,
    read_golden,
    read_manifest,
    verify,
    write_golden,
)

ROOT = Path(__file__).parents[2]
HASH = "0" * 64

SAMPLE = Golden(inputs={"x": np.arange(6, dtype=np.float32).reshape(3, 2)}, outputs={"y": np.ones((3, 1), np.int64)})


def write_model(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(b"graph")


def publish_sample(repo: Path, write: Callable[[Path], object] = write_model, name: str = "m", **changes: Any) -> Path:
    about: dict[str, Any] = {
        "golden": SAMPLE,
        "signature": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]},
        "metric": {"accuracy": 0.5},
        "seed": 3,
        "libraries": {"numpy": np.__version__},
        "atol": 1e-4,
        "rtol": 0.0,
    }
    return publish(repo, name, write, **(about | changes))


def checked(version: Path) -> Manifest:
    """The manifest of a version that is whole."""
    manifest = read_manifest(version)
    assert manifest is not None
    assert verify(version, manifest) == []
    return manifest


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


# Manifest and verification


def test_a_published_version_can_be_read_back(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        (directory / "saved_model.pb").write_bytes(b"graph")
        (directory / "variables").mkdir()
        (directory / "variables/data").write_bytes(b"weights")

    version = publish_sample(tmp_path, write)

    assert version == tmp_path / "m/1"
    manifest = checked(version)
    assert set(manifest.files) == {"saved_model.pb", "variables/data", GOLDEN}
    assert manifest.signature == {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}
    assert manifest.golden is not None and (manifest.golden.atol, manifest.golden.rtol) == (1e-4, 0.0)
    assert (manifest.metric, manifest.seed) == ({"accuracy": 0.5}, 3)
    assert manifest.libraries == {"numpy": np.__version__}
    golden = read_golden(version)
    assert golden is not None
    assert_same(golden.inputs, SAMPLE.inputs)
    assert_same(golden.outputs, SAMPLE.outputs)


def test_a_version_without_a_golden_sample(tmp_path: Path) -> None:
    version = publish_sample(tmp_path, golden=None, metric=None, seed=None)
    manifest = checked(version)
    assert (manifest.golden, manifest.metric, manifest.seed) == (None, None, None)
    assert read_golden(version) is None


def test_the_manifest_on_disk_has_the_keys_of_the_contract(tmp_path: Path) -> None:
    text = (publish_sample(tmp_path) / MANIFEST).read_text()
    raw = Manifest.model_validate_json(text).model_dump(by_alias=True)
    assert list(raw) == ["schema", "files", "signature", "golden", "metric", "seed", "libraries", "training"]
    assert '"schema": 1' in text


def test_the_smallest_manifest_and_keys_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(f'{{"schema": 1, "files": {{"model.onnx": "{HASH}"}}, "pipeline": "nightly"}}')
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.files == {"model.onnx": HASH}
    assert manifest.model_extra == {"pipeline": "nightly"}


def test_no_manifest_and_no_golden_sample(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_golden(tmp_path) is None
    assert read_manifest(tmp_path / "gone") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Invalid JSON"),
        ('{"schema": 1, "files": ', "Invalid JSON"),
        ("[]", "object"),
        ('{"files": {}}', "schema: Field required"),
        (f'{{"schema": 2, "files": {{"a": "{HASH}"}}}}', "schema: Input should be 1"),
        ('{"schema": 1, "files": {}}', "files: "),
        ('{"schema": 1, "files": {"a": "abc"}}', "files.a: "),
        (f'{{"schema": 1, "files": {{"a": "{HASH}"}}, "golden": {{"atol": -1, "rtol": 0}}}}', "golden.atol: "),
        (f'{{"schema": 1, "files": {{"a": "{HASH}"}}, "metric": {{"loss": NaN}}}}', "metric.loss: "),
        ("[" * 100_000, "Invalid JSON"),
    ],
)
def test_a_bad_manifest_is_an_error_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / MANIFEST
    path.write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is looked at below
        read_manifest(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and problem in message and "\n" not in message


def test_a_manifest_that_is_not_text_or_not_a_file(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(b'{"schema": 1, "files": {"\xff": "a"}}')
    with pytest.raises(ValueError, match=MANIFEST):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(ValueError, match="Is a directory"):
        read_manifest(tmp_path)


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    version = publish_sample(tmp_path)
    manifest = checked(version)
    (version / "notes.txt").write_text("a file that the manifest does not name")
    assert verify(version, manifest) == []

    (version / "model.onnx").write_bytes(b"other")
    (version / GOLDEN).unlink()
    problems = sorted(verify(version, manifest))
    assert problems[0] == f"{GOLDEN}: missing"
    assert problems[1].startswith("model.onnx: SHA-256 is ")
    assert problems[1].endswith(manifest.files["model.onnx"])
    assert len(problems) == 2


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/hostname", "link", "linked/secret", "a\0b"])
def test_a_path_that_leads_out_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"")
    version = tmp_path / "version"
    version.mkdir()
    (version / "link").symlink_to("../secret")
    (version / "linked").symlink_to("..")
    manifest = Manifest(schema=1, files={name: HASH})
    assert verify(version, manifest) == [f"{name}: not a path inside the version's directory"]


def test_what_is_not_a_readable_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    manifest = Manifest(schema=1, files=dict.fromkeys(("directory", "loop", "pipe"), HASH))
    assert len(verify(tmp_path, manifest)) == 3


# Golden sample


@pytest.mark.parametrize(
    "dtype",
    ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ml_dtypes.bfloat16],
)
def test_every_plain_dtype_survives(tmp_path: Path, dtype: Any) -> None:
    array = np.array([[0, 1], [2, 3]]).astype(dtype)
    write_golden(tmp_path, Golden({"a/b:0": array}, {"y": array.T, "scalar": array[0, 0].reshape(())}))
    golden = read_golden(tmp_path)
    assert golden is not None
    assert_same(golden.inputs, {"a/b:0": array})
    assert_same(golden.outputs, {"y": array.T, "scalar": array[0, 0].reshape(())})


def test_bytes_survive_with_nuls_and_without_being_text(tmp_path: Path) -> None:
    words = np.empty((2, 3), object)
    words[:] = [[b"", b"\0", b"ends in NULs\0\0"], [b"\xff\xfe", "é".encode(), b"x" * 300]]
    none = np.empty((0, 4), object)
    write_golden(tmp_path, Golden({"words": words}, {"words": words, "none": none}))
    golden = read_golden(tmp_path)
    assert golden is not None
    assert_same(golden.inputs, {"words": words})
    assert_same(golden.outputs, {"words": words, "none": none})


def test_the_same_sample_gives_the_same_file(tmp_path: Path) -> None:
    write_golden(tmp_path, SAMPLE)
    first = (tmp_path / GOLDEN).read_bytes()
    write_golden(tmp_path, SAMPLE)
    assert (tmp_path / GOLDEN).read_bytes() == first


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.array(["text"], object), "holds str"),
        (np.array(["text"]), "dtype <U4"),
        (np.array([1j]), "dtype complex128"),
    ],
)
def test_what_cannot_be_sent_cannot_be_golden(tmp_path: Path, array: np.ndarray, problem: str) -> None:
    with pytest.raises(ValueError, match=f"'y'.*{problem}"):
        write_golden(tmp_path, Golden(SAMPLE.inputs, {"y": array}))
    with pytest.raises(ValueError, match="'out' has none"):
        write_golden(tmp_path, Golden(SAMPLE.inputs, {}))
    assert not (tmp_path / GOLDEN).exists()


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def arrays(**stored: Any) -> Callable[[Path], None]:
    """Writes an archive; `__` stands for the colon and `_` for the dash that a keyword cannot have."""

    def write(path: Path) -> None:
        named = {key.replace("__", ":").replace("_", "-"): np.asarray(array) for key, array in stored.items()}
        with path.open("wb") as file:
            np.savez(file, **named)  # type: ignore[arg-type]

    return write


def truncated(path: Path) -> None:
    write_golden(path.parent, SAMPLE)
    path.write_bytes(path.read_bytes()[:-30])


def flipped(path: Path) -> None:
    write_golden(path.parent, SAMPLE)
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)


def not_an_array(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("in:x.npy", b"no header")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive at all"),
        lambda path: path.mkdir(),
        one_array,
        truncated,
        flipped,
        not_an_array,
        arrays(in__x=np.array([{}], object), out__y=[1]),
        arrays(in__x=[1]),
        arrays(x=[1], y=[1]),
        arrays(in__x=["text"], out__y=[1]),
        arrays(in_json__x=[1], out__y=[1]),
        arrays(in_bytes__x=np.array([9, 0, 0, 0, 1], np.uint8), in_shape__x=[1], out__y=[1]),
        arrays(in_bytes__x=np.array([1, 0, 0, 0, 1], np.uint8), in_shape__x=[2], out__y=[1]),
        arrays(in_bytes__x=np.array([1, 0, 0, 0, 1], np.uint8), out__y=[1]),
        arrays(in_bf16__x=np.array([1], np.uint8), out__y=[1]),
    ],
    ids=[
        "empty", "text", "directory", "one-array", "truncated", "flipped-bytes", "not-an-array", "pickle", "no-outputs",
        "no-sides", "numpy-strings", "unknown-form", "element-cut-off", "wrong-shape", "no-shape", "odd-bf16",
    ],
)  # fmt: skip
def test_a_bad_golden_sample_is_an_error_in_one_line(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / GOLDEN
    damage(path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is looked at below
        read_golden(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and len(message) > len(f"{path}: ") + 20 and "\n" not in message


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is unpacked."""
    write_golden(tmp_path, Golden({"x": np.zeros(2_000_000)}, {"y": np.zeros(2_000_000)}))
    assert (tmp_path / GOLDEN).stat().st_size < 50_000
    monkeypatch.setattr(artifact, "_MOST_GOLDEN_BYTES", 1_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"3200\d{4} bytes when unpacked, at most 1000000 are read"):
        read_golden(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


# Publishing


def test_the_next_version_is_the_highest_plus_one(tmp_path: Path) -> None:
    for name in ("1", "7", "9.bak", "x", ".tmp-99", "³"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m/8").write_text("a file takes a number too")
    assert publish_sample(tmp_path).name == "9"
    assert publish_sample(tmp_path).name == "10"


def test_a_number_taken_at_the_last_moment_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def rename_after_rivals(path: Path, target: Path) -> Path:
        if target.name == "1":
            (target / "rival").mkdir(parents=True)
            target.with_name("2").write_text("rival")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_after_rivals)
    version = publish_sample(tmp_path)

    assert version.name == "3"
    checked(version)
    assert (tmp_path / "m/1/rival").is_dir() and (tmp_path / "m/2").read_text() == "rival"
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "2", "3"]


def test_threads_that_publish_at_once_lose_nothing(tmp_path: Path) -> None:
    count = 8
    ready = threading.Barrier(count)
    versions: list[Path] = []

    def run(number: int) -> None:
        def write(directory: Path) -> None:
            (directory / "model.onnx").write_text(str(number))
            ready.wait()

        versions.append(publish_sample(tmp_path, write))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(int(version.name) for version in versions) == list(range(1, count + 1))
    assert {(version / "model.onnx").read_text() for version in versions} == {str(n) for n in range(count)}
    for version in versions:
        checked(version)
    assert not list((tmp_path / "m").glob(".*"))


PUBLISHER = """
import sys
from pathlib import Path
from serving.core.artifact import publish

def write(directory):
    (directory / "model.onnx").write_text(sys.argv[2])
    print("writing", flush=True)
    sys.stdin.readline()

for _ in range(5):
    publish(Path(sys.argv[1]), "m", write, golden=None, signature={}, metric=None, seed=None, libraries={},
            atol=0, rtol=0)
"""


def publisher(repo: Path, content: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(repo), content],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_publish_at_once_lose_nothing(tmp_path: Path) -> None:
    processes = [publisher(tmp_path, content) for content in "abc"]
    for process in processes:  # all of them are inside their first write before any goes on
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n" * 5)
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0

    versions = sorted((tmp_path / "m").iterdir(), key=lambda path: int(path.name))
    assert [version.name for version in versions] == [str(number) for number in range(1, 16)]
    contents = [(version / "model.onnx").read_text() for version in versions]
    assert sorted(contents) == sorted("abc" * 5)
    for version in versions:
        checked(version)


def test_a_killed_publisher_leaves_only_a_hidden_directory(tmp_path: Path) -> None:
    process = publisher(tmp_path, "half")
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    process.kill()
    process.communicate()

    (left,) = (tmp_path / "m").iterdir()
    assert left.name.startswith(".tmp-") and (left / "model.onnx").exists()
    assert publish_sample(tmp_path) == tmp_path / "m/1"


@pytest.mark.parametrize("error", [RuntimeError("disk on fire"), KeyboardInterrupt()])
def test_a_failure_inside_write_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def write(directory: Path) -> None:
        write_model(directory)
        raise error

    with pytest.raises(type(error)):
        publish_sample(tmp_path, write)
    assert list(tmp_path.iterdir()) == []

    version = publish_sample(tmp_path)
    with pytest.raises(type(error)):
        publish_sample(tmp_path, write)
    assert list((tmp_path / "m").iterdir()) == [version]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"write": lambda _: None}, "nothing was written"),
        ({"write": lambda directory: (directory / "model.onnx").symlink_to(__file__)}, "'model.onnx' is neither"),
        ({"metric": {"accuracy": float("nan")}}, "finite"),
        ({"atol": -1.0}, "atol"),
        ({"golden": Golden({}, SAMPLE.outputs)}, "'in' has none"),
    ],
)  # fmt: skip
def test_what_cannot_be_published_leaves_nothing(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        publish_sample(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../m", "m/"])
def test_a_name_that_is_no_directory_name(tmp_path: Path, name: str) -> None:
    repo = tmp_path / "repo"
    with pytest.raises(ValueError, match="model's name"):
        publish_sample(repo, name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_write_leaves_behind_is_replaced(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        write_model(directory)
        (directory / MANIFEST).write_text("{}")

    assert set(checked(publish_sample(tmp_path, write)).files) == {"model.onnx", GOLDEN}


def test_others_may_read_what_was_published(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        version = publish_sample(tmp_path)
    finally:
        os.umask(before)
    assert version.stat().st_mode & 0o777 == 0o755
    assert (version / MANIFEST).stat().st_mode & 0o777 == 0o644
