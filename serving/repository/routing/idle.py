"""Which models nobody asks for, so that their memory can serve others. Pure: time is an argument."""

from collections.abc import Iterable
from dataclasses import dataclass

_SPARED = 0.1  # of the time after which a model is put to sleep: asked for since, it is in use
_LOOKS = 10  # in that time
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.05, 10.0


@dataclass(frozen=True)
class Sleep:
    """What is known of a model that sleeps.

    Attributes:
        versions: those that served before, and will again.
        waiting: how many requests may wait for it to wake.
        sticky: the header by whose values its requests are shared out, if there is one.
    """

    versions: frozenset[int]
    waiting: int
    sticky: str | None = None


@dataclass(frozen=True)
class Usage:
    """A model that serves: how long ago the last request came, 0 while one is under way, and the memory that it
    takes."""

    model: str
    idle_s: float
    bytes: int


def due(models: Iterable[Usage], idle_unload_s: float) -> list[str]:
    """The models to put to sleep now."""
    return [usage.model for usage in models if usage.idle_s >= idle_unload_s]


def spare(models: Iterable[Usage], idle_unload_s: float) -> list[Usage]:
    """The models to put to sleep if memory is needed, the one that was not asked for longest first.

    One that was asked for a moment ago is not among them: it would be needed again before the other has loaded, and so
    they would push each other out in turn.
    """
    idle = [usage for usage in models if usage.idle_s >= _SPARED * idle_unload_s]
    return sorted(idle, key=lambda usage: usage.idle_s, reverse=True)


def look_s(idle_unload_s: float) -> float:
    """How long to wait between two looks at what is due."""
    return min(max(idle_unload_s / _LOOKS, _SHORTEST_LOOK_S), _LONGEST_LOOK_S)
