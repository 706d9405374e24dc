"""What the commands share: their options, and files below `runs/` with everything that was seen.

A command is a module with `NAME`, `HELP`, `add(parser)` and `run(options, place, screen)`, which shows its tables,
draws its plots, and returns its document and whether all in it is as wanted.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from loadtests.command import Screen, environment, write_json
from loadtests.openloop.outcomes import Summary, plain

OUT = Path("runs/openloop")
COLUMNS = ("req/s", "answered/s", "p50 ms", "p99 ms", "p99.9 ms", "refused", "failed", "lag p99", "generator")


def positive_float(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


def add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"for JSON and plots (default {OUT})")
    parser.add_argument(
        "--no-pin", dest="pin", action="store_false", help="leave it to the system which core runs what"
    )
    parser.add_argument("--quick", action="store_true", help="as little of everything as will do: a look, not a result")
    parser.add_argument(
        "--server", action="append", default=[], metavar="ARG", help="another argument of this server; may be repeated"
    )


def write(out: Path, name: str, document: Mapping[str, Any], settings: Mapping[str, Any]) -> Path:
    """`name`.json, with versions, machine, settings and the command that was given."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    command = shlex.join(["python", "-m", "loadtests.openloop", *sys.argv[1:]])
    write_json(path, plain({"command": command, "environment": environment(settings), **document}))
    return path


def new_table(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """The first columns are text, the others numbers."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return table


def cells(run: Summary) -> tuple[str, ...]:
    """A run, in COLUMNS."""
    latency = run.latency
    return (
        f"{run.offered_per_s:.0f}",
        f"{run.answered_per_s:.0f}",
        *(number(ms) for ms in (latency.p50_ms, latency.p99_ms, latency.p999_ms)),
        str(run.refused),
        str(run.failed + run.unanswered),
        f"{run.lag.p99_ms:.2f}",
        f"{run.generator.cpu_share:.0%}",
    )


def tell_trouble(screen: Screen, name: str, run: Summary) -> None:
    """What makes a run doubtful."""
    for what in (run.failure, run.warning):
        if what is not None:
            screen.note(f"{name}, {run.offered_per_s:.0f} requests a second: {what}")


def number(value: float, digits: int = 2) -> str:
    """Nothing for NaN."""
    return "" if value != value else f"{value:.{digits}f}"
