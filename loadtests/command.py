"""What the benchmark's commands share: arguments, the document's environment, how results and errors are shown."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PACKAGES = (
    "onnxruntime",
    "tensorflow",
    "tf2onnx",
    "numpy",
    "uvicorn",
    "uvloop",
    "httptools",
    "orjson",
    "fastapi",
    "grpcio",
    "protobuf",
)
WIDTH = 132  # of the tables, where it is not a terminal that they go to


def environment(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Versions of what is installed, machine and settings, as plain data."""
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpu_lines if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "settings": dict(settings),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


class Names:
    """An argument's type: a comma-separated list of some of `known`, each a `what`."""

    def __init__(self, what: str, known: Mapping[str, Any]) -> None:
        self._what = what
        self._known = known

    def __call__(self, text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        unknown = [name for name in chosen if name not in self._known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {self._what} {unknown[0]!r}: there are {', '.join(self._known)}")
        return list(dict.fromkeys(chosen))


def add_amounts(parser: argparse.ArgumentParser, rounds: int, duration_s: int, what: str) -> None:
    """The options that each command has; a round is of `what`."""
    parser.add_argument("--rounds", type=positive, default=rounds, help=f"rounds of {what} (default {rounds})")
    duration_help = f"seconds a measurement (default {duration_s})"
    parser.add_argument("--duration", type=positive, default=duration_s, metavar="S", help=duration_help)
    parser.add_argument("--pin", action="store_true", help="servers on the first core, generators on the second")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round and all versions there")


class Screen:
    """Tables go to standard output, what happens meanwhile and what went wrong to standard error."""

    def __init__(self) -> None:
        plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
        self._err = Console(stderr=True, **plain)
        self._out = Console(width=None if sys.stdout.isatty() else WIDTH, **plain)
        self.status = self._err.status("starting")

    def error(self, text: str) -> None:
        self._err.print(text)

    def note(self, text: str) -> None:
        self._out.print(text)

    def table(self, table: Table) -> None:
        self._out.print(table, soft_wrap=False)


def write_json(path: Path | None, value: Any) -> None:
    """Does nothing without a path."""
    if path is not None:
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
