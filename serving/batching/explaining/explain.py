"""What a batcher did and why, and what would help, in plain sentences. Pure: figures in, text out."""

from collections.abc import Iterator
from dataclasses import dataclass

from serving.batching.explaining.account import Refused, Snapshot
from serving.batching.explaining.advice import RULES, Estimate, Settings, contentment, instances
from serving.batching.explaining.figures import Figures
from serving.batching.explaining.words import count, duration, ms, number, percent
from serving.batching.item import Closed

ENOUGH_RUNS = 30  # below that, shares mean little
_RARELY = 0.01
_ALWAYS = 0.9


@dataclass(frozen=True)
class Report:
    """`what` it did, and `advice`: both in sentences, of the period that is `told` in the first of them."""

    what: tuple[str, ...]
    advice: tuple[str, ...]
    told: Figures
    recent: Figures
    total: Figures


def explain(snapshot: Snapshot, settings: Settings, estimate: Estimate) -> Report:
    """Of the last minute, if enough happened in it, otherwise of all time."""
    recent, total = Figures.of(snapshot.recent), Figures.of(snapshot.total)
    is_recent = recent.runs >= ENOUGH_RUNS or recent.runs == total.runs
    told = recent if is_recent else total
    if not told.asked:
        return Report(("No request has come so far.",), (), told, recent, total)
    what = (
        summary(told, "In the last" if is_recent else "In all, in"),
        *(text for tell in (closings, times, usage, padding, refusals) for text in tell(told, settings)),
    )
    if told.runs < ENOUGH_RUNS and not told.refused:
        few = f"{count(told.runs, 'run')} so far {'says' if told.runs == 1 else 'say'} too little for advice."
        return Report((*what, few), (), told, recent, total)
    advice = tuple(text for rule in RULES for text in rule(told, settings, estimate))
    return Report(what, advice or (contentment(told),), told, recent, total)


# What it did


def summary(it: Figures, when: str) -> str:
    when = f"{when} {duration(it.seconds)}"
    if _with_pauses(it):
        when += f", with requests in {duration(it.active_seconds)} of it"
    if not it.runs:
        return f"{when}: no run."
    rows = f" with {it.rows:,} rows" if it.rows != it.requests else ""
    rate = f"{number(it.requests_per_s)} requests/s"
    size = f"{number(it.rows_per_run)} rows a run, {it.largest_run_rows} at most"
    done = f"{count(it.requests, 'request')}{rows} in {count(it.runs, 'run')}"
    return f"{when}: {done}; {rate}, {size}."


def closings(it: Figures, settings: Settings) -> Iterator[str]:
    reasons = [(close.share, _because(reason, settings)) for reason, close in it.closed.items()]
    told = [f"{percent(share)} {because}" for share, because in reasons if share >= _RARELY]
    if told:
        yield f"Runs closed because: {'; '.join(told)}."


def _because(reason: Closed, settings: Settings) -> str:
    return {
        Closed.FREE: "an instance was free and took all that waited",
        Closed.FULL: f"they were full (max_batch_size {settings.max_batch_size})",
        Closed.LARGE: "what else waited was parts of large requests, of which each run takes one beside small ones",
        Closed.DELAY: f"the delay was over (max_queue_delay_ms {settings.max_queue_delay_ms:g})",
        Closed.LANE: "what else waited may not share a run with them",
        Closed.SIZE: "of the allowed sizes, a larger one would have cost more (allowed_batch_sizes)",
        Closed.SLO: f"more rows would have taken too long (slo_ms {settings.slo_ms or 0:g})",
        Closed.DEADLINE: "a request in them could not have waited for more",
        Closed.ALONE: "the request may not share a run",
    }[reason]


def times(it: Figures, _settings: Settings) -> Iterator[str]:
    if it.runs:
        compute = it.joining_ms + it.running_ms + it.cutting_ms
        yield (
            f"A request took {ms(it.request_ms)} here, {ms(it.waiting_ms)} of it waiting ({ms(it.longest_wait_ms)} at "
            f"most). A run took {ms(compute)}: {ms(it.joining_ms)} to join its requests, {ms(it.running_ms)} to run, "
            f"{ms(it.cutting_ms)} to cut the answer apart."
        )


def usage(it: Figures, settings: Settings) -> Iterator[str]:
    if it.runs:
        yield f"{instances(settings)} busy {percent(it.busy)} of {'that' if _with_pauses(it) else 'the'} time."


def _with_pauses(it: Figures) -> bool:
    return it.active_seconds < _ALWAYS * it.seconds


def padding(it: Figures, _settings: Settings) -> Iterator[str]:
    if it.padded_share >= _RARELY:
        yield f"Of the rows that were run, {percent(it.padded_share)} were padding."


def refusals(it: Figures, settings: Settings) -> Iterator[str]:
    words = {
        Refused.FULL: f"were refused since the queue was full (max_queue_rows {settings.max_queue_rows})",
        Refused.HOPELESS: "were refused at once since they could not have made their deadline",
        Refused.EXPIRED: "expired while they waited",
        Refused.CANCELLED: "were given up by their clients while they waited",
    }
    told = [f"{many:,} ({percent(many / it.asked)}) {words[cause]}" for cause, many in it.refused.items()]
    if told:
        yield f"Of {count(it.asked, 'request')}, {'; '.join(told)}."
