"""CIFAR-10 to TFRecords and back, all in one child process; and the files, read without TensorFlow."""

import json
import struct
from pathlib import Path

import numpy as np

from tests.trainers.child import done, trains

SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from trainers.contract import Options, TrainingError
from trainers.quiet import quiet_import
with quiet_import():
    from trainers.data import cifar10, tfrecords

directory = Path(sys.argv[1])

def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) and
               getattr(one, name).dtype == getattr(other, name).dtype
               for name in ("train_images", "train_labels", "test_images", "test_labels"))

def problem(work, *arguments):
    try:
        work(*arguments)
    except (TrainingError, OSError) as error:
        return str(error)

result = {}
official = directory / "data"
cifar10.write_imitation(official, seed=3)
options = Options(directory / "run", data_dir=official)
images = cifar10.load(options)
first = tfrecords.load(options)
result["same"] = same(images, first) and first.about == images.about and first.generated is False

for path in official.glob("*.bin"):
    path.unlink()
result["alone"] = same(images, tfrecords.load(options))  # the records are enough

quick = Options(directory / "quick", data_dir=directory / "none", quick=True)
generated = tfrecords.load(quick)
result["generated"] = generated.generated and (directory / "quick" / tfrecords.FOLDER).is_dir()
result["left alone"] = not (directory / "none").exists()
result["missing"] = problem(tfrecords.load, replace(quick, quick=False))

tfrecords.write(images, official / tfrecords.FOLDER)  # as a second worker does that was slower
result["hidden"] = [path.name for path in official.iterdir() if path.name.startswith(".")]
(directory / "file").write_text("")
result["no directory"] = problem(tfrecords.write, images, directory / "file" / "records")

shard = official / tfrecords.FOLDER / "train-00002-of-00005.tfrecord"
data = bytearray(shard.read_bytes())
data[5000] ^= 1
shard.write_bytes(data)
result["damaged"] = problem(tfrecords.load, options)
shard.write_bytes(data[:4000])
result["cut"] = problem(tfrecords.load, options)
shard.write_bytes(b"")
result["empty"] = problem(tfrecords.load, options)
shard.unlink()
result["one is missing"] = problem(tfrecords.load, options)
print(json.dumps(result))
"""


def records(path: Path) -> list[bytes]:
    """The records of a file: each has its length (8 bytes), a checksum of that (4), its bytes, another (4)."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(data[at + 12 : at + 12 + length])
        at += 16 + length
    return found


@trains
def test_what_is_written_is_read_and_damage_is_found(tmp_path: Path) -> None:
    result = json.loads(done("-c", SCRIPT, tmp_path).splitlines()[-1])
    folder = tmp_path / "data/cifar10-tfrecords"
    shard = folder / "train-00002-of-00005.tfrecord"
    assert result["same"] and result["alone"] and result["generated"] and result["left alone"]
    assert result["hidden"] == []
    assert result["missing"].startswith(f"CIFAR-10 is not in {tmp_path / 'none'}: ")
    assert str(tmp_path / "file") in result["no directory"]
    for name in ("damaged", "cut", "one is missing"):
        assert result[name].startswith(f"{shard}: damaged or missing: "), name
        assert "\n" not in result[name]
    assert result["empty"] == f"{shard}: has no records"

    first, *rest = records(folder / "train-00000-of-00005.tfrecord")
    assert len(rest) == 99
    assert b"image" in first and b"label" in first
    quick = tmp_path / "quick"
    planes = np.frombuffer((quick / "generated/data_batch_1.bin").read_bytes()[1:3073], np.uint8).reshape(3, 32, 32)
    (own, *_) = records(quick / "cifar10-tfrecords/train-00000-of-00005.tfrecord")
    assert planes.transpose(1, 2, 0).tobytes() in own  # the pixels lie in the record as they are
