"""What hostile clients get, and what an honest one notices of them.

    python -m loadtests.hostile [--quick] [--attack NAME,...] [--out runs/hostile]

Each attack is run on the server, and on a process that does nothing, with an honest client beside it. One table; a file
with all figures and a plot below `--out`. Ends with 1 if the server did not stand an attack: an outcome that was
expected and not seen or seen and not expected, an honest client that was refused, more memory than the attack may cost,
or a ratio of rises above what is wanted.

The ratio of rises: by how many milliseconds the attack raised the honest client's p99 on the server, over by how many
on the process that does nothing; a rise of less than a millisecond counts as one.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from loadtests.command import Names, Screen, environment, positive, write_json
from loadtests.hostile import credentials, report
from loadtests.hostile.catalog import ATTACKS
from loadtests.hostile.judge import WANTED_RATIO, complaints
from loadtests.hostile.measure import Bench, Plan
from loadtests.processes import ProcessError

QUICK = Plan(rounds=1, before_s=0.5, during_s=3.0, scale=0.2)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.hostile", description=(__doc__ or "").partition("\n")[0])
    plan = Plan()
    parser.add_argument("--quick", action="store_true", help="one short round with fewer connections: outcomes only")
    parser.add_argument("--list", action="store_true", help="say what the attacks are, and end")
    parser.add_argument(
        "--attack", type=Names("attack", ATTACKS), default=list(ATTACKS), metavar="NAME,...", help="these only"
    )
    parser.add_argument("--rounds", type=positive, default=plan.rounds, help=f"of each attack (default {plan.rounds})")
    parser.add_argument(
        "--duration", type=positive, default=round(plan.during_s), metavar="S", help="seconds of an attack"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/hostile"), metavar="DIRECTORY", help="for file and plot")
    return parser


def main() -> int:
    options = arguments().parse_args()
    screen = Screen()
    if options.list:
        for attack in ATTACKS.values():
            screen.note(f"{attack.name:24} {attack.what}")
        return 0
    plan = QUICK if options.quick else Plan(rounds=options.rounds, during_s=float(options.duration))
    wanted_ratio = float("inf") if options.quick else WANTED_RATIO  # a short round says nothing of a p99
    results, found, failed = [], {}, False
    with tempfile.TemporaryDirectory(prefix="serving-hostile-") as directory, screen.status as status:
        bench = Bench(plan, Path(directory), status.update)
        for name in options.attack:
            attack = ATTACKS[name]
            if reason := credentials.missing(attack.needs):
                screen.error(f"{name} is left out: {reason}")
                continue
            try:
                result = bench.run(attack)
            except ProcessError as error:
                screen.error(f"{name}: {error}")
                failed = True
                continue
            results.append(result)
            found[name] = complaints(attack, result, wanted_ratio)
    if results:
        screen.table(report.table(results, found))
        options.out.mkdir(parents=True, exist_ok=True)
        said = report.document(results, found, environment(asdict(plan)))
        write_json(options.out / "hostile.json", said)
        report.plot(options.out / "hostile.png", results)
        screen.note(f"figures: {options.out / 'hostile.json'}, plot: {options.out / 'hostile.png'}")
    return 1 if failed or any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
