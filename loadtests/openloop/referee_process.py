"""One run of MLPerf's LoadGen against a server: a process of its own.

    python -m loadtests.openloop.referee_process TASK.json

LoadGen hands over samples on a thread of its own, when they are due; another one owns the connections, and tells
LoadGen of each answer. A sample is a row; a request holds `rows_a_request` of them. Exit code 1 when a request fails.
"""

import json
import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlperf_loadgen as loadgen  # type: ignore[import-not-found, unused-ignore]

from loadtests.openloop.outcomes import Verdict
from loadtests.openloop.pool import Pool
from loadtests.openloop.sender import keep_time, wires

SAMPLES = 1024
TURN_S = 1.0
SWITCH_S = 1e-4  # how long LoadGen's thread waits at most for the interpreter


class System:
    """The system under test, as LoadGen sees it: `issue` on its thread; `run` is another thread's."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._rows = task["rows_a_request"]
        self._requests: deque[Sequence[int]] = deque()  # not sent yet: LoadGen's numbers of their samples
        self._sent: dict[int, Sequence[int]] = {}
        self._number = 0
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._over = False
        self._pool = Pool(task["port"], wires(task), task["most"], lambda _: None, self._ended)
        self._pool.watch(self._bell)
        self._pool.open(task["warm"])
        self.failure: str | None = None

    def issue(self, samples: Sequence[Any]) -> None:
        numbers = [sample.id for sample in samples]
        self._requests.extend(numbers[at : at + self._rows] for at in range(0, len(numbers), self._rows))
        os.eventfd_write(self._bell, 1)

    def run(self) -> None:
        """Until `stop`."""
        while not self._over:
            while self._requests:
                samples = self._requests.popleft()
                self._sent[self._number] = samples
                self._pool.send(self._number, 0)
                self._number += 1
            self._pool.turn(TURN_S)
            try:
                os.eventfd_read(self._bell)
            except BlockingIOError:
                continue
        self._pool.close()

    def stop(self) -> None:
        self._over = True
        os.eventfd_write(self._bell, 1)

    def _ended(self, number: int, verdict: Verdict, failure: str) -> None:
        if verdict is not Verdict.ANSWERED and self.failure is None:
            self.failure = failure or verdict.name.lower()
        # Failed or not, LoadGen waits for it; the run is void then.
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample, 0, 0) for sample in self._sent.pop(number)])


def settings(task: dict[str, Any]) -> Any:
    """LoadGen's defaults, but for what the task says."""
    found = loadgen.TestSettings()
    found.scenario = getattr(loadgen.TestScenario, task["scenario"])
    found.mode = loadgen.TestMode.PerformanceOnly
    found.min_duration_ms = round(1e3 * task["seconds"])
    if task["scenario"] == "Server":
        found.server_target_qps = task["rate"]
        found.server_target_latency_ns = round(1e6 * task["p99_ms"])
        found.server_target_latency_percentile = 0.99
    else:
        found.offline_expected_qps = task["rate"]
    return found


def logs(directory: str) -> Any:
    found = loadgen.LogSettings()
    found.enable_trace = False
    found.log_output = loadgen.LogOutputSettings()
    found.log_output.outdir = directory
    found.log_output.copy_summary_to_stdout = False
    return found


def main(task: dict[str, Any]) -> str | None:
    """What was wrong with the first request that failed."""
    sys.setswitchinterval(SWITCH_S)
    system = System(task)
    thread = threading.Thread(target=system.run)
    thread.start()
    sut = loadgen.ConstructSUT(system.issue, lambda: None)
    library = loadgen.ConstructQSL(SAMPLES, SAMPLES, lambda _: None, lambda _: None)
    try:
        loadgen.StartTestWithLogSettings(sut, library, settings(task), logs(task["files"]))
    finally:
        system.stop()
        thread.join()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
    return system.failure


if __name__ == "__main__":
    what = json.loads(Path(sys.argv[1]).read_text())
    keep_time()
    failure = main(what)
    if failure is not None:
        sys.exit(f"a request failed: {failure}")
