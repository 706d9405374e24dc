"""`python -m loadtests.chaos`: see `loadtests.chaos`. Exit code 1: a client saw what it should not have seen."""

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from loadtests.chaos import judge
from loadtests.chaos.scenario import Found, Settings, run
from loadtests.command import Screen, environment, positive, write_json
from loadtests.openloop.results import new_table, positive_float
from loadtests.processes import ProcessError
from loadtests.soak.outcomes import Outcome
from loadtests.soak.report import cells
from serving.client import ClientError

OUT = Path("runs/chaos")


def arguments() -> argparse.ArgumentParser:
    description = "Swaps, canaries, killed helpers, a killed server, a restart, a stop: every request is accounted for."
    parser = argparse.ArgumentParser(prog="loadtests.chaos", description=description)
    per_s_help = "requests a second of each of the seven kinds, of large ones a tenth (default 20)"
    parser.add_argument("--per-s", type=positive_float, default=20, metavar="N", help=per_s_help)
    parser.add_argument("--clients", type=positive, default=4, metavar="N", help="of each kind (default 4)")
    pause_help = "seconds that a phase goes on after what it does (default 5)"
    parser.add_argument("--pause", type=positive_float, default=5, metavar="S", help=pause_help)
    parser.add_argument("--quick", action="store_true", help="as short as will do: half a minute")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"for the JSON (default {OUT}/TIME)")
    server_help = "another argument of the server; may be repeated"
    parser.add_argument("--server", action="append", default=[], metavar="ARG", help=server_help)
    return parser


def main() -> int:
    options = arguments().parse_args()
    if options.quick:
        settings = Settings(pause_s=1, per_s=10, clients=2, swaps=2, helper_kills=3)
    else:
        settings = Settings(options.pause, options.per_s, options.clients, swaps=5, helper_kills=10)
    out = options.out or OUT / time.strftime("%Y%m%d-%H%M%S")
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="serving-chaos-") as directory, screen.status as status:
        try:
            found = run(settings, Path(directory), status.update, options.server)
        except (ProcessError, ClientError, OSError) as error:
            screen.error(f"error: {error}")
            return 1
    problems = judge.problems(found)
    screen.table(table(found))
    tallies = judge.tallies(found)
    for phase in found.phases:
        statuses = [f"{status} x {count}" for status, count in tallies[phase.name].statuses.most_common()]
        if notes := phase.notes + statuses:
            screen.note(f"{phase.name}: {', '.join(notes)}")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "chaos.json", {"environment": environment(asdict(settings)), **document(found, problems)})
    screen.note(f"{out}: chaos.json")
    for problem in problems:
        screen.error(f"FAILED: {problem}")
    if not problems:
        screen.note(
            "every request was answered, or its client was told that it may ask again, and only where it must be"
        )
    return 1 if problems else 0


def table(found: Found) -> Table:
    columns = ("phase", "sent", *(outcome.value for outcome in Outcome), "p50 ms", "p99 ms")
    shown = new_table("Requests by the phase in which they were sent", columns)
    for name, tally in judge.tallies(found).items():
        shown.add_row(*cells(name, tally))
    return shown


def document(found: Found, problems: list[str]) -> dict[str, Any]:
    return {
        "problems": problems,
        "phases": [asdict(phase) for phase in found.phases],
        "requests": {name: tally.plain() for name, tally in judge.tallies(found).items()},
    }


if __name__ == "__main__":
    sys.exit(main())
