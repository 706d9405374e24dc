"""Trial loads: a version is verified, loaded, held against its golden sample and warmed up in a process that can be
ended, before it is loaded into the server. `Trials.run` blocks, in a loading thread.

A crash, a hang or too much memory there is a reason not to load the version here.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from serving.backends import optimized, safety
from serving.core import processes
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.repository.disk.layout import FoundVersion
from serving.repository.loads.remembered import Remembered
from serving.repository.loads.trial_child import Job, Outcome
from serving.repository.loads.trial_child import OutOfMemoryError as OutOfMemoryError
from serving.repository.loads.trial_child import Report as Report
from serving.repository.loads.trial_process import STARTED_THREADS

_GRACE_S = 60.0  # beyond the time limit: for imports before it, and for the end of what took too long
_LONGEST_S = 1e6
_END_S = 2.0
_STOPS = "the server stops"


class Trials:
    """Tries versions out, several at a time if several threads ask.

    Args:
        limit_s: how long one may take.
        limit_bytes: how much memory one may take, asked when it begins; None: any.
        idle_s: for how long a process that has nothing to do is kept.
        import_once: a backend's module that takes long to import, which is done once for all trials if it starts no
            thread.
        remembered: what calibrations come to is kept there; None: each version is measured anew.
    """

    def __init__(
        self,
        limit_s: float,
        limit_bytes: Callable[[], int | None] = lambda: None,
        *,
        idle_s: float = 10.0,
        import_once: str = "serving.backends.tensorflow",
        remembered: Remembered | None = None,
    ) -> None:
        self._limit_s = min(limit_s, _LONGEST_S)
        self._limit_bytes = limit_bytes
        self._idle_s = idle_s
        self._import_once = import_once
        self._remembered = remembered
        self._lock = threading.Lock()
        self._idle: list[_Forker] = []
        self._busy: set[_Forker] = set()
        self._rest: threading.Timer | None = None
        self._closed = False

    def run(self, model: str, found: FoundVersion, spec: ModelSpec, scratch: Path, *, hurry: bool = False) -> Report:
        """
        Args:
            scratch: an empty directory; what is left there serves the load in the server. See `registry.load`.
            hurry: nobody is being served yet, so the trial need not give way to that.

        Raises:
            LoadError: what is wrong with the version, or how its trial ended.
        """
        imported = frozenset(name for name in sys.modules.copy() if name.startswith("serving.backends."))
        job = Job(
            model,
            found,
            spec,
            scratch,
            self._limit_s,
            self._limit_bytes(),
            imported,
            hurry,
            self._remembered,
            optimized.directory,
            safety.allow_unsafe_ops,
        )
        while (outcome := self._outcome(job)) is None:
            self._import_once = ""
        if isinstance(outcome, LoadError):
            raise outcome
        return outcome

    def _outcome(self, job: Job) -> Outcome | None:
        """None: not with an import for all trials.

        Raises:
            LoadError: there is none.
        """
        try:
            forker = self._take()
        except OSError as error:
            raise LoadError(f"no process for its trial load can be started: {error}", retry=True) from None
        try:
            return forker.ask(job, self._limit_s + _GRACE_S)
        except (EOFError, OSError) as error:
            forker.end()
            if self._closed:
                raise LoadError(_STOPS, retry=True) from None
            if forker.code == STARTED_THREADS:
                return None
            silent = isinstance(error, TimeoutError)
            ending = "does not answer" if silent else processes.how_it_ended(forker.code)
            raise LoadError(f"the process that watches trial loads {ending}", retry=True) from None
        finally:
            self._give_back(forker)

    def close(self) -> None:
        """Ends all trials; the calls that wait for one fail soon, and see to its end. Takes some milliseconds."""
        with self._lock:
            self._closed = True
            for forker in self._busy:
                forker.hang_up()
            if self._rest is not None:
                self._rest.cancel()
        self._end_idle()

    def _take(self) -> "_Forker":
        with self._lock:
            if self._closed:
                raise LoadError(_STOPS, retry=True)
            while self._idle:
                forker = self._idle.pop()
                if forker.lives:
                    break
                forker.end()
            else:
                forker = _Forker(self._import_once)
            self._busy.add(forker)
            return forker

    def _give_back(self, forker: "_Forker") -> None:
        with self._lock:
            self._busy.discard(forker)
            reusable = not self._closed and forker.lives
            if reusable:
                self._idle.append(forker)
                if self._rest is not None:
                    self._rest.cancel()
                self._rest = threading.Timer(self._idle_s, self._end_idle)
                self._rest.daemon = True
                self._rest.start()
        if not reusable:
            forker.end()

    def _end_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for forker in idle:
            forker.dismiss()


class _Forker:
    """A process that runs `trial_process.serve`, as the server sees it."""

    def __init__(self, import_once: str) -> None:
        """Raises: OSError: no process can be had."""
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    processes.python("serving.repository.loads.trial_process:serve", theirs.fileno(), import_once),
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # it shall have one thread
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # so that what a terminal sends to the server is not for it
                )
            except BaseException:
                self._socket.close()
                raise
        self._channel: Any = Connection(os.dup(self._socket.fileno()))

    def ask(self, job: Job, limit_s: float) -> Outcome:
        """Raises: EOFError, OSError: the process ended, or it does not answer."""
        self._channel.send(job)
        if not self._channel.poll(limit_s):
            raise TimeoutError
        return self._channel.recv()  # type: ignore[no-any-return]

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int:
        """How it ended, as `subprocess` has it."""
        return self._process.returncode

    def hang_up(self) -> None:
        """It ends, with the trial that it watches, and whoever waits for that hears of it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def dismiss(self) -> None:
        """Ends one that is idle."""
        with suppress(OSError):
            self._channel.send(None)
        self.end()

    def end(self) -> None:
        """Ends it, in order if it can, and waits for that."""
        self.hang_up()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._socket.close()
        self._channel.close()
