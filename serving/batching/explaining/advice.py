"""What would help the batcher of a version: a rule for each thing that may be wrong. Pure.

A rule looks at the figures and says something, or nothing. None says anything without a figure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

from serving.batching.explaining.account import Refused
from serving.batching.explaining.figures import Figures
from serving.batching.explaining.words import ms, number, percent
from serving.batching.item import Closed

_OFTEN = 0.2  # of the runs
_FULL = 0.5
_BUSY = 0.9
_ROOM = 0.7  # busy less than that, instances keep up with bursts
_WORTH_WHILE = 1.05  # times as many rows a second
_NOTICED = 0.001  # share of requests refused
_LITTLE = 0.1  # of a request's time

Estimate = Callable[[int], float]  # rows -> seconds that a run of them takes; 0: not known


@dataclass(frozen=True)
class Settings:
    """How a version's requests are batched, as far as advice goes.

    `max_batch_size` 0: not at all, `unbatched_because`. `processors`: those that runs may use; None: they use a device.
    """

    max_batch_size: int = 64
    max_queue_delay_ms: float = 0.0
    max_queue_rows: int = 4096
    instances: int = 1
    threads: int = 1
    slo_ms: float | None = None
    allowed_batch_sizes: tuple[int, ...] = ()
    padding: bool = False
    processors: int | None = None
    unbatched_because: str = ""


def instances(settings: Settings) -> str:
    return "The instance was" if settings.instances == 1 else f"The {settings.instances} instances were"


Rule = Callable[[Figures, Settings, Estimate], Iterator[str]]


def saturation(it: Figures, settings: Settings, estimate: Estimate) -> Iterator[str]:
    """All instances have work all the time: more of something is needed, if clients shall wait less."""
    if it.busy < _BUSY:
        return
    full = it.share(Closed.FULL)
    runs = f"{percent(full)} of the runs were full" if full >= _FULL else f"runs had {number(it.rows_per_run)} rows"
    yield (
        f"{instances(settings)} busy {percent(it.busy)} of the time and {runs}; requests waited {ms(it.waiting_ms)}: "
        f"{_more_power(settings)}."
    )
    if full >= _FULL and settings.max_batch_size:
        yield from _larger_batches(settings, estimate)


def _more_power(settings: Settings) -> str:
    used = settings.instances * settings.threads
    if settings.processors is None:
        return "more instances would help if the device is not at its limit"
    if used < settings.processors:
        return f"more instances or threads would help ({used} of {settings.processors} processors are used)"
    return f"all {settings.processors} processors are used, so only a faster model or more machines would help"


def _larger_batches(settings: Settings, estimate: Estimate) -> Iterator[str]:
    most = settings.max_batch_size
    now_ms, then_ms = 1000 * estimate(most), 1000 * estimate(2 * most)
    if now_ms <= 0 or (then_ms == 2 * now_ms and estimate(1) * 1000 == now_ms):  # nothing, or one size alone is known
        return
    gain = 2 * now_ms / then_ms
    took = f"by what was measured, a run of {2 * most} rows takes {ms(then_ms)} and one of {most} takes {ms(now_ms)}"
    if gain >= _WORTH_WHILE:
        yield f"Set max_batch_size to {2 * most}: {took}, so {percent(gain - 1)} more rows a second."
    else:
        yield f"A larger max_batch_size would not help: {took}, which is no more rows a second."


def delay(it: Figures, settings: Settings, estimate: Estimate) -> Iterator[str]:
    """Was it worth while to wait for company?"""
    close = it.closed.get(Closed.DELAY)
    if close is None or close.share < _OFTEN:
        return
    brought = close.rows_per_run * (1 - 1 / close.requests_per_run)
    state = (
        f"The delay of {settings.max_queue_delay_ms:g} ms was waited out in {percent(close.share)} of the runs and "
        f"brought {number(brought)} rows"
    )
    alone = estimate(max(1, round(it.rows / max(it.requests, 1))))
    without = it.requests_per_s * alone / settings.instances  # at worst: each request in a run of its own
    if alone > 0 and without < _ROOM:
        yield (
            f"{state}. Without it the instances would be busy {percent(without)} of the time at most: "
            "set max_queue_delay_ms to 0."
        )
    elif brought < 1:
        yield f"{state}: set max_queue_delay_ms to 0."


def lanes(it: Figures, settings: Settings, _estimate: Estimate) -> Iterator[str]:
    """Requests of many kinds keep each other's batches small."""
    close = it.closed.get(Closed.LANE)
    if close is None or close.share < _OFTEN:
        return
    state = (
        f"{percent(close.share)} of the runs closed at {number(close.rows_per_run)} rows because requests of other "
        "shapes, inputs or outputs waited"
    )
    if settings.padding:
        yield f"{state}: fewer sizes in 'padding' would help, and clients that all ask for the same outputs."
    else:
        yield f"{state}: declare 'padding' if it is lengths that differ; clients should all ask for the same outputs."


