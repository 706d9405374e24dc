"""The command line: `python -m trainers NAME` trains a model and publishes it."""

import argparse
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

from trainers.contract import Options, TrainingError
from trainers.models import TRAINERS
from trainers.settings import changed, pairs
from trainers.training import Job, last_unfinished, load, new_directory, publish, recorded, train
from trainers.workers import task

# Other things to do than to train one model: a word, and the module whose `main(arguments)` does it.
COMMANDS = {
    "search": "trainers.search.command",
    "survey": "trainers.survey",
}


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parser() -> argparse.ArgumentParser:
    words = "".join(f"\n  python -m trainers {word} --help" for word in COMMANDS)
    parser = argparse.ArgumentParser(
        "python -m trainers",
        description="Train a model and publish it.",
        epilog=f"see also:{words}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=TRAINERS, metavar="NAME", help="the trainer, and its model's name")
    parser.add_argument("--list", action="store_true", help="show the trainers and exit")
    parser.add_argument("--settings", action="store_true", help="show what --set can change, and exit")
    add_job_options(parser)
    add_place_options(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=True,
        metavar="RUN",
        help="go on with a run that was interrupted (default: the last one of this trainer)",
    )
    parser.add_argument("--push", metavar="URL", help="send the new versions to a running server, too")
    return parser


def add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a short run; on generated data if there is no other")
    parser.add_argument("--epochs", type=positive, metavar="N", help="passes over the data (default: the trainer's)")
    parser.add_argument("--steps", type=positive, metavar="N", help="batches to train on, instead of epochs")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same model (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of this trainer")


def add_place_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="data sets (default: %(default)s)")
    parser.add_argument("--download", action="store_true", help="fetch missing data sets into --data-dir")
    parser.add_argument("--repo", type=Path, default=Path("model_repo"), help="publish here (default: %(default)s)")
    parser.add_argument("--log-dir", type=Path, default=Path("runs"), help="runs are kept here (default: %(default)s)")


def main() -> int:
    word, *rest = sys.argv[1:] or [""]
    return guarded(lambda: importlib.import_module(COMMANDS[word]).main(rest) if word in COMMANDS else _train())


def guarded(work: Callable[[], None]) -> int:
    """Does it, and turns what can go wrong into one line and an exit status."""
    try:
        work()
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed: pip install '.[cpu,train]'", file=sys.stderr)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    else:
        return 0
    return 1


def prepare(option: str, directory: Path) -> None:
    """A problem with a directory shows before the training, not after it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise TrainingError(f"{option} {directory}: a file is in the way of this directory") from None
    if not os.access(directory, os.W_OK):
        raise TrainingError(f"{option} {directory}: not writable")


def _train() -> None:
    arguments = parser()
    args = arguments.parse_args()
    if args.list:
        for name, learns in TRAINERS.items():
            print(f"{name:14} {learns}")
        return
    if args.name is None:
        arguments.error("which trainer? --list shows them")
    if args.settings:
        _show_settings(args.name)
        return
    for option, directory in (("--repo", args.repo), ("--log-dir", args.log_dir)):
        prepare(option, directory)
    if not task().chief:
        _assist(arguments, args)
        return
    if args.push:
        from trainers.publishing.push import reach

        reach(args.push)
    job, directory = _resumed(arguments, args) if args.resume else _new(args)
    print(f"run {directory}")
    trained, settings = train(job, _options(args, job, directory))
    for metric, value in trained.metric.items():
        print(f"{metric} {value}" + (" (on generated data, so it says nothing)" if trained.generated else ""))
    versions = publish(job, trained, settings, args.repo, directory)
    for version in versions:
        print(f"published {version}")
    if args.push:
        from trainers.publishing.push import push

        for version in versions:
            print(f"pushed {version.parent.name}: {push(args.push, version)}")
    print(f"curves: tensorboard --logdir {args.log_dir}")


def _assist(arguments: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """What a worker does that is not the chief: the same training, of which nothing remains but the chief's version."""
    with TemporaryDirectory(prefix="trainers-worker-") as own:
        if args.resume:
            job, directory = _resumed(arguments, args)
            if (directory / "checkpoints").exists():
                shutil.copytree(directory / "checkpoints", Path(own, "checkpoints"))
        else:
            job = _asked(args)
        train(job, _options(args, job, Path(own)))
    print("trained; the chief publishes")


def _options(args: argparse.Namespace, job: Job, directory: Path) -> Options:
    return Options(
        directory=directory,
        seed=job.seed,
        quick=job.quick,
        epochs=job.epochs,
        steps=job.steps,
        data_dir=args.data_dir,
        download=args.download,
        resume=bool(args.resume),
    )


def _asked(args: argparse.Namespace) -> Job:
    values = pairs(args.set)
    changed(load(args.name).Settings(), values)  # a wrong one ends it here, before there is a run
    return Job(args.name, args.seed, args.quick, args.epochs, args.steps, values)


def _new(args: argparse.Namespace) -> tuple[Job, Path]:
    job = _asked(args)
    directory = new_directory(args.log_dir, args.name)
    job.record(directory)
    return job, directory


def _resumed(arguments: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[Job, Path]:
    """A run goes on as it began."""
    given = [f"--{name}" for name in ("quick", "epochs", "steps", "seed", "set") if getattr(args, name)]
    if given:
        arguments.error(f"{', '.join(given)}: a resumed run goes on with what it was started with")
    directory = last_unfinished(args.log_dir, args.name) if args.resume is True else args.resume
    job = recorded(directory)
    if job.name != args.name:
        raise TrainingError(f"{directory}: a run of '{job.name}', not of '{args.name}'")
    return job, directory


def _show_settings(name: str) -> None:
    settings = load(name).Settings()
    for field in fields(settings):
        kind = getattr(field.type, "__name__", str(field.type).replace("typing.", ""))
        print(f"{field.name} = {getattr(settings, field.name)}  ({kind})")
