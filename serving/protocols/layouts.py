"""Messages that are like one before, but for the bytes of their one tensor. On the event loop.

What is written before and behind these bytes says all the rest: names, types, shapes. Where it is the same, byte by
byte, and the message is as long, there is nothing to parse.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.core.memo import Memo

_MAX_BYTES = 2048  # of what is compared
_MOST = 8  # of one length

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Layout(Generic[Value]):
    """`begin`: where the tensor's bytes begin in a message."""

    before: bytes
    behind: bytes
    begin: int
    value: Value


class Layouts(Generic[Value]):
    """What was worked out of a message, by all of its bytes but the tensor's."""

    __slots__ = ("_of_length",)

    def __init__(self) -> None:
        self._of_length: Memo[int, tuple[Layout[Value], ...]] = Memo()

    def find(self, data: bytes) -> Layout[Value] | None:
        for layout in self._of_length.get(len(data), ()):
            if data.startswith(layout.before) and data.endswith(layout.behind):
                return layout
        return None

    def keep(self, data: bytes, begin: int, end: int, value: Value) -> None:
        """For messages like `data`, whose tensor is from `begin` to `end`, in place of what was kept for them."""
        if begin + len(data) - end > _MAX_BYTES:
            return
        before, behind = data[:begin], data[end:]
        others = [
            layout
            for layout in self._of_length.get(len(data), ())
            if layout.before != before or layout.behind != behind
        ]
        self._of_length.keep(len(data), (*others[1 - _MOST :], Layout(before, behind, begin, value)))
