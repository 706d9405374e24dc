"""Processes of our own beside the server: how they are started, kept from harming it, and how they ended."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

_NICE = 10
_TAKE_FIRST = 1000  # as oom_score_adj; the system takes the process with the highest
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def python(function: str, *arguments: object) -> list[str]:
    """The command for a process that calls `module:function` with these arguments as texts.

    It has this process's search path, so it finds the same modules, and nothing in the directory that it starts in.
    """
    module, _, name = function.partition(":")
    main = (
        "import sys; rest = int(sys.argv[1]) + 2; sys.path[:] = sys.argv[rest:]; "
        f"from {module} import {name}; {name}(*sys.argv[2:rest])"
    )
    path = [entry or str(Path.cwd()) for entry in sys.path]
    return [sys.executable, "-c", main, str(len(arguments)), *map(str, arguments), *path]


def give_way() -> None:
    """Other processes go first, from here on and for the children that this one starts."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    # Linux may share out the processor by session first; then niceness counts only within one, unless it has its own.
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(_NICE))


def be_the_first_to_go() -> None:
    """When memory runs out, the system ends this process or what it starts from here on, and not the server."""
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text(str(_TAKE_FIRST))


def end_with_parent(parent: int | None = None) -> None:
    """This process is killed when its parent ends, in whatever way. Only Linux can do that.

    Args:
        parent: the parent's process id, if it is known: it may have ended already.
    """
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """What children leave behind becomes a child of this process, which can wait for it. Only Linux can do that."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


def how_it_ended(code: int, said: str = "") -> str:
    """In words.

    Args:
        code: exit code, or less than 0: the signal.
        said: what it wrote on standard error; the last line is told.
    """
    how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    lines = said.strip().splitlines()
    return f"{how} ({lines[-1].strip()})" if lines else how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
