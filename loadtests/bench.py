"""The benchmark's command: what a request costs the server in CPU time, next to the least that it could cost.

    python -m loadtests.bench [--rounds 5] [--duration 5] [--quick] [--models onnx,...] [--only rest-json,...]

Starts everything it measures on free loopback ports and ends it again. Exit code 1 when a row is void or a
process failed. docs/performance.md tells the method.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from loadtests.cases import CASES
from loadtests.command import Names, Screen, add_amounts, environment, write_json
from loadtests.generators import STREAMS
from loadtests.kinds import PLATFORMS
from loadtests.measure import FLOOR_REST, Bench, Settings
from loadtests.processes import ProcessError
from loadtests.report import document, table

# The other one sends the same bytes under another tag, and tells little more.
DEFAULT_CASES = [name for name in CASES if name != "tfs-grpc-typed"]


def in_flight_counts(text: str) -> list[int]:
    """Numbers from a comma-separated list; HTTP/2 connections carry at most 8 each, all the same number."""
    chosen = [int(part) for part in text.split(",")]
    if any(count < 1 or (count > STREAMS and count % STREAMS) for count in chosen):
        raise argparse.ArgumentTypeError(f"each must be 1 to {STREAMS} or a multiple of {STREAMS}")
    return chosen


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtests.bench", description="Server CPU per request, beside a floor.")
    add_amounts(parser, rounds=5, duration_s=5, what="all models and the floor, for each case")
    parser.add_argument("--quick", action="store_true", help="three rounds of one second: a look, not a result")
    models_help = f"{', '.join(PLATFORMS)} (default onnx)"
    parser.add_argument(
        "--models", type=Names("model", PLATFORMS), default=["onnx"], metavar="MODEL,...", help=models_help
    )
    only_help = f"{', '.join(CASES)} (default all but the last)"
    parser.add_argument("--only", type=Names("case", CASES), default=DEFAULT_CASES, metavar="CASE,...", help=only_help)
    parser.add_argument("--in-flight", type=in_flight_counts, default=[1, 32], metavar="N,...", help="default 1,32")
    floor_help = "another module with an ASGI `app` as REST floor"
    parser.add_argument("--floor-rest", type=Path, default=FLOOR_REST, metavar="FILE", help=floor_help)
    return parser


def main() -> int:
    options = arguments().parse_args()
    rounds, duration_s = (3, 1) if options.quick else (options.rounds, options.duration)
    in_flight, models = tuple(options.in_flight), tuple(options.models)
    settings = Settings(rounds, duration_s, in_flight, models, options.pin, options.floor_rest)
    screen = Screen()
    try:
        with tempfile.TemporaryDirectory(prefix="serving-bench-") as directory, screen.status as status:
            bench = Bench(settings, Path(directory), status.update)
            rows = bench.run([CASES[name] for name in options.only])
            void = [row for row in rows if row.failure is not None]
            if void:
                for kind, log in bench.server_logs().items():
                    screen.error(f"The log of the server of the {kind} model ends:\n{log}")
    except ProcessError as error:
        screen.error(str(error))
        return 1
    screen.table(table(rows))
    for row in void:
        screen.note(f"{row.case}, {row.in_flight} in flight, is void: {row.failure}")
    write_json(options.json, document(rows, environment({**asdict(settings), "floor_rest": settings.floor_rest.name})))
    return 1 if void else 0


if __name__ == "__main__":
    sys.exit(main())
