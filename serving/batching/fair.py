"""Whose run is next, where models share a device that takes only so many at a time.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): each member's virtual time goes on by the seconds that its runs
took over its share, and the one that is furthest behind goes first. One that had nothing to run does not save up for
later. Called from instance threads; a batch is formed once it is its member's turn, so it stays open until then.
"""

import heapq
import threading
import time
from types import TracebackType


class Device:
    """
    Args:
        runs: that may be under way at the same time.
    """

    def __init__(self, runs: int) -> None:
        self._lock = threading.Lock()
        self._free = runs
        self._virtual = 0.0  # of the member that went last
        self._waiting: list[tuple[float, int, threading.Event]] = []
        self._tickets = 0

    def member(self, share: float = 1.0) -> "Member":
        return Member(self, share)

    def enter(self, virtual: float) -> float:
        """Returns when it is the turn of a member whose virtual time this is; the one that it starts with."""
        with self._lock:
            virtual = max(virtual, self._virtual)
            if self._free:
                self._free -= 1
                self._virtual = virtual
                return virtual
            turn = threading.Event()
            self._tickets += 1
            heapq.heappush(self._waiting, (virtual, self._tickets, turn))
        turn.wait()
        return virtual

    def stays(self, virtual: float) -> bool:
        """Whether a member whose virtual time this is by now goes on, since nobody who waits is further behind."""
        with self._lock:
            if self._waiting and self._waiting[0][0] < virtual:
                return False
            self._virtual = max(virtual, self._virtual)
            return True

    def leave(self) -> None:
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            self._virtual, _, turn = heapq.heappop(self._waiting)
        turn.set()


class Devices:
    """One for each kind of processor.

    Args:
        runs: that may be under way on each at the same time; 0: any number, so that nobody waits for his turn.
    """

    def __init__(self, runs: int = 0) -> None:
        self._runs = runs
        self._devices: dict[str, Device] = {}

    def of(self, kind: str) -> Device | None:
        """
        Args:
            kind: the first of a model's execution providers, such as `CUDAExecutionProvider`.
        """
        if not self._runs:
            return None
        return self._devices.setdefault(kind, Device(self._runs))


class Member:
    """One version, with its share; a context manager around its runs. Several threads may use it."""

    def __init__(self, device: Device, share: float) -> None:
        self._device = device
        self._share = share
        self._virtual = 0.0
        self._local = threading.local()

    def __enter__(self) -> None:
        self._virtual = max(self._virtual, self._device.enter(self._virtual))
        self._local.began = time.monotonic()

    def again(self) -> bool:
        """After a run, inside the context: whether the next one may begin at once. Asked only if there is one."""
        self._charge()
        return self._device.stays(self._virtual)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._charge()
        self._device.leave()

    def _charge(self) -> None:
        now = time.monotonic()
        self._virtual += (now - self._local.began) / self._share
        self._local.began = now
