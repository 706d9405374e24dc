"""The benchmark's command: what a request costs the server in CPU time, next to the least that it could cost.

    python -m loadtests.bench [--rounds 5] [--duration 5] [--quick] [--only rest-json,grpc] [--json FILE]

Starts everything it measures on free loopback ports and ends it again. Exit code 1 when a row is void or a
process failed. docs/benchmark.md tells the method.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from loadtests.cases import Case, grpc_raw, rest_binary, rest_json
from loadtests.generators import STREAMS
from loadtests.measure import FLOOR_REST, Bench, Settings
from loadtests.processes import ProcessError
from loadtests.report import document, table

CASES: dict[str, Callable[[np.ndarray], Case]] = {"rest-json": rest_json, "rest-binary": rest_binary, "grpc": grpc_raw}
PACKAGES = ("onnxruntime", "numpy", "uvicorn", "uvloop", "httptools", "orjson", "fastapi", "grpcio", "protobuf")


def environment(settings: Settings) -> dict[str, Any]:
    """Versions, machine and settings, as plain data."""
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpu_lines if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "settings": {**asdict(settings), "floor_rest": settings.floor_rest.name},
    }


def case_names(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",")]
    unknown = [name for name in chosen if name not in CASES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no case {unknown[0]!r}: there are {', '.join(CASES)}")
    return chosen


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def in_flight_counts(text: str) -> list[int]:
    """Numbers from a comma-separated list; HTTP/2 connections carry at most 8 each, all the same number."""
    chosen = [int(part) for part in text.split(",")]
    if any(count < 1 or (count > STREAMS and count % STREAMS) for count in chosen):
        raise argparse.ArgumentTypeError(f"each must be 1 to {STREAMS} or a multiple of {STREAMS}")
    return chosen


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtests.bench", description="Server CPU per request, beside a floor.")
    parser.add_argument("--rounds", type=positive, default=5, help="pairs of server and floor for each row (default 5)")
    parser.add_argument("--duration", type=positive, default=5, metavar="S", help="seconds a measurement (default 5)")
    parser.add_argument("--quick", action="store_true", help="three rounds of one second: a look, not a result")
    parser.add_argument("--only", type=case_names, default=list(CASES), metavar="CASE,...", help=", ".join(CASES))
    parser.add_argument("--in-flight", type=in_flight_counts, default=[1, 32], metavar="N,...", help="default 1,32")
    floor_help = "another module with an ASGI `app` as REST floor"
    parser.add_argument("--floor-rest", type=Path, default=FLOOR_REST, metavar="FILE", help=floor_help)
    parser.add_argument("--pin", action="store_true", help="servers on the first core, generators on the second")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round and all versions there")
    return parser


def main() -> int:
    options = arguments().parse_args()
    rounds, duration_s = (3, 1) if options.quick else (options.rounds, options.duration)
    settings = Settings(rounds, duration_s, tuple(options.in_flight), options.pin, options.floor_rest)
    err = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    out = Console(width=None if sys.stdout.isatty() else 120, markup=False, highlight=False, soft_wrap=True)
    try:
        with tempfile.TemporaryDirectory(prefix="serving-bench-") as directory, err.status("starting") as status:
            bench = Bench(settings, Path(directory), status.update)
            rows = bench.run([CASES[name] for name in options.only])
            void = [row for row in rows if row.failure is not None]
            if void:
                err.print(
                    "The server's log ends:",
                    bench.server_log(),
                    sep="\n",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
    except ProcessError as error:
        err.print(str(error))
        return 1
    out.print(table(rows), soft_wrap=False)
    for row in void:
        out.print(
            f"{row.case}, {row.in_flight} in flight, is void: {row.failure}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if options.json is not None:
        text = json.dumps(document(rows, environment(settings)), indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if void else 0


if __name__ == "__main__":
    sys.exit(main())
