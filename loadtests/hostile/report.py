"""The table, the file and the plot of what attacks did. Pure, apart from the files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from loadtests.hostile.catalog import ATTACKS
from loadtests.hostile.judge import WANTED_RATIO, Result, Side

OURS, THEIRS, WRONG = "tab:blue", "tab:gray", "tab:red"


def table(results: Sequence[Result], complaints: Mapping[str, Sequence[str]]) -> Table:
    """One line an attack; of several rounds the one in the middle."""
    made = Table(title="Hostile clients")
    for heading in ("attack", "what it met"):
        made.add_column(heading, overflow="fold")
    for heading in ("p99 [ms]", "beside nothing", "ratio", "memory [MB]", "files"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("", overflow="fold")
    for result in results:
        ours, theirs = middle(result.serving), middle(result.nothing)
        memory = ours.memory
        made.add_row(
            result.attack,
            ", ".join(f"{outcome}: {n}" for outcome, n in sorted(ours.seen.items()) if n),
            f"{ours.before_p99_ms:.1f} > {ours.during_p99_ms:.1f}",
            f"{theirs.before_p99_ms:.1f} > {theirs.during_p99_ms:.1f}",
            f"{result.ratio:.2f}",
            f"{memory.before_mb:.0f} > {memory.peak_mb:.0f} > {memory.after_mb:.0f}",
            f"{memory.before_files} > {memory.peak_files} > {memory.after_files}",
            "; ".join(complaints[result.attack]) or "stood",
        )
    return made


def middle(sides: Sequence[Side]) -> Side:
    return sorted(sides, key=lambda side: side.rise_ms)[len(sides) // 2]


def document(
    results: Sequence[Result], complaints: Mapping[str, Sequence[str]], environment: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "environment": dict(environment),
        "wanted_ratio": WANTED_RATIO,
        "attacks": [
            {
                "what": ATTACKS[result.attack].what,
                **asdict(result),
                "ratio_of_rises": result.ratio,
                "complaints": list(complaints[result.attack]),
            }
            for result in results
        ],
    }


def plot(path: Path, results: Sequence[Result]) -> None:
    """The honest client's p99 from before to during each attack, for both processes; and our memory beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    height = 1.8 + 0.42 * len(results)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(12, height), sharey=True, layout="constrained", width_ratios=(2, 1)
    )
    try:
        for row, result in enumerate(results):
            for side, colour, shift in ((middle(result.serving), OURS, -0.14), (middle(result.nothing), THEIRS, 0.14)):
                y = row + shift
                left.plot([side.before_p99_ms, side.during_p99_ms], [y, y], color=colour, linewidth=2)
                left.plot(side.before_p99_ms, y, "o", color=colour, markerfacecolor="white")
                left.plot(side.during_p99_ms, y, "o", color=colour)
            memory = middle(result.serving).memory
            may = ATTACKS[result.attack].may_cost_mb
            right.barh(row, memory.peak_mb - memory.before_mb, color=OURS, height=0.5)
            right.plot([may, may], [row - 0.35, row + 0.35], color=WRONG)
        left.set_yticks(range(len(results)), [f"{r.attack}  ({r.ratio:.2f})" for r in results])
        left.set_ylim(len(results) - 0.4, -0.6)
        left.set_xscale("log")
        left.set(xlabel="p99 of an honest client [ms]", title="before the attack (hollow) and during it (full)")
        left.plot([], [], "o-", color=OURS, label="serving")
        left.plot([], [], "o-", color=THEIRS, label="a process that does nothing")
        right.set(xlabel="memory at its peak, over that before [MB]", title="what the server held")
        right.plot([], [], color=WRONG, label="what the attack may cost")
        for axes in (left, right):
            axes.grid(alpha=0.3, axis="x", which="both")
        figure.legend(loc="outside lower center", ncols=3)
        figure.suptitle("Hostile clients (in brackets: the ratio of rises)")
        figure.savefig(path, dpi=150)
    finally:
        pyplot.close(figure)
