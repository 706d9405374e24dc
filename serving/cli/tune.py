"""`serving tune`: finds the settings with which a model serves a latency bound best, and writes them to its file."""

import os
import time
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from serving.cli.describe import fail
from serving.core.errors import LoadError
from serving.core.spec import SPEC_FILE, SpecError
from serving.repository.loads import cores
from serving.repository.loads.calibration import SERVER_S, candidates
from serving.tuning import edit, report
from serving.tuning.bench import Bench
from serving.tuning.goal import Goal, HighestRate, LowestLatency
from serving.tuning.offered import OfferedError
from serving.tuning.others import Others
from serving.tuning.search import Found, axes, search
from serving.tuning.setting import Outcome, Setting, Trial
from serving.tuning.source import SourceError, Subject, find

_MOST_ROWS = 1024  # of a batch that is tried
_DISTURBED = 0.1  # of the processors
_INTERRUPTED = 130  # what shells expect after Ctrl-C
_LIMITED = 0.9  # of the rate that a server takes
_REPORTS = Path("runs") / "tune"


def run(
    path: Path,
    number: int | None,
    p99_ms: float,
    rate: float | None,
    rows: int,
    seconds: float,
    dry_run: bool,
    directory: Path | None,
) -> int:
    """Exit code 1: no setting holds the bound, or it could not be measured; nothing is written then but the report."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    out = Console(soft_wrap=True, highlight=False, markup=False)
    processors = cores.usable()
    try:
        subject = find(path, number)
        spec = subject.spec
        out.print(Text.assemble((f"{subject.name}/{subject.version.number}", "bold"), f": {_asked(p99_ms, rate)}"))
        with Bench(subject, spec.threads or 1, rows, p99_ms / 1000) as bench:
            most = min(_MOST_ROWS, spec.max_queue_rows, *spec.allowed_batch_sizes[-1:])
            batch = bench.contract.max_batch_size
            start = Setting(spec.instances or 1, spec.threads or 1, batch, spec.max_queue_delay_ms if batch else 0.0)
            if not batch:
                out.print(f"requests run one at a time ({bench.contract.unbatched_because})")
            splits = [(each.instances, each.threads) for each in candidates(processors)]
            goal: Goal = HighestRate(p99_ms, 1 / SERVER_S) if rate is None else LowestLatency(p99_ms, rate)
            others = Others()
            view = _View(out, bench, seconds, p99_ms)
            with view.shown:
                found = search(
                    view, goal, start, axes(splits, p99_ms, most, rows), seconds, time.monotonic, view.measured
                )
        task = report.Task(
            subject.name, subject.version.number, p99_ms, rate, rows, seconds, processors, cores.model(), others.share()
        )
        place = directory or _REPORTS / f"{subject.name}-{datetime.now():%Y%m%d-%H%M%S}"
        written = report.write(place, task, found)
        if task.others is not None and task.others > _DISTURBED:
            out.print(
                f"others kept {100 * task.others:.0f} % of the processors busy meanwhile, so neither figures nor "
                "choice are to be trusted: measure again on an idle machine"
            )
        code = _conclude(out, subject, found, p99_ms, rate, dry_run)
        out.print(f"report: {', '.join(str(file) for file in written)}")
        return code
    except (SourceError, LoadError, OfferedError, SpecError) as error:
        return fail(" ".join(str(error).split()))
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        fail("interrupted; nothing was written")
        return _INTERRUPTED


def _asked(p99_ms: float, rate: float | None) -> str:
    if rate is None:
        return f"the highest rate with a p99 of at most {p99_ms:g} ms"
    return f"the least p99 at {rate:g} requests/s, of at most {p99_ms:g} ms"


class _View:
    """A line for each setting, and in a terminal a bar of the time below them. That is drawn between measurements: a
    thread that drew it meanwhile would be measured, too."""

    def __init__(self, out: Console, bench: Bench, seconds: float, p99_ms: float) -> None:
        self._out = out
        self._bench = bench
        self._p99_ms = p99_ms
        self._began = time.monotonic()
        columns = (BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} s  {task.description}"))
        self._bar = Progress(*columns, console=out, transient=True, auto_refresh=False)
        self._task = self._bar.add_task("", total=seconds)
        self._measured: set[Setting] = set()
        self.shown = self._bar if out.is_terminal else nullcontext()

    def capacity(self, setting: Setting, seconds: float) -> float:
        self._go_on(setting)
        return self._bench.capacity(setting, seconds)

    def trial(self, setting: Setting, rate: float, seconds: float) -> Trial:
        self._go_on(setting)
        return self._bench.trial(setting, rate, seconds)

    def _go_on(self, setting: Setting) -> None:
        if self._out.is_terminal:
            spent_s = time.monotonic() - self._began
            self._bar.update(self._task, completed=spent_s, description=str(setting), refresh=True)

    def measured(self, outcome: Outcome) -> None:
        again = "again: " if outcome.setting in self._measured else ""
        self._measured.add(outcome.setting)
        text = f"  {again}{outcome.setting}: {report.in_words(outcome, self._p99_ms)}"
        self._out.print(Text(text, "dim" if outcome.best is None else ""))


def _conclude(out: Console, subject: Subject, found: Found, p99_ms: float, rate: float | None, dry_run: bool) -> int:
    if not found.complete:
        out.print("the time was over before everything was tried; --seconds gives more")
    if found.best.best is None:
        came = report.in_words(found.start, p99_ms)
        return fail(f"nothing that was tried holds the bound; {found.start.setting} {came}")
    out.print(Text.assemble(("best ", "bold green"), f"{found.best.setting}: {report.in_words(found.best, p99_ms)}"))
    if rate is None and found.best.best.rate > _LIMITED / SERVER_S:
        out.print(
            f"the server's own work, about {1e6 * SERVER_S:.0f} µs of a processor for a request, is the limit: not "
            f"more than {1 / SERVER_S:,.0f} requests/s were tried"
        )
    if found.best.setting == found.start.setting:
        out.print("nothing that was tried is clearly better than what is set")
        return 0
    out.print(f"before, {found.start.setting}: {report.in_words(found.start, p99_ms)}")
    if subject.file is None:
        out.print(f"no {SPEC_FILE} was written: {subject.because}. It would hold:")
        for key, value in found.best.setting.values.items():
            out.print(f"  {key}: {value}")
        return 0
    before = subject.file.read_text(encoding="utf-8") if subject.file.is_file() else ""
    after = edit.changed(before, found.best.setting.values, str(subject.file))
    for line in edit.diff(before, after, str(subject.file)):
        out.print(Text(line, "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"))
    if dry_run:
        out.print(f"--dry-run: {subject.file} is as it was")
    else:
        edit.write(subject.file, after)
        out.print(f"written to {subject.file}; a server that watches it loads the model again")
    return 0
