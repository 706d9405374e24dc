import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.data.web import Web
from trainers.contract import DataError, Options
from trainers.data import mnist

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (f"{name}.gz" for name in mnist.NAMES)


def options(tmp_path: Path, **values: bool | int) -> Options:
    return Options(tmp_path / "run", data_dir=tmp_path / "data", **values)


def write(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Twelve training images and ten to test with, all of them noise; the training images and labels."""
    directory.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (22, 28, 28), dtype=np.uint8)
    labels = np.arange(22, dtype=np.uint8) % 10
    for name, array in zip(
        (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS),
        (images[:12], labels[:12], images[12:], labels[12:]),
        strict=True,
    ):
        mnist.write_idx(directory / name, array)
    return images[:12], labels[:12]


def error(tmp_path: Path, **values: bool | int) -> str:
    with pytest.raises(DataError) as raised:
        mnist.load(options(tmp_path, **values))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_idx_file_is_what_its_authors_describe(tmp_path: Path) -> None:
    mnist.write_idx(tmp_path / "file.gz", np.arange(6).reshape(2, 3, 1))
    written = gzip.decompress((tmp_path / "file.gz").read_bytes())
    assert written == bytes.fromhex("00000803 00000002 00000003 00000001 000102030405")


@pytest.mark.parametrize("folder", [".", "mnist"])
@pytest.mark.parametrize("plain", [False, True])
def test_files_are_found_where_they_may_be(tmp_path: Path, folder: str, plain: bool) -> None:
    directory = tmp_path / "data" / folder
    images, labels = write(directory)
    if plain:
        for path in directory.iterdir():
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    data = mnist.load(options(tmp_path))
    np.testing.assert_array_equal(data.train_images, images)
    np.testing.assert_array_equal(data.train_labels, labels)
    assert data.test_images.shape == (10, 28, 28) and data.test_labels.shape == (10,)
    assert data.train_images.dtype == np.uint8 and data.train_labels.dtype == np.int64
    assert data.about == "MNIST, 12 of 60,000 training images, 10 test images"
    assert not data.generated


def test_what_there_is_is_used_by_a_quick_run_too(tmp_path: Path) -> None:
    write(tmp_path / "data")
    assert not mnist.load(options(tmp_path, quick=True)).generated
    assert not (tmp_path / "run").exists()


def test_nothing_there_says_what_belongs_where(tmp_path: Path) -> None:
    message = error(tmp_path)
    for part in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS, str(tmp_path / "data"), "mnist/", "--download"):
        assert part in message


def rewrite(change: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], None]:
    """Changes what is inside the compressed file."""

    def apply(path: Path) -> None:
        path.write_bytes(gzip.compress(change(bytearray(gzip.decompress(path.read_bytes())))))

    return apply


def flip(position: int, value: int) -> Callable[[Path], None]:
    def change(data: bytearray) -> bytearray:
        data[position] = value
        return data

    return rewrite(change)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[30:60] = bytes(30)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (TRAIN_IMAGES, cut, "not a whole gzip file"),
        (TRAIN_IMAGES, corrupt, "not a whole gzip file"),
        (TRAIN_LABELS, lambda path: path.write_bytes(b"<html>404</html>"), "not a whole gzip file"),
        (TRAIN_LABELS, lambda path: path.write_bytes(b""), "begins with nothing"),
        (TEST_IMAGES, flip(3, 1), "begins with 00 00 08 01, expected 00 00 08 03"),
        (TEST_IMAGES, flip(2, 13), "begins with 00 00 0d 03"),
        (TEST_IMAGES, flip(11, 29), "holds 7840 bytes of data, expected 10 x 29 x 28"),
        (TEST_IMAGES, flip(4, 200), "expected 3355443210 x 28 x 28"),
        (TEST_IMAGES, rewrite(lambda data: data[:9]), "holds 0 bytes of data"),
        (TEST_IMAGES, rewrite(lambda data: data + b"x"), "holds 7841 bytes of data"),
        (TEST_LABELS, flip(8 + 4, 10), "label 4 is 10, expected 0 to 9"),
        (TEST_LABELS, Path.unlink, "is missing"),
        (TRAIN_LABELS, lambda path: mnist.write_idx(path, np.zeros(11)), "11 labels for the 12 images"),
        (TRAIN_IMAGES, lambda path: mnist.write_idx(path, np.zeros((12, 32, 32))), "images of 32x32 pixels"),
        (TRAIN_IMAGES, lambda path: mnist.write_idx(path, np.zeros((0, 28, 28))), "no images"),
    ],
)
def test_damage_is_one_line_that_names_the_file(
    tmp_path: Path, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    directory = tmp_path / "data"
    write(directory)
    damage(directory / name)
    for quick in (False, True):  # what is there and broken is never replaced by something made up
        message = error(tmp_path, quick=quick)
        assert message.startswith(str(directory / name)) and reason in message


def test_a_quick_run_without_data_makes_up_some_that_can_be_learned(tmp_path: Path) -> None:
    data = mnist.load(options(tmp_path, quick=True))
    assert data.generated and data.about.startswith("generated in the format of MNIST, 600 training images")
    assert sorted(path.name for path in (tmp_path / "run/generated").iterdir()) == sorted(
        (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
    )
    assert np.bincount(data.train_labels).min() > 40
    means = np.stack([data.train_images[data.train_labels == label].mean(axis=0) for label in range(10)])
    far = ((data.test_images[:, None] - means) ** 2).sum(axis=(2, 3))
    assert np.mean(far.argmin(axis=1) == data.test_labels) > 0.95


def test_made_up_data_depends_on_the_seed_alone(tmp_path: Path) -> None:
    first, again, other = (mnist.load(options(tmp_path / str(run), quick=True, seed=run // 2)) for run in range(3))
    np.testing.assert_array_equal(first.train_images, again.train_images)
    assert (first.train_images != other.train_images).any()


def test_missing_files_are_fetched(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = write(tmp_path / "mirror")
    web.files = {path.name: path.read_bytes() for path in (tmp_path / "mirror").iterdir()}
    sums = {name.removesuffix(".gz"): hashlib.sha256(data).hexdigest() for name, data in web.files.items()}
    monkeypatch.setattr(mnist, "MIRROR", web.url)
    monkeypatch.setattr(mnist, "SHA256", sums)
    data = mnist.load(options(tmp_path, download=True, quick=True))
    np.testing.assert_array_equal(data.train_images, images)
    assert not data.generated
    assert len(web.asked) == 4

    (tmp_path / "data/mnist" / TEST_LABELS).unlink()
    mnist.load(options(tmp_path, download=True))
    assert [name for name, _ in web.asked[4:]] == [TEST_LABELS]
    assert len(list((tmp_path / "data/mnist").iterdir())) == 4


def test_the_published_checksums_are_those_of_published_files() -> None:
    assert list(mnist.SHA256) == list(mnist.NAMES)
    assert {len(bytes.fromhex(value)) for value in mnist.SHA256.values()} == {32}
