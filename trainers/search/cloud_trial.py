"""One trial of a cloud's tuning service: `python -m trainers.search.cloud_trial NAME ... --learning_rate=0.1`.

The service names settings as options of their own, and reads the metric from a file of one JSON object a line, where
its own library would write it too. Nothing is published: the best settings are to be trained with again.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from trainers.arguments import add_data_options, add_job_options, options_of
from trainers.command import guarded
from trainers.models import TRAINERS
from trainers.training import Job, load, train

METRICS = "/tmp/hypertune/output.metrics"
_LINES = 100  # no more are read


def main(arguments: Sequence[str]) -> None:
    """Raises TrainingError, OSError."""
    parser = argparse.ArgumentParser("python -m trainers.search.cloud_trial", description=__doc__)
    parser.add_argument("name", choices=TRAINERS, metavar="NAME", help="the trainer")
    add_job_options(parser)
    add_data_options(parser, "/tmp/trainers/data")
    name = parser.parse_known_args(arguments)[0].name
    module = load(name)
    settings = [field.name for field in fields(module.Settings)]
    for setting in settings:
        parser.add_argument(f"--{setting}", dest=f"set_{setting}", metavar="VALUE")
    args = parser.parse_args(arguments)
    chosen = {setting: getattr(args, f"set_{setting}") for setting in settings}
    values = {setting: value for setting, value in chosen.items() if value is not None}
    metrics = Metrics(Path(os.environ.get("CLOUD_ML_HP_METRIC_FILE", METRICS)), module.GOAL.metric)
    job = Job(name, args.seed, args.quick, args.epochs, args.steps, values)
    with tempfile.TemporaryDirectory() as directory:
        trained, _ = train(job, options_of(args, job, Path(directory), report=metrics.report))
    metrics.report(metrics.step + 1, trained.metric[module.GOAL.metric])
    for metric, value in trained.metric.items():
        print(f"{metric} {value}")


class Metrics:
    """The file that the service reads."""

    def __init__(self, path: Path, metric: str) -> None:
        self._path = path
        self._metric = metric
        self._lines: deque[str] = deque(maxlen=_LINES)
        self.step = 0

    def report(self, step: int, value: float) -> None:
        self.step = step
        line = {
            "timestamp": time.time(),
            "trial": os.environ.get("CLOUD_ML_TRIAL_ID", "0"),
            self._metric: str(value),
            "global_step": str(step),
            "checkpoint_path": "",
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lines.append(json.dumps(line) + "\n")
        self._path.write_text("".join(self._lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
