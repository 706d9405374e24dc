"""Models that nobody asks for are unloaded, and loaded again when somebody does: on real files and real models."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest
from serving.repository.loads import loading
from serving.repository.loads.memory import Free, Memory
from serving.repository.routing.waking import Waking
from serving.repository.version import State
from tests.batching.control import on_loop, turns
from tests.leftovers import without_collector
from tests.repository.build import add_version, corrupt_version
from tests.repository.test_manager import HeldLoad, Served, held_load

__all__ = ["held_load"]

IDLE = "idle: loads on the next request"
LONG_S = 1000.0


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the models m and n, version 1 of each."""
    add_version(tmp_path / "repo", 1)
    add_version(tmp_path / "repo", 1, "n")
    return tmp_path / "repo"


@asynccontextmanager
async def serving(*paths: Path, idle_unload_s: float | None = LONG_S, **settings: Any) -> AsyncIterator[Served]:
    served = Served(*paths, idle_unload_s=idle_unload_s, **settings)
    served.engine.waking = Waking(served.manager.wake)
    await served.manager.start()
    try:
        yield served
    finally:
        await served.manager.close()


def idle_for(served: Served, seconds: float, model: str = "m") -> None:
    """Makes it look as if nobody had asked for a model for so long."""
    for version in served.engine.catalog.models[model].ready.values():
        version.used_at -= seconds


async def put_to_sleep(served: Served, *models: str) -> None:
    """As memory does that is needed for another model."""
    await served.manager._sleepers.sleep(models or ("m",))


async def kinds(served: Served, model: str = "m") -> list[str]:
    return [event.kind.value for event in await served.manager.events(model=model)]


# To sleep


@on_loop
async def test_a_model_that_nobody_asks_for_is_unloaded_and_wakes_on_the_next_request(repo: Path) -> None:
    async with serving(repo, idle_unload_s=0.2) as served:
        first = served.version()
        await served.until(lambda: served.engine.catalog.asleep == {"m", "n"})
        await served.until(lambda: first.state is State.END)
        assert served.index() == {1: ("END", IDLE)}
        assert served.engine.catalog.ready
        assert await served.factor() == 1
        assert served.version() is not first and "m" not in served.engine.catalog.asleep
        assert "n" in served.engine.catalog.asleep
        assert (await kinds(served))[-5:] == ["asleep", "unloaded", "loading", "ready", "awake"]


@on_loop
async def test_one_that_is_asked_for_stays(repo: Path) -> None:
    async with serving(repo) as served:
        for model in ("m", "n"):
            idle_for(served, 2 * LONG_S, model)
        await served.factor()
        served.manager._sleepers.look()
        assert served.engine.catalog.asleep == {"n"}


@on_loop
async def test_one_with_a_request_under_way_is_in_use_until_that_has_ended(repo: Path) -> None:
    async with serving(repo) as served:
        usages = served.manager._sleepers._usages
        idle_for(served, 50.0)
        assert {u.model: round(u.idle_s) for u in usages()} == {"m": 50, "n": 0}
        version = served.version()
        version.lease()
        assert {u.model: u.idle_s for u in usages()}["m"] == 0
        version.release()
        assert {u.model: round(u.idle_s) for u in usages()}["m"] == 0
        assert all(u.bytes == served.version(u.model).memory_bytes for u in usages())


@on_loop
async def test_nothing_sleeps_where_nobody_said_so(repo: Path) -> None:
    async with serving(repo, idle_unload_s=None) as served:
        idle_for(served, 1e6)
        await turns()
        assert served.manager._sleepers.spare() == []
        assert not served.engine.catalog.asleep


@pytest.mark.parametrize("mode", ["explicit", "fixed"])
@on_loop
async def test_in_every_mode(repo: Path, mode: str) -> None:
    more = {"load_model": ["*"]} if mode == "explicit" else {}
    async with serving(repo, idle_unload_s=0.2, mode=mode, **more) as served:
        await served.until(lambda: "m" in served.engine.catalog.asleep)
        assert await served.factor() == 1


@on_loop
async def test_all_versions_sleep_and_come_back(repo: Path) -> None:
    add_version(repo, 2)
    (repo / "m/model.yaml").write_text("versions: all\nversion_labels: {old: 1}")
    async with serving(repo) as served:
        await put_to_sleep(served)
        model = served.engine.catalog.models["m"]
        assert model.asleep is not None and model.asleep.versions == {1, 2}
        assert served.index() == {1: ("END", IDLE), 2: ("END", IDLE)}
        assert await served.factor("m", 1) == 1
        assert served.states() == {"m/1": "READY", "m/2": "READY", "n/1": "READY"}
        assert served.engine.catalog.models["m"].labels == {"old": 1}


