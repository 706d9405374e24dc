"""What a few large requests do to the small ones: 1 % of 64 rows among single rows, and the same without them.

At 70 % of the highest rate of the mixture that keeps single rows within the bound; the same number of requests a second
either way, in turns. What they add to the single rows' 99th percentile is set against the time of one batch of 64 rows
of the model alone.
"""

import argparse
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table

from loadtests.command import Screen
from loadtests.openloop import bound, load, plots, results, targets
from loadtests.openloop.bound import Amounts
from loadtests.openloop.models import MODELS
from loadtests.openloop.offline import SERVED
from loadtests.openloop.outcomes import Latency, Outcomes, Verdict
from loadtests.openloop.targets import OURS, Place

NAME, HELP = "mixed", "what 1 % of requests with 64 rows do to single rows"
LARGE, SHARE, LOAD = 64, 0.01, 0.7
SMALL_NAME, LARGE_NAME = "1 row", f"{LARGE} rows"
WITHOUT, WITH = "single rows alone", "with 1 % of 64 rows"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=list(MODELS), default="large")
    parser.add_argument("--transport", choices=list(targets.CASES), default="rest")
    parser.add_argument("--rounds", type=int, default=5, help="of both (default 5)")
    parser.add_argument("--seconds", type=results.positive_float, default=10, help="each run (default 10)")
    parser.add_argument("--rate", type=results.positive_float, help="sustainable rate, if it is known")
    parser.add_argument("--p99", type=results.positive_float, default=60, metavar="MS", help="of it (default 60)")


def run(options: argparse.Namespace, place: Place, screen: Screen) -> tuple[dict[str, Any], bool]:
    rounds, seconds = (1, 2) if options.quick else (options.rounds, options.seconds)
    # The rate is only where to measure.
    amounts = Amounts().quick() if options.quick else Amounts(5, 8, 1, 0.04)
    subject = targets.subject(options.model, place)
    alone = subject.offline([SERVED], (1, LARGE, 128), 0.1 if options.quick else 0.5)
    batch_ms = 1e3 * alone.run_s(SERVED, LARGE)
    runs: dict[str, list[Outcomes]] = {WITHOUT: [], WITH: []}
    with subject.ours() as target:
        kinds = [subject.kind(options.transport, 1, 1 - SHARE), subject.kind(options.transport, LARGE, SHARE)]
        small, large = targets.ready(target, kinds)
        rate, found = options.rate, None
        if rate is None:
            guess = 0.85 * alone.rows_per_s(SERVED) / (1 - SHARE + SHARE * LARGE)
            found = bound.highest(target, [small, large], options.p99, guess, amounts, place.say, judged=small.name)
            if found.rate is None:
                screen.note(f"no sustainable rate: {found.failure}")
                return {"search": asdict(found)}, False
            rate = found.rate
        for number in range(rounds):
            place.say(f"round {number + 1} of {rounds}, {LOAD * rate:.0f} requests a second")
            runs[WITHOUT].append(load.run(target, [small], LOAD * rate, seconds, seed=number))
            runs[WITH].append(load.run(target, [small, large], LOAD * rate, seconds, seed=number))
    lines = figures(runs)
    more_ms = added_ms(runs)
    screen.table(table(lines))
    screen.note(f"Sustainable: {rate:.0f} requests a second of the mixture; measured at {LOAD:.0%} of that.")
    unanswered = sum(len(one.schedule) - one.count(Verdict.ANSWERED) for each in runs.values() for one in each)
    good = more_ms <= batch_ms and not unanswered
    screen.note(f"Single rows' p99 rises by {more_ms:.1f} ms; one batch of {LARGE} rows takes {batch_ms:.1f} ms.")
    if unanswered:
        screen.note(f"{unanswered} requests were refused or failed.")
    for name, found_runs in runs.items():
        for one in found_runs:
            results.tell_trouble(screen, name, one.summary())
    samples = {name: latencies_ms(found_runs) for name, found_runs in runs.items()}
    plots.tails(options.out / f"{NAME}.png", f"Single rows at {LOAD * rate:.0f} requests a second", samples)
    document = {
        "model": asdict(MODELS[options.model]),
        "sustainable_per_s": rate,
        "search": asdict(found) if found else None,
        "batch_ms": batch_ms,
        "added_p99_ms": more_ms,
        "unanswered": unanswered,
        "kept": good,
        "figures": {name: {kind: asdict(each) for kind, each in line.items()} for name, line in lines.items()},
        "rounds": {name: [asdict(one.summary()) for one in each] for name, each in runs.items()},
    }
    return document, good


def p99_ms(run: Outcomes, kind: str) -> float:
    return Latency.of(run.latencies_s(Verdict.ANSWERED, kind)).p99_ms


def added_ms(runs: dict[str, list[Outcomes]]) -> float:
    """To the 99th percentile of single rows: the median over the rounds, each with its own pair."""
    pairs = zip(runs[WITH], runs[WITHOUT], strict=True)
    return median(p99_ms(one, SMALL_NAME) - p99_ms(other, SMALL_NAME) for one, other in pairs)


def latencies_ms(runs: list[Outcomes]) -> list[float]:
    """Of all single rows of all rounds."""
    return [1e3 * each for run in runs for each in run.latencies_s(Verdict.ANSWERED, SMALL_NAME).tolist()]


def figures(runs: dict[str, list[Outcomes]]) -> dict[str, dict[str, Latency]]:
    """By side and kind: each quantile's median over the rounds."""
    return {name: {kind: _median(found, kind) for kind in found[0].names} for name, found in runs.items()}


def _median(runs: list[Outcomes], kind: str) -> Latency:
    each = [asdict(Latency.of(run.latencies_s(Verdict.ANSWERED, kind))) for run in runs]
    return Latency(**{name: median(one[name] for one in each) for name in each[0]})


COLUMNS = ("load", "request", "count", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms")


def table(lines: dict[str, dict[str, Latency]]) -> Table:
    result = results.new_table(f"{OURS}: latency from the due time, medians of rounds", COLUMNS, left=2)
    for name, kinds in lines.items():
        for kind, one in kinds.items():
            milliseconds = (one.p50_ms, one.p90_ms, one.p99_ms, one.p999_ms, one.max_ms)
            result.add_row(name, kind, f"{one.count:.0f}", *(f"{ms:.2f}" for ms in milliseconds))
    return result
