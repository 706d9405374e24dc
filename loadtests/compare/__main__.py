"""The comparison's command: every server on the same model, machine and load; a table, a plot and a document.

    python -m loadtests.compare [--only triton,mosec,...] [--forms json,...] [--rounds 5] [--seconds 4] [--quick|--full]

Makes each peer's environment first where it is missing. Exit code 1 when a row is void or nothing could be measured.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from loadtests.command import Names, Screen, environment, positive, write_json
from loadtests.compare import environments, plot
from loadtests.compare.report import Row, document, table
from loadtests.compare.servers import FORMS, SERVERS, interpreter
from loadtests.compare.session import Session, Settings
from loadtests.processes import ProcessError

OUT = Path("runs/compare")
QUICK = Settings(rounds=1, seconds=1, warm_up_s=1, sweep_s=1)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtests.compare", description="This server beside others.")
    names = ", ".join(SERVERS)
    add = parser.add_argument
    add("--only", type=Names("server", SERVERS), default=list(SERVERS), metavar="NAME,...", help=f"{names} (all)")
    add("--forms", type=Names("form", FORMS), default=list(FORMS), metavar="FORM,...", help=f"{', '.join(FORMS)} (all)")
    add("--rounds", type=positive, default=Settings.rounds, help=f"rounds of all servers (default {Settings.rounds})")
    seconds_help = f"seconds a measurement (default {Settings.seconds})"
    add("--seconds", type=positive, default=Settings.seconds, metavar="S", help=seconds_help)
    add("--quick", action="store_true", help="one round of one second: a look, not a result")
    add("--full", action="store_true", help="every batch size in every round, not only the best of a first pass")
    add("--pin", action="store_true", help="servers on the first core, generators on the second")
    add("--out", type=Path, default=OUT, metavar="DIR", help=f"for compare.json and compare.png (default {OUT})")
    return parser


def settings_of(options: argparse.Namespace) -> Settings:
    amounts = QUICK if options.quick else Settings(options.rounds, options.seconds)
    return replace(amounts, full=options.full, pin=options.pin)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    settings = settings_of(options)
    screen = Screen()
    began = time.monotonic()
    with screen.status as status:
        try:
            versions = {}
            for name in options.only:
                status.update(f"{name}: its environment")
                versions[name] = environments.versions(interpreter(name))
            with tempfile.TemporaryDirectory(prefix="compare-", ignore_cleanup_errors=True) as directory:
                rows, sweep = Session(settings, Path(directory), status.update).run(options.only, options.forms)
        except ProcessError as error:
            screen.error(str(error))
            return 1
    took_s = time.monotonic() - began
    screen.table(table(rows))
    for row in rows:
        if row.failure is not None:
            screen.note(f"{row.server}, {row.form}, is void: {row.failure}")
    named = [f"{SERVERS[name].title} {version_of(name, versions[name])}" for name in options.only]
    screen.note(f"{', '.join(named)}. {took_s / 60:.1f} minutes.")
    options.out.mkdir(parents=True, exist_ok=True)
    about = {**environment(asdict(settings)), "generators": generators(), "took_s": round(took_s)}
    shown = {name: {"version": version_of(name, found), **found} for name, found in versions.items()}
    write_json(options.out / "compare.json", document(rows, sweep, about, shown))
    plot.draw(rows, caption(settings, rows), options.out / "compare.png")
    screen.note(f"Written: {options.out / 'compare.json'}, {options.out / 'compare.png'}")
    return 1 if not rows or any(row.failure is not None for row in rows) else 0


def caption(settings: Settings, rows: Sequence[Row]) -> str:
    rounds = max((len(row.samples) for row in rows), default=0)
    what = f"{settings.in_flight} requests in flight, one row each; batching on, at the best of 8, 16 and 32"
    return f"MLP 784-128-10, {what}; medians of {rounds} rounds, lines from lowest to highest; logarithmic axes"


def version_of(name: str, versions: Mapping[str, str]) -> str:
    return SERVERS[name].version or versions.get(SERVERS[name].package, "")


def generators() -> dict[str, str]:
    """The first line that each generator says of its version, where it is installed."""
    found = {}
    for name, argument in (("wrk", "-v"), ("h2load", "--version")):
        try:
            done = subprocess.run([name, argument], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        found[name] = (done.stdout or done.stderr).strip().splitlines()[0]
    return found


if __name__ == "__main__":
    sys.exit(main())
