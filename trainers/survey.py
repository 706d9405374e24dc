"""`python -m trainers survey NAME`: compares the variants of one model on one problem, in a table and in curves."""

import argparse
from collections.abc import Sequence

from trainers import arguments
from trainers.contract import TrainingError
from trainers.models import TRAINERS
from trainers.training import Job, begin, load

FINISHED = "finished"  # a file in the directory of a survey that needs no --resume


def main(words: Sequence[str]) -> None:
    """Raises TrainingError, OSError."""
    parser = argparse.ArgumentParser("python -m trainers survey", description=__doc__)
    parser.add_argument("name", choices=TRAINERS, metavar="NAME", help="a trainer that has variants to compare")
    arguments.add_job_options(parser)
    arguments.add_data_options(parser)
    arguments.add_log_option(parser)
    arguments.add_resume_option(parser, "survey")
    args = parser.parse_args(words)
    arguments.prepare("--log-dir", args.log_dir)
    surveys = args.log_dir / f"{args.name}-survey"
    known = arguments.resumed(parser, args, surveys, "survey", FINISHED) if args.resume else None
    module = load(args.name)
    if not hasattr(module, "survey"):
        raise TrainingError(f"'{args.name}' has no variants to compare")
    from trainers.run import Run

    job, directory = known or begin(Job(args.name, args.seed, args.quick, args.epochs, args.steps), surveys)
    print(f"run {directory}")
    module.survey(Run(arguments.options_of(args, job, directory, resume=known is not None)))
    (directory / FINISHED).touch()
