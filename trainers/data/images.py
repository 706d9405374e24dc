"""What the image data sets have in common: the arrays they are read into, the search for their files, and pictures that
stand in for theirs where a quick run has none."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainers.contract import DataError

CLASSES = 10


@dataclass(frozen=True)
class Images:
    """Pictures of ten classes.

    Attributes:
        train_images, test_images: uint8 [images, height, width, ...].
        train_labels, test_labels: int64 [images], 0 to 9.
        about: what they are and how many, in one line.
        generated: they were made up, so that an accuracy on them says nothing.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    about: str
    generated: bool = False


def place(data_dir: Path, folders: Sequence[str], names: Sequence[str]) -> Path | None:
    """The first of the folders in `data_dir` (or itself: `"."`) that has a file of one of these names."""
    for folder in folders:
        directory = data_dir / folder
        if any((directory / name).exists() for name in names):
            return directory
    return None


def missing(data_set: str, data_dir: Path, folders: Sequence[str], files: str) -> DataError:
    """The error that says what belongs where."""
    places = " or ".join(f"{folder}/" for folder in folders if folder != ".")
    return DataError(
        f"{data_set} is not in {data_dir}: expected {files} there or in its {places}; "
        "--data-dir says where it is, --download fetches it, --quick does without"
    )


def checked_labels(path: Path, labels: np.ndarray) -> np.ndarray:
    """Labels as int64. Raises DataError where one is not a class."""
    if labels.min() < 0 or labels.max() >= CLASSES:
        wrong = int(np.argmax((labels < 0) | (labels >= CLASSES)))
        raise DataError(f"{path}: label {wrong} is {labels[wrong]}, expected 0 to {CLASSES - 1}")
    return labels.astype(np.int64)


def described(name: str, train: int, test: int, *, official: int, generated: bool) -> str:
    """One line about a data set, for the manifest."""
    count = f"{train:,} of {official:,}" if train != official and not generated else f"{train:,}"
    prefix = f"generated in the format of {name}" if generated else name
    return f"{prefix}, {count} training images, {test:,} test images"


def imitation(shape: Sequence[int], rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures that can be told apart: each class is a blurred shape of its own, a little shifted, under noise.

    Args:
        shape: of a picture, height and width divisible by 4.

    Returns:
        uint8 [rows, *shape] and labels uint8 [rows], as many of each class.
    """
    random = np.random.default_rng(seed)
    height, width, *colours = shape
    coarse = random.permuted(np.arange(CLASSES * 16) % 2).reshape(CLASSES, 4, 4, 1)  # half of it is ink
    inks = random.uniform(0.4, 1.0, (CLASSES, 1, 1, *(colours or [1])))
    patterns = (coarse * inks).repeat(height // 4, axis=1).repeat(width // 4, axis=2)
    for axis in (1, 2, 1, 2):
        patterns = (np.roll(patterns, -1, axis) + patterns + np.roll(patterns, 1, axis)) / 3
    labels = random.permutation(rows) % CLASSES
    moves = random.integers(-1, 2, (rows, 2))
    pictures = np.stack([np.roll(patterns[label], move, (0, 1)) for label, move in zip(labels, moves, strict=True)])
    noisy = pictures + random.normal(0, 0.15, pictures.shape)
    return (noisy.clip(0, 1) * 255).astype(np.uint8).reshape(rows, *shape), labels.astype(np.uint8)
