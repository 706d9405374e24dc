"""Is a new version slower than the one that serves? On the event loop; measures in a loading thread.

Time is a noisy measure, so runs of both are interleaved, medians compared, and a version that seems slower is measured
again, after longer and longer pauses, before it is refused.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import median
from time import perf_counter
from typing import NamedTuple

from serving.backends.base import Session
from serving.core.errors import LoadError
from serving.core.types import Tensors
from serving.repository.loads.loading import Loaded, default_signature
from serving.repository.version import Version

log = logging.getLogger(__name__)

_PAUSES_S = (1.0, 2.0, 4.0)  # before it is measured again
_PAIRS = 21
_LEAST_PAIRS = 3
_ENOUGH_S = 2.0


class Times(NamedTuple):
    """Medians, in seconds."""

    new: float
    serving: float


InThread = Callable[[Callable[[], Times | None]], Awaitable[Times | None]]


async def refuse_slower(loaded: Loaded, serving: Version, limit: float, in_thread: InThread) -> None:
    """
    Args:
        serving: a ready version; it is kept until this returns.
        limit: how many times as long a run may take.
        in_thread: runs what blocks.

    Raises:
        LoadError: the version that was loaded is slower than that.
    """
    inputs = loaded.golden or loaded.sample
    if inputs is None or serving.session is None:
        log.info("%s: nothing is known to compare times with", serving.model)
        return
    serving.lease()
    try:
        for pause_s in (*_PAUSES_S, None):
            took = await in_thread(partial(times, loaded.session, serving.session, inputs))
            if took is None or took.new <= limit * took.serving:
                return
            if pause_s is not None:
                await asyncio.sleep(pause_s)
    finally:
        serving.release()
    assert took is not None
    raise LoadError(
        f"it is slower than version {serving.number}: its sample takes {1000 * took.new:.3g} ms, "
        f"{took.new / took.serving:.3g} times as long; latency_limit is {limit:g}"
    )


def times(new: Session, serving: Session, inputs: Tensors) -> Times | None:
    """Of one run each, for all outputs of the default signature. None: the one that serves does not take these inputs.
    Blocks for some seconds at most, or a few runs."""
    tooks: tuple[list[float], list[float]] = ([], [])
    began = perf_counter()
    try:
        for number in range(_PAIRS + 1):
            for session, took in zip((new, serving), tooks, strict=True):
                started = perf_counter()
                _run(session, inputs)
                took.append(perf_counter() - started)
            if number >= _LEAST_PAIRS and perf_counter() - began > _ENOUGH_S:
                break
    except Exception as error:  # whatever a runtime raises: the new version has taken them before
        log.info(
            "the version that serves does not take the sample of the new one, so times are not compared: %s", error
        )
        return None
    return Times(*(median(took[1:]) for took in tooks))  # the first may be a first run


def _run(session: Session, inputs: Tensors) -> None:
    name = default_signature(session)
    session.run(inputs, tuple(session.signatures[name].outputs), name)
