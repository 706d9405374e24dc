"""What a soak comes to: the verdict, tables, the document and the picture. Pure, apart from the picture's file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from loadtests.openloop.results import new_table
from loadtests.soak import counts
from loadtests.soak.counts import Tally
from loadtests.soak.measure import Found, Settings
from loadtests.soak.outcomes import Outcome
from loadtests.soak.sampler import Sample
from loadtests.soak.trend import Trend, of_periods

MB = 1e6
BEARABLE_MB_PER_H = 5.0
BEARABLE_DESCRIPTORS = 1.0  # that may be more in the last third than in the first


@dataclass(frozen=True)
class Verdict:
    """`failures`: in words, what should not be; none: all is well."""

    memory: Trend
    descriptors_first: float
    descriptors_last: float
    failures: list[str]

    @property
    def flat(self) -> bool:
        return self.descriptors_last - self.descriptors_first <= BEARABLE_DESCRIPTORS


def judge(found: Found, settings: Settings) -> Verdict:
    steady = settled(found, settings)
    memory = of_periods([s.at_s for s in steady], [s.rss_bytes / MB for s in steady], settings.swap_every_s)
    first, last = thirds(steady)
    verdict = Verdict(memory, first, last, [])
    sent = counts.tally(found.records)
    for outcome in Outcome:
        if outcome is not Outcome.ANSWERED and sent.outcomes[outcome]:
            verdict.failures.append(f"{sent.outcomes[outcome]} requests {outcome}: {'; '.join(sent.examples)}")
    if not sent.outcomes[Outcome.ANSWERED]:
        verdict.failures.append("no request was answered")
    if memory.grows(BEARABLE_MB_PER_H):
        verdict.failures.append(f"memory grows by {memory.slope:.1f} MB an hour")
    if not verdict.flat:
        verdict.failures.append(f"descriptors: {first:g} in the first third, {last:g} in the last")
    if found.exit_code != 0:
        verdict.failures.append(f"the server ended with exit code {found.exit_code}")
    return verdict


def settled(found: Found, settings: Settings) -> list[Sample]:
    """Samples after the part in which caches fill."""
    start_s = found.begun_s + settings.warm_up * (found.ended_s - found.begun_s)
    return [sample for sample in found.samples if start_s <= sample.at_s <= found.ended_s]


def thirds(samples: Sequence[Sample]) -> tuple[float, float]:
    """The median number of descriptors in the first and in the last third."""
    third = max(1, len(samples) // 3)
    parts = samples[:third], samples[-third:]
    first, last = (float(np.median([s.descriptors for s in part])) if part else 0.0 for part in parts)
    return first, last


def requests_table(found: Found) -> Table:
    columns = ("", "sent", *(outcome.value for outcome in Outcome), "p50 ms", "p99 ms")
    table = new_table("Requests", columns)
    for name, tally in {**counts.by_protocol(found.records), "all": counts.tally(found.records)}.items():
        table.add_row(*cells(name, tally))
    return table


def cells(name: str, tally: Tally) -> list[str]:
    numbers = [str(tally.outcomes[outcome]) for outcome in Outcome]
    shares = [counts.percentile(tally.latencies_ms, share) for share in (50, 99)]
    return [name, str(tally.sent), *numbers, *("" if each is None else f"{each:.1f}" for each in shares)]


def server_table(found: Found, settings: Settings) -> Table:
    steady = settled(found, settings)
    table = new_table("The server, without its warm-up", ("", "least", "median", "most"))
    rows = {
        "resident memory [MB]": [s.rss_bytes / MB for s in steady],
        "proportional memory [MB]": [s.pss_bytes / MB for s in steady if s.pss_bytes is not None],
        "descriptors": [float(s.descriptors) for s in steady],
        "threads": [float(s.threads) for s in steady],
        "CPU [% of a core]": [100 * value for _, value in cpu(steady)],
        f"a new version serves after [s], {len(found.swaps)} swaps": [swap.ready_s for swap in found.swaps],
    }
    for name, values in rows.items():
        shown = [f"{each:.1f}" for each in (min(values), float(np.median(values)), max(values))] if values else [""] * 3
        table.add_row(name, *shown)
    return table


def trends(verdict: Verdict) -> list[str]:
    """A sentence each."""
    memory = verdict.memory
    limits = f"{memory.slope:+.2f} MB/h, with 95 % confidence {memory.low:+.2f} to {memory.high:+.2f}: "
    descriptors = f"{verdict.descriptors_first:g} in the first third, {verdict.descriptors_last:g} in the last"
    return [
        f"memory: {limits if memory.tells else ''}{memory.verdict(BEARABLE_MB_PER_H)}",
        f"descriptors: {descriptors}: {'flat' if verdict.flat else 'not flat'}",
    ]


def cpu(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Cores in use between two samples, with when the second one was taken."""
    return [(b.at_s, (b.cpu_s - a.cpu_s) / (b.at_s - a.at_s)) for a, b in pairwise(samples)]


