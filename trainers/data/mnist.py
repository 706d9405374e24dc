"""MNIST: 70,000 handwritten digits of 28x28 grey pixels, in the four IDX files that LeCun, Cortes and Burges published.

An IDX file: two zero bytes, the type of its elements (8: unsigned bytes), the number of dimensions, each dimension as a
big-endian 32-bit number, and the elements row by row. Compressed by gzip or not.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from trainers.contract import DataError, Options
from trainers.data.download import fetch
from trainers.data.images import Images, checked_labels, described, imitation, missing, place

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
NAMES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
FOLDERS = (".", "mnist")
SIDE = 28
OFFICIAL = 60_000  # training images

# A mirror of yann.lecun.com/exdb/mnist, which no longer gives the files out. The checksums of the compressed files are
# those that the data set libraries use, tensorflow_datasets for one.
MIRROR = "https://storage.googleapis.com/cvdf-datasets/mnist"
SHA256 = {
    TRAIN_IMAGES: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    TRAIN_LABELS: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    TEST_IMAGES: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    TEST_LABELS: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


class Mnist(Images):
    """Images uint8 [images, 28, 28], 0 (paper) to 255 (ink), and their digits."""


def load(options: Options) -> Mnist:
    """The data set. Its files are looked for in `data_dir` and `data_dir/mnist`; any number of images will do.

    Raises:
        DataError: a file is missing or damaged, and which.
    """
    directory = place(options.data_dir, FOLDERS, [name + end for name in NAMES for end in ("", ".gz")])
    if options.download:
        directory = directory or options.data_dir / "mnist"
        download(directory)
    generated = directory is None and options.quick
    if directory is None:
        if not generated:
            raise missing("MNIST", options.data_dir, FOLDERS, ", ".join(f"{name}.gz" for name in NAMES))
        directory = options.directory / "generated"
        write_imitation(directory, options.seed)
    train_images, train_labels = _pair(directory, TRAIN_IMAGES, TRAIN_LABELS)
    test_images, test_labels = _pair(directory, TEST_IMAGES, TEST_LABELS)
    about = described("MNIST", len(train_images), len(test_images), official=OFFICIAL, generated=generated)
    return Mnist(train_images, train_labels, test_images, test_labels, about, generated)


def download(directory: Path) -> None:
    """Fetches the files that are not in the directory. Raises DataError."""
    for name, sha256 in SHA256.items():
        if not _file(directory, name).exists():
            fetch(f"{MIRROR}/{name}.gz", sha256, directory / f"{name}.gz")


def write_imitation(directory: Path, seed: int, train: int = 600, test: int = 200) -> None:
    """Writes made-up pictures as the four files of MNIST."""
    directory.mkdir(parents=True, exist_ok=True)
    images, labels = imitation((SIDE, SIDE), train + test, seed)
    write_idx(directory / f"{TRAIN_IMAGES}.gz", images[:train])
    write_idx(directory / f"{TRAIN_LABELS}.gz", labels[:train])
    write_idx(directory / f"{TEST_IMAGES}.gz", images[train:])
    write_idx(directory / f"{TEST_LABELS}.gz", labels[train:])


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes an array of bytes as a compressed IDX file; the same array gives the same file."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An array of bytes from an IDX file, compressed or not. Raises DataError, OSError."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from None
    if data[:4] != bytes([0, 0, 8, dimensions]):
        begins = data[:4].hex(" ") or "nothing"
        raise DataError(f"{path}: not such an IDX file: begins with {begins}, expected 00 00 08 {dimensions:02x}")
    begin = 4 + 4 * dimensions
    shape = [int(length) for length in np.frombuffer(data[4:begin].ljust(begin - 4, b"\0"), ">u4")]
    if (size := len(data) - begin) != math.prod(shape):
        wanted = " x ".join(map(str, shape))
        raise DataError(f"{path}: holds {max(size, 0)} bytes of data, expected {wanted} as its head says")
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


def _pair(directory: Path, images_name: str, labels_name: str) -> tuple[np.ndarray, np.ndarray]:
    images_path, labels_path = _file(directory, images_name), _file(directory, labels_name)
    for path in (images_path, labels_path):
        if not path.exists():
            raise DataError(f"{path} is missing, its companions are there (--download fetches it)")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images_path}: images of {images.shape[1]}x{images.shape[2]} pixels, expected {SIDE}x{SIDE}")
    if len(images) == 0:
        raise DataError(f"{images_path}: no images")
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: {len(labels)} labels for the {len(images)} images in {images_path.name}")
    return images, checked_labels(labels_path, labels)


def _file(directory: Path, name: str) -> Path:
    plain = directory / name
    return plain if plain.exists() else directory / f"{name}.gz"
