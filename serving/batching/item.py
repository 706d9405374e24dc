"""What waits, and what is run: a request in the batcher, and a batch of them. Pure."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from serving.core.types import DEFAULT_SIGNATURE, Tensors


class ItemState(Enum):
    WAITING = "waiting"
    TAKEN = "taken"  # an instance runs it, or has run it
    GONE = "gone"  # cancelled or expired while it waited


class Closed(Enum):
    """Why a batch has no more rows."""

    FREE = "free"  # an instance was free, and nothing else waited
    FULL = "full"  # it holds all the rows that it may
    LARGE = "large"  # what else waits is of large requests, of which each run takes a part
    DELAY = "delay"  # the delay was over
    LANE = "lane"  # what else waited may not share its run
    SIZE = "size"  # a smaller size that is allowed costs less than padding
    SLO = "slo"  # the policy keeps it smaller
    DEADLINE = "deadline"  # somebody in it could not have waited for more
    ALONE = "alone"  # its request may not be batched


class Item:
    """One request in the batcher. `lane` None: it runs alone, whatever its shape, and its outputs are not cut.

    `reply` belongs to whoever submitted the item (a future, in the server); nothing here touches it.
    """

    __slots__ = (
        "deadline",
        "enqueued",
        "inputs",
        "lane",
        "large",
        "number",
        "outputs",
        "parts",
        "priority",
        "reply",
        "rows",
        "signature",
        "state",
    )

    def __init__(
        self,
        inputs: Tensors,
        outputs: tuple[str, ...],
        rows: int,
        lane: Hashable = (),
        deadline: float | None = None,
        reply: Any = None,
        signature: str = DEFAULT_SIGNATURE,
        priority: int = 0,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.lane = lane
        self.deadline = deadline
        self.reply = reply
        self.signature = signature
        self.priority = priority
        self.parts: Sequence[Item] = ()  # which are queued in its place, if it was cut
        self.large = False  # it, or what it was a part of, would keep smaller ones waiting
        self.state = ItemState.WAITING
        self.enqueued = 0.0
        self.number = 0

    @property
    def alone(self) -> bool:
        return self.lane is None

    def pieces(self) -> Iterator["Item"]:
        """What is queued: itself, or its parts, and theirs."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.pieces()

    def __repr__(self) -> str:
        return f"<Item {self.number} {self.state.value} rows={self.rows}>"


@dataclass(slots=True)
class Batch:
    """What one run is made of, and what was found not to be worth running any more.

    Attributes:
        items: in order; none: there is nothing to run.
        size: rows of the run, where some may be padding.
        late: taken out too: they would not have been ready in time.
    """

    items: list[Item] = field(default_factory=list)
    size: int = 0
    closed: Closed = Closed.FREE
    late: list[Item] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum([item.rows for item in self.items])
