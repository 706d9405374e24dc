"""How much memory there is, and who gets it."""

import asyncio
import mmap
import pickle
import sys
from collections.abc import Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.errors import LoadError
from serving.repository.loads import heap
from serving.repository.loads.memory import (
    Decision,
    Free,
    Memory,
    NoRoomError,
    Pressure,
    Spare,
    Step,
    available,
    decide,
    free,
    resident,
)
from serving.repository.version import Version
from tests.batching.control import on_loop, turns
from tests.repository.build import version

MB = 1_000_000
MIB = 1024 * 1024


# Measuring


class System:
    """What the kernel shows of a process, below a directory."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.groups = directory / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.groups.mkdir()
        (self.proc / "self/statm").write_text("9000 2560 100 1 0 500 0\n")
        (self.proc / "meminfo").write_text("MemTotal: 1000000 kB\nMemFree: 100 kB\nMemAvailable: 500000 kB\n")

    def v2(self, own: str, mounts: str = "") -> None:
        (self.proc / "self/cgroup").write_text(f"0::{own}\n")
        line = f"30 25 0:26 / {self.groups} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
        (self.proc / "self/mountinfo").write_text(mounts + line)

    def v1(self, own: str) -> None:
        (self.proc / "self/cgroup").write_text(f"12:cpu,cpuacct:/x\n4:memory:{own}\n1:name=systemd:/\n0::/y\n")
        (self.proc / "self/mountinfo").write_text(
            f"34 31 0:31 / {self.groups}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
            f"35 31 0:32 / {self.groups} rw,relatime shared:9 - cgroup cgroup rw,memory\n"
        )

    def group(self, path: str, limit: str, used: int, v1: bool = False, **stat: int) -> None:
        directory = self.groups / path
        directory.mkdir(parents=True, exist_ok=True)
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if v1 else ("memory.max", "memory.current")
        (directory / names[0]).write_text(f"{limit}\n")
        (directory / names[1]).write_text(f"{used}\n")
        (directory / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_what_the_machine_leaves(system: System) -> None:
    assert free(None, system.proc) == Free(500_000 * 1024, "on the machine")


def test_what_the_limit_leaves(system: System) -> None:
    taken = resident(system.proc)
    assert taken > 0 and taken % 2560 == 0
    assert free(taken + 5 * MB, system.proc) == Free(5 * MB, "under --memory-limit-mb")
    assert available(taken - 1, system.proc) == 0  # more than it may is taken


def test_a_group_of_the_second_kind(system: System) -> None:
    system.v2("/a/b")
    system.group("a", str(200 * MIB), 150 * MIB)
    system.group("a/b", "max", 100 * MIB)
    assert free(None, system.proc) == Free(50 * MIB, "in the container")
    system.group("a/b", str(120 * MIB), 100 * MIB)
    assert available(None, system.proc) == 20 * MIB


def test_pages_of_files_are_free_unless_they_are_mapped(system: System) -> None:
    system.v2("/")
    stat = {"anon": 1, "inactive_file": 30 * MIB, "active_file": 20 * MIB, "file_mapped": 10 * MIB}
    system.group(".", str(100 * MIB), 90 * MIB, **stat)
    assert available(None, system.proc) == 50 * MIB


def test_a_group_of_the_first_kind(system: System) -> None:
    system.v1("/docker/abc")
    system.group("docker/abc", str(100 * MIB), 80 * MIB, v1=True, inactive_file=9, total_inactive_file=5 * MIB)
    assert free(None, system.proc) == Free(25 * MIB, "in the container")
    system.group("docker/abc", "9223372036854771712", 80 * MIB, v1=True)
    assert free(None, system.proc).where == "on the machine"


def test_a_path_from_outside_of_the_container(system: System) -> None:
    system.v1("/docker/abc")  # whose directory is mounted as the root
    system.group(".", str(100 * MIB), 80 * MIB, v1=True)
    assert available(None, system.proc) == 20 * MIB


def test_where_the_system_tells_nothing(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert resident(nothing) == 0
    assert available(None, nothing) == sys.maxsize
    assert available(7 * MB, nothing) == 7 * MB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_this_process() -> None:
    before = resident()
    with mmap.mmap(-1, 50 * MB) as held:  # an array might get memory that the process has kept
        held.write(b"x" * (50 * MB))
        assert resident() - before > 45 * MB
        assert 0 < available() < 10**15


# Deciding


@pytest.mark.parametrize(
    ("need", "free", "promised", "spare", "own", "pressure", "decision"),
    [
        (5, 5, 0, "", 0, "refuse", Decision(Step.LOAD)),
        (6, 5, 0, "", 0, "refuse", Decision(Step.REFUSE)),
        (5, 9, 4, "", 0, "refuse", Decision(Step.LOAD)),
        (5, 9, 5, "", 0, "refuse", Decision(Step.WAIT)),
        (10, 9, 5, "", 0, "refuse", Decision(Step.REFUSE)),
        (10, 9, 5, "a3", 0, "refuse", Decision(Step.WAIT)),
        (10, 5, 0, "a3 b4 c9", 0, "refuse", Decision(Step.SLEEP, ("a", "b"))),
        (10, 5, 0, "a3 b1", 9, "refuse", Decision(Step.REFUSE)),
        (10, 5, 0, "a3 b1", 9, "unload_first", Decision(Step.UNLOAD)),
        (15, 5, 0, "a3 b1", 9, "unload_first", Decision(Step.UNLOAD, ("a",))),
        (10, 5, 0, "a5", 9, "unload_first", Decision(Step.SLEEP, ("a",))),
        (99, 5, 0, "a5", 9, "unload_first", Decision(Step.REFUSE)),
        (6, 5, 0, "", 0, "unload_first", Decision(Step.REFUSE)),
    ],
)
def test_decisions(
    need: int, free: int, promised: int, spare: str, own: int, pressure: Pressure, decision: Decision
) -> None:
    models = [Spare(text[0], int(text[1:])) for text in spare.split()]
    assert decide(need, free, promised, models, own, pressure) == decision


amounts = st.integers(0, 20)


@given(amounts, amounts, amounts, st.lists(amounts, max_size=4), amounts, st.sampled_from(("refuse", "unload_first")))
def test_a_decision_does_no_more_than_it_must_and_is_no_use_only_when_it_says_so(
    need: int, free: int, promised: int, spare: list[int], own: int, pressure: Pressure
) -> None:
    models = [Spare(str(i), amount) for i, amount in enumerate(spare)]
    decision = decide(need, free, promised, models, own, pressure)
    gained = sum(spare[: len(decision.models)])
    own = own if pressure == "unload_first" else 0
    match decision.step:
        case Step.LOAD:
            assert need <= free - promised
        case Step.WAIT:
            assert promised and free - promised < need <= free + sum(spare) + own
        case Step.SLEEP:
            assert free + gained - spare[len(decision.models) - 1] < need <= free + gained
        case Step.UNLOAD:
            assert free + sum(spare) < need <= free + gained + own
        case Step.REFUSE:
            assert need > free + sum(spare) + own


# Acting


class Machine:
    """Memory that a test hands out: `free` falls with each load, and rises with what goes."""

    def __init__(self, free: int, pressure: Pressure = "refuse", limit: int | None = None, **spare: int) -> None:
        self.free = free
        self.left = spare
        self.slept: list[Collection[str]] = []
        self.memory = Memory(limit, pressure, lambda _: Free(self.free, "under --memory-limit-mb"))
        self.memory.spare = lambda: [Spare(name, amount) for name, amount in self.left.items()]
        self.memory.sleep = self._sleep
        self.live: list[Version] = []

    async def _sleep(self, names: Collection[str]) -> None:
        self.slept.append(names)
        self.free += sum(self.left.pop(name) for name in names)

    async def _unload(self) -> None:
        self.free += sum(each.memory_bytes or 0 for each in self.live)
        self.live.clear()

    def serve(self, amount: int) -> None:
        serving = version(1)
        serving.memory_bytes = amount
        self.live.append(serving)

    @asynccontextmanager
    async def room(self, amount: int, number: int = 2, **more: Any) -> Any:
        async with self.memory.room(version(number), amount, lambda: self.live, self._unload, **more):
            yield


@on_loop
async def test_what_fits_is_loaded_beside_what_serves() -> None:
    machine = Machine(10)
    machine.serve(4)
    async with machine.room(10):
        assert machine.live


@on_loop
async def test_what_does_not_fit_is_refused_with_what_to_do() -> None:
    machine = Machine(300 * MB, limit=1)
    with pytest.raises(NoRoomError) as error:
        async with machine.room(1112 * MB):
            raise AssertionError
    assert str(error.value) == (
        "not enough memory: it needs 1112 MB to load, 812 MB more than the 300 MB that are free under "
        "--memory-limit-mb; raise the limit, or unload another model"
    )
    assert error.value.retry and isinstance(error.value, LoadError)
    machine.serve(MB)
    with pytest.raises(NoRoomError, match=r", or unload another model, or start with --memory-pressure unload_first$"):
        async with machine.room(1112 * MB):
            raise AssertionError
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.retry) == (str(error.value), True)


@on_loop
async def test_what_took_all_that_is_free_needs_more_than_that() -> None:
    machine = Machine(40 * MB, "unload_first", limit=1)
    with pytest.raises(NoRoomError) as error:
        async with machine.room(38 * MB, exceeded=True):
            raise AssertionError
    assert str(error.value) == (
        "not enough memory: to load, it needs more than the 40 MB that are free under --memory-limit-mb; "
        "raise the limit, or unload another model"
    )
    machine.serve(MB)
    async with machine.room(38 * MB, exceeded=True):
        assert not machine.live
    async with machine.room(41 * MB, 3):
        assert machine.memory.free_bytes() == 0


@on_loop
async def test_what_was_freed_and_kept_is_given_back_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(5, a=5)

    def trim() -> None:
        machine.free += 3

    monkeypatch.setattr(heap, "trim", trim)
    async with machine.room(8):
        assert machine.slept == []
    async with machine.room(12):
        assert machine.slept == [("a",)] and machine.free == 5 + 3 + 3 + 5


@on_loop
async def test_what_serves_goes_first_only_if_that_was_asked_for_and_helps() -> None:
    machine = Machine(5, "unload_first")
    machine.serve(4)
    with pytest.raises(NoRoomError):
        async with machine.room(10):
            raise AssertionError
    assert machine.live
    async with machine.room(9):
        assert not machine.live


@on_loop
async def test_idle_models_sleep_first_and_as_few_as_will_do() -> None:
    machine = Machine(5, "unload_first", a=2, b=3, c=4)
    machine.serve(90)
    async with machine.room(10):
        assert machine.slept == [("a", "b")] and machine.live


@on_loop
async def test_a_model_is_not_put_to_sleep_for_its_own_sake() -> None:
    machine = Machine(5, m=9)
    with pytest.raises(NoRoomError):
        async with machine.room(10):
            raise AssertionError
    assert machine.slept == []


@on_loop
async def test_one_that_gives_back_less_than_it_was_thought_to_take_is_not_the_last() -> None:
    machine = Machine(5, a=5, b=5)
    sleep = machine.memory.sleep

    async def sparing(names: Collection[str]) -> None:
        await sleep(names)
        machine.free -= 1

    machine.memory.sleep = sparing
    async with machine.room(10):
        assert machine.slept == [("a",), ("b",)]


@on_loop
async def test_loads_under_way_are_waited_for_where_that_may_help() -> None:
    machine = Machine(10)
    begun = asyncio.Event()

    async def second() -> None:
        async with machine.room(6, 3):
            begun.set()

    async with machine.room(6):
        assert machine.memory.free_bytes() == 4
        waiting = asyncio.ensure_future(second())
        await turns()
        assert not begun.is_set()
        with pytest.raises(NoRoomError):  # whatever those under way really take
            async with machine.room(11, 4):
                raise AssertionError
        machine.free -= 4  # it took less than it was promised
    await waiting
    assert begun.is_set() and machine.memory.free_bytes() == 6


@on_loop
async def test_who_waits_is_refused_when_nothing_is_left() -> None:
    machine = Machine(10)

    async def second() -> None:
        async with machine.room(6, 3):
            raise AssertionError

    async with machine.room(6):
        waiting = asyncio.ensure_future(second())
        await turns()
        machine.free -= 6
    with pytest.raises(NoRoomError):
        await waiting


@on_loop
async def test_a_load_that_fails_gives_its_promise_back() -> None:
    machine = Machine(10)
    with pytest.raises(ValueError, match="odd"):
        async with machine.room(6):
            raise ValueError("odd")
    assert machine.memory.free_bytes() == 10
