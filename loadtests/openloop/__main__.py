"""The command for open-loop measurements.

    python -m loadtests.openloop efficiency|curve|referee|low-rate|overload|mixed|send [--quick] [--out DIR] ...

Servers run on the first core, generators on the second. Each command starts what it measures on free loopback ports and
ends it again (`send` asks a server that runs already), prints a table, and leaves a JSON document, with versions, and
mostly a plot in `runs/openloop`. The exit code is 1 when something failed or is not as wanted. docs/performance.md
tells the method.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from loadtests.command import Screen
from loadtests.generators import LoadError
from loadtests.oip import AnswerError
from loadtests.openloop import curve, efficiency, low_rate, mixed, overload, referee, results, send
from loadtests.openloop.targets import Place
from loadtests.processes import ProcessError, log_tail

COMMANDS = {module.NAME: module for module in (efficiency, curve, referee, low_rate, overload, mixed, send)}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loadtests.openloop", description="Requests come when they come.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        one = commands.add_parser(name, help=module.HELP, description=module.HELP)
        results.add_shared(one)
        module.add(one)
    return parser


def main(argv: list[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    screen = Screen()
    if options.pin and len(os.sched_getaffinity(0)) < 2:
        screen.error("one core for the server and one for the generator are needed, or --no-pin")
        return 2
    with tempfile.TemporaryDirectory(prefix="serving-openloop-") as directory:
        place = Place(Path(directory), options.pin, screen.status.update, tuple(options.server))
        try:
            with screen.status:
                document, good = COMMANDS[options.command].run(options, place, screen)
        except (ProcessError, LoadError, AnswerError, OSError) as error:
            screen.error(str(error))
            for log in sorted(Path(directory).glob("*.log")):
                screen.error(f"{log.name} ends:\n{log_tail(log)}")
            return 1
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    name = document.pop("name", options.command)
    screen.note(f"Written to {results.write(options.out, name, document, settings)}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
