"""Chooses how many runs a model has under way at once (instances) and how many threads each uses, by measuring.

Belongs to the trial of a version, so it happens in a process of its own and never beside the requests of a server.
`decide` is pure; `calibrate` measures through the functions that it is given. Blocks for about `BUDGET_S`.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from serving.core.spec import ModelSpec

BUDGET_S = 0.3  # for measuring; each setting is measured once in any case
SERVER_S = 60e-6  # of CPU that the server itself takes for a request of one row, over REST in binary form

_GAIN = 1.15  # what another setting has to bring: less is noise, and the event loop needs a core, too
_LATENCY = 1.25  # times as long as one row may take with it
_LATENCY_S = 50e-6  # and what does not count as longer
_ALIKE = 0.9  # of the best throughput: as good
_WAITED = 0.15  # seconds that threads waited for a core, for each that they ran: others were at work
_BATCH_ROWS = 32  # of the batch that is measured, at most: with it, throughput has nearly reached its highest
_BATCH_S = 0.02  # and it takes no longer
_TRIES = 4  # runs of a model that may be quick
_SLOW_S = 0.1  # of a run that no quick model has
_SLICE_S = 0.004  # of one measurement, or one run


class Setting(NamedTuple):
    instances: int
    threads: int

    def __str__(self) -> str:
        return f"{self.instances} x {self.threads}"


SINGLE = Setting(1, 1)


@dataclass(frozen=True)
class Execution:
    """
    Attributes:
        reason: why it was chosen; empty: nobody chose.
        sure: False: it could not be measured well, so that another measurement may come to something else.
    """

    setting: Setting = SINGLE
    reason: str = ""
    sure: bool = True

    @property
    def note(self) -> dict[str, str]:
        """For operators, by a short name."""
        return {"parallel": f"{self.setting} (instances x threads): {self.reason}"} if self.reason else {}


@dataclass(frozen=True)
class Measured:
    """What came of one setting.

    Attributes:
        row_s: one run of one row, alone.
        batch_s: one run of a batch, with as many under way as there are instances.
        rows_per_s: what all instances did together; runs, for a model whose requests run one at a time.
        cpu_s: seconds of all cores for one row.
    """

    row_s: float
    batch_s: float
    rows_per_s: float
    cpu_s: float


def by_hand(spec: ModelSpec) -> Execution | None:
    """What its owner has set; else one instance for each device, and one thread. None: nothing is set."""
    if spec.instances is None and spec.threads is None and not spec.devices:
        return None
    return Execution(Setting(spec.instances or max(1, len(spec.devices)), spec.threads or 1))


def may_gain(spec: ModelSpec, platform: str) -> bool:
    """Whether there is something to choose. Only ONNX Runtime on the processor has threads for each model."""
    on_cpu = spec.providers == ("CPUExecutionProvider",)
    return by_hand(spec) is None and on_cpu and platform == "onnxruntime_onnx"


def candidates(cores: int) -> list[Setting]:
    """What is worth a look, the simplest first: one run on one core, on all, as many runs as cores, and what is
    between."""
    if cores == 1:
        return [SINGLE]
    found = [SINGLE, Setting(1, cores), Setting(cores, 1)]
    if cores >= 4:
        instances = 1 << (cores.bit_length() - 1) // 2
        found.append(Setting(instances, cores // instances))
    return found


def expected(measured: Measured, cores: int) -> float:
    """Rows per second of a server, if each comes in a request of its own: its event loop has one core and shares all
    cores with the model."""
    return min(measured.rows_per_s, cores / (measured.cpu_s + SERVER_S), 1 / SERVER_S)


def decide(measured: Mapping[Setting, Measured], cores: int) -> Execution:
    """The setting with the highest throughput, among those that one row does not take much longer with. One run on one
    core stays unless another one is clearly better; of several that are as good, the one whose batches are done first.

    Args:
        measured: `SINGLE`, and what else was measured.
    """
    single = measured[SINGLE]
    base = expected(single, cores)
    rates = {
        setting: expected(each, cores)
        for setting, each in measured.items()
        if each.row_s <= _LATENCY * single.row_s + _LATENCY_S
    }
    most = max(rates.values())
    if most < _GAIN * base:
        return Execution(SINGLE, "nothing else serves clearly more rows/s")
    best = min((setting for setting in rates if rates[setting] >= _ALIKE * most), key=lambda s: measured[s].batch_s)
    times, took = rates[best] / base, f"{1000 * measured[best].row_s:.2g} ms"
    before = f"{1000 * single.row_s:.2g} ms"
    instead = "" if took == before else f", not {before}"
    return Execution(best, f"{times:.1f} times the rows/s of {SINGLE}; one row alone takes {took}{instead}")


class Runs(Protocol):
    """A model that was loaded with so many threads."""

    def __call__(self, rows: int) -> object:
        """One run. Several threads may call at once."""


@dataclass
class _Samples:
    row_s: list[float] = field(default_factory=list)
    batch_s: list[float] = field(default_factory=list)
    rows_per_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def medians(self) -> Measured:
        return Measured(*map(statistics.median, (self.row_s, self.batch_s, self.rows_per_s, self.cpu_s)))


def calibrate(
    load: Callable[[int], Runs],
    most_rows: int,
    cores: int,
    *,
    ran_and_waited: Callable[[], tuple[float, float]],
    budget_s: float = BUDGET_S,
) -> Execution:
    """Measures and decides.

    Args:
        load: gives the model with so many threads; called once for each number.
        most_rows: of a run; 1: requests run one at a time.
        ran_and_waited: seconds that the threads of this process have run, and waited for a core.

    Raises:
        Exception: whatever the model raises.
    """
    settings = candidates(cores)
    if settings == [SINGLE]:
        return Execution(SINGLE, "there is one core")
    runs = {1: load(1)}
    rows = _batch_rows(runs[1], most_rows)
    if _is_quick(runs[1], rows):  # the event loop is busy before the model is
        return Execution(SINGLE, "a row is less work for the model than for the server")
    for setting in settings:
        if setting.threads not in runs:
            runs[setting.threads] = load(setting.threads)
            runs[setting.threads](rows)
    samples = {setting: _Samples() for setting in settings}
    with ThreadPoolExecutor(cores, thread_name_prefix="calibrate") as pool:
        list(pool.map(lambda _: time.sleep(0.001), range(cores)))  # all threads are there, to be counted
        ran_before, waited_before = ran_and_waited()
        deadline = time.perf_counter() + budget_s
        while True:  # in turn, so that what else happens on the machine concerns all
            for setting in settings:
                _measure(pool, setting, runs[setting.threads], rows, samples[setting])
            if time.perf_counter() >= deadline:
                break
        ran, waited = ran_and_waited()
    found = decide({setting: each.medians() for setting, each in samples.items()}, cores)
    if waited - waited_before > _WAITED * (ran - ran_before):
        return Execution(SINGLE, "the machine had too much else to do to find out more", sure=False)
    return found


def _batch_rows(run: Runs, most_rows: int) -> int:
    """The rows of the batch that is measured; the model has run before."""
    rows = 1
    while 2 * rows <= min(most_rows, _BATCH_ROWS) and _timed(partial(run, 2 * rows)) <= _BATCH_S:
        rows *= 2
    return rows


def _is_quick(run: Runs, rows: int) -> bool:
    """Whether a row is less work for the model than for the server. A run may be slow for other reasons; the best of a
    few tells."""
    for _ in range(_TRIES):
        took_s = _timed(partial(run, rows))
        if took_s <= SERVER_S * rows:
            return True
        if took_s > _SLOW_S:
            return False
    return False


def _measure(pool: ThreadPoolExecutor, setting: Setting, run: Runs, rows: int, samples: _Samples) -> None:
    samples.row_s.append(statistics.median(_repeated(run, 1)))
    cpu_before, before = time.process_time(), time.perf_counter()
    under_way = [pool.submit(lambda: list(_repeated(run, rows))) for _ in range(setting.instances)]
    runs = [each for one in under_way for each in one.result()]
    took_s, cpu_s = time.perf_counter() - before, time.process_time() - cpu_before
    samples.batch_s.append(statistics.median(runs))
    samples.rows_per_s.append(len(runs) * rows / took_s)
    samples.cpu_s.append(cpu_s / (len(runs) * rows))


def _repeated(run: Runs, rows: int) -> Iterator[float]:
    """Seconds of runs one after another, for the time of one measurement."""
    began = time.perf_counter()
    while True:
        yield _timed(partial(run, rows))
        if time.perf_counter() - began >= _SLICE_S:
            return


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
