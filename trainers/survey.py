"""`python -m trainers survey NAME`: compares the variants of one model on one problem, in a table and in curves."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainers.command import add_job_options, add_place_options, prepare
from trainers.contract import Options, TrainingError
from trainers.models import TRAINERS
from trainers.training import Job, last_unfinished, load, new_directory, recorded


def main(arguments: Sequence[str]) -> None:
    """Raises TrainingError, OSError."""
    parser = argparse.ArgumentParser("python -m trainers survey", description=__doc__)
    parser.add_argument("name", choices=TRAINERS, metavar="NAME", help="a trainer that has variants to compare")
    add_job_options(parser)
    add_place_options(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=True,
        metavar="RUN",
        help="go on with a survey that was interrupted (default: the last one of this trainer)",
    )
    args = parser.parse_args(arguments)
    if args.set:
        parser.error("--set: a survey chooses the settings")
    prepare("--log-dir", args.log_dir)
    module = load(args.name)
    if not hasattr(module, "survey"):
        raise TrainingError(f"'{args.name}' has no variants to compare")
    from trainers.run import Run

    runs = f"{args.name}-survey"
    if args.resume:
        directory = last_unfinished(args.log_dir, runs) if args.resume is True else args.resume
        job = recorded(directory)  # it goes on as it began
    else:
        directory = new_directory(args.log_dir, runs)
        job = Job(args.name, args.seed, args.quick, args.epochs, args.steps)
        job.record(directory)
    print(f"run {directory}")
    module.survey(
        Run(
            Options(
                directory=directory,
                seed=job.seed,
                quick=job.quick,
                epochs=job.epochs,
                steps=job.steps,
                data_dir=args.data_dir,
                download=args.download,
                resume=bool(args.resume),
            )
        )
    )
