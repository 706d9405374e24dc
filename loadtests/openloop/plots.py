"""The plots. Pure, apart from the files; matplotlib is imported when the first one is drawn."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtests.openloop.outcomes import Summary

COLOURS = {"serving": "tab:blue", "triton": "tab:green"}
BOUND = "tab:red"


@contextmanager
def figure(path: Path, title: str, x: str, y: str) -> Iterator[Any]:
    """Axes of a plot that is written to `path` at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    made, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    try:
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.3, which="both")
        yield axes
        axes.legend()
        made.savefig(path, dpi=150)
    finally:
        pyplot.close(made)


def curves(
    path: Path, title: str, runs: Mapping[str, Sequence[Summary]], offline_per_s: float, bound_ms: float | None
) -> None:
    """Latency against the rate that was asked for, median and 99th percentile of each server."""
    with figure(path, title, "requests per second, Poisson arrivals", "latency from the due time [ms]") as axes:
        for name, points in runs.items():
            rates = [run.offered_per_s for run in points]
            colour = COLOURS.get(name)
            axes.plot(rates, [run.latency.p99_ms for run in points], "o-", color=colour, label=f"{name}, p99")
            axes.plot(rates, [run.latency.p50_ms for run in points], "o:", color=colour, label=f"{name}, median")
        axes.set_yscale("log")
        axes.set_xlim(0, 1.05 * max(offline_per_s, *(run.offered_per_s for points in runs.values() for run in points)))
        axes.axvline(offline_per_s, color="grey", linestyle="--", label="the model alone, at its best batch")
        if bound_ms is not None:
            axes.axhline(bound_ms, color=BOUND, linewidth=1, label=f"{bound_ms:g} ms")


def searches(
    path: Path,
    title: str,
    probes: Mapping[str, Sequence[Summary]],
    found: Mapping[str, float],
    bound_ms: float,
) -> None:
    """Every run of the searches for the highest rate, and where they ended."""
    with figure(path, title, "requests per second, Poisson arrivals", "p99 from the due time [ms]") as axes:
        for name, points in probes.items():
            colour = COLOURS.get(name)
            answered = [run for run in points if run.latency.count]
            rates, p99s = [run.offered_per_s for run in answered], [run.latency.p99_ms for run in answered]
            axes.plot(rates, p99s, "o", color=colour, alpha=0.6, label=f"{name}, each run")
            if name in found:
                axes.axvline(found[name], color=colour, linestyle="--", label=f"{name}, confirmed: {found[name]:.0f}/s")
        axes.set_yscale("log")
        axes.axhline(bound_ms, color=BOUND, linewidth=1, label=f"{bound_ms:g} ms")


def goodputs(path: Path, title: str, points: Sequence[tuple[float, float]], sustainable: float, share: float) -> None:
    """Goodput against the rate that was asked for; `share` of the peak is wanted."""
    with figure(path, title, "requests per second, Poisson arrivals", "answered within the deadline [1/s]") as axes:
        rates, good = zip(*sorted(points), strict=True)
        axes.plot(rates, good, "o-", color=COLOURS["serving"], label="goodput")
        axes.plot([0, max(rates)], [0, max(rates)], ":", color="grey", label="all of them")
        axes.axvline(sustainable, color="grey", linestyle="--", label=f"highest sustainable rate: {sustainable:.0f}/s")
        axes.axhline(share * max(good), color=BOUND, linewidth=1, label=f"{share:.0%} of the peak")
        axes.set_ylim(0, 1.25 * max(good))
        axes.set_xlim(left=0)


def tails(path: Path, title: str, samples: Mapping[str, Sequence[float]]) -> None:
    """How many requests took longer than so many milliseconds, by name."""
    with figure(path, title, "latency from the due time [ms]", "share of requests that took longer") as axes:
        for name, found in samples.items():
            ordered = sorted(found)
            axes.plot(ordered, [1 - n / len(ordered) for n in range(len(ordered))], label=name)
        axes.set_yscale("log")
        axes.axhline(0.01, color="grey", linewidth=1, linestyle="--", label="1 %")
