"""What was once worked out, kept for the next ones that are the same."""

from typing import Generic, TypeVar

_MAX_KEPT = 256

Key = TypeVar("Key")
Value = TypeVar("Value")


class Memo(Generic[Key, Value]):
    """A few values by key; one too many, and the oldest goes. `get` is a dictionary's own."""

    __slots__ = ("_kept", "get")

    def __init__(self) -> None:
        self._kept: dict[Key, Value] = {}
        self.get = self._kept.get

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: Key, value: Value) -> None:
        if len(self._kept) >= _MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = value
