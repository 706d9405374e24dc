"""A server that is many processes: where they run, what they cost together, and that none of them is left.

Runs on the main thread; Linux only. Knows no peer: what is started is an argument.
"""

import os
import select
import signal
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from loadtests.cpu_time import parse_stat
from loadtests.processes import Server

# For processes that outlive the first of their tree.
LINGER_S = 5.0


@dataclass(frozen=True)
class Command:
    """How a server is started: its arguments, and variables on top of this process's environment."""

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def started(
    name: str,
    command: Command,
    log: Path,
    ready: Callable[[], bool],
    cpus: Collection[int] | None = None,
    timeout_s: float = 120,
) -> Iterator[Server]:
    """A server that is `ready`, on `cpus` only (None for all); leaving the context ends all processes of its tree.

    ProcessError when it ends before it is ready or takes longer than `timeout_s`.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cpus is None else cpus)  # a child inherits it
    try:
        server = Server(name, command.argv, log, command.environment, None)
    finally:
        os.sched_setaffinity(0, before)
    handles: list[int] = []
    try:
        try:
            with server:
                try:
                    server.wait_until(ready, timeout_s)
                    yield server
                finally:
                    handles = _handles(tree(server.pid))
        finally:
            _end(handles)
    finally:
        for handle in handles:
            os.close(handle)


def tree(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """`pid` and its descendants; empty when it is gone."""
    parents = {}
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                parents[int(entry.name)] = parse_stat((entry / "stat").read_text()).parent
    found = [pid] if pid in parents else []
    for one in found:  # grows meanwhile
        found += [child for child, parent in parents.items() if parent == one]
    return found


def memory_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """What `pid` and its descendants have in memory; of a page that several processes share, each has its part."""
    total_kib = 0
    for one in tree(pid, proc):
        with suppress(FileNotFoundError, ProcessLookupError):
            total_kib += parse_pss_kib((proc / str(one) / "smaps_rollup").read_text())
    return 1024 * total_kib


def parse_pss_kib(smaps_rollup: str) -> int:
    """The proportional set size in /proc/PID/smaps_rollup; 0 for a process that has none."""
    lines = (line.split() for line in smaps_rollup.splitlines())
    return next((int(words[1]) for words in lines if words[0] == "Pss:"), 0)


def says_ok(port: int, path: str) -> bool:
    """Whether `GET path` on the loopback address is answered with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def _handles(pids: Sequence[int]) -> list[int]:
    """A descriptor for each that is still there: unlike its number, it never stands for another process."""
    handles = []
    for pid in pids:
        with suppress(ProcessLookupError):
            handles.append(os.pidfd_open(pid))
    return handles


def _end(handles: Sequence[int]) -> None:
    """Ask what still runs to end, and after a while make it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + LINGER_S
        left = [handle for handle in handles if _send(handle, number)]
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = [handle for handle in left if _runs(handle)]


def _runs(handle: int) -> bool:
    """A descriptor of a process is readable once it has ended, even if nobody has waited for it yet."""
    return not select.select([handle], [], [], 0)[0]


def _send(handle: int, number: int) -> bool:
    """False when the process is gone."""
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    return True
