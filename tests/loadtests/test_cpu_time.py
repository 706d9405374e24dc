"""CPU time from /proc: the line's odd forms, whole families, and the real kernel."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtests.cpu_time import TICKS_PER_S, Stat, cpu_seconds, parse_stat, tree_ticks


def line(pid: int, parent: int, *ticks: int, command: str = "python") -> str:
    times = " ".join(map(str, ticks))
    return f"{pid} ({command}) S {parent} {pid} {pid} 0 -1 4194304 99 98 97 96 {times} 20 0 1 0 87324 3133440 413\n"


@pytest.mark.parametrize("command", ["python", "a b", "x) R 7 (y", "((("])
def test_the_fields_are_found_behind_any_command(command: str) -> None:
    assert parse_stat(line(12, 5, 100, 20, 3, 4, command=command)) == Stat(5, 127)


def test_a_tree_is_the_process_with_all_its_descendants_and_no_others() -> None:
    stats = {1: Stat(0, 1000), 10: Stat(1, 1), 11: Stat(10, 2), 12: Stat(10, 4), 13: Stat(12, 8), 20: Stat(1, 16)}
    assert tree_ticks(10, stats) == 15


def test_seconds_come_from_the_files(tmp_path: Path) -> None:
    for pid, text in {7: line(7, 1, 50, 25, 0, 0), 8: line(8, 7, 20, 0, 4, 1), 9: line(9, 1, 500, 0, 0, 0)}.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(text)
    (tmp_path / "self").mkdir()  # not a process number
    (tmp_path / "33").mkdir()  # ended between the listing and the reading
    assert cpu_seconds(7, tmp_path) == 100 / TICKS_PER_S


def test_a_process_that_is_gone_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessLookupError, match="5"):
        cpu_seconds(5, tmp_path)


def test_a_childs_work_counts_while_it_runs_and_after_it_was_waited_for() -> None:
    def of_children() -> float:
        return cpu_seconds(os.getpid()) - time.process_time()

    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    before = of_children()
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"done\n"
        running = of_children()
        child.communicate(b"\n")
    waited_for = of_children()
    # 0.3 seconds or more in truth, and the kernel counts in coarse ticks.
    assert running - before > 0.2
    assert waited_for - before > 0.2
