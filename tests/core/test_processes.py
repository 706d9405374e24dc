"""Processes of our own: that they find our modules, give way, and end with their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.core import processes


def tell(*texts: str) -> None:
    """Is called in another process."""
    print(*texts, os.getpriority(os.PRIO_PROCESS, 0), Path("/proc/self/oom_score_adj").read_text().strip())


def give_way(*texts: str) -> None:
    processes.give_way()
    processes.be_the_first_to_go()
    tell(*texts)


def be_a_parent() -> None:
    """Starts a child that would go on for ever."""
    child = subprocess.Popen(processes.python("tests.core.test_processes:be_a_child", os.getpid()))
    print(child.pid, flush=True)
    signal.pause()


def be_a_child(parent: str) -> None:
    processes.end_with_parent(int(parent))
    print("bound", flush=True)
    signal.pause()


def test_a_function_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "serving.py").write_text("raise SystemExit('not this one')")
    command = processes.python("tests.core.test_processes:tell", "a b", Path("c"), 7)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    mine = Path("/proc/self/oom_score_adj").read_text().strip()
    assert done.stdout.split() == ["a", "b", "c", "7", str(os.getpriority(os.PRIO_PROCESS, 0)), mine]


def test_it_gives_way() -> None:
    command = processes.python("tests.core.test_processes:give_way")
    nice, taken_first = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(nice) >= 10 and taken_first == "1000"


@pytest.mark.skipif(sys.platform != "linux", reason="no other system can do that")
def test_it_ends_with_its_parent_however_that_ends() -> None:
    parent = subprocess.Popen(processes.python("tests.core.test_processes:be_a_parent"), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == b"bound\n"
    parent.kill()
    parent.communicate()  # ends when the child has closed its end, too
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_whose_parent_has_ended_already() -> None:
    command = processes.python("tests.core.test_processes:be_a_child", os.getpid() + 1)  # that is not the parent
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (-signal.SIGSEGV, "", "was ended by SIGSEGV"),
        (-40, "", "was ended by signal 40"),
        (3, "\n", "ended with exit code 3"),
        (1, "first\n  MemoryError: too large \n\n", "ended with exit code 1 (MemoryError: too large)"),
    ],
)
def test_how_it_ended(code: int, said: str, told: str) -> None:
    assert processes.how_it_ended(code, said) == told


def tell_of_the_session() -> None:
    processes.give_way()
    print(Path("/proc/self/autogroup").read_text())


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this system does not share out by session")
def test_a_session_of_its_own_gives_way_as_a_whole() -> None:
    command = processes.python("tests.core.test_processes:tell_of_the_session")
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=True)
    assert done.stdout.split()[1:] == ["nice", "10"]
    before = Path("/proc/self/autogroup").read_text()
    subprocess.run(command, capture_output=True, check=True)
    assert Path("/proc/self/autogroup").read_text() == before  # in the session of others, it leaves that alone
