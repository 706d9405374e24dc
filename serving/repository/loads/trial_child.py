"""One trial: what a forked child does with its job, and what it tells. Nothing here can harm the server.

The child is the leader of a process group, so that what it starts can be ended with it.
"""

import os
import resource
import signal
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from serving.backends import convert, optimized, registry, safety
from serving.core import processes
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.validate import Contract
from serving.repository.disk.layout import FoundVersion
from serving.repository.loads import execution, heap, loading
from serving.repository.loads.calibration import SINGLE, Execution
from serving.repository.loads.loading import Loaded
from serving.repository.loads.remembered import Remembered

_REASON = 10_000  # characters of one
_CONVERSION_SHARE = 0.8  # of the time: what takes longer is served without it, and that has to be loaded too


@dataclass(frozen=True)
class Job:
    """
    Attributes:
        limit_bytes: the memory that it may take; None: any.
        imported: the modules of backends that the server has imported.
        hurry: nobody is being served yet, so it need not give way to that.
        remembered: what earlier calibrations came to; None: nobody knows.
        graphs: where optimized graphs are kept; None: nowhere.
        unsafe_ops: whether a model may do more than compute.
    """

    model: str
    found: FoundVersion
    spec: ModelSpec
    scratch: Path
    limit_s: float
    limit_bytes: int | None
    imported: frozenset[str]
    hurry: bool = False
    remembered: Remembered | None = None
    graphs: Path | None = None
    unsafe_ops: bool = False


@dataclass(frozen=True)
class About:
    """What a version turned out to be."""

    platform: str
    notes: Mapping[str, str]
    contracts: Mapping[str, Contract]  # by signature


@dataclass(frozen=True)
class Report:
    """What a version took that came up well.

    Attributes:
        peak_bytes: the most memory meanwhile, with its runtime if the server has yet to import that.
        resident_bytes: the memory in the end, without a runtime.
        about: what it is, for those who only want to know.
        execution: what it is best served with; None: there was nothing to choose.
    """

    peak_bytes: int
    resident_bytes: int
    seconds: float
    about: About | None = None
    execution: Execution | None = None


@dataclass(frozen=True)
class SoFar:
    """The version has come up well. The rest is about its speed, and nothing that happens there is held against it."""

    report: Report


class OutOfMemoryError(LoadError):
    """The child took more memory than it may, or than there was. `needed_bytes`: it took as much; 0: nobody knows."""

    def __init__(self, message: str, *, needed_bytes: int = 0, retry: bool = True) -> None:
        super().__init__(message, retry=retry)
        self.needed_bytes = needed_bytes

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self),), {"needed_bytes": self.needed_bytes}


Outcome = Report | LoadError


def be_the_child(job: Job, news: Any, said: int, forker: int, imported: Mapping[str, int]) -> NoReturn:
    """Does the job in this process, and ends it.

    Args:
        news: is sent where in the course it is, as texts, and then the outcome.
        said: where standard error goes.
        forker: its parent.
        imported: the modules of backends that it was forked with, and the bytes that they take.
    """
    code = 1
    try:
        os.setpgid(0, 0)
        processes.end_with_parent(forker)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nothing = os.open(os.devnull, os.O_RDWR)
        for source, target in ((nothing, 0), (nothing, 1), (said, 2)):
            os.dup2(source, target)
        news.send(_try(job, news, imported))
        code = 0
    except BaseException:
        traceback.print_exc()  # its last line is told
    finally:
        os._exit(code)


def _try(job: Job, news: Any, imported: Mapping[str, int]) -> Outcome:
    convert.time_limit_s = min(convert.time_limit_s, _CONVERSION_SHARE * job.limit_s)
    optimized.directory, safety.allow_unsafe_ops = job.graphs, job.unsafe_ops
    try:
        module, _ = registry.module_for(job.found.path, job.spec)
        without_bytes, _ = memory()
        import_module(module)
        runtime_bytes = 0
        if module not in job.imported:  # the server has yet to import it, too
            runtime_bytes = imported.get(module) or max(0, memory()[0] - without_bytes)
        started, before_bytes = time.monotonic(), _start_measuring()
        news.send("while it loaded the model")
        with heap.returned_at_once():  # as in the server
            session = loading.load(job.model, job.found, job.spec, job.scratch)
        news.send("while it ran the model")
        loaded = loading.warm_up(job.model, job.found, job.spec, session, budget_s=0.0)
        seconds = time.monotonic() - started
        heap.trim()
        resident_bytes, peak_bytes = memory()
        about = About(session.platform, dict(session.notes), dict(loaded.contracts))
        peak_bytes = max(0, peak_bytes - before_bytes) + runtime_bytes
        report = Report(peak_bytes, max(0, resident_bytes - before_bytes), seconds, about)
    except LoadError as error:
        return LoadError(str(error)[:_REASON], retry=error.retry)
    except (MemoryError, OSError) as error:
        return LoadError(f"{type(error).__name__}: {error}"[:_REASON], retry=True)
    except Exception as error:  # whatever a runtime raises
        return LoadError(f"{type(error).__name__}: {error}"[:_REASON])
    return _calibrated(job, report, loaded, news)


def _calibrated(job: Job, report: Report, loaded: Loaded, news: Any) -> Report:
    """The report of a version that has come up, with what it is best served with."""
    if not execution.worth_choosing(job.spec, loaded):
        return report
    news.send(SoFar(replace(report, execution=Execution(SINGLE, "it could not be measured", sure=False))))
    load = partial(loading.load, job.model, job.found, scratch=job.scratch, verified=True)
    try:
        chosen = execution.chosen(job.found, job.spec, loaded, load, job.remembered)
    except Exception as error:  # whatever a runtime raises
        reason = f"it could not be measured: {type(error).__name__}: {error}"[:_REASON]
        return replace(report, execution=Execution(SINGLE, reason, sure=False))
    assert report.about is not None
    about = replace(report.about, notes={**report.about.notes, **chosen.note})
    return replace(report, execution=chosen, about=about)


def _start_measuring() -> int:
    """The memory that this process has; from here on its peak is measured."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return memory()[0]


def memory() -> tuple[int, int]:
    """Bytes that this process has in memory, and the most that it had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak, peak
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    resident = int(values["VmRSS"].split()[0]) * 1024
    return resident, max(resident, int(values.get("VmHWM", "0 kB").split()[0]) * 1024)
