"""CIFAR-10 as TFRecords: TensorFlow's own file format, in shards that several machines can read from one place.

A record is a `tf.train.Example` with `image` (3,072 bytes: 32 rows of 32 pixels of red, green and blue) and `label`,
0 to 9. Each record carries a checksum, so that a damaged file is found when it is read. The order is that of the
official files. Beside the shards, `about.json` says where they came from.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trainers.contract import DataError, Options, TrainingError
from trainers.data import cifar10
from trainers.data.images import Images
from trainers.quiet import reason

FOLDER = "cifar10-tfrecords"
SHARDS = {"train": 5, "test": 1}
_ABOUT = "about.json"
_SHAPE = (32, 32, 3)
_FEATURES = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def load(options: Options) -> Images:
    """CIFAR-10 from the TFRecords in the data directory, `data_dir/cifar10-tfrecords`. Where there are none yet, they
    are written from the official files first. Those of generated data go into the directory of the run, and so do all
    where the data directory is read-only.

    Raises:
        DataError: there is no data set, or a file is damaged.
        TrainingError: the records cannot be written.
    """
    directory = options.data_dir / FOLDER
    if not (directory / _ABOUT).exists():
        official = cifar10.load(options)
        if official.generated or not os.access(options.data_dir, os.W_OK):
            directory = options.directory / FOLDER
        if not (directory / _ABOUT).exists():
            write(official, directory)
    return read(directory)


def write(data: Images, directory: Path) -> None:
    """Writes the shards as a new directory, whole or not at all. Raises TrainingError, OSError."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for split, shards in SHARDS.items():
            images, labels = (
                (data.train_images, data.train_labels) if split == "train" else (data.test_images, data.test_labels)
            )
            for path, rows in zip(_paths(hidden, split), np.array_split(np.arange(len(images)), shards), strict=True):
                _write_shard(path, images[rows], labels[rows])
        text = json.dumps({"about": data.about, "generated": data.generated})
        (hidden / _ABOUT).write_text(text + "\n", encoding="utf-8")
        hidden.chmod(0o755)
        hidden.rename(directory)
    except tf.errors.OpError as error:
        raise TrainingError(f"{directory}: cannot be written: {reason(error)}") from None
    except OSError:
        if not (directory / _ABOUT).exists():  # or else another worker was faster
            raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def read(directory: Path) -> Images:
    """Raises DataError."""
    try:
        about = json.loads((directory / _ABOUT).read_text(encoding="utf-8"))
        train, test = (_read_split(directory, split) for split in SHARDS)
        return Images(*train, *test, str(about["about"]), bool(about["generated"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{directory}: no CIFAR-10 in TFRecords: {error}") from None


def _paths(directory: Path, split: str) -> list[Path]:
    count = SHARDS[split]
    return [directory / f"{split}-{number:05}-of-{count:05}.tfrecord" for number in range(count)]


def _write_shard(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def _read_split(directory: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*(_read_shard(path) for path in _paths(directory, split)), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _read_shard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    def parsed(records: Any) -> tuple[Any, Any]:
        rows = tf.io.parse_example(records, _FEATURES)
        return tf.reshape(tf.io.decode_raw(rows["image"], tf.uint8), (-1, *_SHAPE)), rows["label"]

    try:
        parts = list(tf.data.TFRecordDataset(str(path)).batch(1000).map(parsed).as_numpy_iterator())
    except tf.errors.OpError as error:
        raise DataError(f"{path}: damaged or missing: {reason(error)}") from None
    if not parts:
        raise DataError(f"{path}: has no records")
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, labels
