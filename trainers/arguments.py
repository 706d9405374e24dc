"""The arguments that the commands share, and what they come to: a job that is new or resumed, and its options.

Knows no machine learning library, so that a mistake in them is told at once.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainers.contract import Options, TrainingError
from trainers.training import PUBLISHED, Job, last_unfinished, recorded

JOB = ("quick", "epochs", "steps", "seed", "set")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a short run; on generated data if there is no other")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the data (default: the trainer's)")
    parser.add_argument("--steps", type=positive, metavar="N", help="batches to train on, instead of epochs")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same model (default: %(default)s)")


def add_set_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of this trainer")


def add_data_options(parser: argparse.ArgumentParser, directory: str = "data") -> None:
    data_help = "data sets (default: %(default)s)"
    parser.add_argument("--data-dir", type=Path, default=Path(directory), metavar="DIR", help=data_help)
    parser.add_argument("--download", action="store_true", help="fetch missing data sets into --data-dir")


def add_repo_option(parser: argparse.ArgumentParser) -> None:
    repo_help = "publish here (default: %(default)s)"
    parser.add_argument("--repo", type=Path, default=Path("model_repo"), metavar="DIR", help=repo_help)


def add_log_option(parser: argparse.ArgumentParser) -> None:
    log_help = "runs are kept here (default: %(default)s)"
    parser.add_argument("--log-dir", type=Path, default=Path("runs"), metavar="DIR", help=log_help)


def add_resume_option(parser: argparse.ArgumentParser, what: str) -> None:
    """`args.resume`: None, True for the last one of this trainer, or the directory of one."""
    resume_help = f"go on with a {what} that was interrupted (default: the last one of this trainer)"
    parser.add_argument("--resume", nargs="?", type=Path, const=True, metavar="RUN", help=resume_help)


def prepare(option: str, directory: Path) -> None:
    """A problem with a directory shows before the training, not after it. Raises TrainingError, OSError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise TrainingError(f"{option} {directory}: a file is in the way of this directory") from None
    if not os.access(directory, os.W_OK):
        raise TrainingError(f"{option} {directory}: not writable")


def refuse_changes(
    parser: argparse.ArgumentParser, args: argparse.Namespace, what: str, names: Sequence[str] = JOB
) -> None:
    """Ends the command if it was told with --resume what was chosen when the run, or the like, began."""
    if given := [f"--{name}" for name in names if getattr(args, name, None)]:
        parser.error(f"{', '.join(given)}: a resumed {what} goes on with what it was started with")


def resumed(
    parser: argparse.ArgumentParser, args: argparse.Namespace, runs: Path, what: str = "run", finished: str = PUBLISHED
) -> tuple[Job, Path]:
    """The job as it began, and its directory: of the last in `runs` that has no file `finished`, or the one given.

    Raises:
        TrainingError: there is none, or it is of another trainer.
    """
    refuse_changes(parser, args, what)
    directory = last_unfinished(runs, what=what, finished=finished) if args.resume is True else args.resume
    job = recorded(directory)
    if job.name != args.name:
        raise TrainingError(f"{directory}: a {what} of '{job.name}', not of '{args.name}'")
    return job, directory


def options_of(args: argparse.Namespace, job: Job, directory: Path, **more: Any) -> Options:
    """With `--data-dir` and `--download`; `more` are other fields of Options."""
    return Options(
        directory=directory,
        seed=job.seed,
        quick=job.quick,
        epochs=job.epochs,
        steps=job.steps,
        data_dir=args.data_dir,
        download=args.download,
        **more,
    )
