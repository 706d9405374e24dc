"""Tables and plots of replays. Pure but for the file that a plot is written to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from serving.batching.simulation.summary import Summary

_COLOURS = ("#0b6bcb", "#d9480f", "#2b8a3e", "#862e9c", "#b08800", "#0c8599", "#495057")
COLUMNS = (
    "policy",
    "p50 ms",
    "p99 ms",
    "max ms",
    "req/s",
    "rows/s",
    "good/s",
    "in time",
    "refused",
    "expired",
    "batch",
    "padding",
    "busy",
)


@dataclass(frozen=True)
class Point:
    """One replay of a sweep: `load` is the offered rows per second over the most that runs can make."""

    load: float
    summary: Summary


def table(title: str, by_policy: Mapping[str, Summary]) -> Table:
    result = Table(title=title)
    for index, column in enumerate(COLUMNS):
        result.add_column(column, justify="right" if index else "left", no_wrap=True)
    for policy, of in by_policy.items():
        result.add_row(
            policy,
            *(f"{1000 * seconds:.2f}" for seconds in (of.p50_s, of.p99_s, of.max_s)),
            *(f"{rate:.0f}" for rate in (of.throughput_s, of.throughput_rows_s, of.goodput_s)),
            f"{of.in_time:.1%}",
            str(of.refused),
            str(of.expired),
            f"{of.mean_batch_rows:.1f}",
            f"{of.padded:.1%}",
            f"{of.utilisation:.1%}",
        )
    return result


def sweep_table(sweep: Mapping[str, Sequence[Point]]) -> Table:
    """99th percentiles in milliseconds, and the share answered in time: a line for each load."""
    result = Table(title="99th percentile in ms (and answered in time) by load")
    result.add_column("load", justify="right")
    for policy in sweep:
        result.add_column(policy, justify="right", no_wrap=True)
    for points in zip(*sweep.values(), strict=True):
        cells = (f"{1000 * point.summary.p99_s:.1f} ({point.summary.in_time:.0%})" for point in points)
        result.add_row(f"{points[0].load:.0%}", *cells)
    return result


def plot(path: Path, title: str, sweep: Mapping[str, Sequence[Point]], bound_s: float | None = None) -> None:
    """Latency and goodput against the offered rate, a colour for each policy. Needs matplotlib."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
    latency, goodput = canvas.subplots(1, 2)
    canvas.suptitle(title, x=0.01, ha="left", fontsize=10)
    for index, (policy, points) in enumerate(sweep.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        offered = [point.summary.offered_rows_s for point in points]
        latency.plot(offered, [1000 * p.summary.p99_s for p in points], "-o", ms=3, color=colour, label=policy)
        latency.plot(offered, [1000 * p.summary.p50_s for p in points], ":", color=colour)
        goodput.plot(offered, [p.summary.goodput_s for p in points], "-o", ms=3, color=colour, label=policy)
    latency.set(xlabel="offered rows/s", ylabel="latency, ms (99th percentile; dotted: median)", yscale="log")
    goodput.set(xlabel="offered rows/s", ylabel="answered in time, requests/s", ylim=(0, None))
    latency.yaxis.set_major_formatter("{x:g}")
    latency.yaxis.set_minor_formatter("{x:g}")
    if bound_s is not None:
        latency.axhline(1000 * bound_s, color="black", lw=0.8, ls="--")
    for axes in (latency, goodput):
        axes.grid(alpha=0.25)
        axes.spines[["right", "top"]].set_visible(False)
        axes.legend(frameon=False)
    canvas.savefig(path)


def document(
    environment: Mapping[str, Any], by_policy: Mapping[str, Summary], sweep: Mapping[str, Sequence[Point]]
) -> dict[str, Any]:
    """Everything as plain data."""
    return {
        "environment": dict(environment),
        "policies": {policy: asdict(of) for policy, of in by_policy.items()},
        "sweep": {policy: [asdict(point) for point in points] for policy, points in sweep.items()},
    }


def quantiles(latencies_s: Sequence[float]) -> str:
    p50, p99, highest = (1000 * np.percentile(latencies_s, [50, 99, 100])).tolist()
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {highest:.2f} ms"
