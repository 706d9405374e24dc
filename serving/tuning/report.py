"""What a search found, for programs (JSON), for people (Markdown), and as plots where matplotlib is installed."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving import __version__
from serving.tuning.search import Found
from serving.tuning.setting import Outcome, Setting, Trial

_PLOTTED = 6  # settings in one plot
_COLUMNS = (
    "instances",
    "threads",
    "max_batch_size",
    "max_queue_delay_ms",
    "capacity/s",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "rows a run",
)
_NOTE = (
    "Measured inside one process: queue, batching and model, without network and protocol. Those add latency of their "
    "own, and take processor time from the model, so leave some room below the rates."
)


@dataclass(frozen=True)
class Task:
    """What was asked for, and where it was measured.

    `rate`: requests per second that were given; None: the highest. `others`: the share of the processors that others
    used meanwhile; None: not known.
    """

    model: str
    version: int
    p99_ms: float
    rate: float | None
    rows: int
    seconds: float
    processors: int
    processor: str
    others: float | None = None


def as_json(task: Task, found: Found) -> dict[str, Any]:
    value = {
        "serving": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": asdict(task),
        "complete": found.complete,
        "start": _outcome(found.start),
        "best": _outcome(found.best),
        "tried": [_outcome(outcome) for outcome in found.tried],
    }
    return _finite(value)  # type: ignore[no-any-return]


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {**asdict(outcome), "setting": outcome.setting.values}


def _finite(value: Any) -> Any:
    """JSON has no infinity: what never came is null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def in_words(outcome: Outcome, p99_ms: float) -> str:
    """`1,200 requests/s with a p99 of 4.2 ms`, or why there is no such thing."""
    if outcome.best is not None:
        return f"{rate(outcome.best)} requests/s with a p99 of {_ms(outcome.best.p99_ms)}"
    if outcome.lost:
        return "is not better"
    if not outcome.trials:
        return "was not measured"
    last = outcome.trials[-1]  # the lowest rate, or the longest trial
    came = f"a p99 of {_ms(last.p99_ms)}" if math.isfinite(last.p99_ms) else "far more"
    return f"does not hold {p99_ms:g} ms: {came} at {rate(last)} requests/s"


def rate(trial: Trial) -> str:
    return f"{trial.rate:,.0f}" if trial.rate >= 10 else f"{trial.rate:.2g}"


def _ms(value: float) -> str:
    return f"{value:.3g} ms"


def as_markdown(task: Task, found: Found, plots: Sequence[str]) -> str:
    what = "highest rate" if task.rate is None else f"least latency at {task.rate:g} requests/s"
    lines = [
        f"# {task.model}/{task.version}: {what} with a p99 of at most {task.p99_ms:g} ms",
        "",
        f"- before: {found.start.setting}: {in_words(found.start, task.p99_ms)}",
        f"- best: {found.best.setting}: {in_words(found.best, task.p99_ms)}",
        f"- requests of {task.rows} row{'' if task.rows == 1 else 's'}, at random times (Poisson); latencies count "
        "from when a request was meant to be sent",
        f"- {task.processors} processors{f' ({task.processor})' if task.processor else ''}"
        + ("" if task.others is None else f", of which others used {100 * task.others:.0f} % meanwhile"),
        f"- {len(found.tried)} settings in {task.seconds:.0f} s"
        + ("" if found.complete else "; there was no time for more"),
        "",
        _NOTE,
        "",
    ]
    lines += [f"![{name}]({name})" for name in plots] + ([""] if plots else [])
    lines += [
        f"| {' | '.join(_COLUMNS)} |",
        "|--:" * len(_COLUMNS) + "|",
        *(_row(outcome) for outcome in found.tried),
        "",
        "`capacity/s`: requests per second with as many in flight as fill the batches twice, whatever their latency. "
        "`requests/s`: the highest rate that held the bound; empty where none did, or where another setting was "
        "known to be better before all of it was measured. `p99`: the median of those of three equal parts of a trial.",
        "",
    ]
    return "\n".join(lines)


def _row(outcome: Outcome) -> str:
    setting, best = outcome.setting, outcome.best
    cells = [
        str(setting.instances),
        str(setting.threads),
        str(setting.max_batch_size or ""),
        f"{setting.max_queue_delay_ms:g}" if setting.max_batch_size else "",
        f"{outcome.capacity:,.0f}" if outcome.capacity else "",
    ]
    cells += [rate(best), f"{best.p50_ms:.3g}", f"{best.p99_ms:.3g}", f"{best.rows_per_run:.3g}"] if best else [""] * 4
    return f"| {' | '.join(cells)} |"


def write(directory: Path, task: Task, found: Found) -> list[Path]:
    """Raises: OSError: the directory cannot be written."""
    directory.mkdir(parents=True, exist_ok=True)
    plots = _plots(directory, task, found)
    made = {"report.json": json.dumps(as_json(task, found), indent=2) + "\n"}
    made["report.md"] = as_markdown(task, found, [path.name for path in plots])
    for name, text in made.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [*(directory / name for name in made), *plots]


def _plots(directory: Path, task: Task, found: Found) -> list[Path]:
    """None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import ScalarFormatter
    except ImportError:
        return []
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for outcome in _shown(found):
        points = sorted((t.rate, t.p99_ms) for t in outcome.trials if math.isfinite(t.p99_ms))
        style = {"marker": "o", "linewidth": 2.2 if outcome.setting == found.best.setting else 1.0}
        left.plot([x for x, _ in points], [y for _, y in points], label=_label(outcome.setting, found), **style)
    left.axhline(task.p99_ms, color="0.4", linestyle="--", linewidth=1)
    left.annotate("bound", (1, task.p99_ms), (-4, 3), ("axes fraction", "data"), "offset points", ha="right")
    left.set(xlabel="requests/s", ylabel="p99 latency, ms", yscale="log")
    left.set_title("latency against rate, a point for each trial", fontsize=10)
    left.yaxis.set_major_formatter(ScalarFormatter())
    left.yaxis.set_minor_formatter(ScalarFormatter())
    left.tick_params(axis="y", which="both", labelsize=7)
    left.legend(fontsize=7)
    names = [_label(outcome.setting, found) for outcome in found.tried]
    right.barh(names, [outcome.capacity for outcome in found.tried], color="0.85", label="capacity")
    held = [outcome.best.rate if outcome.best else 0.0 for outcome in found.tried]
    right.barh(names, held, height=0.5, label=f"within {task.p99_ms:g} ms")
    right.invert_yaxis()
    right.tick_params(axis="y", labelsize=7)
    right.set(xlabel="requests/s (no bar: known to be no better, or beyond the bound)")
    right.set_title(f"{task.model}/{task.version}: settings in the order in which they were tried", fontsize=10)
    right.legend(fontsize=7)
    path = directory / "report.png"
    figure.savefig(path, dpi=120)
    return [path]


def _label(setting: Setting, found: Found) -> str:
    return f"{setting}{' (best)' if setting == found.best.setting else ''}"


def _shown(found: Found) -> list[Outcome]:
    """With all of their trials, those that were repeated in the end too; those that matter most."""
    again: dict[Setting, Outcome] = {each.setting: each for each in (found.start, found.best)}
    outcomes = [again.get(each.setting, each) for each in found.tried if each.trials]
    return sorted(outcomes, key=lambda each: (each.setting not in again, -each.capacity))[:_PLOTTED]
