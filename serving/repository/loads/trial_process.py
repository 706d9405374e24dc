"""The process of trial loads: `serve` forks a child for each, so that one costs tens of milliseconds, and what becomes
of the child is not the server's end.

It has imported what a load needs, but nothing that starts threads, as ONNX Runtime does: in a child they would be
missing, with whatever they held. It takes one trial at a time, watches it, and ends when its connection to the server
does, however the server ended.
"""

import gc
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from serving.backends import registry
from serving.core import processes
from serving.core.errors import LoadError
from serving.repository.loads import execution, loading
from serving.repository.loads.trial_child import Job, Outcome, OutOfMemoryError, Report, SoFar, be_the_child, memory

STARTED_THREADS = 3  # exit code: what was imported once for all did

_WHO = "the process that tried to load it"
_LOOK_S = 0.05  # between two looks at the memory that a child takes
_LONG_S = 3600.0  # what every system can wait for at once
_EXIT_S = 1.0  # for a child that has closed its end to be gone
_SAID_BYTES = 4096  # the last of what a child says on standard error


def serve(descriptor: str, import_once: str) -> None:
    """Answers each `Job` that comes through the connection with its `Outcome`, until None comes. If the connection ends
    without that, the server has ended, and what it left of its jobs in the file system is removed.

    Args:
        import_once: a backend's module whose import takes so long that it is done here when the first job needs it. If
            it starts threads, this process ends with `STARTED_THREADS`. Empty: there is none.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when this ends
        signal.signal(number, signal.SIG_IGN)
    processes.be_the_first_to_go()
    processes.adopt_orphans()
    server: Any = Connection(int(descriptor))
    imported: dict[str, int] = {}  # modules, and the bytes that they take
    scratches: list[Path] = []
    gc.freeze()  # children share these pages as long as nobody writes to them
    try:
        while (job := server.recv()) is not None:
            scratches = [*filter(Path.exists, scratches), job.scratch]
            if not job.hurry:
                processes.give_way()
            if import_once and not imported and _backend(job) == import_once:
                imported[import_once] = _import(import_once)
            server.send(_outcome(job, server, imported))
    except (EOFError, OSError):
        for scratch in scratches:
            shutil.rmtree(scratch, ignore_errors=True)


def _backend(job: Job) -> str:
    try:
        module, _ = registry.module_for(job.found.path, job.spec)
    except (LoadError, OSError):  # the child tells of that
        return ""
    return module


def _import(module: str) -> int:
    """Imports a module without a word; the bytes that this took."""
    before_bytes, _ = memory()
    own, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    with suppress(Exception):  # it may not be installed; the child tells of that
        import_module(module)
    os.dup2(own, 2)
    os.close(own)
    os.close(nothing)
    if _threads() != 1:
        os._exit(STARTED_THREADS)
    gc.freeze()
    return memory()[0] - before_bytes


def _threads() -> int:
    """How many this process has; 0 if that is not known."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        return 0


def _outcome(job: Job, server: Any, imported: Mapping[str, int]) -> Outcome:
    """Raises: EOFError: the server has ended."""
    news, childs_news = Pipe(duplex=False)
    said, childs_said = os.pipe()
    forker = os.getpid()
    pid = os.fork()
    if pid == 0:
        server.close()
        news.close()
        os.close(said)
        be_the_child(job, childs_news, childs_said, forker, imported)
    childs_news.close()
    os.close(childs_said)
    child = _Child(pid, said)
    try:
        return _watch(child, job, server, news)
    finally:
        child.end()
        news.close()
        os.close(said)


def _watch(child: "_Child", job: Job, server: Any, news: Any) -> Outcome:
    """Raises: EOFError: the server has ended."""
    deadline = time.monotonic() + job.limit_s
    stage = "while it began"
    good: Report | None = None  # once it has come up well, whatever becomes of it
    listening = [server, news, child.said]
    while True:
        left = max(0.0, deadline - time.monotonic())
        ready = wait(listening, min(left, _LONG_S if job.limit_bytes is None else _LOOK_S))
        if server in ready:  # nothing is sent while a trial runs, so this is the end
            raise EOFError
        if child.said in ready and not child.listen():
            listening.remove(child.said)
        if news in ready:
            try:
                said = news.recv()
            except EOFError:
                return good or _how_it_died(child.exit(), child.last_said, stage)
            if isinstance(said, SoFar):
                good, deadline = said.report, time.monotonic() + execution.LIMIT_S
            elif isinstance(said, str):
                stage = said
            else:
                return said  # type: ignore[no-any-return]
        if time.monotonic() >= deadline:
            if good is not None:
                return good
            return LoadError(f"{_WHO} did not finish within {job.limit_s:g} s: it was ended {stage}")
        if job.limit_bytes is not None and (taken := child.taken_bytes()) > job.limit_bytes:
            if good is not None:
                return good
            limit = f"the {max(0, job.limit_bytes) / 1e6:.0f} MB that are left for it"
            return OutOfMemoryError(f"{_WHO} took more memory than {limit}, {stage}", needed_bytes=taken)


def _how_it_died(code: int, said: str, stage: str) -> LoadError:
    if code == -signal.SIGKILL:  # nobody here did that
        ending = "was ended by SIGKILL, as the system does when memory runs out,"
        return OutOfMemoryError(f"{_WHO} {ending} {stage}")
    return loading.fault(LoadError(f"{_WHO} {processes.how_it_ended(code, said)} {stage}"))


class _Child:
    """A child as its parent sees it.

    Args:
        said: where its standard error can be read.
    """

    def __init__(self, pid: int, said: int) -> None:
        self._pid = pid
        self.said = said
        self._said = b""
        self._code: int | None = None
        os.set_blocking(said, False)
        with suppress(OSError):  # the child does the same, so that it is done whoever comes first
            os.setpgid(pid, pid)
        self._before_bytes = self._all_bytes()

    def listen(self) -> bool:
        """Reads what there is of its standard error. False: there is nothing more."""
        try:
            said = os.read(self.said, 1 << 16)
        except BlockingIOError:
            return False
        self._said = (self._said + said)[-_SAID_BYTES:]
        return bool(said)

    @property
    def last_said(self) -> str:
        while self.listen():
            pass
        return self._said.decode(errors="replace")

    def taken_bytes(self) -> int:
        """Memory that it has taken since it began, with all that it has started."""
        return self._all_bytes() - self._before_bytes

    def _all_bytes(self) -> int:
        return sum(map(_private_bytes, _descent(self._pid)))

    def exit(self) -> int:
        """How it ended by itself, as `subprocess` has it; one that only seemed to is killed."""
        deadline = time.monotonic() + _EXIT_S
        while os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.002)
        return self.end()

    def end(self) -> int:
        """Kills what is left of it, with all that it has started, and returns how it had ended."""
        if self._code is None:
            with suppress(OSError):
                os.killpg(self._pid, signal.SIGKILL)
            _, status = os.waitpid(self._pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
            with suppress(ChildProcessError):  # there is no more
                while True:
                    os.waitpid(-self._pid, 0)
        return self._code


def _descent(pid: int) -> Iterator[int]:
    """A process and those that come from it, as far as the system tells."""
    yield pid
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _descent(int(child))


def _private_bytes(pid: int) -> int:
    """Memory that only it has, without what the system can drop, such as pages of files; 0 if it has ended."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * resource.getpagesize()
