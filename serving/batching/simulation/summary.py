"""What a replay comes to: rates, sizes, utilisation, quantiles. Pure."""

import math
from dataclasses import dataclass

import numpy as np

from serving.batching.simulation.replay import Replay
from serving.core.errors import ErrorKind


@dataclass(frozen=True)
class Summary:
    """Of one replay. Times are seconds; latencies are those of requests that were answered (NaN where none was).

    `span_s` reaches from the trace's beginning to the last thing that was told, and rates are over that.
    `throughput_rows_s` counts the rows of answered requests, `offered_rows_s` all rows that came, up to the last
    arrival. `goodput_s` counts requests that were answered in time (see `Answer.of_use`), per second; `in_time` is
    their share of all. `padded`: the share of padding in what was run. `utilisation`: how much of their time instances
    ran.
    """

    requests: int
    answered: int
    refused: int
    expired: int
    span_s: float
    offered_rows_s: float
    throughput_s: float
    throughput_rows_s: float
    goodput_s: float
    in_time: float
    mean_batch_rows: float
    padded: float
    utilisation: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


def summary(replay: Replay, bound_s: float = math.inf) -> Summary:
    """Args:
    bound_s: latency beyond which an answer is of no use; requests may have deadlines of their own besides.
    """
    answered = [answer for answer in replay.answers if answer.error is None]
    expired = sum(answer.error is ErrorKind.EXPIRED for answer in replay.answers)
    in_time = sum(answer.of_use(bound_s) for answer in replay.answers)
    span_s = max((answer.told_s for answer in replay.answers), default=0.0)
    arriving_s = max((answer.request.at_s for answer in replay.answers), default=0.0)
    ran_rows = sum(run.rows for run in replay.runs)
    padding = sum(run.size - run.rows for run in replay.runs)
    latencies = [answer.latency_s for answer in answered]
    p50, p90, p99, highest = np.percentile(latencies, [50, 90, 99, 100]).tolist() if latencies else [math.nan] * 4
    return Summary(
        requests=len(replay.answers),
        answered=len(answered),
        refused=len(replay.answers) - len(answered) - expired,
        expired=expired,
        span_s=span_s,
        offered_rows_s=_ratio(sum(answer.request.rows for answer in replay.answers), arriving_s),
        throughput_s=_ratio(len(answered), span_s),
        throughput_rows_s=_ratio(sum(answer.request.rows for answer in answered), span_s),
        goodput_s=_ratio(in_time, span_s),
        in_time=_ratio(in_time, len(replay.answers)),
        mean_batch_rows=_ratio(ran_rows, len(replay.runs)),
        padded=_ratio(padding, ran_rows + padding),
        utilisation=_ratio(sum(run.seconds for run in replay.runs), span_s * replay.instances),
        mean_s=_ratio(sum(latencies), len(latencies)),
        p50_s=p50,
        p90_s=p90,
        p99_s=p99,
        max_s=highest,
    )


def _ratio(of: float, to: float) -> float:
    return of / to if to else math.nan
