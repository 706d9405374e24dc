"""The command for large inputs: what one image costs the server in each form, and how it delays small requests.

    python -m loadtests.large [--rounds 3] [--duration 3] [--quick] [--only rest-json,...] [--json FILE]

Starts a server with the models of image.py and mlp.py on free loopback ports and ends it again. Exit code 1 when a
form is void or a process failed. docs/performance.md tells the method.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from loadtests import image, mlp
from loadtests.cases import CASES, Question, rest_binary
from loadtests.command import Names, Screen, add_amounts, environment, positive, write_json
from loadtests.generators import LoadError
from loadtests.large_measure import Large, Settings
from loadtests.large_report import document, table
from loadtests.measure import answer_of, serving
from loadtests.oip import AnswerError
from loadtests.processes import ProcessError, log_tail


def arguments() -> argparse.ArgumentParser:
    description = "Server CPU per large request, and the delay of small ones beside it."
    parser = argparse.ArgumentParser(prog="loadtests.large", description=description)
    add_amounts(parser, rounds=3, duration_s=3, what="all forms, each alone and with small requests beside it")
    parser.add_argument("--quick", action="store_true", help="one round of one second: a look, not a result")
    only_help = ", ".join(CASES)
    parser.add_argument("--only", type=Names("form", CASES), default=list(CASES), metavar="FORM,...", help=only_help)
    parser.add_argument(
        "--per-s", type=positive, default=200, metavar="N", help="small requests a second (default 200)"
    )
    return parser


def main() -> int:
    options = arguments().parse_args()
    rounds, duration_s = (1, 1) if options.quick else (options.rounds, options.duration)
    settings = Settings(rounds, duration_s, options.per_s, options.pin)
    screen = Screen()
    try:
        with tempfile.TemporaryDirectory(prefix="serving-large-") as directory, screen.status as status:
            files = Path(directory)
            small_inputs, large_inputs = {mlp.INPUT: mlp.row()}, {image.INPUT: image.picture()}
            small = Question(mlp.NAME, small_inputs, answer_of(mlp.write_repository(files / "models"), small_inputs))
            large = Question(
                image.NAME, large_inputs, answer_of(image.write_repository(files / "models"), large_inputs)
            )
            log = files / "serving.log"
            with serving("the server", files / "models", log, settings.pin) as running:
                session = Large(settings, files, status.update, running)
                quiet, forms = session.run(rest_binary(small), [CASES[name](large) for name in options.only])
            void = [form for form in forms if form.failure is not None]
            if void:
                screen.error(f"The server's log ends:\n{log_tail(log)}")
    except (ProcessError, LoadError, AnswerError, OSError) as error:
        screen.error(str(error))
        return 1
    screen.table(table(quiet, forms))
    for form in void:
        screen.note(f"{form.name} is void: {form.failure}")
    write_json(options.json, document(quiet, forms, environment(asdict(settings))))
    return 1 if void else 0


if __name__ == "__main__":
    sys.exit(main())
