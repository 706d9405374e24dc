"""A search in a directory: what it is asked for, and its trials, which outlive it.

    search.json     what is searched, and how
    space.yaml      between which limits
    study.db        Optuna's storage (SQLite): every trial with what was tried and measured
    trials/0007/    the run of each trial

One process at a time works on a study, in one thread; trials are processes that only talk to it.
"""

import fcntl
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from trainers.contract import Goal, TrainingError
from trainers.search.samplers import Sampler, sampler, startup_trials
from trainers.search.space import Space
from trainers.search.trial import Done, Failed, Killed, Message, Pruned, Report, Trial
from trainers.settings import Value
from trainers.training import Job

Pruner = Literal["none", "median", "hyperband"]

RECORD = "search.json"
SPACE = "space.yaml"
_NOTED_S = 1.0  # between reports that are written down where no pruner needs all: a write may wait for the disk
_RESTARTS = 2  # of a trial whose process was killed, before it counts as failed


@dataclass(frozen=True)
class Search:
    """What is asked for: all that a search needs to go on."""

    name: str
    trials: int
    parallel: int = 1
    sampler: Sampler = "tpe"
    pruner: Pruner = "none"
    seed: int = 0
    quick: bool = False
    epochs: int | None = None
    steps: int | None = None
    values: Mapping[str, str | Value] = field(default_factory=dict)  # settings that are the same in all trials

    def job(self, tried: Mapping[str, Value]) -> Job:
        return Job(self.name, self.seed, self.quick, self.epochs, self.steps, {**self.values, **tried})

    def record(self, directory: Path) -> None:
        new = directory / f".{RECORD}"
        new.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        new.replace(directory / RECORD)