def document(found: Found, settings: Settings, verdict: Verdict) -> dict[str, Any]:
    tallies = {**counts.by_protocol(found.records), "all": counts.tally(found.records)}
    return {
        "settings": asdict(settings),
        "seconds": found.ended_s - found.begun_s,
        "failures": verdict.failures,
        "memory_mb_per_h": {**_finite(asdict(verdict.memory)), "verdict": verdict.memory.verdict(BEARABLE_MB_PER_H)},
        "descriptors": {"first": verdict.descriptors_first, "last": verdict.descriptors_last, "flat": verdict.flat},
        "requests": {name: tally.plain() for name, tally in tallies.items()},
        "swaps": [{**asdict(swap), "at_s": swap.at_s - found.begun_s} for swap in found.swaps],
        "samples": [{**asdict(sample), "at_s": sample.at_s - found.begun_s} for sample in found.samples],
        "log": found.log,
    }


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no infinities."""
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def plot(path: Path, found: Found, settings: Settings, verdict: Verdict) -> None:
    """Requests, memory with its trend, descriptors and threads, CPU; over minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made, axes = pyplot.subplots(4, 1, figsize=(9, 10), sharex=True, layout="constrained")
    try:
        minutes = [(s.at_s - found.begun_s) / 60 for s in found.samples]
        _requests(axes[0], found)
        axes[1].plot(minutes, [s.rss_bytes / MB for s in found.samples], linewidth=1, label="resident")
        pss = [(m, s.pss_bytes / MB) for m, s in zip(minutes, found.samples, strict=True) if s.pss_bytes is not None]
        axes[1].plot(*zip(*pss, strict=True), linewidth=1, label="proportional (PSS)")
        _trend(axes[1], found, settings, verdict.memory)
        axes[1].set(ylabel="memory [MB]", ylim=(0, None))
        axes[2].plot(minutes, [s.descriptors for s in found.samples], linewidth=1, label="descriptors")
        axes[2].plot(minutes, [s.threads for s in found.samples], linewidth=1, label="threads")
        axes[2].set(ylabel="number", ylim=(0, None))
        used = cpu(found.samples)
        axes[3].plot([(at - found.begun_s) / 60 for at, _ in used], [100 * v for _, v in used], linewidth=1)
        axes[3].set(ylabel="CPU [% of a core]", xlabel="minutes; a dotted line is a swap", ylim=(0, None))
        for each in axes:
            for swap in found.swaps:
                each.axvline((swap.at_s - found.begun_s) / 60, color="grey", linewidth=0.5, linestyle=":")
            each.grid(alpha=0.3)
        for each in axes[:3]:
            each.legend(loc="lower right")
        axes[0].set_title(f"{len(found.records)} requests, {len(found.swaps)} swaps")
        path.parent.mkdir(parents=True, exist_ok=True)
        made.savefig(path, dpi=120)
    finally:
        pyplot.close(made)


def _requests(axes: Any, found: Found) -> None:
    """A second, by what came of them."""
    seconds = max(1, int(found.ended_s - found.begun_s))
    width_s = max(1, seconds // 200)
    edges = np.arange(0, seconds + width_s, width_s)
    for outcome in Outcome:
        at = [record.sent_s - found.begun_s for record in found.records if record.ending.outcome is outcome]
        if at:
            per_s = np.histogram(at, edges)[0] / width_s
            axes.plot((edges[:-1] + width_s / 2)[:-1] / 60, per_s[:-1], linewidth=1, label=outcome.value)
    axes.set(ylabel="requests per second", ylim=(0, None))


def _trend(axes: Any, found: Found, settings: Settings, memory: Trend) -> None:
    steady = settled(found, settings)
    if not memory.tells:
        return
    middle_s = float(np.mean([s.at_s for s in steady]))
    middle_mb = float(np.mean([s.rss_bytes for s in steady])) / MB
    ends_s = np.array([steady[0].at_s, steady[-1].at_s])
    hours = (ends_s - middle_s) / 3600
    at = (ends_s - found.begun_s) / 60
    label = f"trend: {memory.slope:+.2f} MB/h, 95 %: {memory.low:+.2f} to {memory.high:+.2f}"
    # As it is fitted to means of whole periods, its height is that of all samples.
    axes.plot(at, middle_mb + memory.slope * hours, color="tab:red", label=label)
