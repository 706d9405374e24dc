"""A manager whose repository is somewhere else: what is fetched, when, and what comes of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.metrics import Metrics
from serving.core.spec import ModelSpec
from serving.engine import Engine
from serving.repository.catalog import Catalog
from serving.repository.control.orders import Wanted
from serving.repository.manager import Manager
from serving.repository.remote import Mirror, MirrorError
from serving.repository.remote.store import StoreError
from tests import models
from tests.batching.control import PATIENCE_S, on_loop
from tests.repository.remote.build import put
from tests.repository.remote.test_mirror import UNREACHABLE, GatedStore


class Served:
    def __init__(self, tmp_path: Path, poll_s: float, **settings: Any) -> None:
        self.remote = tmp_path / "remote"
        url = f"file://{self.remote}"
        self.store = GatedStore(url)
        self.engine = Engine(Metrics())
        mirror = Mirror(url, tmp_path / "cache", self.engine.metrics, poll_s=poll_s, store=self.store)
        self.tree = mirror.source.path
        settings = {"settle_s": 0.0, "poll_s": PATIENCE_S, "mirrors": [mirror]} | settings
        self.manager = Manager([mirror.source], self._publish, self.engine.metrics, **settings)
        self._news = asyncio.Event()

    def _publish(self, catalog: Catalog) -> None:
        self.engine.publish(catalog)
        self._news.set()

    async def until(self, *serving: str) -> None:
        """Waits until these versions serve, and no others."""
        while self.serving() != list(serving):
            self._news.clear()
            await self._news.wait()

    def serving(self) -> list[str]:
        models = self.engine.catalog.models.values()
        return [f"{model.name}/{number}" for model in models for number in model.ready]

    def here(self) -> list[str]:
        return sorted(str(path.relative_to(self.tree)) for path in self.tree.glob("*/[0-9]*"))

    async def events(self) -> list[str]:
        return [event.text.replace(str(self.remote), "REMOTE") for event in await self.manager.events(limit=1000)]


@asynccontextmanager
async def served(tmp_path: Path, *, poll_s: float = PATIENCE_S, **settings: Any) -> AsyncIterator[Served]:
    made = Served(tmp_path, poll_s, **settings)
    try:
        await made.manager.start()
        yield made
    finally:
        made.store.gate.set()
        await made.manager.close()


def add(remote: Path, model: str, *numbers: int) -> None:
    for number in numbers:
        put(remote, f"{model}/{number}/model.onnx", models.scale(number).SerializeToString())


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Versions 1 to 4 of m."""
    add(tmp_path / "remote", "m", 1, 2, 3, 4)
    return tmp_path


@on_loop
async def test_only_what_is_wanted_and_the_one_before_is_fetched(there: Path) -> None:
    async with served(there) as it:
        assert it.serving() == ["m/4"]
        assert it.here() == ["m/3", "m/4"]


@on_loop
async def test_policy_of_the_remote_settings_counts(there: Path) -> None:
    put(there / "remote", "m/model.yaml", "versions: [1, 3]")
    async with served(there) as it:
        assert it.serving() == ["m/1", "m/3"] and it.here() == ["m/1", "m/3"]


@on_loop
async def test_next_best_comes_when_the_best_ones_are_bad(there: Path) -> None:
    for number in (3, 4):
        put(there / "remote", f"m/{number}/model.onnx", "no graph")
    async with served(there, poll_s=0.05) as it:
        await it.until("m/2")
        assert it.here() == ["m/1", "m/2", "m/3", "m/4"]
        assert {entry.number for entry in it.engine.catalog.index if entry.reason} == {3, 4}


@on_loop
async def test_new_version_takes_over(there: Path) -> None:
    async with served(there, poll_s=0.05) as it:
        add(there / "remote", "m", 5)
        await it.until("m/5")
        add(there / "remote", "m", 6)
        await it.until("m/6")
        while it.here() != ["m/5", "m/6"]:  # noqa: ASYNC110  (what is waited for sets no event)
            await asyncio.sleep(0.01)


@on_loop
async def test_store_out_of_reach_changes_nothing_and_is_told(there: Path) -> None:
    async with served(there, poll_s=0.02) as it:
        it.store.error = UNREACHABLE
        while len(it.store.looks) < 5:  # noqa: ASYNC110  (what is waited for sets no event)
            await asyncio.sleep(0.01)
        told = [text for text in await it.events() if "REMOTE" in text]
        assert told == ["'file://REMOTE': it cannot be reached; what was fetched before stays"]
        assert it.serving() == ["m/4"] and it.engine.catalog.ready


@on_loop
async def test_explicit_mode_fetches_what_is_asked_for(there: Path) -> None:
    add(there / "remote", "n", 1)
    async with served(there, poll_s=0.01, mode="explicit", load_model=["n"]) as it:
        assert (it.serving(), it.here()) == (["n/1"], ["n/1"])
        assert sorted(it.engine.catalog.models) == ["m", "n"]
        await it.manager.load("m")
        assert (it.serving(), it.here()) == (["m/4", "n/1"], ["m/3", "m/4", "n/1"])
        assert it.store.looks == ["", "m"], "explicit mode looks when it is asked"
        await it.manager.unload("m")
        add(there / "remote", "m", 5)
        await it.manager.load("n")
        assert it.serving() == ["n/1"]
        await it.manager.load("m")
        assert it.serving() == ["m/5", "n/1"]


@on_loop
async def test_load_looks_at_the_store_first(there: Path) -> None:
    async with served(there) as it:
        add(there / "remote", "m", 5)
        await it.manager.load("m")
        assert it.serving() == ["m/5"]
        await it.manager.load("m", ModelSpec(versions=(1,)))
        assert it.serving() == ["m/1"]
        add(there / "remote", "new", 1)
        await it.manager.load("new")
        assert it.serving() == ["m/1", "new/1"]


@on_loop
async def test_load_without_the_store_uses_what_is_here(there: Path) -> None:
    async with served(there) as it:
        it.store.error = StoreError("access denied", lasting=True)
        await it.manager.load("m")
        with pytest.raises(ServingError) as error:
            await it.manager.load("other")
        assert error.value.kind is ErrorKind.INVALID
        assert error.value.message.endswith("failed to poll from model repository; access denied")


@on_loop
async def test_versions_that_operators_name_are_fetched(there: Path) -> None:
    async with served(there) as it:
        await it.manager.label("m", "old", 1)
        assert it.serving() == ["m/1", "m/4"]
        assert it.here() == ["m/1", "m/3", "m/4"]
        await it.manager.promote("m", "2")
        assert "m/2" in it.serving()
        await it.manager.rollback("m")
        assert "m/4" in it.serving()
        with pytest.raises(ServingError) as error:
            await it.manager.promote("m", "9")
        assert error.value.kind is ErrorKind.NOT_FOUND


@on_loop
async def test_list_of_models_fetches_what_it_names(there: Path) -> None:
    add(there / "remote", "n", 1)
    async with served(there) as it:
        await it.manager.apply([Wanted("m", versions=(1, 2), labels={"old": 1})])
        await it.until("m/1", "m/2")


@on_loop
async def test_source_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="it holds no model"):
        async with served(tmp_path):
            pass
