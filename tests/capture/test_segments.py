"""Files of records: bounded, private, and readable whatever ended the writer."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.capture.record import encode
from serving.capture.segments import Damage, Writer, files, read
from tests.capture.build import record

MB = 1024 * 1024


def fill(writer: Writer, numbers: range, size: int = 8) -> None:
    for number in numbers:
        assert writer.append(encode(record(id=str(number), inputs={"x": np.zeros((1, size), np.uint8)})))


def ids(path: Path, damage: Damage | None = None) -> list[str]:
    return [one.id for one in read(path, damage)]


def test_what_is_written_can_be_read_at_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "a/b", MB)
    fill(writer, range(3))
    assert ids(tmp_path / "a/b") == ["0", "1", "2"]
    assert ids(files(tmp_path / "a/b")[0]) == ["0", "1", "2"]
    writer.close()


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        writer = Writer(tmp_path / "kept", MB)
        fill(writer, range(1))
        writer.close()
    finally:
        os.umask(before)
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in files(tmp_path / "kept")] == [0o600]


def test_all_files_together_stay_below_the_bound(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 80_000)
    for number in range(300):
        fill(writer, range(number, number + 1), 1000)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 80_000
    kept = ids(tmp_path)
    assert kept == [str(number) for number in range(300 - len(kept), 300)] and 20 < len(kept) < 80
    writer.close()


def test_files_of_earlier_runs_count(tmp_path: Path) -> None:
    for run in range(3):
        writer = Writer(tmp_path, 30_000)
        fill(writer, range(run * 20, run * 20 + 20), 1000)
        writer.close()
    assert ids(tmp_path)[-1] == "59" and sum(path.stat().st_size for path in files(tmp_path)) <= 30_000


def test_a_record_that_is_larger_than_all_that_is_allowed(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 10_000)
    fill(writer, range(2))
    assert not writer.append(encode(record(inputs={"x": np.zeros((1, 20_000), np.uint8)})))
    fill(writer, range(2, 3))
    assert ids(tmp_path) == ["0", "1", "2"]
    writer.close()


def test_a_writer_that_was_killed_leaves_whole_records(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.capture.test_segments import Writer, fill\n"
        f"writer = Writer(Path({str(tmp_path)!r}), 1 << 30)\n"
        "number = 0\n"
        "while True:\n"
        "    fill(writer, range(number, number + 1), 50_000)\n"
        "    number += 1\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 20:
            break
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait()
    kept = ids(tmp_path)
    assert len(kept) >= 20 and kept == [str(number) for number in range(len(kept))]


def test_the_end_of_a_file_may_be_missing(tmp_path: Path) -> None:
    for number in range(2):
        writer = Writer(tmp_path, MB)
        fill(writer, range(number * 3, number * 3 + 3))
        writer.close()
    first = files(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:-5])
    damage = Damage()
    assert ids(tmp_path, damage) == ["0", "1", "3", "4", "5"]
    assert damage.places == 1 and damage.bytes > 0


def test_a_record_that_was_changed_is_passed_over(tmp_path: Path) -> None:
    writer = Writer(tmp_path, MB)
    fill(writer, range(3))
    writer.close()
    (path,) = files(tmp_path)
    data = path.read_bytes()
    at = data.index(b'"id":"1"')
    path.write_bytes(data[: at + 6] + b"9" + data[at + 7 :])
    damage = Damage()
    assert ids(tmp_path, damage) == ["0", "2"] and damage.places == 1 and damage.bytes < len(data) // 2


def test_a_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    """A bound on the size of files stands for the disk: both write a part, and then refuse."""
    writer = Writer(tmp_path, 1 << 30)
    fill(writer, range(2))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            fill(writer, range(2, 3), 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fill(writer, range(3, 4))
    damage = Damage()
    assert ids(tmp_path, damage) == ["0", "1", "3"] and damage.places == 0
    writer.close()


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"secret")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/0.capture").symlink_to(tmp_path / "other")
    writer = Writer(tmp_path / "kept", 10_000)
    for number in range(40):
        fill(writer, range(number, number + 1), 1000)
    writer.close()
    assert (tmp_path / "other").exists() and "0" not in ids(tmp_path / "kept")


def test_a_directory_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    tmp_path.joinpath("empty").mkdir()
    assert ids(tmp_path / "empty") == []
    with pytest.raises(FileNotFoundError):
        ids(tmp_path / "none")
