"""MLPerf's LoadGen as an independent judge: the same question as `efficiency`, asked by somebody else's generator.

Server: Poisson arrivals of single rows; the highest rate that LoadGen calls valid, with the 99th percentile within the
bound. Offline: all samples at once, which go to the server in requests of 64 rows, a few at a time. LoadGen decides
when a sample is due, takes the times and judges; ours are only the connections. Each of its runs is a process of its
own.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from rich.table import Table

from loadtests.command import Screen
from loadtests.generators import LoadError
from loadtests.openloop import load, results, search, targets
from loadtests.openloop.load import Kind, Target
from loadtests.openloop.models import MODELS
from loadtests.openloop.targets import OURS, TRITON, Place
from loadtests.processes import pinned

NAME, HELP = "referee", "the same by MLPerf's LoadGen: Server and Offline scenarios"
BATCH, IN_FLIGHT = 64, 4
PACKAGE = "mlcommons_loadgen"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=[OURS, TRITON], default=OURS)
    parser.add_argument("--model", choices=list(MODELS), default="large")
    parser.add_argument("--transport", choices=list(targets.CASES), default="rest")
    parser.add_argument("--p99", type=results.positive_float, default=60, metavar="MS", help="default 60")
    parser.add_argument("--seconds", type=results.positive_float, default=60, help="LoadGen's last run (default 60)")


@dataclass(frozen=True)
class Ruling:
    """What LoadGen wrote of one run.

    `missed` is what was not satisfied: the bound on latency (performance constraints), or its rules for a run that is
    long enough. `samples_per_s` is what was completed; latencies are None of Offline runs.
    """

    scenario: str
    valid: bool
    missed: tuple[str, ...]
    samples_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    text: str


def parse(scenario: str, text: str) -> Ruling:
    """Read mlperf_log_summary.txt. LoadError for one without a result."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            values.setdefault(name.strip(), value.strip())
    try:
        rate = values["Completed samples per second" if scenario == "Server" else "Samples per second"]
        valid = values["Result is"] == "VALID"
    except KeyError as error:
        raise LoadError(f"LoadGen wrote no {error}: {text[-500:]}") from error
    p50, p99 = (values.get(f"{part} percentile latency (ns)") for part in ("50.00", "99.00"))
    served = scenario == "Server"
    return Ruling(
        scenario,
        valid,
        tuple(name.removesuffix(" satisfied").lower() for name, value in values.items() if value == "NO"),
        float(rate),
        float(p50) / 1e6 if served and p50 else None,
        float(p99) / 1e6 if served and p99 else None,
        text,
    )


def judge(target: Target, kind: Kind, scenario: str, rate: float, seconds: float, p99_ms: float) -> Ruling:
    """One run of LoadGen. LoadError when it fails or a request does."""
    with load.task(target, [kind]) as (task, files):
        more = {"scenario": scenario, "rate": rate, "seconds": seconds, "p99_ms": p99_ms, "files": str(files)}
        more |= {"most": load.MOST if scenario == "Server" else IN_FLIGHT, "warm": load.WARM}
        more["rows_a_request"] = 1 if scenario == "Server" else BATCH
        path = files / "task.json"
        path.write_text(json.dumps({**task, **more}))
        argv = [sys.executable, "-m", "loadtests.openloop.referee_process", str(path)]
        with pinned(target.core):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=10 * seconds + 120, check=False)
        if done.returncode != 0:
            raise LoadError(f"LoadGen's process failed: {(done.stderr or done.stdout).strip()[-1000:]}")
        return parse(scenario, (files / "mlperf_log_summary.txt").read_text())


def run(options: argparse.Namespace, place: Place, screen: Screen) -> tuple[dict[str, Any], bool]:
    seconds, probe_s, tolerance = (2, 1.5, 0.1) if options.quick else (options.seconds, 10, 0.03)
    subject = targets.subject(options.model, place)
    alone = subject.offline([targets.SESSIONS[options.only]], seconds=0.1 if options.quick else 0.5)
    most = alone.best()
    rulings: list[Ruling] = []

    with subject.start(options.only) as target:
        single, batch = targets.ready(target, [subject.kind(options.transport), subject.kind(options.transport, BATCH)])

        def ask(kind: Kind, scenario: str, rate: float, seconds: float) -> Ruling:
            place.say(f"LoadGen, {scenario}: {rate:.0f} samples a second for {seconds:g} s")
            ruling = judge(target, kind, scenario, rate, seconds, options.p99)
            rulings.append(ruling)
            return ruling

        offline = ask(batch, "Offline", most, probe_s)
        if not options.quick:
            offline = ask(batch, "Offline", 1.1 * offline.samples_per_s, seconds / 2)
        try:
            guess = min(targets.MOST_PER_S, 0.9 * offline.samples_per_s)
            rate = search.highest(lambda rate, _: ask(single, "Server", rate, probe_s).valid, guess, tolerance)
            # One long run decides: LoadGen's own rule.
            rate, _ = search.confirmed(
                lambda rate, _: 0.0 if ask(single, "Server", rate, seconds).valid else 1.0, rate, 0.5, 1, tolerance
            )
        except search.SearchError as error:
            screen.note(f"LoadGen found nothing valid: {error}")
            rate = None
    screen.table(table(rulings))
    last = rulings[-1]
    if rate is not None:
        screen.note(f"Valid at {rate:.0f} queries a second, p99 {last.p99_ms or 0:.1f} ms.")
        screen.note(f"That is {rate / most:.3f} of the model alone, {most:.0f} rows a second at its best batch,")
        screen.note(f"and {rate / offline.samples_per_s:.3f} of the {offline.samples_per_s:.0f} of LoadGen's Offline.")
    document = {
        "loadgen": version(PACKAGE),
        "model": asdict(MODELS[options.model]),
        "server": options.only,
        "bound_ms": options.p99,
        "rate": rate,
        "alone_per_s": most,
        "offline_per_s": offline.samples_per_s,
        "e": None if rate is None else rate / most,
        "rulings": [asdict(one) for one in rulings],
    }
    return document, rate is not None


COLUMNS = ("scenario", "LoadGen says", "for", "samples/s", "p50 ms", "p99 ms")


def table(rulings: list[Ruling]) -> Table:
    result = results.new_table("LoadGen's rulings, in order", COLUMNS, left=3)
    for one in rulings:
        latencies = ("" if ms is None else f"{ms:.2f}" for ms in (one.p50_ms, one.p99_ms))
        says = "valid" if one.valid else "invalid"
        result.add_row(one.scenario, says, ", ".join(one.missed), f"{one.samples_per_s:.0f}", *latencies)
    return result
