"""Child processes of the benchmark: servers with a log file, free ports, pinning, and an end by signal.

Runs on the main thread. Knows no protocol: whether a server is ready is for the caller to find out.
"""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

LOG_LINES = 40
LINE_CHARACTERS = 500


class ProcessError(Exception):
    """A server ended or stayed silent; the text ends with the last lines of its log."""


class Server:
    """A running server process. Leaving the context ends it: SIGTERM, and SIGKILL after 15 seconds."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str], core: int | None
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as sink, pinned(core):
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = 60) -> None:
        """Ask `ready` until it is true. ProcessError when the process ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self._process.poll() is not None:
                raise ProcessError(
                    f"{self.name} ended with exit code {self._process.returncode}\n{log_tail(self._log)}"
                )
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} was not ready in {timeout_s:.0f} s\n{log_tail(self._log)}")
            time.sleep(0.05)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def log_tail(log: Path) -> str:
    """The last lines of a file, none of them longer than a few on a screen."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return "\n".join(line if len(line) <= LINE_CHARACTERS else f"{line[:LINE_CHARACTERS]}..." for line in lines)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Processes started inside run on `core` only, None for anywhere: a child inherits this thread's affinity."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback address that were free a moment ago, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
