"""A request that is cut into several items, and one answer out of theirs.

It has more rows than a run may hold, or would keep smaller ones waiting. `cut` is called under the queue's lock, by any
thread; answers are put together on the loop.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from serving.batching.item import Item
from serving.core.types import Tensors, Timing


def cut(item: Item, most: int, cancel: Callable[[Item], None]) -> list[Item]:
    """Items of at most `most` rows; `item.reply` gets its answer when all of them have theirs.

    Args:
        cancel: takes one of them back, where another has failed.
    """
    parts = []
    whole = _Whole(item.reply, cancel)
    for start in range(0, item.rows, most):
        end = min(start + most, item.rows)
        inputs = {name: array[start:end] for name, array in item.inputs.items()}
        reply = _Part(whole)
        whole.parts.append(reply)
        part = Item(inputs, item.outputs, end - start, item.lane, item.deadline, reply, item.signature, item.priority)
        whole.items.append(part)
        parts.append(part)
    return parts


def owner(reply: Any) -> Any:
    """The reply of the whole request to which an item with this one belongs."""
    while isinstance(reply, _Part):
        reply = reply.whole
    return reply


class _Whole:
    def __init__(self, reply: Any, cancel: Callable[[Item], None]) -> None:
        self.reply = reply
        self.items: list[Item] = []
        self.parts: list[_Part] = []
        self._cancel = cancel

    def told(self) -> None:
        """One more part has its answer."""
        answers = [part.answer for part in self.parts if part.answer is not None]
        if len(answers) == len(self.parts) and not self.reply.done():
            self.reply.set_result((_joined([outputs for outputs, _ in answers]), _sum([t for _, t in answers])))
            self.end()

    def failed(self, error: BaseException) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)
        for item in self.end():
            self._cancel(item)

    def end(self) -> list[Item]:
        """Lets go of the parts, which know it: a circle of tensors would wait for the garbage collector."""
        items, self.items, self.parts = self.items, [], []
        return items


class _Part:
    """Stands where another item has its future."""

    def __init__(self, whole: _Whole) -> None:
        self.answer: tuple[Tensors, Timing] | None = None
        self._whole = whole

    @property
    def whole(self) -> Any:
        return self._whole.reply

    def done(self) -> bool:
        return self.answer is not None or bool(self._whole.reply.done())

    def set_result(self, answer: tuple[Tensors, Timing]) -> None:
        self.answer = answer
        self._whole.told()

    def set_exception(self, error: BaseException) -> None:
        self._whole.failed(error)

    def cancel(self) -> None:
        self._whole.end()


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _sum(timings: Sequence[Timing]) -> Timing:
    """It waits until its first part begins, and then for all runs."""
    return Timing(
        min(timing.queue_s for timing in timings),
        sum(timing.compute_s for timing in timings),
        sum(timing.input_s for timing in timings),
        sum(timing.run_s for timing in timings),
        sum(timing.output_s for timing in timings),
        max(timing.rows for timing in timings),
    )
