"""CIFAR-10: 60,000 colour pictures of 32x32 pixels in ten classes, in the files that Krizhevsky published.

A binary file is a row of records: one byte for the class, then 1,024 bytes each of red, green and blue. The Python
files are pickles of `{b"data": uint8 [images, 3072], b"labels": [...]}`. A pickle can name any function to be called,
so they are read by an unpickler that knows what an array of bytes is and nothing else.
"""

import pickle
import tarfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from trainers.contract import DataError, Options
from trainers.data.download import fetch
from trainers.data.images import Images, checked_labels, described, imitation, missing, place

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"
FILES = (*TRAIN, TEST)
BINARY = "cifar-10-batches-bin"
FOLDERS = (".", "cifar10", BINARY, "cifar-10-batches-py")
SIDE = 32
PIXELS = 3 * SIDE * SIDE
OFFICIAL = 50_000  # training images

# From https://www.cs.toronto.edu/~kriz/cifar.html, which gives an MD5 sum only (c32a1d4ab5d03f1284b67883e8d87530). This
# is the same archive's SHA-256 in the data set libraries, tensorflow_datasets and MLDatasets.jl for two.
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"


class Cifar10(Images):
    """Images uint8 [images, 32, 32, 3], red, green and blue, and their classes, numbered as in NAMES."""


def load(options: Options) -> Cifar10:
    """The data set. Its files are looked for in `data_dir`, in `data_dir/cifar10` and in folders there that are named
    as in the published archives. All six have to be there; each may hold any number of images.

    Raises:
        DataError: a file is missing or damaged, and which.
    """
    directory = place(options.data_dir, FOLDERS, [name + end for name in FILES for end in (".bin", "")])
    if directory is None and options.download:
        directory = options.data_dir / BINARY
        download(directory)
    generated = directory is None and options.quick
    if directory is None:
        if not generated:
            raise missing("CIFAR-10", options.data_dir, FOLDERS, "data_batch_1.bin to _5.bin and test_batch.bin")
        directory = options.directory / "generated"
        write_imitation(directory, options.seed)
    batches = [_read(directory, name) for name in TRAIN]
    train_images = np.concatenate([images for images, _ in batches])
    train_labels = np.concatenate([labels for _, labels in batches])
    test_images, test_labels = _read(directory, TEST)
    about = described("CIFAR-10", len(train_images), len(test_images), official=OFFICIAL, generated=generated)
    return Cifar10(train_images, train_labels, test_images, test_labels, about, generated)


def download(directory: Path) -> None:
    """Fetches the archive and takes the six files out of it. Raises DataError, OSError."""
    archive = directory.with_name(URL.rpartition("/")[2])
    fetch(URL, SHA256, archive)
    try:
        with TemporaryDirectory(prefix=".cifar10-", dir=directory.parent) as unpacked, tarfile.open(archive) as tar:
            tar.extractall(unpacked, [tar.getmember(f"{BINARY}/{name}.bin") for name in FILES], filter="data")
            if not directory.exists():  # else somebody else was faster
                (Path(unpacked) / BINARY).rename(directory)
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:  # one that was there before
        raise DataError(f"{archive}: not the archive that {URL} is: {' '.join(str(error).split())}") from None
    archive.unlink(missing_ok=True)


def write_imitation(directory: Path, seed: int, train: int = 500, test: int = 200) -> None:
    """Writes made-up pictures as the six binary files of CIFAR-10."""
    directory.mkdir(parents=True, exist_ok=True)
    images, labels = imitation((SIDE, SIDE, 3), train + test, seed)
    each = train // len(TRAIN)
    for number, name in enumerate(TRAIN):
        part = slice(number * each, (number + 1) * each)
        write_binary(directory / f"{name}.bin", images[part], labels[part])
    write_binary(directory / f"{TEST}.bin", images[train:], labels[train:])


def write_binary(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes images uint8 [images, 32, 32, 3] and their classes as a binary file."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), PIXELS)
    path.write_bytes(np.column_stack([labels.astype(np.uint8), planes]).tobytes())


def read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Planes uint8 [images, 3072] and classes from a binary file. Raises DataError, OSError."""
    data = path.read_bytes()
    rows, rest = divmod(len(data), 1 + PIXELS)
    if rest or not rows:
        raise DataError(f"{path}: {len(data)} bytes, expected a multiple of {1 + PIXELS}")
    records = np.frombuffer(data, np.uint8).reshape(rows, 1 + PIXELS)
    return records[:, 1:], records[:, 0]


class _Array:
    """Stands for a numpy array while a pickle is read: keeps what the array would be made of."""

    def __init__(self, *_: Any) -> None:
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, by_columns, data = state
        if kind.name != "u1":
            raise pickle.UnpicklingError(f"an array of '{kind.name}', expected bytes")
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _Kind:
    """Stands for a numpy dtype."""

    def __init__(self, name: bytes | str, *_: Any) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and the like: nothing that bytes have


def _latin1(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes in the protocol of Python 2


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data needs")
        return _KNOWN[module, name]


def read_pickle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Planes uint8 [images, 3072] and classes from a Python file. Raises DataError, OSError."""
    with path.open("rb") as file:
        try:
            batch = _Unpickler(file, encoding="bytes").load()
            images, labels = batch[b"data"].values, np.array(batch[b"labels"], dtype=np.int64)
        except Exception as error:  # whatever: the bytes decide what is tried
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{path}: not a pickle of CIFAR-10: {reason}") from None
    if images.ndim != 2 or images.shape[1] != PIXELS or not len(images):
        raise DataError(f"{path}: images of shape {images.shape}, expected [images, {PIXELS}]")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{path}: labels of shape {labels.shape} for {len(images)} images")
    return images, labels


def _read(directory: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    binary, pickled = directory / f"{name}.bin", directory / name
    if binary.exists():
        path, (planes, labels) = binary, read_binary(binary)
    elif pickled.exists():
        path, (planes, labels) = pickled, read_pickle(pickled)
    else:
        raise DataError(f"{binary} is missing, its companions are there")
    images = planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), checked_labels(path, labels)
