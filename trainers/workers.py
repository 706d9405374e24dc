"""Which of several processes that train one model together this one is, as TF_CONFIG in the environment says.

The first worker is the chief: it alone writes down and publishes what all of them train. Knows no TensorFlow.
"""

import json
import os
from dataclasses import dataclass

from trainers.contract import TrainingError


@dataclass(frozen=True)
class Task:
    """This process: its number, from 0, and how many there are."""

    index: int = 0
    workers: int = 1

    @property
    def chief(self) -> bool:
        return self.index == 0


def task() -> Task:
    """A process that TF_CONFIG does not speak of is alone. Raises TrainingError."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return Task()
    try:
        config = json.loads(text)
        there = {kind: len(config["cluster"].get(kind, [])) for kind in ("chief", "worker")}
        kind, number = config["task"]["type"], int(config["task"]["index"])
        if not 0 <= number < there[kind]:
            raise ValueError(f"there is no {kind} {number}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"TF_CONFIG in the environment: not a cluster and a task of it: {error}") from None
    return Task(number + (there["chief"] if kind == "worker" else 0), sum(there.values()))
