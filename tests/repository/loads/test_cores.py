"""What the system tells of the processor."""

import os
import threading
from pathlib import Path

import pytest

from serving.repository.loads import cores


def machine(tmp_path: Path, cgroup: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A /proc and a /sys/fs/cgroup, on a machine of eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(cgroup)
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text)
    return proc, groups


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "350000 100000\n"}, 3),  # what is left of a core is none
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 8),
        ("0::/a/b\n", {"cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "400000 100000\n"}, 4),  # in a container
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("5:memory:/a\n", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_usable_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, files: dict[str, str], expected: int
) -> None:
    assert cores.usable(*machine(tmp_path, cgroup, files, monkeypatch)) == expected


def test_where_there_are_no_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert cores.usable(tmp_path, tmp_path) == 2


def test_the_processors_name(tmp_path: Path) -> None:
    assert cores.model(tmp_path) == ""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast: 9000\n\nprocessor\t: 1\nmodel name\t: b\n")
    assert cores.model(tmp_path) == "Fast: 9000"


def test_time_that_threads_ran_and_waited(tmp_path: Path) -> None:
    for thread, times in {"1": "2000000000 500000000 7", "2": "1000000000 250000000 9", "3": "gone"}.items():
        (tmp_path / "self/task" / thread).mkdir(parents=True)
        (tmp_path / "self/task" / thread / "schedstat").write_text(times)
    assert cores.ran_and_waited(tmp_path) == (3.0, 0.75)


def test_where_the_system_does_not_tell(tmp_path: Path) -> None:
    ran_s, waited_s = cores.ran_and_waited(tmp_path)
    assert ran_s > 0 and waited_s == 0.0


def test_other_threads_count() -> None:
    before, _ = cores.ran_and_waited()
    worked, ended = threading.Event(), threading.Event()

    def work() -> None:
        sum(range(200_000))
        worked.set()
        ended.wait()

    thread = threading.Thread(target=work)
    thread.start()
    worked.wait()
    after, _ = cores.ran_and_waited()
    ended.set()
    thread.join()
    assert after > before
