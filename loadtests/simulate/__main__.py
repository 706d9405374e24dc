"""Replays a trace under each batching policy: a table, and latency against rate as a plot.

    python -m loadtests.simulate poisson:2000,seconds=20 --policy continuous,fixed_delay:5 --bound-ms 60
    python -m loadtests.simulate trace.json --model-cost trace
    python -m loadtests.simulate validate poisson:200,seconds=10 --model-cost 5,0.5 --max-batch 16

`validate` runs the batcher itself, in real time, with a model that sleeps, and says how far the simulation is from it.
"""

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from loadtests.command import Screen, environment, write_json
from loadtests.simulate import files, report, validate
from loadtests.simulate.arguments import LOADS, Plan, add_arguments, loads, plan
from serving.batching.settings import BatchSettings
from serving.batching.simulation.latency import capacity
from serving.batching.simulation.replay import replay
from serving.batching.simulation.summary import Summary, summary

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["validate"]:
        parser = argparse.ArgumentParser("python -m loadtests.simulate validate", description=validate.__doc__)
        command = _validate
        given = given[1:]
    else:
        formatter = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser("python -m loadtests.simulate", description=__doc__, formatter_class=formatter)
        command = _simulate
    add_arguments(parser)
    parser.add_argument("--bound-ms", type=float, help="latency beyond which an answer does not count as in time")
    out = ROOT / "runs" / "simulate"
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help="for JSON and PNG (default runs/simulate)")
    if command is _simulate:
        default = ",".join(f"{load:g}" for load in LOADS)
        sweep_help = "loads to sweep, by the most that runs can make; empty: none (default %(default)s)"
        parser.add_argument("--loads", type=loads, default=default, metavar="L,L,...", help=sweep_help)
        parser.add_argument("--write", type=Path, metavar="FILE", help="write the trace there: CSV, or JSON lines")
    args = parser.parse_args(given)
    screen = Screen()
    try:
        chosen = plan(args)
        args.out.mkdir(parents=True, exist_ok=True)
        return command(args, chosen, screen)
    except (ValueError, OSError) as error:
        screen.error(str(error))
        return 2


def _bound_s(args: argparse.Namespace) -> float:
    return math.inf if args.bound_ms is None else args.bound_ms / 1000


def _summary(chosen: Plan, settings: BatchSettings, args: argparse.Namespace, speed: float = 1.0) -> Summary:
    return summary(replay(chosen.source.requests(speed), settings, chosen.fresh_latency()), _bound_s(args))


def _simulate(args: argparse.Namespace, chosen: Plan, screen: Screen) -> int:
    trace = chosen.source.requests()
    if args.write is not None:
        files.write(args.write, trace)
    by_policy = {name: _summary(chosen, settings, args) for name, settings in chosen.settings.items()}
    most_s, best = capacity(chosen.latency, args.max_batch, args.instances)
    screen.note(f"{len(trace)} requests, {chosen.latency}; at most {most_s:.0f} rows/s, in runs of {best}")
    recording = chosen.recording
    if recording is not None and recording.latencies_s:
        screen.note("of the server itself: " + report.quantiles(recording.latencies_s))
    screen.table(report.table(chosen.source.name, by_policy))
    offered_s = next(iter(by_policy.values())).offered_rows_s
    if args.loads and not offered_s > 0:
        raise ValueError(
            f"{chosen.source.name}: requests that come at one moment, or not at all, have no rate to sweep"
        )
    sweep: dict[str, list[report.Point]] = {name: [] for name in chosen.settings if args.loads}
    with screen.status as status:
        for load in args.loads:
            status.update(f"load {load:.0%}")
            for name, settings in chosen.settings.items():
                point = report.Point(load, _summary(chosen, settings, args, load * most_s / offered_s))
                sweep[name].append(point)
    if sweep:
        screen.table(report.sweep_table(sweep))
        path = args.out / "latency.png"
        try:
            report.plot(path, f"{chosen.source.name}   {chosen.latency}", sweep, args.bound_ms and args.bound_ms / 1000)
            screen.note(f"written: {path}")
        except ImportError as error:
            screen.error(f"no plot: {error}")
    about = environment({name: str(value) for name, value in vars(args).items()})
    write_json(args.out / "simulate.json", report.document(about, by_policy, sweep))
    return 0


def _validate(args: argparse.Namespace, chosen: Plan, screen: Screen) -> int:
    """Twice: with the latency that the model was given, and with that which its runs really had."""
    table = Table(title=f"simulated ÷ real: {chosen.source.name}")
    for column in ("policy", "", *validate.COMPARED):
        table.add_column(column, justify="left" if column in ("policy", "") else "right", no_wrap=True)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, settings in chosen.settings.items():
        with screen.status as status:
            status.update(f"{name}: running in real time")
            real = asyncio.run(validate.run_real(chosen.source.requests(), settings, chosen.fresh_latency()))
        found = summary(real, _bound_s(args))
        shown = (f"{getattr(found, field):.3g}" for field in validate.COMPARED)
        table.add_row(name, "real", *shown)
        results[name] = {}
        for how, latency in (("as given", chosen.fresh_latency()), ("measured", validate.measured(real))):
            simulated = summary(replay(validate.arrived(real), settings, latency), _bound_s(args))
            results[name][how] = validate.ratios(simulated, found)
            table.add_row("", how, *(f"{ratio:.3f}" for ratio in results[name][how].values()))
    screen.table(table)
    about = environment({name: str(value) for name, value in vars(args).items()})
    write_json(args.out / "validate.json", {"environment": about, "ratios": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
