"""Latency against the rate that is asked for, from little to more than the model alone can do.

Servers share a core and take turns at each rate; one that is far beyond what it can do is asked for no more.
"""

import argparse
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from rich.table import Table

from loadtests.command import Names, Screen
from loadtests.openloop import load, plots, results, targets
from loadtests.openloop.models import MODELS
from loadtests.openloop.offline import SERVED
from loadtests.openloop.outcomes import Summary
from loadtests.openloop.targets import OURS, TRITON, Place

NAME, HELP = "curve", "latency against the rate"
SHARES = (0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)  # of the model alone at its best batch
HOPELESS_MS = 1000.0


def numbers(text: str) -> list[float]:
    return [results.positive_float(part) for part in text.split(",")]


def add(parser: argparse.ArgumentParser) -> None:
    known = {OURS: None, TRITON: None}
    parser.add_argument(
        "--only", type=Names("server", known), default=list(known), metavar="SERVER,...", help=", ".join(known)
    )
    parser.add_argument("--model", choices=list(MODELS), default="large")
    parser.add_argument("--transport", choices=list(targets.CASES), default="rest")
    parser.add_argument("--seconds", type=results.positive_float, default=8, help="each run (default 8)")
    parser.add_argument("--rates", type=numbers, metavar="N,...", help="default: parts of what the model alone does")
    parser.add_argument("--p99", type=results.positive_float, default=60, metavar="MS", help="drawn (default 60)")


def run(options: argparse.Namespace, place: Place, screen: Screen) -> tuple[dict[str, Any], bool]:
    seconds = 1.5 if options.quick else options.seconds
    shares = SHARES[1::3] if options.quick else SHARES
    subject = targets.subject(options.model, place)
    alone = subject.offline([SERVED], seconds=0.1 if options.quick else 0.5)
    most = alone.rows_per_s(SERVED)
    rates = options.rates or [share * most for share in shares]
    runs: dict[str, list[Summary]] = {name: [] for name in options.only}
    with ExitStack() as stack:
        servers = [stack.enter_context(subject.start(name)) for name in options.only]
        asked = {target.name: targets.ready(target, [subject.kind(options.transport)]) for target in servers}
        for target in servers:
            load.summary(target, asked[target.name], rates[0], 0.5 if options.quick else 2)
        for number, rate in enumerate(sorted(rates)):
            for target in servers:
                if runs[target.name] and hopeless(runs[target.name][-1]):
                    continue
                place.say(f"{target.name}: {rate:.0f} requests a second")
                runs[target.name].append(load.summary(target, asked[target.name], rate, seconds, seed=number))
    screen.table(table(runs))
    for name, found in runs.items():
        for one in found:
            results.tell_trouble(screen, name, one)
    name = file_name(options.model, options.transport)
    title = f"Latency against rate: {options.model}, {options.transport}"
    plots.curves(options.out / f"{name}.png", title, runs, most, options.p99)
    document = {
        "model": asdict(MODELS[options.model]),
        "transport": options.transport,
        "offline": {"rows_per_s": most, "seconds": alone.seconds},
        "curves": {name: [asdict(one) for one in found] for name, found in runs.items()},
        "versions": targets.versions(options.only),
        "name": name,
    }
    return document, all(one.failed == 0 for found in runs.values() for one in found)


def hopeless(run: Summary) -> bool:
    return run.unanswered > 0 or run.latency.p99_ms > HOPELESS_MS or run.answered == 0


def file_name(model: str, transport: str) -> str:
    return f"{NAME}-{model}-{transport}"


def table(runs: dict[str, list[Summary]]) -> Table:
    title = "Latency from the due time, Poisson arrivals of single rows"
    result = results.new_table(title, ("server", *results.COLUMNS))
    for name, found in runs.items():
        for one in found:
            result.add_row(name, *results.cells(one), end_section=one is found[-1])
    return result
