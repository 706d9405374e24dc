"""Where requests come from: generators that follow a description such as `poisson:500,large_rows=64`. Pure.

A source can be asked for the same load at another speed, which is how latency against rate is swept.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Protocol

from serving.batching.simulation.replay import Request


class Source(Protocol):
    @property
    def name(self) -> str: ...

    def requests(self, speed: float = 1.0) -> list[Request]:
        """In order of arrival, at `speed` times the rate that the source has by itself."""


@dataclass(frozen=True)
class Recorded:
    """A trace that was read: at another speed its time is stretched, and timeouts are not."""

    name: str
    trace: tuple[Request, ...]

    def requests(self, speed: float = 1.0) -> list[Request]:
        return [replace(request, at_s=request.at_s / speed) for request in self.trace]


@dataclass(frozen=True)
class Shape:
    """What a generator is told, besides its rate (requests per second, over all of the time).

    `seconds`: how long requests come, at speed 1; at another, as many come in another time. `on_s`, `off_s`: of bursts.
    `large_share` of the requests have `large_rows` rows, `urgent_share` the priority 1, the highest, and the others 2
    (0 share: all have 0, the default). `lanes`: as many kinds of requests that cannot share a run. Lanes, sizes and
    priorities are drawn one by one.
    """

    seconds: float = 20.0
    seed: int = 1
    rows: int = 1
    large_rows: int = 64
    large_share: float = 0.0
    lanes: int = 1
    urgent_share: float = 0.0
    timeout_ms: float = 0.0
    on_s: float = 0.1
    off_s: float = 0.4


Arrivals = Callable[[float, Shape, random.Random], Iterator[float]]


def _poisson(rate_s: float, shape: Shape, rng: random.Random) -> Iterator[float]:
    now = 0.0
    while True:
        now += rng.expovariate(rate_s)
        yield now


def _periodic(rate_s: float, shape: Shape, rng: random.Random) -> Iterator[float]:
    number = 0
    while True:
        yield number / rate_s
        number += 1


def _bursts(rate_s: float, shape: Shape, rng: random.Random) -> Iterator[float]:
    """Poisson arrivals while it is on, none while it is off: that time is cut out."""
    cycle_s = shape.on_s + shape.off_s
    for busy_s in _poisson(rate_s * cycle_s / shape.on_s, shape, rng):
        cycles, within_s = divmod(busy_s, shape.on_s)
        yield cycles * cycle_s + within_s


ARRIVALS: Mapping[str, Arrivals] = {"poisson": _poisson, "periodic": _periodic, "bursts": _bursts, "mixed": _poisson}
_DEFAULTS = {"mixed": Shape(large_share=0.01)}


@dataclass(frozen=True)
class Generated:
    kind: str
    rate_s: float
    shape: Shape

    @property
    def name(self) -> str:
        default = _DEFAULTS.get(self.kind, Shape())
        told = (
            f",{field.name}={getattr(self.shape, field.name):g}"
            for field in fields(Shape)
            if getattr(self.shape, field.name) != getattr(default, field.name)
        )
        return f"{self.kind}:{self.rate_s:g}{''.join(told)}"

    def requests(self, speed: float = 1.0) -> list[Request]:
        """As many on average at any speed; bursts are as long as ever."""
        shape, rng = self.shape, random.Random(self.shape.seed)
        sizes = random.Random(shape.seed + 1)  # of their own, so that sizes do not change when arrivals do
        arrivals = ARRIVALS[self.kind](self.rate_s * speed, shape, rng)
        return [_drawn(at_s, shape, sizes) for at_s in _until(shape.seconds / speed, arrivals)]


def _until(end_s: float, arrivals: Iterable[float]) -> Iterator[float]:
    for at_s in arrivals:
        if at_s >= end_s:
            return
        yield at_s


def _drawn(at_s: float, shape: Shape, rng: random.Random) -> Request:
    large, urgent, lane = (
        rng.random() < shape.large_share,
        rng.random() < shape.urgent_share,
        rng.randrange(shape.lanes),
    )
    return Request(
        at_s,
        rows=shape.large_rows if large else shape.rows,
        lane=str(lane) if shape.lanes > 1 else "",
        timeout_s=shape.timeout_ms / 1000 or None,
        priority=(1 if urgent else 2) if shape.urgent_share else 0,
    )


def generated(text: str) -> Generated:
    """Reads `KIND:RATE[,NAME=VALUE...]`, such as `bursts:2000,on_s=0.1,off_s=0.4,timeout_ms=50`.

    Raises:
        ValueError: one line that says what is wrong and what there is.
    """
    kind, _, rest = text.partition(":")
    if kind not in ARRIVALS:
        raise ValueError(f"no kind of arrivals '{kind}': there are {', '.join(ARRIVALS)}")
    rate, *settings = rest.split(",")
    shape = _DEFAULTS.get(kind, Shape())
    types = {field.name: type(getattr(shape, field.name)) for field in fields(Shape)}
    changes = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in types:
            raise ValueError(f"no setting '{name}' of '{kind}': there are {', '.join(types)}")
        changes[name] = types[name](_number(value, f"'{name}'"))
    source = Generated(kind, _number(rate, f"the rate of '{kind}'"), replace(shape, **changes))
    _check(source)
    return source


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} is a number, got '{text}'") from None


def _check(source: Generated) -> None:
    shape = source.shape
    positive = {"rate": source.rate_s} | {
        n: getattr(shape, n) for n in ("seconds", "rows", "large_rows", "lanes", "on_s")
    }
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"'{name}' is more than 0, got {value:g}")
    for name in ("timeout_ms", "off_s"):
        if getattr(shape, name) < 0:
            raise ValueError(f"'{name}' is not negative, got {getattr(shape, name):g}")
    for name in ("large_share", "urgent_share"):
        if not 0 <= getattr(shape, name) <= 1:
            raise ValueError(f"'{name}' is between 0 and 1, got {getattr(shape, name):g}")
