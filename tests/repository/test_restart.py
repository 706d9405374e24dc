"""What operators have decided holds over restarts, and what could not be kept is not in force."""

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.spec import ModelSpec
from serving.repository.control.events import Kind
from serving.repository.control.orders import Wanted
from serving.repository.control.state import StateError, Store
from serving.repository.manager import Manager, Source
from tests import models
from tests.batching.control import on_loop
from tests.repository.build import add_version, corrupt_version, replace_model
from tests.repository.test_manager import HeldLoad, Served, held_load, serving

__all__ = ["held_load"]

EXPLICIT = {"mode": "explicit"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the models m and n, versions 1 and 2 of each."""
    for model in "mn":
        for number in (1, 2):
            add_version(tmp_path / "repo", number, model)
    return tmp_path / "repo"


@asynccontextmanager
async def kept(repo: Path, **settings: Any) -> AsyncIterator[Served]:
    """A server on the repository, with a state directory beside it."""
    store = Store(repo.parent / "state")
    try:
        async with serving(repo, store=store, **settings) as served:
            yield served
    finally:
        store.close()


async def stop_writing(store: Store) -> None:
    """As if the disk of the state directory took nothing any more."""
    await store._save(lambda connection: connection.execute("PRAGMA query_only = 1"))


@on_loop
async def test_an_unload_holds_and_a_load_ends_it(repo: Path) -> None:
    async with kept(repo) as served:
        await served.manager.unload("m")
    async with kept(repo) as served:
        assert served.states() == {"m/1": "END", "m/2": "END", "n/2": "READY"}
        assert served.engine.catalog.ready
        await served.manager.load("m")
    async with kept(repo) as served:
        assert served.states() == {"m/2": "READY", "n/2": "READY"}


@on_loop
async def test_settings_of_a_load_hold_until_the_next(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("max_queue_rows: 10")
    async with kept(repo) as served:
        await served.manager.load("m", ModelSpec(max_batch_size=16, versions=(1,)))
    async with kept(repo) as served:
        assert served.states() == {"m/1": "READY", "n/2": "READY"}
        spec = served.version("m").spec
        assert (spec.max_batch_size, spec.max_queue_rows) == (16, 10)  # the others are as the file says
        await served.manager.load("m")
    async with kept(repo) as served:
        assert served.version("m").spec.max_batch_size == ModelSpec().max_batch_size


@on_loop
async def test_the_set_of_explicit_mode_comes_back(repo: Path) -> None:
    async with kept(repo, **EXPLICIT) as served:
        await served.manager.load("m")
        await served.manager.load("n")
        await served.manager.unload("n")
    async with kept(repo, **EXPLICIT) as served:
        assert served.states() == {"m/2": "READY", "n/1": "END", "n/2": "END"}


@pytest.mark.parametrize("asked", ["m", "*"])
@on_loop
async def test_an_unload_counts_more_than_what_the_start_asks_for(repo: Path, asked: str) -> None:
    async with kept(repo, **EXPLICIT, load_model=(asked,)) as served:
        await served.manager.unload("m")
    async with kept(repo, **EXPLICIT, load_model=(asked,)) as served:
        assert served.states()["m/2"] == "END"
        await served.manager.load("m")
    async with kept(repo, **EXPLICIT, load_model=(asked,)) as served:
        assert served.states()["m/2"] == "READY"


@on_loop
async def test_a_list_holds_with_what_was_done_to_it(repo: Path) -> None:
    add_version(repo, 1, "o")
    async with kept(repo) as served:
        await served.manager.unload("o")
        await served.manager.apply(
            [Wanted("x", str(repo / "m"), "all", {"stable": 1}), Wanted("n", versions=(1,)), Wanted("o")]
        )
        await served.manager.load("n", ModelSpec(max_batch_size=4))
        await served.manager.unload("o")
    async with kept(repo) as served:
        assert {model: state for model, state in served.states().items() if state != "END"} == {
            "x/1": "READY",
            "x/2": "READY",
            "n/1": "READY",
        }
        assert served.engine.catalog.models["x"].labels == {"stable": 1}
        assert served.version("n").spec.max_batch_size == 4
        assert await served.factor("x", 2) == 2


@on_loop
async def test_an_upload_is_gone_with_the_server(repo: Path, tmp_path: Path) -> None:
    sent = models.save(models.scale(7), tmp_path / "sent.onnx").read_bytes()
    async with kept(repo, allow_upload=True) as served:
        await served.manager.unload("m")
        await served.manager.load("m", ModelSpec(), {"5/model.onnx": sent})
        assert served.states()["m/5"] == "READY"
    async with kept(repo) as served:
        assert served.states() == {"m/2": "READY", "n/2": "READY"}  # to load it was the last word


@on_loop
async def test_a_load_that_failed_is_not_kept(repo: Path) -> None:
    corrupt_version(repo, 1, "broken")
    async with kept(repo, **EXPLICIT) as served:
        for spec in (None, ModelSpec(max_batch_size=2)):
            with pytest.raises(ServingError, match="load failed for model 'broken'"):
                await served.manager.load("broken", spec)
    async with kept(repo, **EXPLICIT) as served:
        assert served.states()["broken/1"] == "END" and served.engine.catalog.ready


@on_loop
async def test_a_quarantine_holds(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    bad = corrupt_version(repo, 3)
    async with kept(repo) as served:
        assert served.states()["m/3"] == "FAILED"
    os.utime(bad / "model.onnx")
    held_load.begun.clear()
    async with kept(repo) as served:
        assert served.states() == {"m/2": "READY", "m/3": "FAILED", "n/2": "READY"}
        assert served.index()[3][1].startswith("quarantined: ONNX Runtime cannot load")
        assert sorted(held_load.begun) == ["m/2", "n/2"]
        replace_model(bad, 30)
    async with kept(repo) as served:
        assert served.states() == {"m/3": "READY", "n/2": "READY"}


@on_loop
async def test_the_history_goes_on(repo: Path) -> None:
    async with kept(repo) as served:
        before = await served.manager.events()
    async with kept(repo) as served:
        events = await served.manager.events()
        numbers = [event.number for event in events]
        assert events[: len(before)] == before and numbers == list(range(1, len(numbers) + 1))
        assert events[-1].number > before[-1].number


@on_loop
async def test_a_change_that_was_answered_is_in_the_history_of_a_server_that_was_killed(
    repo: Path, tmp_path: Path
) -> None:
    async with kept(repo) as served:
        for number, copy in ((1, "first"), (2, "second")):
            await served.manager.label("m", "stable", number)
            shutil.copytree(tmp_path / "state", tmp_path / copy)  # all that a killed server leaves
            left = Store(tmp_path / copy)
            assert [version for _, _, kind, _, version, _ in left.saved.events if kind == "labelled"][-1] == number
            left.close()


@on_loop
async def test_a_place_that_is_served_no_more_is_not_reached_by_old_orders(repo: Path, tmp_path: Path) -> None:
    """Clients name places, and only inside of what the server was started with."""
    add_version(tmp_path / "other", 1, "x")
    store = Store(tmp_path / "state")
    async with serving(repo, tmp_path / "other", store=store) as served:
        await served.manager.apply([Wanted("y", str(tmp_path / "other/x")), Wanted("m")])
        assert "y/1" in served.states()
    store.close()
    async with kept(repo) as served:
        assert {model for model, state in served.states().items() if state == "READY"} == {"m/2"}
        (told,) = [e for e in await served.manager.events() if e.kind is Kind.REPOSITORY]
        assert (told.model, told.text) == (
            "y",
            "it was served from a path that is not among those of this server; its order does not count",
        )


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("orders VALUES ('m', '{\"kept\": 1}')", "the order for model 'm' cannot be understood"),
        ("rollouts VALUES ('m', '[]')", "the rollout of model 'm' cannot be understood"),
        ("list VALUES (1, 'x')", "the list of models cannot be understood"),
        ("events VALUES (1, 0, 'eaten', 'm', 1, '')", "an event cannot be understood: 'eaten' is not a valid Kind"),
    ],
)
def test_state_that_nobody_understands_is_not_passed_over(tmp_path: Path, table: str, what: str) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute(f"INSERT INTO {table}")
    connection.close()
    store = Store(tmp_path)
    served = Served(tmp_path)  # for its metrics
    with pytest.raises(StateError, match=what):
        Manager([Source(tmp_path)], served.engine.publish, served.metrics, store=store)
    store.close()


# A disk that takes nothing


@on_loop
async def test_what_cannot_be_kept_does_not_come_into_force(repo: Path) -> None:
    async with kept(repo) as served:
        store = served.manager._store
        await stop_writing(store)
        before = served.states()
        changes = (
            served.manager.unload("m"),
            served.manager.load("m", ModelSpec(versions=(1,))),
            served.manager.apply([Wanted("m")]),
        )
        for change in changes:
            with pytest.raises(ServingError) as error:
                await change
            assert error.value.kind is ErrorKind.UNAVAILABLE
            assert "attempt to write a readonly database" in error.value.message
            await served.settle()
            assert served.states() == before
        await served.manager.load("m")  # which changes nothing that would have to be kept
        assert await served.factor("m") == 2
    async with kept(repo) as served:
        assert served.states() == before
