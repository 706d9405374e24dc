"""The command line: `python -m trainers NAME` trains a model and publishes it."""

import argparse
import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

from trainers import arguments
from trainers.contract import TrainingError
from trainers.models import TRAINERS
from trainers.settings import changed, pairs
from trainers.training import Job, begin, load, publish, train
from trainers.workers import task

# Other things to do than to train one model: a word, and the module whose `main(arguments)` does it.
COMMANDS = {
    "search": "trainers.search.command",
    "survey": "trainers.survey",
}


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
    arguments.add_job_options(parser)
    arguments.add_set_option(parser)
    arguments.add_data_options(parser)
    arguments.add_repo_option(parser)
    arguments.add_log_option(parser)
    arguments.add_resume_option(parser, "run")
    parser.add_argument("--push", metavar="URL", help="send the new versions to a running server, too")
    return parser


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


def _train() -> None:
    options = parser()
    args = options.parse_args()
    if args.list:
        for name, learns in TRAINERS.items():
            print(f"{name:14} {learns}")
        return
    if args.name is None:
        options.error("which trainer? --list shows them")
    if args.settings:
        _show_settings(args.name)
        return
    for option, directory in (("--repo", args.repo), ("--log-dir", args.log_dir)):
        arguments.prepare(option, directory)
    if not task().chief:
        _assist(options, args)
        return
    if args.push:
        from trainers.publishing.push import reach

        reach(args.push)
    job, directory = _resumed(options, args) if args.resume else begin(_asked(args), args.log_dir / args.name)
    print(f"run {directory}")
    trained, settings = train(job, arguments.options_of(args, job, directory, resume=bool(args.resume)))
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


def _assist(options: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """What a worker does that is not the chief: the same training, of which nothing remains but the chief's version."""
    with TemporaryDirectory(prefix="trainers-worker-") as own:
        if args.resume:
            job, directory = _resumed(options, args)
            if (directory / "checkpoints").exists():
                shutil.copytree(directory / "checkpoints", Path(own, "checkpoints"))
        else:
            job = _asked(args)
        train(job, arguments.options_of(args, job, Path(own), resume=bool(args.resume)))
    print("trained; the chief publishes")


def _asked(args: argparse.Namespace) -> Job:
    values = pairs(args.set)
    changed(load(args.name).Settings(), values)  # a wrong one ends it here, before there is a run
    return Job(args.name, args.seed, args.quick, args.epochs, args.steps, values)


def _resumed(options: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[Job, Path]:
    return arguments.resumed(options, args, args.log_dir / args.name)


def _show_settings(name: str) -> None:
    settings = load(name).Settings()
    for field in fields(settings):
        kind = getattr(field.type, "__name__", str(field.type).replace("typing.", ""))
        print(f"{field.name} = {getattr(settings, field.name)}  ({kind})")
