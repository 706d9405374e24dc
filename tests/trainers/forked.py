"""Python in a process that is forked from one which has imported the trainers' libraries and done nothing else.

It begins at once, where TensorFlow's import takes five seconds of the processor. In all else it is a process as any
other: with arguments, an environment, output and an exit status of its own, and it may be killed. The process that they
are forked from is made when the first is, by and for each process that runs tests.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.trainers.libraries"])


def run(arguments: Sequence[str], directory: Path, environment: Mapping[str, str]) -> CompletedProcess[str]:
    """What `python -m MODULE ...` or `python -c CODE ...` does in a directory."""
    with TemporaryDirectory(prefix="forked-") as place:
        out, err = Path(place, "out"), Path(place, "err")
        process = _context.Process(target=_main, args=(arguments, directory, dict(environment), out, err))
        process.start()
        process.join()
        status = process.exitcode
        process.close()
        assert status is not None
        return CompletedProcess(arguments, status, out.read_text(), err.read_text())


def _main(arguments: Sequence[str], directory: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    option, what, *sys.argv[1:] = arguments
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