def sizes(it: Figures, settings: Settings, _estimate: Estimate) -> Iterator[str]:
    """Do the allowed sizes suit the load?"""
    if not settings.allowed_batch_sizes:
        return
    if it.padded_share >= _OFTEN:
        yield (
            f"{percent(it.padded_share)} of the rows that were run were padding, and runs had "
            f"{number(it.rows_per_run)} rows: add {max(1, round(it.rows_per_run))} to allowed_batch_sizes."
        )
    close = it.closed.get(Closed.SIZE)
    if close is not None and close.share >= _OFTEN and it.busy >= _BUSY:
        yield (
            f"{percent(close.share)} of the runs left requests behind to stay at an allowed size, with "
            f"{number(close.rows_per_run)} rows: another size above that in allowed_batch_sizes would help."
        )


def objective(it: Figures, settings: Settings, estimate: Estimate) -> Iterator[str]:
    """Does `slo_ms` keep batches smaller than the load needs?"""
    close = it.closed.get(Closed.SLO)
    if close is None or close.share < _OFTEN or it.busy < _BUSY:
        return
    most = settings.max_batch_size
    takes_ms = 1000 * estimate(most)
    full = f", where one of {most} rows takes {ms(takes_ms)}" if takes_ms > 0 else ""
    yield (
        f"slo_ms {settings.slo_ms or 0:g} kept {percent(close.share)} of the runs at {number(close.rows_per_run)} "
        f"rows{full}: a higher slo_ms would let more requests through."
    )


def deadlines(it: Figures, _settings: Settings, _estimate: Estimate) -> Iterator[str]:
    close = it.closed.get(Closed.DEADLINE)
    if close is not None and close.share >= _OFTEN:
        yield (
            f"{percent(close.share)} of the runs closed at {number(close.rows_per_run)} rows because a request could "
            "not have waited for more: clients that allow more time would get larger batches."
        )


def full_queue(it: Figures, settings: Settings, estimate: Estimate) -> Iterator[str]:
    share = it.refused.get(Refused.FULL, 0) / it.asked
    if share < _NOTICED:
        return
    state = f"{percent(share)} of the requests were refused since {settings.max_queue_rows} rows waited"
    busy = f"instances were busy {percent(it.busy)} of the time"
    if it.busy < _BUSY:
        yield f"{state}, although {busy}: a larger max_queue_rows would take the bursts."
        return
    most = max(settings.max_batch_size, 1)
    takes_s = estimate(most)
    limit = f"; full runs do {number(settings.instances * most / takes_s)} rows/s at most" if takes_s > 0 else ""
    yield f"{state}, and {busy}{limit}. A longer queue would only make clients wait."


def late(it: Figures, _settings: Settings, _estimate: Estimate) -> Iterator[str]:
    """Requests whose time was over before they ran."""
    share = sum(it.refused.get(cause, 0) for cause in (Refused.HOPELESS, Refused.EXPIRED, Refused.CANCELLED)) / it.asked
    if share >= _NOTICED:
        yield (
            f"{percent(share)} of the requests ran out of time before they ran; those that ran waited "
            f"{ms(it.waiting_ms)} ({ms(it.longest_wait_ms)} at most) and took {ms(it.request_ms)}: clients have to "
            "allow more than that, or fewer requests have to come."
        )


def alone(it: Figures, settings: Settings, _estimate: Estimate) -> Iterator[str]:
    share = it.share(Closed.ALONE)
    if share < _OFTEN:
        return
    state = f"{percent(share)} of the runs had one request that may not share a run"
    if settings.max_batch_size == 0:
        because = f" ({settings.unbatched_because})" if settings.unbatched_because else ""
        yield f"{state}, since this model is not batched{because}."
    else:
        yield f"{state}: it has more than {settings.max_batch_size} rows, or brings an input that has no batch axis."


def idleness(it: Figures, settings: Settings, _estimate: Estimate) -> Iterator[str]:
    """Instances that nobody needs take threads, and keep batches small."""
    enough = max(1, ceil(it.busy * settings.instances / _ROOM))
    if enough <= settings.instances / 2 and it.waiting_ms <= it.request_ms * _LITTLE:
        yield (
            f"{instances(settings)} busy {percent(it.busy)} of the time and requests waited {ms(it.waiting_ms)} of "
            f"{ms(it.request_ms)}: set instances to {enough}."
        )


def bursts(it: Figures, settings: Settings, _estimate: Estimate) -> Iterator[str]:
    """Waiting without a delay and without load."""
    if it.busy < _ROOM and not settings.max_queue_delay_ms and it.waiting_ms > max(it.running_ms, 1):
        yield (
            f"Requests waited {ms(it.waiting_ms)} although instances were busy {percent(it.busy)} of the time, so they "
            "come in bursts: more instances would take those, or clients that send steadily."
        )


RULES: tuple[Rule, ...] = (
    saturation,
    full_queue,
    late,
    delay,
    lanes,
    sizes,
    objective,
    deadlines,
    alone,
    idleness,
    bursts,
)


def contentment(it: Figures) -> str:
    return f"Nothing to improve: requests wait {ms(it.waiting_ms)} of {ms(it.request_ms)}."
