import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainers.data.web import Web
from trainers.contract import DataError, Options
from trainers.data import cifar10

RECORD = 3073


def options(tmp_path: Path, **values: bool | int) -> Options:
    return Options(tmp_path / "run", data_dir=tmp_path / "data", **values)


def sample(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise as [rows, 32, 32, 3], and labels."""
    images = np.random.default_rng(seed).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    return images, np.arange(rows) % 10


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def python2_pickle(images: np.ndarray, labels: np.ndarray) -> bytes:
    """What Python 2's cPickle wrote, protocol 2, for a batch: the form of the published files."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    data = planes(images).tobytes()
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01M" + len(images).to_bytes(2, "little") + b"M\x00\x0c\x86" + dtype + b"K\x00tb\x89"
        b"T" + len(data).to_bytes(4, "little") + data + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    parts = text(b"batch_label") + text(b"one of five") + text(b"labels") + numbers + text(b"data") + array
    return b"\x80\x02}(" + parts + b"u."


def python3_pickle(images: np.ndarray, labels: np.ndarray) -> bytes:
    return pickle.dumps({b"data": planes(images), b"labels": labels.tolist()}, protocol=2)


def binary(images: np.ndarray, labels: np.ndarray) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(planes(images), labels, strict=True))


def write(directory: Path, form: Callable[..., bytes] = binary) -> np.ndarray:
    """Five files of 12 images and one of 10; the images to train on."""
    directory.mkdir(parents=True)
    end = ".bin" if form is binary else ""
    batches = [sample(12, seed) for seed in range(5)]
    for name, batch in zip(cifar10.FILES, [*batches, sample(10, 5)], strict=True):
        (directory / f"{name}{end}").write_bytes(form(*batch))
    return np.concatenate([images for images, _ in batches])


def error(tmp_path: Path, **values: bool | int) -> str:
    with pytest.raises(DataError) as raised:
        cifar10.load(options(tmp_path, **values))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("form", [binary, python2_pickle, python3_pickle])
@pytest.mark.parametrize("folder", cifar10.FOLDERS)
def test_both_published_forms_are_read(tmp_path: Path, folder: str, form: Callable[..., bytes]) -> None:
    images = write(tmp_path / "data" / folder, form)
    data = cifar10.load(options(tmp_path))
    np.testing.assert_array_equal(data.train_images, images)
    np.testing.assert_array_equal(data.train_labels, np.tile(np.arange(12) % 10, 5))
    np.testing.assert_array_equal(data.test_images, sample(10, 5)[0])
    assert data.train_images.dtype == np.uint8 and data.train_labels.dtype == np.int64
    assert data.about == "CIFAR-10, 60 of 50,000 training images, 10 test images"
    assert not data.generated


def test_an_array_that_was_stored_by_columns(tmp_path: Path) -> None:
    images, labels = sample(3)
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": np.asfortranarray(planes(images)), b"labels": labels.tolist()}, protocol=2))
    np.testing.assert_array_equal(cifar10.read_pickle(path)[0], planes(images))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    images, labels = sample(7)
    cifar10.write_binary(tmp_path / "file.bin", images, labels)
    assert (tmp_path / "file.bin").read_bytes() == binary(images, labels)


def test_nothing_there_says_what_belongs_where(tmp_path: Path) -> None:
    message = error(tmp_path)
    for part in ("data_batch_1.bin", "test_batch.bin", str(tmp_path / "data"), "cifar-10-batches-py/", "--download"):
        assert part in message


