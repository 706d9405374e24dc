"""Whose turn it is on a shared device."""

import threading
import time
from queue import SimpleQueue

import pytest

from serving.batching.fair import Device, Devices, Member
from tests.batching.control import PATIENCE_S


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("serving.batching.fair.time", made)
    return made


class Crowd:
    """Members that always want another run, each in a thread; the test ends the runs, one by one."""

    def __init__(self, clock: Clock, members: dict[str, tuple[Member, float]]) -> None:
        self.ran: list[str] = []
        self._clock = clock
        self._began: SimpleQueue[str] = SimpleQueue()
        self._end = threading.Semaphore(0)
        self._over = False
        self._members = members
        self._threads = [threading.Thread(target=self._work, args=(name,)) for name in members]
        for thread in self._threads:
            thread.start()

    def _work(self, name: str) -> None:
        member, seconds = self._members[name]
        while not self._over:
            with member:
                while not self._over:
                    self._began.put(name)
                    self._end.acquire(timeout=PATIENCE_S)
                    self._clock.now += seconds
                    if not member.again():
                        break

    def run(self, device: Device, times: int) -> list[str]:
        """Who ran, while all the others waited."""
        for _ in range(times):
            name = self._began.get(timeout=PATIENCE_S)
            while len(device._waiting) < len(self._threads) - 1:
                time.sleep(0.001)
            self.ran.append(name)
            self._end.release()
        return self.ran

    def close(self) -> None:
        self._over = True
        self._end.release(1000)
        for thread in self._threads:
            thread.join(PATIENCE_S)


def test_equal_shares_are_equal_times_not_equal_numbers_of_runs(clock: Clock) -> None:
    """Runs of one take three times as long, so it has a third as many."""
    device = Device(1)
    crowd = Crowd(clock, {"slow": (device.member(), 3.0), "quick": (device.member(), 1.0)})
    try:
        ran = crowd.run(device, 40)
    finally:
        crowd.close()
    assert 28 <= ran.count("quick") <= 32


def test_double_share_is_double_time(clock: Clock) -> None:
    device = Device(1)
    crowd = Crowd(clock, {"large": (device.member(2.0), 1.0), "small": (device.member(1.0), 1.0)})
    try:
        ran = crowd.run(device, 30)
    finally:
        crowd.close()
    assert 19 <= ran.count("large") <= 21


def test_nobody_saves_up_for_later(clock: Clock) -> None:
    device = Device(1)
    busy, late = device.member(), device.member()
    for _ in range(100):
        with busy:
            clock.now += 1.0
    crowd = Crowd(clock, {"busy": (busy, 1.0), "late": (late, 1.0)})
    try:
        ran = crowd.run(device, 10)
    finally:
        crowd.close()
    assert 4 <= ran.count("late") <= 6


def test_several_at_once() -> None:
    device = Device(2)
    first, second = device.member(), device.member()
    with first, second:
        pass
    entered = threading.Event()

    def third() -> None:
        with device.member():
            entered.set()

    with first:
        with second:
            thread = threading.Thread(target=third)
            thread.start()
            while not device._waiting:
                time.sleep(0.001)
            assert not entered.is_set()
        assert entered.wait(PATIENCE_S)
    thread.join(PATIENCE_S)


def test_a_run_that_fails_gives_its_place_back() -> None:
    device = Device(1)
    with pytest.raises(RuntimeError), device.member():
        raise RuntimeError
    with device.member():
        pass


def test_devices_of_a_kind_are_one() -> None:
    devices = Devices(1)
    assert devices.of("CPU") is devices.of("CPU") is not devices.of("CUDA")
    assert Devices().of("CPU") is None
