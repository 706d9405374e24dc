"""What replicas of one application share, and what therefore no client may change at one of them."""

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from serving.core.errors import ErrorKind, ServingError
from serving.core.spec import ModelSpec
from serving.core.traffic import Traffic
from serving.engine import Control, Wanted
from serving.repository.control.events import Event
from serving.repository.status import ModelStatus


class OneOfMany:
    """`Control` of a replica: tells how things stand, and changes nothing. What a client changes here would hold in the
    one replica that happened to get the request, until that is replaced."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def status(self, name: str = "") -> list[ModelStatus]:
        return self._control.status(name)

    async def events(self, after: int = 0, model: str = "", limit: int = 100, wait_s: float = 0.0) -> list[Event]:
        return await self._control.events(after, model, limit, wait_s)

    async def wake(self, name: str) -> None:
        await self._control.wake(name)

    async def load(
        self,
        name: str,
        spec: ModelSpec | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        force: bool = False,
    ) -> None:
        _refuse(f"load model '{name}'")

    async def unload(self, name: str) -> None:
        _refuse(f"unload model '{name}'")

    async def apply(self, models: Sequence[Wanted]) -> None:
        _refuse("change the list of models")

    async def label(self, name: str, label: str, number: int | None) -> None:
        _refuse(f"change the labels of model '{name}'")

    async def share(self, name: str, traffic: Traffic | None) -> None:
        _refuse(f"share out the requests to model '{name}'")

    async def promote(self, name: str, version: str = "") -> None:
        _refuse(f"promote a version of model '{name}'")

    async def rollback(self, name: str, version: str = "") -> None:
        _refuse(f"roll model '{name}' back")


def _refuse(what: str) -> NoReturn:
    raise ServingError(
        ErrorKind.FORBIDDEN,
        f"failed to {what}: this server is one of many replicas, which all serve what is in their repository; "
        "change it there",
    )


class Slot:
    """A directory that one replica of a node has for itself, and that the next one takes over with what it holds: a
    repository's files need not be fetched again."""

    def __init__(self, directory: Path) -> None:
        """Takes the first that is free below `directory`. Raises: OSError."""
        directory = directory.expanduser()
        number = 0
        while True:
            self.directory = directory / f"replica-{number}"
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.directory / "slot.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                number += 1
            else:
                return

    def close(self) -> None:
        os.close(self._lock)
