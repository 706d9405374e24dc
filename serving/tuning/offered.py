"""Requests for a batcher: at random times whatever becomes of them (open loop), or as many as it takes.

Answers are counted on the event loop; a thread sends, since timers of an event loop are as coarse as a millisecond. The
time of a request counts from when it was meant to be sent, so a batcher that falls behind cannot hide it.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from serving.batching.batcher import Batcher
from serving.batching.item import Item
from serving.core.errors import ServingError
from serving.tuning.setting import Trial

Submit = Callable[[], Item]

_LEAST = 20  # requests of a trial
_PARTS = 3
_ENOUGH = 100  # requests of a part
_HOPELESS = 5.0  # times the bound: nobody needs to see the rest
_LEFT_S = 1.0  # how long answers are waited for, beyond that


class OfferedError(Exception):
    """The model failed; the message is one line."""


def arrivals(rate: float, seconds: float, rng: np.random.Generator) -> list[float]:
    """Seconds from the begin, of a Poisson process; at least a few."""
    count = max(_LEAST, round(rate * seconds))
    times: list[float] = np.cumsum(rng.exponential(1 / rate, count)).tolist()
    return times


async def offer(
    batcher: Batcher, submit: Submit, rate: float, seconds: float, bound_s: float, rng: np.random.Generator
) -> Trial:
    """Sends at `rate` for about so many seconds; less if latencies are far beyond the bound.

    Raises:
        OfferedError: the model fails.
    """
    times = arrivals(rate, seconds, rng)
    one = _Offered(batcher, submit, len(times), _HOPELESS * bound_s)
    before = batcher.account.snapshot().total.tally
    begin = time.monotonic()
    sender = threading.Thread(target=one.send, args=(asyncio.get_running_loop(), begin, times), daemon=True)
    sender.start()
    limit_s = times[-1] + _HOPELESS * bound_s + _LEFT_S
    try:
        await asyncio.wait_for(one.ended.wait(), limit_s)
    except TimeoutError:
        one.hopeless = True
    one.stop.set()
    one.cancel()
    await asyncio.to_thread(sender.join)
    if one.error:
        raise OfferedError(one.error)
    after = batcher.account.snapshot().total.tally
    took = [each for each in one.took if each is not None]
    runs = after.runs - before.runs
    return Trial(
        rate,
        times[-1],
        len(times),
        len(took),
        _quantile(took, 0.5),
        math.inf if one.hopeless else typical_p99(one.took),
        (after.rows - before.rows) / runs if runs else 0.0,
    )


def typical_p99(took: Sequence[float | None]) -> float:
    """In milliseconds, of seconds in the order of sending; None: not answered, which takes for ever.

    With enough of them, the median of the p99 of three equal parts: what else the machine does for a moment then
    decides nothing, and a queue that grows is still seen.
    """
    parts = _PARTS if len(took) >= _PARTS * _ENOUGH else 1
    cuts = [len(took) * i // parts for i in range(parts + 1)]
    return median(
        _quantile([math.inf if each is None else each for each in took[low:high]], 0.99) for low, high in pairwise(cuts)
    )


def _quantile(took: Sequence[float], share: float) -> float:
    """In milliseconds; of nothing, infinite."""
    return 1000 * sorted(took)[max(0, math.ceil(share * len(took)) - 1)] if took else math.inf


class _Offered:
    """One trial. All but `send` is on the loop."""

    def __init__(self, batcher: Batcher, submit: Submit, count: int, hopeless_s: float) -> None:
        self.took: list[float | None] = [None] * count  # seconds, by request
        self.stop = threading.Event()
        self.ended = asyncio.Event()
        self.hopeless = False
        self.error = ""
        self._batcher = batcher
        self._submit = submit
        self._last = count - 1
        self._left = count
        self._hopeless_s = hopeless_s
        self._waiting: set[Item] = set()

    def send(self, loop: asyncio.AbstractEventLoop, begin: float, times: Sequence[float]) -> None:
        for index, at in enumerate(times):
            ahead = begin + at - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            if self.stop.is_set():
                return
            loop.call_soon_threadsafe(self._one, index, begin + at)

    def _one(self, index: int, at: float) -> None:
        if self.stop.is_set():
            return
        try:
            item = self._submit()
        except ServingError:  # refused: it is not among the answered
            self._gone()
            return
        if index == self._last:
            self._batcher.hurry()  # nobody comes any more, so nobody should be waited for
        self._waiting.add(item)
        item.reply.add_done_callback(lambda reply: self._answered(item, reply, index, at))

    def _answered(self, item: Item, reply: "asyncio.Future[Any]", index: int, at: float) -> None:
        self._waiting.discard(item)
        if reply.cancelled():
            return
        if (error := reply.exception()) is not None:
            self.error = self.error or str(error)
            self.ended.set()
            return
        took_s = time.monotonic() - at
        self.took[index] = took_s
        if took_s > self._hopeless_s:
            self.hopeless = True
            self.ended.set()
        self._gone()

    def _gone(self) -> None:
        self._left -= 1
        if not self._left:
            self.ended.set()

    def cancel(self) -> None:
        for item in list(self._waiting):
            self._batcher.cancel(item)


async def saturate(submit: Submit, in_flight: int, seconds: float) -> float:
    """Requests per second that are answered with so many in flight.

    Raises:
        OfferedError: the model fails, or refuses.
    """
    began = time.monotonic()
    one = _Saturated(submit, began + seconds)
    for _ in range(in_flight):
        one.send()
    await one.ended.wait()
    if one.error:
        raise OfferedError(one.error)
    return one.answers / (time.monotonic() - began)


class _Saturated:
    """Each answer brings the next request, until the time is over and the last one is answered."""

    def __init__(self, submit: Submit, until: float) -> None:
        self.answers = 0
        self.ended = asyncio.Event()
        self.error = ""
        self._submit = submit
        self._until = until
        self._under_way = 0

    def send(self) -> None:
        try:
            reply = self._submit().reply
        except ServingError as error:
            self._fail(error)
            return
        self._under_way += 1
        reply.add_done_callback(self._answered)

    def _answered(self, reply: "asyncio.Future[Any]") -> None:
        self._under_way -= 1
        if reply.cancelled():
            return
        if (error := reply.exception()) is not None:
            self._fail(error)
            return
        self.answers += 1
        if time.monotonic() < self._until:
            self.send()
        elif not self._under_way:
            self.ended.set()

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or str(error)
        self.ended.set()
