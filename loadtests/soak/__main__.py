"""`python -m loadtests.soak --minutes 60`: see `loadtests.soak`. Exit code 1: a request was not answered, or memory or
descriptors grow."""

import argparse
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from loadtests.command import Screen, environment, positive, write_json
from loadtests.openloop.results import positive_float
from loadtests.processes import ProcessError
from loadtests.soak import report
from loadtests.soak.measure import Settings, run
from serving.client import ClientError

OUT = Path("runs/soak")


def arguments() -> argparse.ArgumentParser:
    description = "Mixed traffic over every protocol while versions are swapped: nothing may be lost, nothing may grow."
    parser = argparse.ArgumentParser(prog="loadtests.soak", description=description)
    parser.add_argument("--minutes", type=positive_float, default=60, metavar="M", help="how long (default 60)")
    per_s_help = "requests a second of each of the seven kinds, of large ones a tenth (default 10)"
    parser.add_argument("--per-s", type=positive_float, default=10, metavar="N", help=per_s_help)
    parser.add_argument("--clients", type=positive, default=2, metavar="N", help="of each kind (default 2)")
    swap_help = "seconds from one swap to the next (default 60)"
    parser.add_argument("--swap-every", type=positive_float, default=60, metavar="S", help=swap_help)
    sample_help = "seconds from one sample to the next (default 2)"
    parser.add_argument("--sample-every", type=positive_float, default=2, metavar="S", help=sample_help)
    quick_help = "a swap every 6 s and a sample every 0.25 s: a look, not a result"
    parser.add_argument("--quick", action="store_true", help=quick_help)
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"for JSON and picture (default {OUT}/TIME)")
    server_help = "another argument of the server; may be repeated"
    parser.add_argument("--server", action="append", default=[], metavar="ARG", help=server_help)
    return parser


def main() -> int:
    options = arguments().parse_args()
    swap_every_s, sample_every_s = (6.0, 0.25) if options.quick else (options.swap_every, options.sample_every)
    settings = Settings(
        seconds=60 * options.minutes,
        swap_every_s=swap_every_s,
        sample_every_s=sample_every_s,
        pss_every=15,
        per_s=options.per_s,
        clients=options.clients,
        warm_up=0.2,
    )
    out = options.out or OUT / time.strftime("%Y%m%d-%H%M%S")
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="serving-soak-") as directory, screen.status as status:
        try:
            found = run(settings, Path(directory), status.update, options.server)
        except (ProcessError, ClientError, OSError) as error:
            screen.error(f"error: {error}")
            return 1
    verdict = report.judge(found, settings)
    screen.table(report.requests_table(found))
    screen.table(report.server_table(found, settings))
    for sentence in report.trends(verdict):
        screen.note(sentence)
    out.mkdir(parents=True, exist_ok=True)
    document = {"environment": environment(asdict(settings)), **report.document(found, settings, verdict)}
    write_json(out / "soak.json", document)
    try:
        report.plot(out / "soak.png", found, settings, verdict)
    except ImportError:
        screen.error("no picture: matplotlib is not installed (it is in the extra 'bench')")
    screen.note(f"{out}: soak.json, soak.png")
    for failure in verdict.failures:
        screen.error(f"FAILED: {failure}")
    if not verdict.failures:
        screen.note(f"all {len(found.records)} requests were answered rightly")
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main())
