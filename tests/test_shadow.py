"""Copies of requests: what is compared, what is dropped, and that nobody notices."""

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import shadow
from serving.backends.base import Session
from serving.core.metrics import ShadowMetrics
from serving.core.scrape import families
from serving.core.traffic import Limits, Shadow, Traffic
from serving.core.types import DEFAULT_SIGNATURE, InferRequest, Tensors
from serving.repository.control.events import Kind
from tests import models
from tests.batching.control import Gate, on_loop, turns
from tests.repository.build import add_version
from tests.repository.test_manager import Served, serving

TO_2 = Traffic(weights={"1": 1}, shadow=Shadow(to="2"))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of copies follows the other without a rest."""
    monkeypatch.setattr(shadow, "_PAUSE_S", 0.0)
    monkeypatch.setattr(shadow, "_REST", 0.0)
    monkeypatch.setattr(shadow, "_REST_IF_BUSY", 0.0)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """The model m with versions 1 and 2, which multiply by 1 and 1.5."""
    add_version(tmp_path / "repo", 1)
    add_version(tmp_path / "repo", 2, factor=1.5)
    (tmp_path / "repo" / "m" / "model.yaml").write_text("versions: all\n")
    return tmp_path / "repo"


class _Gated:
    """A session whose runs wait at a gate."""

    def __init__(self, real: Session, gate: Gate) -> None:
        self._real, self._gate = real, gate
        self.threads: list[threading.Thread] = []
        self.closed = False

    def run(self, inputs: Tensors, outputs: tuple[str, ...], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        self.threads.append(threading.current_thread())
        return self._gate(inputs, outputs, signature)

    def close(self) -> None:
        self.closed = True
        self._real.close()


def gated(served: Served, gate: Gate) -> _Gated:
    """Puts a gate before the runs of copies on version 2."""
    version = served.version(number=2)
    assert version.session is not None
    session = _Gated(version.session, gate)
    version.session = session  # type: ignore[assignment]
    return session


def seen(served: Served) -> ShadowMetrics:
    return served.metrics.shadow("m", "2")


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.001)


async def ask(served: Served, value: float = 1.0, number: int | None = None, **more: Any) -> float:
    request = InferRequest("m", {"x": np.full((1, 4), value, np.float32)}, number, **more)
    return float((await served.engine.infer(request)).outputs["y"][0, 0])


@on_loop
async def test_answers_are_held_against_each_other(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.share("m", TO_2)
        assert [await ask(served, value) for value in (0.0, 2.0, -4.0)] == [0, 2, -4]
        await until(lambda: seen(served).same + seen(served).different == 3)
        assert (seen(served).same, seen(served).different, seen(served).failed, seen(served).dropped) == (1, 2, 0, 0)
        assert (seen(served).largest_absolute, seen(served).largest_relative) == (2.0, 0.5)
        assert served.version(number=2).shadowed is seen(served)


@on_loop
async def test_the_tolerance_is_the_shadows(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.share("m", Traffic(weights={"1": 1}, shadow=Shadow(to="2", atol=1.0, rtol=0)))
        for value in (2.0, 2.5):
            await ask(served, value)
        await until(lambda: seen(served).same + seen(served).different == 2)
        assert (seen(served).same, seen(served).different) == (1, 1)


@on_loop
async def test_only_what_the_default_version_has_answered_is_copied(repo: Path) -> None:
    add_version(repo, 3)
    async with serving(repo) as served:
        await served.manager.share("m", TO_2)
        for number in (2, 3, 1, None):
            await ask(served, number=number)
        await until(lambda: seen(served).different == 2)
        await turns(20)
        assert seen(served).different == 2


@on_loop
async def test_a_part_of_the_requests_can_be_copied(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([0.0, 0.2499, 0.25, 0.9, 0.1])
    async with serving(repo) as served:
        await served.manager.share("m", Traffic(weights={"1": 1}, shadow=Shadow(to="2", percent=25)))
        monkeypatch.setattr(random, "random", lambda: next(draws))
        for _ in range(5):
            await ask(served)
        await until(lambda: seen(served).different == 3)


@on_loop
async def test_copies_do_not_show_in_the_numbers_of_their_version(repo: Path) -> None:
    gate = Gate()
    async with serving(repo) as served:
        gated(served, gate)
        await served.manager.share("m", TO_2)
        await ask(served)
        await gate.entered()
        version = served.version(number=2)
        assert version.leases == 0 and {(v.version, v.in_flight) for v in served.metrics.live()} == {("1", 0), ("2", 0)}
        gate.open()
        await until(lambda: seen(served).different)
        assert version.statistics.success.count == version.statistics.runs == 0
        batches = [m for m in families(served.metrics) if m.name == "serving_batch_rows"]
        counted = {s.labels["version"]: s.value for s in batches[0].samples if s.name.endswith("_count")}
        assert counted == {"1": 1, "2": 0}


@on_loop
async def test_copies_are_run_together_but_never_with_requests(repo: Path) -> None:
    gate = Gate()
    async with serving(repo) as served:
        session = gated(served, gate)
        await served.manager.share("m", TO_2)
        await asyncio.gather(*(ask(served, value) for value in (1.0, 2.0, 3.0)))
        assert await gate.entered() == [1, 2, 3]
        assert await ask(served, 9.0, number=2) == 13.5  # not behind the copies either
        gate.open()
        await until(lambda: seen(served).different == 3)
        (thread,) = session.threads
        assert thread.name == "m/2 (shadow)#0"


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
@on_loop
async def test_copies_run_at_low_priority(repo: Path) -> None:
    gate = Gate()
    async with serving(repo) as served:
        session = gated(served, gate)
        await served.manager.share("m", TO_2)
        await ask(served)
        await gate.entered()
        (thread,) = session.threads
        others = [t for t in threading.enumerate() if t.name.startswith("m/") and t is not thread]
        assert len(others) == 2 and thread.native_id is not None
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == min(nice + 10, 19) or nice > 10
        assert {os.getpriority(os.PRIO_PROCESS, t.native_id or 0) for t in others} == {nice}
        gate.open()


@on_loop
async def test_what_comes_faster_than_copies_are_run_is_dropped(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(shadow, "_MAX_COPIES", 3)
    async with serving(repo) as served:
        gated(served, gate)
        await served.manager.share("m", TO_2)
        await ask(served)
        await gate.entered()
        assert [await ask(served) for _ in range(5)] == [1] * 5  # nobody waits for the copy that hangs
        assert seen(served).dropped == 2
        gate.open()
        await until(lambda: seen(served).different == 4)


@on_loop
async def test_copies_do_not_fill_the_memory(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    monkeypatch.setattr(shadow, "_MAX_BYTES", 80)  # a request has 16 bytes, and its answer as many
    async with serving(repo) as served:
        gated(served, gate)
        await served.manager.share("m", TO_2)
        await ask(served)
        await gate.entered()
        for _ in range(3):
            await ask(served)
        assert seen(served).dropped == 1
        gate.open()
        await until(lambda: seen(served).different == 3)


@on_loop
async def test_one_copy_may_be_of_any_size(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "_MAX_BYTES", 1)
    async with serving(repo) as served:
        await served.manager.share("m", TO_2)
        await ask(served)
        await until(lambda: seen(served).different == 1)


@on_loop
async def test_a_copy_that_waits_too_long_is_dropped(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "_LIMIT_S", 0.05)
    gate = Gate()
    async with serving(repo) as served:
        gated(served, gate)
        (repo / "m" / "model.yaml").write_text("versions: all\nmax_batch_size: 1\n")
        await served.settle()
        gated(served, gate)
        await served.manager.share("m", TO_2)
        await asyncio.gather(*(ask(served) for _ in range(3)))
        await gate.entered()
        await asyncio.sleep(0.1)
        gate.open()
        await until(lambda: seen(served).different + seen(served).dropped == 3)
        assert (seen(served).different, seen(served).dropped, seen(served).failed) == (1, 2, 0)


@on_loop
async def test_arrays_that_the_client_may_change_are_copied(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(lambda x: x)
    async with serving(repo) as served:
        gated(served, gate)
        await served.manager.share("m", TO_2)
        x = np.ones((1, 4), np.float32)
        await served.engine.infer(InferRequest("m", {"x": x}, lent=True))
        x[:] = 7
        assert await gate.entered() == [1]
        gate.open()
        await until(lambda: seen(served).same == 1)
        monkeypatch.setattr(shadow, "_MAX_LENT_BYTES", 31)  # 16 of the request, and as many of its answer
        await served.engine.infer(InferRequest("m", {"x": x}, lent=True))
        assert seen(served).dropped == 1


@on_loop
async def test_a_version_stays_until_its_copies_have_run(repo: Path) -> None:
    gate = Gate()
    async with serving(repo) as served:
        session = gated(served, gate)
        await served.manager.share("m", TO_2)
        await asyncio.gather(*(ask(served) for _ in range(2)))
        await gate.entered()
        await ask(served)
        (repo / "m" / "model.yaml").write_text("versions: [1]\ntraffic: {weights: {'1': 1}}\n")
        await served.manager.share("m", None)
        await served.manager.reconcile()
        await served.until(lambda: served.states()["m/2"] == "DRAINING")
        assert [await ask(served) for _ in range(3)] == [1, 1, 1]
        assert not session.closed and served.states()["m/2"] == "DRAINING"
        gate.open()
        await served.until(lambda: "m/2" not in served.states())
        assert session.closed
        assert len(session.threads) == 1  # the copy that waited was never run
        await until(lambda: not any(t.name.startswith("m/2") for t in threading.enumerate()))


@on_loop
async def test_the_server_ends_while_copies_wait(repo: Path) -> None:
    gate = Gate()
    async with serving(repo) as served:
        gated(served, gate)
        await served.manager.share("m", TO_2)
        await ask(served)
        await gate.entered()
        await ask(served)
        asyncio.get_running_loop().call_later(0.05, gate.open)
    await until(lambda: not any(t.name.startswith("m/") for t in threading.enumerate()))


@on_loop
async def test_a_server_that_is_stopping_copies_nothing(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.share("m", TO_2)
        served.engine.stopping = True
        await ask(served)
        await turns(50)
        assert seen(served).different == 0


@on_loop
async def test_a_shadow_that_differs_is_rolled_back(repo: Path) -> None:
    async with serving(repo) as served:
        limits = Limits(requests=20, different_rate=0.1)
        await served.manager.share("m", Traffic(weights={"1": 1}, shadow=Shadow(to="2"), limits=limits))
        while seen(served).different < 3:
            await ask(served)
            await asyncio.sleep(0.001)
        await until(lambda: served.engine.catalog.models["m"].routing.shadow is None)  # type: ignore[union-attr]
        (event,) = [e for e in await served.manager.events() if e.kind is Kind.ROLLED_BACK]
        assert event.version == 2
        assert event.text.startswith("its answers differ from those of version 1 in 3 of 3 requests")


@on_loop
async def test_a_shadow_that_fails_is_rolled_back(tmp_path: Path) -> None:
    models.save(models.lookup(16), tmp_path / "m" / "1" / "model.onnx")
    models.save(models.lookup(4), tmp_path / "m" / "2" / "model.onnx")
    (tmp_path / "m" / "model.yaml").write_text("versions: all\n")
    async with serving(tmp_path) as served:
        limits = Limits(requests=20, error_rate=0.1)
        await served.manager.share("m", Traffic(weights={"1": 1}, shadow=Shadow(to="2"), limits=limits))
        request = InferRequest("m", {"x": np.full((1, 1), 5, np.int64)})
        while seen(served).failed < 3:
            assert (await served.engine.infer(request)).version == 1
            await asyncio.sleep(0.001)
        await until(lambda: served.engine.catalog.models["m"].routing.shadow is None)  # type: ignore[union-attr]
        assert (seen(served).same, seen(served).different, seen(served).dropped) == (0, 0, 0)


@on_loop
async def test_a_shadow_that_takes_other_requests_has_failed(tmp_path: Path) -> None:
    models.save(models.scale(1, width=4), tmp_path / "m" / "1" / "model.onnx")
    models.save(models.scale(1, width=8), tmp_path / "m" / "2" / "model.onnx")
    (tmp_path / "m" / "model.yaml").write_text("versions: all\n")
    async with serving(tmp_path) as served:
        await served.manager.share("m", TO_2)
        await ask(served)
        await until(lambda: seen(served).failed == 1)


@on_loop
async def test_copies_are_judged_by_the_time_of_the_processor(repo: Path) -> None:
    """A copy that waits for its turn at low priority is not slow: here it waits at a gate."""
    gate = Gate(lambda x: x)
    limits = Limits(requests=1, latency_ratio=1000)
    async with serving(repo) as served:
        gated(served, gate)
        await served.manager.share("m", Traffic(weights={"1": 1}, shadow=Shadow(to="2"), limits=limits))
        for _ in range(6):
            await ask(served)
        await gate.entered()
        await asyncio.sleep(0.5)
        gate.open()
        await until(lambda: seen(served).same == 6)
        assert served.engine.catalog.models["m"].routing.shadow is not None  # type: ignore[union-attr]


@pytest.mark.parametrize(("used", "rest"), [(0.0, 9.0), (0.4, 9.0), (0.6, 39.0)])
@on_loop
async def test_a_shadow_rests_in_proportion_to_its_work(
    used: float, rest: float, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And longer if the server needs more than half of a processor (`used`) for all else."""
    pauses: list[float] = []
    sleep, monotonic = asyncio.sleep, time.monotonic

    async def counted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0.01)

    gate = Gate()
    async with serving(repo) as served:
        gated(served, gate)
        await served.manager.share("m", TO_2)
        monkeypatch.setattr(shadow, "_REST", 9.0)
        monkeypatch.setattr(shadow, "_REST_IF_BUSY", 39.0)
        monkeypatch.setattr(time, "process_time", lambda: used * monotonic())
        monkeypatch.setattr(asyncio, "sleep", counted)
        asked = monotonic()
        await ask(served)
        await gate.entered()
        began = monotonic()
        await ask(served)
        await sleep(0.05)
        least = monotonic() - began
        gate.open()
        while seen(served).different < 2:
            await sleep(0.001)
        assert pauses[0] == 0 and rest * least <= pauses[1] <= rest * (monotonic() - asked)
