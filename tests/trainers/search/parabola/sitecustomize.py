"""A trainer without TensorFlow, for processes that have this directory in PYTHONPATH: trials of a few milliseconds.

It climbs to `1 - (x - 0.3)^2` in as many steps as it is asked for. What else happens is up to `trouble`, and to files
in the directory that CONTROL names, so that a test decides when.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

CONTROL = Path(os.environ.get("CONTROL", "/nowhere"))


@dataclass(frozen=True)
class Settings:
    x: float = 0.0
    trouble: str = ""


class Run:
    """As much of `trainers.run.Run` as is needed: the options, and a checkpoint that is a number in a file."""

    def __init__(self, options, goal):
        self.options = options


def train(run, settings):
    from trainers.contract import DataError, Trained, TrainingError

    options, trouble = run.options, settings.trouble
    checkpoint = options.directory / "checkpoints" / "step"
    checkpoint.parent.mkdir(exist_ok=True)
    first = int(checkpoint.read_text()) if options.resume and checkpoint.exists() else 0
    with (options.directory / "starts.txt").open("a") as file:
        file.write(f"{first}\n")
    if trouble == "nan" and settings.x > 0.5:
        raise TrainingError("loss is nan at step 1: a smaller learning rate may help")
    if trouble == "bug":
        raise ValueError("of\nthe trainer")
    if trouble == "data" and not (CONTROL / "data").exists():
        raise DataError("data/mnist: not there")
    value = 1 - (settings.x - 0.3) ** 2
    for step in range(first, options.steps or 4):
        if step == 2 and (trouble == "killed" or (trouble == "killed once" and first == 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        while step == 2 and trouble == "waits" and not (CONTROL / f"go-{options.directory.name}").exists():
            time.sleep(0.01)
        options.report((step + 1) * 10, value * (step + 1) / (options.steps or 4))
        checkpoint.write_text(str(step + 1))
    return Trained(model=None, outputs=(), sample={}, metric={"height": value}, data="none")


class Finder:
    """Makes `trainers.run` and `trainers.models.parabola` this module's, when they are imported."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, Finder) if name in ("trainers.run", "trainers.models.parabola") else None

    @staticmethod
    def create_module(spec):
        return ModuleType(spec.name)

    @staticmethod
    def exec_module(module):
        from trainers.contract import Goal

        module.Run, module.Settings, module.train, module.GOAL = Run, Settings, train, Goal("height", "maximize")


sys.meta_path.insert(0, Finder)
