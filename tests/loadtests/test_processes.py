"""Child processes: started, watched, pinned, and ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.processes import ProcessError, Server, free_ports, log_tail, pinned

WAIT = "import time; time.sleep(600)"


def python(code: str, log: Path, environment: dict[str, str] | None = None, core: int | None = None) -> Server:
    return Server("the thing", [sys.executable, "-u", "-c", code], log, environment or {}, core)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_runs_while_its_context_is_open(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"import os; print('hello', os.environ['NAME']); {WAIT}"
    with python(code, log, {"NAME": "you"}) as server:
        server.wait_until(lambda: log.read_text() == "hello you\n")
        assert is_running(server.pid)
    assert not is_running(server.pid)


def test_it_is_asked_to_end_before_it_is_made_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"import signal, sys\nsignal.signal(15, lambda *_: (print('bye'), sys.exit()))\nprint('up')\n{WAIT}"
    with python(code, log) as server:
        server.wait_until(lambda: "up" in log.read_text())
    assert log.read_text() == "up\nbye\n"


def test_one_that_ends_too_early_shows_its_log(tmp_path: Path) -> None:
    code = "print('first'); print('no such model'); raise SystemExit(3)"
    with (
        pytest.raises(ProcessError, match="the thing ended with exit code 3\nfirst\nno such model"),
        python(code, tmp_path / "log") as server,
    ):
        server.wait_until(lambda: False)


def test_a_log_is_shown_from_its_end_and_its_lines_cut(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join([*(f"line {i}" for i in range(100)), "x" * 10_000, "last"]))
    lines = log_tail(tmp_path / "log").splitlines()
    assert len(lines) == 40
    assert lines[0] == "line 62" and lines[-1] == "last"
    assert lines[-2] == "x" * 500 + "..."


def test_one_that_is_never_ready_is_given_up_and_ended(tmp_path: Path) -> None:
    with (
        pytest.raises(ProcessError, match="not ready in 0 s"),
        python(WAIT, tmp_path / "log") as server,
    ):
        server.wait_until(lambda: False, timeout_s=0)
    assert not is_running(server.pid)


def test_a_child_started_pinned_stays_on_its_core(tmp_path: Path) -> None:
    log, mine = tmp_path / "log", os.sched_getaffinity(0)
    core = max(mine)
    with python("import os; print(os.sched_getaffinity(0)); " + WAIT, log, core=core) as server:
        server.wait_until(lambda: log.read_text() == f"{{{core}}}\n")
    assert os.sched_getaffinity(0) == mine


def test_pinning_ends_with_an_error_too() -> None:
    mine = os.sched_getaffinity(0)
    with pytest.raises(OSError, match="No such file"), pinned(min(mine)):
        subprocess.Popen(["/no/such/program"])
    assert os.sched_getaffinity(0) == mine


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def test_ending_by_signal_is_an_ending(tmp_path: Path) -> None:
    with python(WAIT, tmp_path / "log") as server:
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ProcessError, match="exit code -9"):
            server.wait_until(lambda: False)
