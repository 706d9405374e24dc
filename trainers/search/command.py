"""`python -m trainers search NAME --space space.yaml`: finds good settings and publishes the best model.

Also turns the same space into what other machines search with: `--as katib`, `pipeline`, `tfjob`, `trainjob`, `cloud`,
`vertex` print a specification and train nothing.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from trainers.arguments import (
    JOB,
    add_data_options,
    add_job_options,
    add_log_option,
    add_repo_option,
    add_set_option,
    positive,
    prepare,
    refuse_changes,
)
from trainers.contract import Goal, TrainingError
from trainers.models import TRAINERS
from trainers.search import cloud, containers, jobs, katib, report
from trainers.search.display import Display
from trainers.search.manifest import as_yaml
from trainers.search.samplers import Sampler, check, names
from trainers.search.space import Space, read
from trainers.search.study import RECORD, SPACE, Pruner, Search, Study, alone, recorded
from trainers.search.trial import ENVIRONMENT
from trainers.settings import changed, pairs
from trainers.training import PUBLISHED, last_unfinished, load, new_directory

TRIALS = 10
FORMS = ("katib", "pipeline", "tfjob", "trainjob", "cloud", "vertex")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m trainers search", description="Try settings of a trainer and publish the best model."
    )
    parser.add_argument("name", choices=TRAINERS, metavar="NAME", help="the trainer")
    parser.add_argument(
        "--space", type=Path, metavar="FILE", help="settings to change, and between which limits (YAML)"
    )
    parser.add_argument("--trials", type=positive, metavar="N", help=f"in all (default: {TRIALS}, or the whole grid)")
    parser.add_argument("--parallel", type=positive, metavar="N", help="trials that run at the same time (default: 1)")
    parser.add_argument("--sampler", choices=names(Sampler), help="who chooses what is tried (default: tpe)")
    parser.add_argument("--pruner", choices=names(Pruner), help="who ends trials that look bad (default: none)")
    parser.add_argument("--study", type=Path, metavar="DIR", help="keep the search here (default: below --log-dir)")
    parser.add_argument("--resume", action="store_true", help="go on with a search (default: the last unfinished one)")
    add_job_options(parser)
    add_set_option(parser)
    add_data_options(parser)
    add_repo_option(parser)
    add_log_option(parser)
    other = parser.add_argument_group("the same search, or its best model's training, somewhere else")
    other.add_argument("--as", dest="form", choices=FORMS, help="print its specification; train nothing here")
    other.add_argument("--image", help="the container image that has the trainers")
    other.add_argument("--workers", type=positive, default=1, metavar="N", help="machines for one training")
    other.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs of each machine")
    other.add_argument("--url", default="http://serving:8000", help="the server that a pipeline publishes to")
    return parser


def main(arguments: Sequence[str]) -> None:
    """Raises TrainingError, OSError."""
    options = parser()
    args = options.parse_args(arguments)
    if args.form:
        _print(options, args)
        return
    for option, directory in (("--repo", args.repo), ("--log-dir", args.log_dir)):
        prepare(option, directory)
    _search(args, _resumed(options, args) if args.resume else _new(options, args))


def _new(options: argparse.ArgumentParser, args: argparse.Namespace) -> Path:
    _, search, _ = _asked(options, args)
    if args.study is None:
        directory = new_directory(_searches(args))
    else:
        directory = args.study
        prepare("--study", directory)
        if (directory / RECORD).exists():
            raise TrainingError(f"{directory}: there is a search already: go on with it with --resume")
    (directory / SPACE).write_bytes(args.space.read_bytes())
    search.record(directory)
    return Path(directory)


def _asked(options: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[Space, Search, Goal]:
    """What a new search is to be, all of it checked."""
    if args.space is None:
        options.error("--space: which settings are to be tried?")
    module = load(args.name)
    values = pairs(args.set)
    defaults = changed(module.Settings(), values)
    space = read(args.space, defaults)
    if twice := sorted(values.keys() & space.parameters.keys()):
        raise TrainingError(f"--set {twice[0]}: the search changes this setting")
    sampler: Sampler = args.sampler or "tpe"
    check(sampler, space)
    trials = args.trials or TRIALS
    if sampler == "grid":
        whole = len(space.grid())
        trials = min(args.trials or whole, whole)
    search = Search(
        args.name,
        trials=trials,
        parallel=args.parallel or 1,
        sampler=sampler,
        pruner=args.pruner or "none",
        seed=args.seed,
        quick=args.quick,
        epochs=args.epochs,
        steps=args.steps,
        values=values,
    )
    return space, search, module.GOAL


def _resumed(options: argparse.ArgumentParser, args: argparse.Namespace) -> Path:
    """A search goes on as it began, but for how many trials there are and how many at a time."""
    refuse_changes(options, args, "search", ("space", "sampler", "pruner", *JOB))
    directory = args.study or last_unfinished(
        _searches(args), what="search", record=RECORD, finished=f"trials/*/{PUBLISHED}"
    )
    search = recorded(directory)
    if search.name != args.name:
        raise TrainingError(f"{directory}: a search for '{search.name}', not for '{args.name}'")
    values = vars(search) | {name: getattr(args, name) for name in ("trials", "parallel") if getattr(args, name)}
    Search(**values).record(directory)
    return Path(directory)


def _searches(args: argparse.Namespace) -> Path:
    return Path(args.log_dir / f"{args.name}-search")


def _search(args: argparse.Namespace, directory: Path) -> None:
    search = recorded(directory)
    module = load(search.name)
    goal = module.GOAL
    space = read(directory / SPACE, changed(module.Settings(), search.values))
    if search.sampler == "grid":
        search = replace(search, trials=min(search.trials, len(space.grid())))  # --resume may ask for more
    print(f"search {directory}", flush=True)
    console = Console()
    with alone(directory):
        with Study(directory, search, space, goal, data_dir=args.data_dir, download=args.download) as study:
            done = sum(trial.state.is_finished() for trial in study.trials())
            with Display(console, goal, search.trials, done) as display:
                study.watch(display.watch)
                study.run()
            trials, best = study.trials(), study.best()
        console.print(report.table(trials, space, goal, best), soft_wrap=not console.is_terminal)
        report.write_csv(directory / "trials.csv", trials, space, goal)
        report.plot(directory / "trials.png", trials, space, goal, title=f"{search.name}: {len(trials)} trials")
        if best is None:
            reason = trials[-1].user_attrs.get("reason", "")
            raise TrainingError(f"no trial ended well{': ' if reason else ''}{reason}")
        print(f"table {directory / 'trials.csv'}, picture {directory / 'trials.png'}")
        print(f"best trial {best.number}", *(f"{name}={value}" for name, value in best.params.items()), flush=True)
        _publish(args, search.name, study.place(best.number))


def _publish(args: argparse.Namespace, name: str, run: Path) -> None:
    """Ends the best trial's run as the trainers' command does: its checkpoint is of the last step, so that nothing is
    trained again."""
    if (run / PUBLISHED).exists():
        print("published before")
        return
    command = [sys.executable, "-m", "trainers", name, "--resume", run, "--repo", args.repo, "--log-dir", args.log_dir]
    result = subprocess.run([*command, "--data-dir", args.data_dir], env=ENVIRONMENT, check=False)
    if result.returncode:
        raise TrainingError(f"the best model could not be published: {run} can be resumed")


def _print(options: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Writes to standard output what another system is to be given."""
    if not args.image:
        options.error("--image: which container image has the trainers?")
    if args.form in ("tfjob", "trainjob") and args.study is not None:
        print(_best_training(options, args), end="")
        return
    space, search, goal = _asked(options, args)
    if args.workers > 1 and args.form not in ("katib", "cloud", "vertex"):
        options.error("--workers: a search that runs in one job shares nothing with other machines")
    _distributed(args, search.values)
    machines = {"image": args.image, "gpus": args.gpus}
    text = args.space.read_text(encoding="utf-8")
    match args.form:
        case "katib":
            print(as_yaml(katib.experiment(search, space, goal, workers=args.workers, **machines)), end="")
        case "pipeline":
            try:
                from trainers.search.pipeline import compiled
            except ModuleNotFoundError as error:
                raise TrainingError(f"--as pipeline: {error.name} is not installed: pip install 'kfp>=2.17'") from None
            print(compiled(search, space, goal, url=args.url, **machines), end="")
        case "tfjob" | "trainjob":
            name = f"{args.name}-search"
            command = containers.searching(search, f"{containers.ROOT}/studies/{args.name}")
            print(as_yaml(jobs.config_map(name, text), *_job(args, name, command, space=name)), end="")
        case "cloud":
            print(as_yaml(cloud.training_input(search, space, goal, workers=args.workers, **machines)), end="")
        case "vertex":
            print(as_yaml(cloud.vertex(search, space, goal, workers=args.workers, **machines)), end="")


