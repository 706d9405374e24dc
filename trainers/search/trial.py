"""One trial: a training in a process of its own, which tells the search how it goes and is told whether to go on.

`Trial` is the search's end, `main` the process's. Between them is one socket; the process ends when it closes, so that
none is left when a search is killed. What the process prints is in `log.txt`, beside all else that a run leaves.
"""

import argparse
import fcntl
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from trainers.arguments import add_data_options, options_of
from trainers.contract import DataError, TrainingError
from trainers.training import recorded, train

LOG = "log.txt"
ENVIRONMENT = dict(os.environ)  # as it was before an import of TensorFlow in this process changed it


@dataclass(frozen=True)
class Report:
    """The goal's metric after so many steps. Waits for `Trial.answer`."""

    step: int
    value: float


@dataclass(frozen=True)
class Done:
    metric: Mapping[str, float]
    generated: bool


@dataclass(frozen=True)
class Pruned:
    pass


@dataclass(frozen=True)
class Failed:
    """`everywhere`: any other trial of this search would fail, too."""

    reason: str
    everywhere: bool = False


@dataclass(frozen=True)
class Killed:
    """The process ended without a word."""

    reason: str


Message = Report | Done | Pruned | Failed | Killed


class Trial:
    """A process that trains what is recorded in a directory, from its last checkpoint on if there is one."""

    def __init__(self, directory: Path, *, data_dir: Path, download: bool, environment: Mapping[str, str]) -> None:
        self.connection, theirs = Pipe()
        arguments = [str(theirs.fileno()), str(directory), "--data-dir", str(data_dir)]
        with (directory / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainers.search.trial", *arguments, *(["--download"] if download else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the search
                env={**ENVIRONMENT, **environment},
            )
        theirs.close()

    def receive(self) -> Message:
        """What the process has to say; blocks if that is nothing yet."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            status = self._process.wait()
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            message = Killed(f"its process was {how}" if status < 0 else f"its process {how}")
        if not isinstance(message, Report):
            self.end()
        return message

    def answer(self, *, prune: bool) -> None:
        try:
            self.connection.send(prune)
        except OSError:  # it is gone; `receive` will say so
            return

    def end(self) -> None:
        """Returns when the process is gone."""
        self.connection.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _PrunedError(Exception):
    """Leads out of the trainer."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("connection", type=int)
    parser.add_argument("directory", type=Path)
    add_data_options(parser)
    args = parser.parse_args()
    connection = Connection(args.connection)
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, answers), daemon=True).start()

    def report(step: int, value: float) -> None:
        connection.send(Report(step, value))
        if answers.get():
            raise _PrunedError

    with (args.directory / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until a process that a killed search left behind has noticed
        connection.send(_result(args, report))


def _listen(connection: Connection, answers: "queue.SimpleQueue[bool]") -> None:
    while True:
        try:
            answers.put(connection.recv())
        except (EOFError, OSError):  # the search is gone
            os._exit(1)


def _result(args: argparse.Namespace, report: Callable[[int, float], None]) -> Message:
    try:
        job = recorded(args.directory)
        trained, _ = train(job, options_of(args, job, args.directory, resume=True, report=report))
    except _PrunedError:
        return Pruned()
    except (DataError, ModuleNotFoundError) as error:
        return Failed(str(error), everywhere=True)
    except (TrainingError, OSError) as error:
        return Failed(str(error))
    except Exception as error:
        traceback.print_exc()
        return Failed(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Done(trained.metric, trained.generated)


if __name__ == "__main__":
    from trainers.search import trial  # messages are of the classes that the search knows, not of `__main__`

    trial.main()
