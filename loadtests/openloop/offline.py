"""What the model alone can do: one batch after another, no server. A process of its own, on the server's core.

    python -m loadtests.openloop.offline '{"model": "model.onnx", "batches": [1, 64], ...}'

Prints one line of JSON: by session and batch size, the seconds that a run took (median). The session `served` is loaded
as the server loads it (its backend, its huge pages), `plain` ones with ONNX Runtime's defaults and so many threads.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from loadtests.openloop import models
from loadtests.processes import ProcessError, pinned
from serving.backends import registry
from serving.core.spec import ModelSpec
from serving.repository.loads import huge_pages

SERVED = "served"
BATCHES = (1, 8, 16, 32, 64, 128, 256)
THREADS = (1, 2)

Run = Callable[[npt.NDArray[np.float32]], object]


@dataclass(frozen=True)
class Offline:
    """Seconds of a run, by session and batch size; a sample for each time that it was measured."""

    seconds: Mapping[str, Mapping[int, Sequence[float]]]

    def rows_per_s(self, session: str) -> float:
        """At its best fixed batch."""
        return max(batch / median(found) for batch, found in self.seconds[session].items())

    def best_batch(self, session: str) -> int:
        found = self.seconds[session]
        return max(found, key=lambda batch: batch / median(found[batch]))

    def best(self) -> float:
        """Rows a second of the session that has most."""
        return max(map(self.rows_per_s, self.seconds))

    def run_s(self, session: str, batch: int) -> float:
        return median(self.seconds[session][batch])

    def __add__(self, other: "Offline") -> "Offline":
        """Both measurements, as samples of one."""
        found: dict[str, dict[int, list[float]]] = {}
        for part in (self, other):
            for session, runs in part.seconds.items():
                for batch, samples in runs.items():
                    found.setdefault(session, {}).setdefault(batch, []).extend(samples)
        return Offline(found)


def plain(threads: int) -> str:
    return f"plain, {threads} thread{'s' if threads > 1 else ''}"


def measure(
    model: Path,
    core: int | None,
    batches: Sequence[int] = BATCHES,
    sessions: Sequence[str] = (SERVED, *map(plain, THREADS)),
    seconds: float = 0.5,
) -> Offline:
    """On `core`, for so many seconds each. ProcessError when the process fails."""
    task = {"model": str(model), "batches": list(batches), "sessions": list(sessions), "seconds": seconds}
    argv = [sys.executable, "-m", "loadtests.openloop.offline", json.dumps(task)]
    with pinned(core):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProcessError(f"the model alone failed\n{done.stderr.strip()[-2000:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return Offline({name: {int(batch): [run_s] for batch, run_s in runs.items()} for name, runs in found.items()})


def load(model: Path, session: str) -> Run:
    """One of the sessions, by its name."""
    if session == SERVED:
        with huge_pages.for_what_comes():
            served = registry.load(model, ModelSpec(threads=1, instances=1))
        outputs = [models.OUTPUT]
        return lambda rows: served.run({models.INPUT: rows}, outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = next(threads for threads in THREADS if plain(threads) == session)
    bare = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda rows: bare.run(None, {models.INPUT: rows})


def timed(run: Run, rows: npt.NDArray[np.float32], seconds: float, least: int = 3) -> float:
    """The median of its runs after the first."""
    run(rows)
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        begun = time.perf_counter()
        run(rows)
        found.append(time.perf_counter() - begun)
    return median(found)


def main(task: dict[str, Any]) -> dict[str, dict[int, float]]:
    model = Path(task["model"])
    features = onnxruntime.InferenceSession(str(model)).get_inputs()[0].shape[1]
    rows = {batch: models.random_rows(batch, features) for batch in task["batches"]}
    found: dict[str, dict[int, float]] = {name: {} for name in task["sessions"]}
    for name in task["sessions"]:
        run = load(model, name)
        for batch in task["batches"]:
            found[name][batch] = timed(run, rows[batch], task["seconds"])
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