def _best_training(options: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """A job that trains with the best settings of a study, here or on several machines."""
    search = recorded(args.study)
    if search.name != args.name:
        raise TrainingError(f"{args.study}: a search for '{search.name}', not for '{args.name}'")
    module = load(search.name)
    space = read(args.study / SPACE, changed(module.Settings(), search.values))
    with Study(args.study, search, space, module.GOAL, data_dir=args.data_dir) as study:
        best = study.best()
    if best is None:
        raise TrainingError(f"{args.study}: no trial has ended well yet")
    values = {**best.params, **pairs(args.set)}
    _distributed(args, {**search.values, **values})
    if args.workers > 1 and args.form == "trainjob":
        options.error("--workers: a TrainJob's nodes are not told of each other; take --as tfjob")
    return as_yaml(*_job(args, args.name, containers.training(search, values), space=None))


def _job(args: argparse.Namespace, name: str, command: list[str], space: str | None) -> list[dict[str, Any]]:
    if args.form == "tfjob":
        return [jobs.tf_job(name, args.image, command, workers=args.workers, gpus=args.gpus, space=space)]
    return jobs.train_job(name, args.image, command, gpus=args.gpus, space=space)


def _distributed(args: argparse.Namespace, values: Mapping[str, Any]) -> None:
    """Raises TrainingError unless the settings say that several machines train together."""
    if args.workers > 1 and values.get("distribution") != "workers":
        raise TrainingError("--workers: needs --set distribution=workers, and a trainer that has this setting")
