"""What the commands for memory and for swaps share: their arguments, and the way from measuring to the exit code.

In both, one kind of large model after the other goes through cycles, each on a server of its own.

Knows not what a cycle is and what is measured in it.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.table import Table

from loadtests.command import Names, Screen, positive, write_json
from loadtests.processes import log_tail


class Result(Protocol):
    failure: str | None  # why it is void


Found = TypeVar("Found", bound=Result)
Measure = Callable[[str, Path, Callable[[str], None]], Found]  # a kind, a directory for files, and who is told


def parser(
    command: str,
    description: str,
    *,
    cycles: int,
    quick: int,
    steps: str,
    known: Mapping[str, Any],
    order: Sequence[str],
) -> argparse.ArgumentParser:
    """A cycle is of `steps`; `known` has all kinds of model, which come in this `order` unless others are named."""
    parser = argparse.ArgumentParser(prog=command, description=description)
    cycles_help = f"{steps} (default {cycles})"
    parser.add_argument("--cycles", type=positive, default=cycles, metavar="N", help=cycles_help)
    quick_help = f"{quick} cycles: a look, not a result"
    parser.add_argument("--quick", action="store_const", dest="cycles", const=quick, help=quick_help)
    only_help = ", ".join(order)
    parser.add_argument("--only", type=Names("kind", known), default=list(order), metavar="KIND,...", help=only_help)
    server_help = "another argument of the server; may be repeated"
    parser.add_argument("--server", action="append", default=[], metavar="ARG", help=server_help)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured and all versions there")
    return parser


def run(
    options: argparse.Namespace,
    measure: Measure[Found],
    table: Callable[[Sequence[Found]], Table],
    document: Callable[[Sequence[Found]], Any],
) -> int:
    """Measures each kind, shows the table, writes the document. The exit code: 1 when a kind is void."""
    screen, found = Screen(), []
    with tempfile.TemporaryDirectory(prefix="serving-cycles-") as directory, screen.status as status:
        for kind in options.only:
            one = measure(kind, Path(directory), status.update)
            found.append(one)
            log = Path(directory) / f"serving-{kind}.log"
            if one.failure is not None and log.exists():
                screen.error(f"The log of the server with the {kind} model ends:\n{log_tail(log)}")
    screen.table(table(found))
    void = {kind: one.failure for kind, one in zip(options.only, found, strict=True) if one.failure is not None}
    for kind, failure in void.items():
        screen.note(f"{kind} is void: {failure}")
    write_json(options.json, document(found))
    return 1 if void else 0
