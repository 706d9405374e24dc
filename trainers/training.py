"""One training from its name to its published versions: what the command does, and each trial of a search."""

import importlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.contract import Options, Trained, TrainingError
from trainers.quiet import quiet_import
from trainers.settings import Value, changed, described

RECORD = "run.json"
PUBLISHED = "published.json"


@dataclass(frozen=True)
class Job:
    """What is to be trained, and how: all that a run needs to be done again."""

    name: str
    seed: int = 0
    quick: bool = False
    epochs: int | None = None
    steps: int | None = None
    values: Mapping[str, str | Value] = field(default_factory=dict)  # settings that differ from their defaults

    def record(self, directory: Path) -> None:
        """Writes the job down in the directory of its run, whole or not at all."""
        text = json.dumps({**vars(self), "values": dict(self.values)}, indent=2)
        new = directory / f".{RECORD}"
        with _in(directory):
            directory.mkdir(parents=True, exist_ok=True)
            new.write_text(text + "\n", encoding="utf-8")
            new.replace(directory / RECORD)


def recorded(directory: Path) -> Job:
    """The job that a run's directory was started with. Raises TrainingError."""
    try:
        return Job(**json.loads((directory / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{directory / RECORD}: not the record of a run: {error}") from None


def begin(job: Job, runs: Path) -> tuple[Job, Path]:
    """The job, and a directory for it in which it is written down. Raises TrainingError, OSError."""
    directory = new_directory(runs)
    job.record(directory)
    return job, directory


def new_directory(runs: Path) -> Path:
    """A directory for a run that starts now. Raises TrainingError, OSError."""
    began = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        directory = runs / (began if number == 1 else f"{began}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        return directory
    raise TrainingError(f"{runs}: a thousand runs began in this second")


def last_unfinished(runs: Path, *, what: str = "run", record: str = RECORD, finished: str = PUBLISHED) -> Path:
    """The newest directory with this record, and with no file of the pattern `finished`. Raises TrainingError."""
    for found in sorted(runs.glob(f"*/{record}"), reverse=True):
        if not any(found.parent.glob(finished)):
            return found.parent
    raise TrainingError(f"{runs}: there is no unfinished {what} to resume")


def load(name: str) -> Any:
    """A trainer's module, and with it TensorFlow. Raises ModuleNotFoundError for a library that is not installed."""
    os.environ["KERAS_BACKEND"] = "tensorflow"  # what export.py can export, whatever ~/.keras/keras.json says
    with quiet_import():
        importlib.import_module("trainers.run")
        return importlib.import_module(f"trainers.models.{name}")


def train(job: Job, options: Options) -> tuple[Trained, dict[str, Value]]:
    """Trains, and says with which settings.

    Raises:
        TrainingError, OSError: with one line for the person who started it.
    """
    module = load(job.name)
    from trainers.run import Run

    defaults = changed(module.Settings(), getattr(module, "QUICK", {}) if job.quick else {})
    settings = changed(defaults, job.values)
    with _in(options.directory):
        return module.train(Run(options, module.GOAL), settings), described(settings)


def publish(job: Job, trained: Trained, settings: Mapping[str, Value], repo: Path, directory: Path) -> list[Path]:
    """Adds the versions to the repository, and says so in the run's directory. Raises as `export` does."""
    with quiet_import():
        from trainers.publishing.export import export

    with _in(repo):
        versions = list(export(job.name, trained, repo=repo, seed=job.seed, settings=settings))
    record = {"versions": [str(version) for version in versions], "metric": trained.metric}
    with _in(directory):
        (directory / PUBLISHED).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return versions


@contextmanager
def _in(directory: Path) -> Iterator[None]:
    """Says where, if the system does not: a write to a full disk fails without a name."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise TrainingError(f"{directory}: {error.strerror or error}") from None
