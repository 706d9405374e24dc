"""Pictures in files, one folder a class, as ImageNet's training set comes: too many for the memory, so they are read
when they are asked for, on some threads.

    data_dir/imagenet/train/CLASS/*.jpeg    to train on (.jpg, .png, in capitals, too)
    data_dir/imagenet/val/CLASS/*.jpeg      held out, in the same classes
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.contract import DataError, Options
from trainers.data.images import Images
from trainers.quiet import reason

ENDINGS = (".jpeg", ".jpg", ".png")
THREADS = 8


class Pictures:
    """Behaves as an array uint8 [pictures, side, side, 3] of which rows are taken."""

    def __init__(self, paths: list[Path], side: int) -> None:
        self._paths = np.array(paths, dtype=object)
        self._side = side

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Raises DataError where a file is no picture."""
        with ThreadPoolExecutor(THREADS) as pool:
            return np.stack(list(pool.map(self._read, self._paths[rows])))

    def _read(self, path: Path) -> np.ndarray:
        """The largest square in the middle, enlarged or shrunk."""
        try:
            picture = tf.io.decode_image(tf.io.read_file(str(path)), channels=3, expand_animations=False)
        except tf.errors.OpError as error:
            raise DataError(f"{path}: not a picture: {reason(error)}") from None
        least = min(picture.shape[:2])
        square = tf.image.resize_with_crop_or_pad(picture, least, least)
        resized = tf.image.resize(square, (self._side, self._side), antialias=True)
        pixels: np.ndarray = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
        return pixels


def load(options: Options, side: int, most: int) -> Images:
    """Pictures `side` pixels wide and high; the classes are numbered in the order of their names, `most` at most.

    Raises:
        DataError: there are no such folders, or too many.
    """
    directory = options.data_dir / "imagenet"
    names = sorted(path.name for path in directory.glob("train/*") if path.is_dir())
    if not 2 <= len(names) <= most:
        raise DataError(f"{directory / 'train'}: {len(names)} folders, expected one for each class, {most} at most")
    train_paths, train_labels = _files(directory / "train", names)
    test_paths, test_labels = _files(directory / "val", names)
    about = f"{len(names)} folders of pictures, {len(train_paths):,} to train on, {len(test_paths):,} held out"
    train, test = (Pictures(paths, side) for paths in (train_paths, test_paths))
    return Images(train, train_labels, test, test_labels, about)  # type: ignore[arg-type]  # arrays, to all who use it


def _files(directory: Path, names: list[str]) -> tuple[list[Path], np.ndarray]:
    found = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((directory / name).glob("*"))
        if path.suffix.lower() in ENDINGS
    ]
    if not found:
        raise DataError(f"{directory}: no pictures in its folders")
    paths, labels = zip(*found, strict=True)
    return list(paths), np.array(labels, dtype=np.int64)
