"""Servers of several processes: what belongs to one, where it runs, what it holds, and that nothing of it is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.compare.launch import Command, memory_bytes, parse_pss_kib, says_ok, started, tree
from loadtests.processes import ProcessError, free_ports

WAIT = "import time; time.sleep(600)"
# A child that its parent leaves behind, and that does not end when it is asked to.
CHILD = f"import signal; signal.signal(15, signal.SIG_IGN); print('child', flush=True); {WAIT}"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {CHILD!r}]); {WAIT}"


def command(code: str) -> Command:
    return Command([sys.executable, "-u", "-c", code])


def test_what_a_server_starts_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.compare.launch.LINGER_S", 0.2)
    log = tmp_path / "log"
    with started("parent", command(PARENT), log, lambda: "child" in log.read_text()) as server:
        parent, child = tree(server.pid)
        assert parent == server.pid
    assert tree(parent) == []
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_it_ends_too_when_it_never_gets_ready(tmp_path: Path) -> None:
    others = set(tree(os.getpid()))  # of tests before this one, for instance
    pids: list[int] = []

    def ready() -> bool:
        pids.extend(pid for pid in tree(os.getpid()) if pid not in others)
        return False

    with (
        pytest.raises(ProcessError, match="not ready in 0 s"),
        started("it", command(WAIT), tmp_path / "log", ready, timeout_s=0.1),
    ):
        raise AssertionError("it was taken for ready")
    assert pids and all(tree(pid) == [] for pid in set(pids))


def test_it_runs_where_it_is_told_and_this_process_where_it_did(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    one = min(before)
    log = tmp_path / "log"
    code = f"import os; print(os.environ['NAME'], os.sched_getaffinity(0)); {WAIT}"
    told = Command(command(code).argv, {"NAME": "it"})
    with started("it", told, log, lambda: bool(log.read_text()), cpus=[one]):
        assert log.read_text() == f"it {{{one}}}\n"
        assert os.sched_getaffinity(0) == before


def test_memory_is_that_of_the_whole_tree() -> None:
    mib = 64
    code = f"import sys; a = b'x' * ({mib} << 20); sys.stdout.write('up'); sys.stdout.flush(); sys.stdin.read()"
    before = memory_bytes(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.read(2) == b"up"
        assert memory_bytes(os.getpid()) >= before + (mib - 16 << 20)
        assert memory_bytes(child.pid) >= mib << 20
        child.communicate()


def test_the_proportional_size_is_read() -> None:
    text = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:     9000 kB\nPss:     1234 kB\nPss_Anon:  5 kB\n"
    assert parse_pss_kib(text) == 1234
    assert parse_pss_kib("") == 0


def test_a_process_that_is_gone_has_no_tree() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert tree(child.pid) == []
    assert memory_bytes(child.pid) == 0


def test_nothing_that_listens_does_not_say_ok() -> None:
    (port,) = free_ports(1)
    assert not says_ok(port, "/")