def put(position: int, value: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position] = value
        path.write_bytes(data)

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            f"{10 * RECORD - 1} bytes, expected a multiple of 3073",
        ),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (put(4 * RECORD, 10), "label 4 is 10, expected 0 to 9"),
        (Path.unlink, "is missing"),
    ],
)
def test_damage_of_a_binary_file(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    write(tmp_path / "data")
    damage(tmp_path / "data/test_batch.bin")
    for quick in (False, True):  # what is there and broken is never replaced by something made up
        message = error(tmp_path, quick=quick)
        assert message.startswith(str(tmp_path / "data/test_batch.bin")) and reason in message


IMAGES, LABELS = sample(10)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (python2_pickle(IMAGES, LABELS)[:-3000], "not a pickle of CIFAR-10: pickle data was truncated"),
        (b"", "not a pickle of CIFAR-10: Ran out of input"),
        (b"<html>", "not a pickle of CIFAR-10"),
        (pickle.dumps([1, 2], protocol=2), "not a pickle of CIFAR-10"),
        (pickle.dumps({b"labels": [1]}, protocol=2), "not a pickle of CIFAR-10: b'data'"),
        (pickle.dumps({b"data": 3, b"labels": [1]}, protocol=2), "'int' object has no attribute 'values'"),
        (pickle.dumps({b"data": planes(IMAGES).astype(float), b"labels": [1]}, protocol=2), "an array of 'f8'"),
        (pickle.dumps({b"data": planes(IMAGES), b"labels": ["cat"] * 10}, protocol=2), "invalid literal for int"),
        (pickle.dumps({b"data": planes(IMAGES)[:, 1:], b"labels": LABELS.tolist()}, protocol=2), "of shape (10, 3071)"),
        (python3_pickle(IMAGES, LABELS[1:]), "labels of shape (9,) for 10 images"),
        (python3_pickle(IMAGES, LABELS - 1), "label 0 is -1, expected 0 to 9"),
    ],
)
def test_damage_of_a_python_file(tmp_path: Path, content: bytes, reason: str) -> None:
    write(tmp_path / "data", python2_pickle)
    (tmp_path / "data/data_batch_2").write_bytes(content)
    message = error(tmp_path)
    assert message.startswith(str(tmp_path / "data/data_batch_2")) and reason in message


class Evil:
    """What a pickle can do that is opened by `pickle.load`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_cannot_call_anything(tmp_path: Path, protocol: int) -> None:
    write(tmp_path / "data", python2_pickle)
    harm = tmp_path / "harm"
    for evil in (Evil(os.mkdir, str(harm)), Evil(eval, f"__import__('os').mkdir({str(harm)!r})")):
        content = pickle.dumps({b"data": evil, b"labels": []}, protocol=protocol)
        (tmp_path / "data/data_batch_1").write_bytes(content)
        message = error(tmp_path)
        assert message.startswith(str(tmp_path / "data/data_batch_1")) and "which no data needs" in message
        assert not harm.exists()
    pickle.loads(content)
    assert harm.exists()  # it would have


def test_a_quick_run_without_data_makes_up_some_that_can_be_learned(tmp_path: Path) -> None:
    data = cifar10.load(options(tmp_path, quick=True))
    assert data.generated and data.about.startswith("generated in the format of CIFAR-10, 500 training images")
    written = sorted(path.name for path in (tmp_path / "run/generated").iterdir())
    assert written == sorted(f"{name}.bin" for name in cifar10.FILES)
    assert data.train_images.shape == (500, 32, 32, 3) and np.bincount(data.train_labels).min() > 30
    means = np.stack([data.train_images[data.train_labels == label].mean(axis=0) for label in range(10)])
    far = ((data.test_images[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert np.mean(far.argmin(axis=1) == data.test_labels) > 0.95


def archive(directory: Path) -> bytes:
    """As it is published: with files that nobody needs, and a readme."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(directory, arcname=cifar10.BINARY)
    return packed.getvalue()


def test_the_archive_is_fetched_and_unpacked(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write(tmp_path / "mirror")
    (tmp_path / "mirror/readme.html").write_text("hello")
    web.files["cifar.tar.gz"] = archive(tmp_path / "mirror")
    monkeypatch.setattr(cifar10, "URL", f"{web.url}/cifar.tar.gz")
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(web.files["cifar.tar.gz"]).hexdigest())
    for _ in range(2):  # the second time it is there
        data = cifar10.load(options(tmp_path, download=True, quick=True))
        np.testing.assert_array_equal(data.train_images, images)
        assert not data.generated and len(web.asked) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == [cifar10.BINARY]
    names = sorted(path.name for path in (tmp_path / "data" / cifar10.BINARY).iterdir())
    assert names == sorted(f"{name}.bin" for name in cifar10.FILES)


@pytest.mark.parametrize("content", [b"<html>", archive(Path(__file__).parent)[:-50], archive(Path(__file__).parent)])
def test_an_archive_that_is_something_else_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cifar-10-binary.tar.gz").write_bytes(content)
    message = error(tmp_path, download=True)
    assert message.startswith(str(tmp_path / "data/cifar-10-binary.tar.gz"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-binary.tar.gz"]