def recorded(directory: Path) -> Search:
    """Raises TrainingError."""
    try:
        return Search(**json.loads((directory / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{directory / RECORD}: not the record of a search: {error}") from None


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Raises TrainingError if another process works on this study."""
    with (directory / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{directory}: another search is at work here") from None
        yield


class Study:
    """The trials that there are and the ones that run. Use as a context; leaving it ends what runs."""

    def __init__(
        self,
        directory: Path,
        search: Search,
        space: Space,
        goal: Goal,
        *,
        data_dir: Path,
        download: bool = False,
    ) -> None:
        """Raises TrainingError: the storage cannot be read."""
        self.directory = directory
        self.goal = goal
        self.search = search
        self._space = space
        self._places: dict[str, Any] = {"data_dir": data_dir, "download": download}
        self._watch: Callable[[str, FrozenTrial], None] = lambda event, trial: None
        self._running: dict[Trial, _Attempt] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{directory / 'study.db'}")
            self._study = optuna.create_study(
                study_name=search.name,
                storage=self._storage,
                direction=goal.direction,
                load_if_exists=True,
                pruner=_pruner(search),
            )
        except Exception as error:  # SQLAlchemy's and alembic's, of many kinds
            raise TrainingError(f"{directory / 'study.db'}: {_line(error)}") from None

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._running:
            process.end()
        self._storage.remove_session()
        self._storage.engine.dispose()

    def watch(self, told: Callable[[str, FrozenTrial], None]) -> None:
        """`told` will be told of each trial that "started", "reported" or "ended"."""
        self._watch = told

    def trials(self) -> list[FrozenTrial]:
        return list(self._study.get_trials(deepcopy=False))

    def best(self) -> FrozenTrial | None:
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE and trial.value is not None]
        better = max if self.goal.direction == "maximize" else min
        return better(complete, key=lambda trial: trial.value or 0.0, default=None)

    def place(self, number: int) -> Path:
        """The directory of a trial's run."""
        return self.directory / "trials" / f"{number:04}"

    def run(self) -> None:
        """Trains until there are as many trials as were asked for; those that were interrupted go on first.

        Raises:
            TrainingError: no trial can succeed; or OSError.
        """
        try:
            self._run()
        except StorageInternalError as error:  # a full disk, for instance
            raise TrainingError(f"{self.directory / 'study.db'}: {_line(error.__cause__ or error)}") from None

    def _run(self) -> None:
        interrupted = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        while True:
            while len(self._running) < self.search.parallel and (
                interrupted or len(self.trials()) < self.search.trials
            ):
                known = interrupted.pop(0) if interrupted else None
                self._start(self._next(known))
            if not self._running:
                return
            by_connection = {process.connection: process for process in self._running}
            for connection in wait(list(by_connection)):
                process = by_connection[connection]  # type: ignore[index]
                self._hear(process, process.receive())

    def _next(self, known: FrozenTrial | None) -> optuna.Trial:
        """A new trial, or one that there is already, with all its parameters chosen."""
        number = known.number if known else len(self.trials())
        self._study.sampler = sampler(
            self.search.sampler,
            self._space,
            seed=self.search.seed,
            number=number,
            startup=startup_trials(self.search.trials),
        )
        distributions = self._space.distributions()
        if known is None:
            return self._study.ask(distributions)
        trial = optuna.Trial(self._study, known._trial_id)
        for name, distribution in distributions.items():
            trial._suggest(name, distribution)  # what was chosen before stays; a kill may have come between two
        return trial

    def _start(self, trial: optuna.Trial) -> None:
        directory = self.place(trial.number)
        self.search.job(trial.params).record(directory)
        slot = min(set(range(self.search.parallel)) - {attempt.slot for attempt in self._running.values()})
        process = Trial(directory, environment=_share(self.search.parallel, slot), **self._places)
        self._running[process] = _Attempt(trial, slot, time.monotonic(), trial.user_attrs.get("seconds", 0.0))
        self._watch("started", self._frozen(trial))

    def _hear(self, process: Trial, message: Message) -> None:
        attempt = self._running[process]
        trial = attempt.trial
        now = time.monotonic()
        if isinstance(message, Report) and self.search.pruner == "none" and now - attempt.noted < _NOTED_S:
            process.answer(prune=False)
            return
        attempt.noted = now
        trial.set_user_attr("seconds", round(attempt.before + now - attempt.began, 1))
        if isinstance(message, Report):
            process.answer(prune=self._reported(trial, message))
            self._watch("reported", self._frozen(trial))
            return
        del self._running[process]
        restarts = trial.user_attrs.get("restarts", 0)
        if isinstance(message, Killed) and restarts < _RESTARTS:
            trial.set_user_attr("restarts", restarts + 1)
            self._start(trial)
            return
        if isinstance(message, Failed) and message.everywhere:
            raise TrainingError(message.reason)
        self._tell(trial, message)
        self._tidy()
        self._watch("ended", self._frozen(trial))

    def _reported(self, trial: optuna.Trial, report: Report) -> bool:
        """Notes it, and says whether to prune. Pruners compare the n-th reports of trials: their steps may differ in
        size. A trial that was resumed repeats some."""
        steps = trial.user_attrs.get("steps", [])
        if report.step not in steps:
            steps = [*steps, report.step]
            trial.set_user_attr("steps", steps)
        number = steps.index(report.step) + 1
        if number not in self._frozen(trial).intermediate_values:
            trial.report(report.value, number)
        return bool(trial.should_prune())

    def _tell(self, trial: optuna.Trial, message: Message) -> None:
        match message:
            case Done():
                trial.set_user_attr("generated", message.generated)
                if (value := message.metric.get(self.goal.metric)) is not None:
                    trial.set_user_attr("metric", dict(message.metric))
                    self._study.tell(trial, value)
                    return
                reason = f"it measured no '{self.goal.metric}'"
            case Pruned():
                self._study.tell(trial, state=TrialState.PRUNED)
                return
            case Failed() | Killed():
                reason = message.reason
            case Report():
                raise AssertionError("a report ends no trial")
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def _tidy(self) -> None:
        """Only the best trial's checkpoints are of use: it is published from them."""
        best = self.best()
        for trial in self.trials():
            if trial.state.is_finished() and (best is None or trial.number != best.number):
                shutil.rmtree(self.place(trial.number) / "checkpoints", ignore_errors=True)

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self._storage.get_trial(trial._trial_id)


@dataclass
class _Attempt:
    """A trial that runs: in which place among those that run at the same time, since when, and for how long before."""

    trial: optuna.Trial
    slot: int
    began: float
    before: float
    noted: float = 0.0  # when its last report was written down


def _line(error: BaseException) -> str:
    """SQLAlchemy's messages without the statement and the links that they end with."""
    return " ".join(str(error).partition("[SQL:")[0].split())[:200]


def _pruner(search: Search) -> optuna.pruners.BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match search.pruner:
            case "median":
                return optuna.pruners.MedianPruner(n_startup_trials=startup_trials(search.trials), n_warmup_steps=1)
            case "hyperband":
                return optuna.pruners.HyperbandPruner()
            case "none":
                return optuna.pruners.NopPruner()


def _share(parallel: int, slot: int) -> dict[str, str]:
    """What each of so many trials may take of the machine, as environment variables; those that are set stay."""
    share: dict[str, str] = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    if parallel > 1:
        threads = str(max(1, len(os.sched_getaffinity(0)) // parallel))
        share |= dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"), threads)
    found = {name: value for name, value in share.items() if name not in os.environ}
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if parallel > 1 and len(gpus) > 1:
        found["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return found
