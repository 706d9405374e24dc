"""Whether another version fits into memory, and what to do where it does not.

`decide` is pure. `Memory` measures, waits and acts, on the event loop: what it reads are a few small files that the
kernel makes. What cannot be known sets no limit: elsewhere than on Linux that is all but the server's own limit, and
there `resident` is 0. Memory of GPUs is not looked at.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from serving.core.errors import LoadError
from serving.repository.loads import heap
from serving.repository.version import Version

log = logging.getLogger(__name__)

Pressure = Literal["refuse", "unload_first"]
Unload = Callable[[], Awaitable[None]]

MB = 1_000_000
LIMIT = "under --memory-limit-mb"
_UNLIMITED = sys.maxsize
_PROC = Path("/proc")


class NoRoomError(LoadError):
    """There is not enough memory for a version now."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry=True)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self),)


# Measuring


@dataclass(frozen=True)
class Free:
    """Bytes that may still be used, and what allows no more, in words that follow "are free"."""

    bytes: int
    where: str


def resident(proc: Path = _PROC) -> int:
    """Bytes of this process that are in memory; 0 where the system does not tell."""
    try:
        return int((proc / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def available(limit_bytes: int | None = None, proc: Path = _PROC) -> int:
    """Bytes that this process may still take. See `free`."""
    return free(limit_bytes, proc).bytes


def free(limit_bytes: int | None = None, proc: Path = _PROC) -> Free:
    """The least of what the server's own limit, the container's and the machine's memory leave.

    Args:
        limit_bytes: of this process; None: there is none.
    """
    bounds = [Free(_UNLIMITED, "as far as the system tells")]
    if limit_bytes is not None:
        bounds.append(Free(limit_bytes - resident(proc), LIMIT))
    bounds += [Free(left, "in the container") for left in _left_in_cgroups(proc)]
    machine = _fields(proc / "meminfo").get("MemAvailable:")
    if machine is not None:
        bounds.append(Free(machine * 1024, "on the machine"))
    least = min(bounds, key=lambda bound: bound.bytes)
    return Free(max(0, least.bytes), least.where)


def _left_in_cgroups(proc: Path) -> list[int]:
    """What each memory limit leaves that this process or a group above it is under.

    Pages of files that nobody has mapped count as free: the kernel gives them up first, and reading a model leaves many
    of them.
    """
    left = []
    for directory, is_v2 in _cgroups(proc):
        names = ("memory.max", "memory.current") if is_v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, used = (_number(directory / name) for name in names)
        if limit is None or used is None:  # `max`, the root of all groups, or no group at all
            continue
        prefix = "" if is_v2 else "total_"
        stat = _fields(directory / "memory.stat")
        cached = sum(stat.get(prefix + name, 0) for name in ("inactive_file", "active_file"))
        mapped = stat.get("file_mapped" if is_v2 else "total_mapped_file", 0)
        left.append(limit - used + max(0, cached - mapped))
    return left


def _cgroups(proc: Path) -> list[tuple[Path, bool]]:
    """Directories of the groups that may limit this process, and whether each is of the second kind of hierarchy.

    A container may see its own group as the root, or a path from outside that is not there; so every part of the path
    is looked at, and the root.
    """
    mounts: dict[bool, Path] = {}
    for line in _lines(proc / "self/mountinfo"):
        left, _, right = line.partition(" - ")
        kind, *more = right.split()
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in more[-1].split(",")):
            mounts[kind == "cgroup2"] = Path(left.split()[4])
    found = []
    for line in _lines(proc / "self/cgroup"):
        number, controllers, path = line.split(":", 2)
        is_v2 = number == "0"
        mount = mounts.get(is_v2)
        if mount is not None and (is_v2 or "memory" in controllers.split(",")):
            own = mount / path.lstrip("/")
            found += [(group, is_v2) for group in (own, *own.parents) if group.is_relative_to(mount) and group.is_dir()]
    return found


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _fields(file: Path) -> dict[str, int]:
    """Numbers by the word before them."""
    pairs = (line.split()[:2] for line in _lines(file))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(file: Path) -> int | None:
    (text,) = _lines(file)[:1] or [""]
    return int(text) if text.isdigit() else None


# Deciding


@dataclass(frozen=True)
class Spare:
    """A model that nobody asks for, and the bytes that it would give back."""

    model: str
    bytes: int


class Step(Enum):
    LOAD = "load"
    WAIT = "wait"  # for a load under way to end
    SLEEP = "sleep"  # put models to sleep, then look again
    UNLOAD = "unload"  # that, and take out what serves of this model; then look again
    REFUSE = "refuse"


@dataclass(frozen=True)
class Decision:
    step: Step
    models: tuple[str, ...] = ()  # to be put to sleep


def decide(need: int, free: int, promised: int, spare: Sequence[Spare], own: int, pressure: Pressure) -> Decision:
    """What to do for a load that takes `need` bytes at its peak: the least that makes room.

    Args:
        free: bytes that can be taken now.
        promised: to loads under way; it is not known how many of them are taken already.
        spare: models that can be put to sleep, in this order.
        own: bytes of the versions of the same model that serve.
    """
    if need <= free - promised:
        return Decision(Step.LOAD)
    if promised:  # it may fit when they have taken what they really need; if not even then, waiting is no use
        later = decide(need, free, 0, spare, own, pressure)
        return later if later.step is Step.REFUSE else Decision(Step.WAIT)
    models = _fewest(need - free, spare)
    if models is not None:
        return Decision(Step.SLEEP, models)
    if pressure == "unload_first" and own:
        models = _fewest(need - free - own, spare)
        if models is not None:
            return Decision(Step.UNLOAD, models)
    return Decision(Step.REFUSE)


def _fewest(lack: int, spare: Sequence[Spare]) -> tuple[str, ...] | None:
    """The first models that give back `lack` bytes; None: all of them do not."""
    models = []
    for each in spare:
        if lack <= 0:
            break
        models.append(each.model)
        lack -= each.bytes
    return tuple(models) if lack <= 0 else None


# Acting


class Memory:
    """The memory that a server may use, and who has been promised some of it.

    Args:
        limit_bytes: of the server's process; None: what the container and the machine have.
        pressure: whether a version may be taken out of service to make room for its successor.
        measure: what `free` gives.

    Attributes:
        spare: models that can be put to sleep, the one to begin with first.
        sleep: puts models to sleep; returns when their memory has been given back.
    """

    def __init__(
        self,
        limit_bytes: int | None = None,
        pressure: Pressure = "refuse",
        measure: Callable[[int | None], Free] = free,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._pressure = pressure
        self._measure = measure
        self._promised: dict[Version, int] = {}
        self._ended = asyncio.Event()  # of a promise
        self.spare: Callable[[], Sequence[Spare]] = tuple
        self.sleep: Callable[[Collection[str]], Awaitable[None]] = _nobody

    def free_bytes(self) -> int:
        """What nobody uses and nobody was promised. Any thread."""
        return max(0, self._measure(self._limit_bytes).bytes - sum(tuple(self._promised.values())))

    @asynccontextmanager
    async def room(
        self,
        version: Version,
        peak_bytes: int,
        replaced: Callable[[], Iterable[Version]],
        unload: Unload,
        *,
        exceeded: bool = False,
    ) -> AsyncIterator[None]:
        """There are `peak_bytes` for the load of `version` while the context lasts.

        Args:
            replaced: the versions that serve now, and make way for this one sooner or later.
            unload: takes these out; returns when their memory has been given back.
            exceeded: it has been tried with what is free, and took `peak_bytes` before it was ended; how much it really
                needs is not known.

        Raises:
            NoRoomError: there are not; the message says what is missing and what to do.
        """
        trimmed = False
        need_bytes = max(peak_bytes, self.free_bytes()) + 1 if exceeded else peak_bytes
        while True:
            now = self._measure(self._limit_bytes)
            promised = sum(self._promised.values())
            spare = [each for each in self.spare() if each.model != version.model]
            own = sum(each.memory_bytes or 0 for each in replaced())
            decision = decide(need_bytes, now.bytes, promised, spare, own, self._pressure)
            if decision.step is Step.LOAD:
                break
            if not trimmed:  # what is kept for requests may be enough
                await asyncio.to_thread(heap.trim)
                trimmed = True
                continue
            if decision.step is Step.REFUSE:
                raise NoRoomError(self._refusal(need_bytes, exceeded, now, bool(own)))
            if decision.step is Step.WAIT:
                log.debug("%s waits for memory", version)
                await self._ended.wait()
                continue
            await self.sleep(decision.models)
            if decision.step is Step.UNLOAD:
                log.info("%s: what serves is unloaded first: both need more memory than there is", version)
                await unload()
        self._promised[version] = need_bytes
        try:
            yield
        finally:
            del self._promised[version]
            self._ended.set()
            self._ended = asyncio.Event()

    def _refusal(self, need: int, exceeded: bool, now: Free, own: bool) -> str:
        remedies = ["unload another model"]
        if self._limit_bytes is not None and now.where == LIMIT:
            remedies.insert(0, "raise the limit")
        if own and self._pressure == "refuse":
            remedies.append("start with --memory-pressure unload_first")
        needs = f"it needs {_mb(need)} MB to load, {_mb(need - now.bytes)} MB more than the"
        if exceeded:
            needs = "to load, it needs more than the"
        remedy = ", or ".join(remedies)
        return f"not enough memory: {needs} {_mb(now.bytes)} MB that are free {now.where}; {remedy}"


async def _nobody(_: Collection[str]) -> None:
    pass


def _mb(amount: int) -> int:
    return round(amount / MB)