@on_loop
async def test_requests_that_are_under_way_are_answered_first(repo: Path) -> None:
    async with serving(repo) as served:
        version = served.version()
        version.lease()
        sleeping = asyncio.ensure_future(put_to_sleep(served))
        await served.until(lambda: version.state is State.DRAINING)
        assert await served.factor() == 1  # meanwhile it can wake
        assert served.version() is not version and version.state is State.DRAINING
        version.release()
        await sleeping
        await served.until(lambda: version.state is State.END)


@on_loop
async def test_what_has_been_unloaded_is_freed_at_once(repo: Path) -> None:
    async with serving(repo) as served:
        with without_collector() as watched:
            for _ in range(2):
                assert await served.factor() == 1
                watched.add(served.version())
                await put_to_sleep(served)
                served.published.clear()
            await watched.freed()


# Awake


@on_loop
async def test_many_requests_wake_it_once_and_wait_for_all_of_it(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        await put_to_sleep(served)
        held_load.let.clear()
        held_load.begun.clear()
        asked = [asyncio.ensure_future(served.factor()) for _ in range(50)]
        await held_load.until("m/1")
        assert served.engine.catalog.ready and "m" in served.engine.catalog.asleep
        late = asyncio.ensure_future(served.factor())
        await turns()
        assert not any(each.done() for each in (*asked, late))
        held_load.let.set()
        assert set(await asyncio.gather(late, *asked)) == {1.0}
        assert held_load.begun == ["m/1"]
        assert (await kinds(served)).count("awake") == 1


@on_loop
async def test_as_many_wait_as_its_queue_holds_rows(repo: Path, held_load: HeldLoad) -> None:
    (repo / "m/model.yaml").write_text("max_queue_rows: 2")
    held_load.let.set()
    async with serving(repo) as served:
        await put_to_sleep(served)
        held_load.let.clear()
        asked = [asyncio.ensure_future(served.factor()) for _ in range(2)]
        await turns()
        assert (await served.refusal())[0] is ErrorKind.QUEUE_FULL
        held_load.let.set()
        await asyncio.gather(*asked)


@on_loop
async def test_a_version_that_has_come_meanwhile_is_served(repo: Path) -> None:
    async with serving(repo) as served:
        await put_to_sleep(served)
        add_version(repo, 2)
        await served.manager.reconcile()
        assert served.states() == {"m/1": "END", "n/1": "READY"}  # it sleeps on
        assert await served.factor() == 2


@on_loop
async def test_one_that_is_unloaded_by_hand_stays_out(repo: Path) -> None:
    async with serving(repo) as served:
        await put_to_sleep(served)
        await served.manager.unload("m")
        assert "m" not in served.engine.catalog.asleep
        assert served.index() == {1: ("END", "unloaded")}
        assert (await served.refusal())[0] is ErrorKind.NOT_FOUND
        await served.manager.wake("m")
        await served.manager.reconcile()
        assert served.index() == {1: ("END", "unloaded")}
        await served.manager.load("m")
        assert await served.factor() == 1


@on_loop
async def test_one_that_is_unloaded_while_it_wakes_stays_out(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        await put_to_sleep(served)
        held_load.let.clear()
        held_load.begun.clear()
        asked = asyncio.ensure_future(served.refusal())
        await held_load.until("m/1")
        await served.manager.unload("m")
        held_load.let.set()
        assert (await asked)[0] is ErrorKind.NOT_FOUND
        await served.settle()
        assert served.index() == {1: ("END", "unloaded")}


@on_loop
async def test_a_load_by_hand_wakes_it_and_requests_wait_for_that(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        await put_to_sleep(served)
        held_load.let.clear()
        held_load.begun.clear()
        loading = asyncio.ensure_future(served.manager.load("m"))
        await held_load.until("m/1")
        assert served.engine.catalog.ready
        asked = asyncio.ensure_future(served.factor())
        await turns()
        held_load.let.set()
        await loading
        assert await asked == 1 and held_load.begun == ["m/1"]
        assert not served.engine.catalog.asleep


@on_loop
async def test_a_label_for_one_that_sleeps_wakes_it(repo: Path) -> None:
    async with serving(repo) as served:
        await put_to_sleep(served)
        await served.manager.label("m", "stable", 1)
        assert served.states() == {"m/1": "READY", "n/1": "READY"}
        assert not served.engine.catalog.asleep


@on_loop
async def test_one_whose_directory_is_removed_is_gone(repo: Path) -> None:
    async with serving(repo) as served:
        await put_to_sleep(served)
        shutil.rmtree(repo / "m")
        await served.settle()
        await served.until(lambda: "m" not in served.engine.catalog.models)
        assert not served.engine.catalog.asleep and served.engine.catalog.ready
        assert (await served.refusal())[0] is ErrorKind.NOT_FOUND


# What does not wake


@on_loop
async def test_one_that_cannot_be_loaded_now_sleeps_on_and_says_why(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fail(*_: Any, **__: Any) -> None:
        tried.append(1)
        raise OSError("no file can be opened")

    async with serving(repo, retry_limit_s=LONG_S) as served:
        await put_to_sleep(served)
        with monkeypatch.context() as patch:
            patch.setattr(loading, "load", fail)
            for _ in range(2):  # the second is told at once
                kind, text = await served.refusal()
                assert kind is ErrorKind.UNAVAILABLE
                expected = "'m' was unloaded while it was idle, and cannot be loaded: no file can be opened"
                assert text.startswith(expected)
        assert len(tried) == 1
        assert served.engine.catalog.ready and "m" in served.engine.catalog.asleep
        served.manager._models["m"].failed[1].retry_at = 0.0  # its pause is over
        assert await served.factor() == 1
        assert served.engine.catalog.asleep == frozenset()


@on_loop
async def test_one_that_is_bad_now_has_failed(repo: Path) -> None:
    async with serving(repo) as served:
        await put_to_sleep(served)
        shutil.rmtree(repo / "m/1")
        corrupt_version(repo, 1)
        await served.manager.reconcile()
        kind, text = await served.refusal()
        assert kind is ErrorKind.UNAVAILABLE and "ONNX Runtime cannot load" in text
        assert not served.engine.catalog.asleep and not served.engine.catalog.ready
        assert served.index()[1][0] == "FAILED"
        assert (await served.refusal())[0] is ErrorKind.NOT_FOUND


@on_loop
async def test_a_deadline_counts_while_it_wakes(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        await put_to_sleep(served)
        held_load.let.clear()
        request = InferRequest("m", {}, deadline=0.0)
        with pytest.raises(ServingError) as error:
            await served.engine.infer(request)
        assert error.value.kind is ErrorKind.EXPIRED
        held_load.let.set()
        assert await served.factor() == 1


# Under a memory budget


class Budget:
    """Memory for so many models, each of which takes as much as its file has bytes."""

    def __init__(self, models: int, repo: Path) -> None:
        self.models = models
        self.served: Served
        self.memory = Memory(None, "refuse", self._free)
        self._size = (repo / "m/1/model.onnx").stat().st_size

    def _free(self, _: int | None) -> Free:
        versions = [version for model in self.served.manager._models.values() for version in model.versions()]
        held = [v for v in versions if v.state in (State.WARMING, State.READY, State.DRAINING, State.UNLOADING)]
        for version in held:
            version.memory_bytes = self._size
        return Free((self.models - len(held)) * self._size, "on the machine")


@asynccontextmanager
async def serving_within(budget: Budget, *paths: Path, **settings: Any) -> AsyncIterator[Served]:
    served = budget.served = Served(*paths, idle_unload_s=LONG_S, memory=budget.memory, **settings)
    served.engine.waking = Waking(served.manager.wake)
    await served.manager.start()
    try:
        yield served
    finally:
        await served.manager.close()


@on_loop
async def test_the_one_that_was_idle_longest_makes_room(repo: Path) -> None:
    add_version(repo, 1, "o")
    async with serving_within(budget := Budget(3, repo), repo) as served:
        for model, seconds in (("m", 200.0), ("n", 300.0), ("o", 250.0)):
            idle_for(served, seconds, model)
        add_version(repo, 5, "p")
        await served.settle()
        assert served.engine.catalog.asleep == {"n"}
        assert await served.factor("p") == 5
        budget.models = 2
        idle_for(served, 900.0, "p")
        assert await served.factor("n") == 1  # two of them make room
        assert served.engine.catalog.asleep == {"p", "o"}
        assert served.engine.catalog.ready


@on_loop
async def test_one_that_was_asked_for_just_now_does_not(repo: Path) -> None:
    async with serving_within(Budget(2, repo), repo) as served:
        add_version(repo, 5, "p")
        await served.settle()
        assert served.engine.catalog.asleep == {"p"}  # there is no memory for it until somebody gives some back
        assert served.engine.catalog.ready
        state, reason = served.index("p")[5]
        assert state == "FAILED" and reason.startswith("not enough memory")
        kind, text = await served.refusal("p")
        assert kind is ErrorKind.UNAVAILABLE and "not enough memory" in text
        idle_for(served, 200.0, "n")
        served.manager._models["p"].failed[5].retry_at = 0.0
        assert await served.factor("p") == 5
        assert served.engine.catalog.asleep == {"n"}


@on_loop
async def test_more_models_than_fit_can_be_served_in_turn(repo: Path) -> None:
    async with serving_within(Budget(1, repo), repo) as served:
        assert len(served.engine.catalog.asleep) == 1 and served.engine.catalog.ready
        for model in ("m", "n", "m", "n"):
            for each in served.engine.catalog.models:
                idle_for(served, 200.0, each)
            if failed := served.manager._models[model].failed:
                failed[1].retry_at = 0.0
            assert await served.factor(model) == 1
