"""The command for swaps: how the latency of a small model suffers while a large one loads, swaps and unloads.

    python -m loadtests.swap [--cycles 20] [--rest 2] [--quick] [--only onnx,accelerated,tensorflow] [--json FILE]

For each kind of the large model (heavy.py, 102 MB of weights) a server on free loopback ports serves the small one
(mlp.py), which gets 200 requests a second on one connection from a process of its own, all the time. Meanwhile the
cycles go on: nothing for two seconds (rest); the large model is loaded; its next version takes over from it (swap); it
is unloaded. Rest and steps take turns, so what else the machine does falls on both.

A request's latency runs from when it was due, not from when it was sent: one that has to wait for the answer to the one
before counts the wait, so a pause of the server shows in every request that fell into it. Each counts to the phase in
which it was due. The figure to look at is the 99th percentile of all that were due in a step (`steps`) over that at
rest; at most 1.5 is wanted where ONNX Runtime runs the large model. The steps of a first cycle, in which the server may
have to load a runtime too, are in none of the other lines but in one of their own (`first`).

A kind is void, and the exit code 1, when a small request fails, when the large model is not served in the runtime that
its kind names, or when its answer is not the right one, which is looked at after each load and swap.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from loadtests.command import Names, Screen, environment, positive, write_json
from loadtests.kinds import PLATFORMS
from loadtests.processes import log_tail
from loadtests.swap_measure import Settings, measure
from loadtests.swap_report import document, table

ORDER = ("onnx", "accelerated", "tensorflow")


def arguments() -> argparse.ArgumentParser:
    description = "The latency of a small model while a large one loads, swaps and unloads."
    parser = argparse.ArgumentParser(prog="loadtests.swap", description=description)
    parser.add_argument("--cycles", type=positive, default=20, help="loads, swaps and unloads (default 20)")
    parser.add_argument("--rest", type=positive, default=2, metavar="S", help="seconds between them (default 2)")
    parser.add_argument("--quick", action="store_true", help="two cycles: a look, not a result")
    parser.add_argument(
        "--only", type=Names("kind", PLATFORMS), default=list(ORDER), metavar="KIND,...", help=", ".join(ORDER)
    )
    parser.add_argument(
        "--per-s", type=positive, default=200, metavar="N", help="small requests a second (default 200)"
    )
    parser.add_argument("--pin", action="store_true", help="servers on the first core, the requests on the second")
    parser.add_argument(
        "--server", action="append", default=[], metavar="ARG", help="another argument of the server; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every latency and all versions there")
    return parser


def main() -> int:
    options = arguments().parse_args()
    cycles = 2 if options.quick else options.cycles
    settings = Settings(cycles, options.rest, options.per_s, options.pin, tuple(options.server))
    screen, found = Screen(), []
    with tempfile.TemporaryDirectory(prefix="serving-swap-") as directory, screen.status as status:
        for kind in options.only:
            swaps = measure(kind, settings, Path(directory), status.update)
            found.append(swaps)
            log = Path(directory) / f"serving-{kind}.log"
            if swaps.failure is not None and log.exists():
                screen.error(f"The log of the server with the {kind} model ends:\n{log_tail(log)}")
    screen.table(table(found))
    for swaps in found:
        if swaps.failure is not None:
            screen.note(f"{swaps.name} is void: {swaps.failure}")
    write_json(options.json, document(found, environment(asdict(settings))))
    return 1 if any(swaps.failure is not None for swaps in found) else 0


if __name__ == "__main__":
    sys.exit(main())
