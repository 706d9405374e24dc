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
from dataclasses import asdict

from loadtests import cycles
from loadtests.command import environment, positive
from loadtests.kinds import PLATFORMS
from loadtests.swap_measure import Settings, measure
from loadtests.swap_report import document, table

ORDER = ("onnx", "accelerated", "tensorflow")


def arguments() -> argparse.ArgumentParser:
    description = "The latency of a small model while a large one loads, swaps and unloads."
    steps = "loads, swaps and unloads"
    parser = cycles.parser("loadtests.swap", description, cycles=20, quick=2, steps=steps, known=PLATFORMS, order=ORDER)
    parser.add_argument("--rest", type=positive, default=2, metavar="S", help="seconds between them (default 2)")
    per_s_help = "small requests a second (default 200)"
    parser.add_argument("--per-s", type=positive, default=200, metavar="N", help=per_s_help)
    parser.add_argument("--pin", action="store_true", help="servers on the first core, the requests on the second")
    return parser


def main() -> int:
    options = arguments().parse_args()
    settings = Settings(options.cycles, options.rest, options.per_s, options.pin, tuple(options.server))
    return cycles.run(
        options,
        lambda kind, files, say: measure(kind, settings, files, say),
        table,
        lambda found: document(found, environment(asdict(settings))),
    )


if __name__ == "__main__":
    sys.exit(main())
