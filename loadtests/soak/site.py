"""A server of our own: a repository, a state directory and fixed ports, so that it can be killed and started again.

Runs on the thread of its user. Leaving the context ends the server, politely first.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loadtests.measure import is_ready
from loadtests.processes import ProcessError, free_ports, log_tail
from loadtests.soak import law
from serving.client import ClientError, Operator

READY_S = 120.0
LOADED_S = 120.0


class Site:
    def __init__(self, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.repository = directory / "models"
        self._directory = directory
        self._arguments = arguments
        self.http_port, self.grpc_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        law.write_repository(self.repository)

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
            self._process.kill()
            self._process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._directory / f"serving-{self._starts}.log"

    @property
    def operator(self) -> Operator:
        return Operator(self.url)

    def start(self) -> float:
        """Returns when it is ready: the seconds that it took. ProcessError."""
        self._starts += 1
        begun_s = time.monotonic()
        argv = [sys.executable, "-m", "serving", "start", str(self.repository)]
        argv += ["--http-port", str(self.http_port), "--grpc-port", str(self.grpc_port)]
        argv += ["--state-dir", str(self._directory / "state"), "--settle-s", "0.2", *self._arguments]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not is_ready(self.http_port):
            if self._process.poll() is not None:
                raise ProcessError(f"the server ended: {self._process.returncode}\n{log_tail(self.log)}")
            if time.monotonic() > begun_s + READY_S:
                raise ProcessError(f"the server was not ready in {READY_S:g} s\n{log_tail(self.log)}")
            time.sleep(0.05)
        return time.monotonic() - begun_s

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 60) -> int:
        """Its exit code, when it has ended. ProcessError when it goes on."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"the server goes on {timeout_s:g} s after it was told to end") from None

    def kill(self) -> float:
        """Ends it at once; the time, on the monotonic clock, before which no request can have felt it."""
        killed_s = time.monotonic()
        self.signal(signal.SIGKILL)
        self.wait()
        return killed_s

    def model(self) -> dict[str, Any]:
        return self.operator.model(law.NAME)

    def wait_until_ready(self, version: int) -> float:
        """Until this version serves, at whichever try: the seconds that took. ProcessError: it does not come."""
        begun_s = time.monotonic()
        while True:
            with suppress(ClientError):  # gone: the wait ends by its time
                states = {each["state"]: each for each in self.model()["versions"] if each["number"] == version}
                if "READY" in states:
                    return time.monotonic() - begun_s
                if "FAILED" in states and states["FAILED"]["quarantined"]:
                    raise ProcessError(f"version {version} failed to load\n{log_tail(self.log)}")
            if time.monotonic() > begun_s + LOADED_S:
                raise ProcessError(f"version {version} was not ready in {LOADED_S:g} s\n{log_tail(self.log)}")
            time.sleep(0.1)

    def helpers(self, part: str) -> list[int]:
        """The server's child processes in whose command `part` stands."""
        found = []
        for number in children(self.pid):
            with suppress(OSError):
                if part in Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace"):
                    found.append(number)
        return found


def children(pid: int) -> list[int]:
    """Of all threads of a process, from /proc. Empty when it is gone."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found
