"""`python -m loadtests.locust smoke`: locust in one of its shapes, headless, with its report, and a server if need be.

Without --host a server of our own is started, which serves the model of `loadtests.soak.law` with its golden sample.
All other options go to locust. Exit code 1: a request failed, or (smoke) a protocol was not asked.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.command import Screen
from loadtests.locust import options
from loadtests.locust.report import PAGE, SUMMARY
from loadtests.openloop.results import new_table
from loadtests.processes import ProcessError, log_tail
from loadtests.soak import law
from loadtests.soak.site import Site

OUT = Path("runs/load")
LOG = "locust.log"
LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"


@dataclass(frozen=True)
class Kind:
    """`per_user`: requests a second; 0: the next one when the one before it is answered."""

    what: str
    shape: str
    users: int
    run_time: str
    per_user: float = 0


KINDS = {
    "smoke": Kind("does everything answer? 10 seconds of every protocol", "steady", 12, "10s", 10),
    "steady": Kind("the same load all the time", "steady", 16, "60s"),
    "step": Kind("more users, step by step: where does latency turn up?", "step", 100, "150s", 20),
    "spike": Kind("ten times the users for a while: does it come back?", "spike", 100, "100s", 10),
    "soak": Kind("a bearable load for long", "soak", 24, "1h", 5),
}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loadtests.locust",
        description="; ".join(f"{name}: {kind.what}" for name, kind in KINDS.items()),
        epilog=f"other options are for locust: locust -f {LOCUSTFILE.name} --help",
    )
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("--host", metavar="URL", help="a server that runs already [default: one of our own]")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"for the report (default {OUT}/TIME)")
    server_help = "another argument of our own server; may be repeated"
    parser.add_argument("--server", action="append", default=[], metavar="ARG", help=server_help)
    return parser


def main() -> int:
    chosen, rest = arguments().parse_known_args()
    out = chosen.out or OUT / time.strftime("%Y%m%d-%H%M%S")
    out.mkdir(parents=True, exist_ok=True)
    screen, kind = Screen(), KINDS[chosen.kind]
    argv = command(kind, out)
    if chosen.host:
        code = _locust([*argv, "--host", chosen.host, *rest])
    else:
        with tempfile.TemporaryDirectory(prefix="serving-load-") as directory:
            try:
                with Site(Path(directory), chosen.server) as site:
                    site.start()
                    code = _locust([*argv, *of(site), *rest])
            except ProcessError as error:
                screen.error(f"error: {error}")
                return 1
    if not (out / SUMMARY).exists():
        screen.error(log_tail(out / LOG))
        return code or 1
    summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    show(screen, summary)
    screen.note(f"report: {out / PAGE}")
    asked = {entry["name"] for entry in summary["entries"] if entry["requests"]}
    missing = options.weights(summary["options"].get("mix", "")).keys() - asked
    if chosen.kind == "smoke" and missing:
        screen.error(f"FAILED: not asked: {', '.join(sorted(missing))}")
        return 1
    return code


def _locust(argv: Sequence[str]) -> int:
    """Its exit code. Its own tables are in its log: ours tell the same and more."""
    return subprocess.call(argv, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


def command(kind: Kind, out: Path) -> list[str]:
    argv = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(LOCUSTFILE),
        "--headless",
        "--only-summary",
        "--logfile",
        str(out / LOG),
    ]
    argv += ["--shape", kind.shape, "-u", str(kind.users), "-r", str(kind.users), "-t", kind.run_time]
    return [*argv, "--per-user", str(kind.per_user), "--report", str(out)]


def of(site: Site) -> Sequence[str]:
    golden = site.repository / law.NAME / "1" / "golden.npz"
    ask = ["--host", site.url, "--grpc-host", f"127.0.0.1:{site.grpc_port}", "--model", law.NAME]
    return [*ask, "--payload", str(golden), "--check", "golden"]


def show(screen: Screen, summary: dict[str, Any]) -> None:
    for key, title in (("entries", "Requests"), ("by_users", "By number of users")):
        if rows := summary[key]:
            table = new_table(title, [name.replace("_", " ") for name in rows[0]])
            for row in rows:
                table.add_row(*(_text(value) for value in row.values()))
            screen.table(table)
    for error in summary["errors"]:
        screen.error(f"{error['times']} x {error['name']}: {error['error']}")


def _text(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
