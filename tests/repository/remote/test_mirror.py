"""When a mirror looks, what it says, and what it serves from when nobody answers."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.core.metrics import Metrics
from serving.core.scrape import exporter
from serving.repository.disk.layout import Kind
from serving.repository.remote import cache, mirror
from serving.repository.remote.mirror import LONGEST_PAUSE_S, Mirror, MirrorError, pause_s
from serving.repository.remote.store import Object, Store, StoreError
from tests.batching.control import PATIENCE_S, on_loop, turns
from tests.repository.remote.build import contents, put


class GatedStore(Store):
    """The real one, which can be out of reach, or not answer before the test says so."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.error: StoreError | None = None
        self.read_error: tuple[str, StoreError] | None = None  # for objects whose path has this in it
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()  # the gate, while it was shut
        self.looks: list[str] = []

    def look(self, below: str = "") -> list[Object]:
        self.looks.append(below)
        self._pass()
        if self.error is not None:
            raise self.error
        return super().look(below)

    def read(self, item: Object, start: int, end: int) -> bytes:
        self._pass()
        if self.read_error is not None and self.read_error[0] in item.path:
            raise self.read_error[1]
        return super().read(item, start, end)

    def _pass(self) -> None:
        if not self.gate.is_set():
            self.reached.set()
            assert self.gate.wait(PATIENCE_S)


class Mirrored:
    def __init__(self, tmp_path: Path, **more: Any) -> None:
        self.remote = tmp_path / "remote"
        self.url = f"file://{self.remote}"
        self.store = GatedStore(self.url)
        self.metrics = Metrics()
        settings = {"poll_s": 0.02, "start_limit_s": PATIENCE_S, "cached_limit_s": PATIENCE_S, "store": self.store}
        self.mirror = Mirror(self.url, tmp_path / "cache", self.metrics, **(settings | more))
        self.said: list[str] = []
        self.asked: list[tuple[str, set[int], set[int]]] = []
        self.changes = 0
        self._news = asyncio.Event()
        self.mirror.say = self._say

    def _say(self, text: str) -> None:
        self.said.append(text.replace(self.url, "URL"))
        self._news.set()

    def needs(self, name: str, _spec: object, there: Collection[int], here: Collection[int]) -> set[int]:
        self.asked.append((name, set(there), set(here)))
        return set(there)

    async def changed(self) -> None:
        self.changes += 1
        self._news.set()

    async def start(self) -> None:
        await self.mirror.start(self.needs)

    def keep_up(self) -> None:
        self.mirror.keep_up(self.needs, self.changed)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something to be said or to change, with which the condition holds."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    def here(self) -> dict[str, str]:
        return contents(self.mirror.source.path)

    def samples(self) -> dict[str, float]:
        lines = exporter(self.metrics)().decode().splitlines()
        found = (line.rsplit(" ", 1) for line in lines if line.startswith("serving_repository"))
        return {name.partition("{")[0].removeprefix("serving_repository_"): float(value) for name, value in found}


@asynccontextmanager
async def mirrored(tmp_path: Path, **more: Any) -> AsyncIterator[Mirrored]:
    made = Mirrored(tmp_path, **more)
    try:
        yield made
    finally:
        made.store.gate.set()
        await made.mirror.close()


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Version 1 of m."""
    put(tmp_path / "remote", "m/1/model.onnx", "one")
    return tmp_path


UNREACHABLE = StoreError("it cannot be reached")


# The start


@on_loop
async def test_start_brings_everything(there: Path) -> None:
    async with mirrored(there) as it:
        await it.start()
        assert it.mirror.source.kind is Kind.REPOSITORY
        assert it.here() == {"m/1/model.onnx": "one"}
        assert it.asked == [("m", {1}, set())]
        assert it.said == []
        samples = it.samples()
        assert samples.pop("last_sync_timestamp_seconds") > 0
        assert samples == {"sync_failures_total": 0, "fetched_bytes_total": 3}


@on_loop
async def test_start_waits_for_a_store_that_comes_late(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_FIRST_PAUSE_S", 0.01)
    async with mirrored(there) as it:
        it.store.error = UNREACHABLE
        starting = asyncio.create_task(it.start())
        await it.until(lambda: bool(it.said))
        assert it.said == ["'URL': it cannot be reached; trying again"]
        it.store.error = None
        await starting
        assert it.here() == {"m/1/model.onnx": "one"}
        assert it.said[1:] == ["'URL' is in line again"]


@pytest.mark.parametrize(
    ("error", "limit_s"), [(UNREACHABLE, 0.1), (StoreError("access denied", lasting=True), PATIENCE_S)]
)
@on_loop
async def test_start_ends_when_there_is_nothing_and_waiting_does_not_help(
    there: Path, error: StoreError, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_FIRST_PAUSE_S", 0.01)
    async with mirrored(there, start_limit_s=limit_s) as it:
        it.store.error = error
        with pytest.raises(MirrorError) as refusal:
            await it.start()
        assert str(refusal.value) == f"'{it.url}': {error}"


@on_loop
async def test_start_does_not_wait_for_ever_for_a_store_that_says_nothing(there: Path) -> None:
    async with mirrored(there, start_limit_s=0.1) as it:
        it.store.gate.clear()
        with pytest.raises(MirrorError, match="no answer in time"):
            await it.start()
        assert it.mirror.busy


@on_loop
async def test_start_waits_as_long_as_something_comes(there: Path) -> None:
    """The whole takes longer than the limit, which is about each pause."""

    class SlowStore(GatedStore):
        def read(self, item: Object, start: int, end: int) -> bytes:
            assert not threading.Event().wait(0.15)
            return super().read(item, start, end)

    for number in range(2, 14):
        put(there / "remote", f"m/{number}/model.onnx", str(number))
    store = SlowStore(f"file://{there}/remote")
    async with mirrored(there, start_limit_s=0.4, store=store) as it:
        await it.start()
        assert len(it.here()) == 13


@on_loop
async def test_start_with_nothing_to_serve(tmp_path: Path) -> None:
    put(tmp_path / "remote", "readme.md", "x")
    async with mirrored(tmp_path) as it:
        with pytest.raises(MirrorError, match="it holds no model"):
            await it.start()


@on_loop
async def test_start_with_a_model_that_cannot_be_had(there: Path) -> None:
    put(there / "remote", "n/1/model.onnx", "n")
    async with mirrored(there) as it:
        it.store.read_error = ("n/", StoreError("'n/1/model.onnx': access denied", of_store=False))
        await it.start()
        assert it.here() == {"m/1/model.onnx": "one"}
        told = "'URL': model 'n' version 1: 'n/1/model.onnx': access denied; what was fetched before stays"
        assert it.said == [told]


@on_loop
async def test_cache_of_another_server(there: Path) -> None:
    async with mirrored(there) as one, mirrored(there) as other:
        await one.start()
        with pytest.raises(MirrorError, match="in use by another server: give this one its own --cache-dir"):
            await other.start()
        await one.mirror.close()
        await other.start()


# From the cache


@on_loop
async def test_start_from_the_cache_when_nobody_answers(there: Path) -> None:
    async with mirrored(there) as it:
        await it.start()
        synced_at = it.samples()["last_sync_timestamp_seconds"]
    async with mirrored(there, start_limit_s=0.1) as it:
        it.store.error = UNREACHABLE
        await it.start()
        assert it.here() == {"m/1/model.onnx": "one"}
        (said,) = it.said
        assert said.startswith("'URL': it cannot be reached; started from what was fetched before, last in line ")
        assert it.samples() == {
            "sync_failures_total": 1,
            "fetched_bytes_total": 0,
            "last_sync_timestamp_seconds": synced_at,
        }
        it.store.error = None
        put(there / "remote", "m/1/model.onnx", "changed")
        it.keep_up()
        await it.until(lambda: it.changes > 0)
        assert it.here() == {"m/1/model.onnx": "changed"}
        assert it.said[1:] == ["'URL' is in line again"]


@on_loop
async def test_start_from_the_cache_when_the_store_is_slow_and_what_is_new_comes_later(there: Path) -> None:
    async with mirrored(there) as it:
        await it.start()
    put(there / "remote", "m/2/model.onnx", "two")
    async with mirrored(there, cached_limit_s=0.05) as it:
        it.store.gate.clear()
        await it.start()
        assert it.here() == {"m/1/model.onnx": "one"}
        assert it.said[0].startswith("'URL': it is slow to answer; started from what was fetched before")
        it.keep_up()
        it.store.gate.set()
        await it.until(lambda: it.changes > 0)
        assert it.here() == {"m/1/model.onnx": "one", "m/2/model.onnx": "two"}


@on_loop
async def test_cached_start_takes_in_what_is_new(there: Path) -> None:
    async with mirrored(there) as it:
        await it.start()
    put(there / "remote", "m/2/model.onnx", "two")
    async with mirrored(there) as it:
        await it.start()
        assert it.here() == {"m/1/model.onnx": "one", "m/2/model.onnx": "two"}
        assert it.said == []


# Later


@on_loop
async def test_changes_come_by_themselves(there: Path) -> None:
    async with mirrored(there) as it:
        await it.start()
        it.keep_up()
        put(there / "remote", "m/2/model.onnx", "two")  # without a manifest: two looks have to agree
        await it.until(lambda: it.changes == 1)
        assert it.here() == {"m/1/model.onnx": "one", "m/2/model.onnx": "two"}
        shutil.rmtree(there / "remote/m/1")
        await it.until(lambda: it.changes == 2)
        assert it.here() == {"m/2/model.onnx": "two"}
        assert it.said == []


@on_loop
async def test_each_condition_is_told_once(there: Path) -> None:
    async with mirrored(there) as it:
        await it.start()
        it.keep_up()
        for error in (UNREACHABLE, StoreError("access denied", lasting=True)):
            it.store.error = error
            before = len(it.store.looks)
            await it.until(lambda error=error: bool(it.said) and str(error) in it.said[-1])  # type: ignore[misc]
            while len(it.store.looks) < before + 3:  # noqa: ASYNC110  (what is waited for sets no event)
                await asyncio.sleep(0.01)
        it.store.error = None
        await it.until(lambda: len(it.said) == 3)
        stays = "what was fetched before stays"
        assert it.said == [
            f"'URL': it cannot be reached; {stays}",
            f"'URL': access denied; {stays}",
            "'URL' is in line again",
        ]
        assert it.samples()["sync_failures_total"] >= 4
        assert it.here() == {"m/1/model.onnx": "one"}


@on_loop
async def test_a_bug_does_not_end_it(there: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with mirrored(there) as it:
        await it.start()
        it.store.error = ValueError("a bug")  # type: ignore[assignment]
        it.keep_up()
        await it.until(lambda: bool(it.said))
        assert it.said == ["'URL': ValueError; what was fetched before stays"]
        it.store.error = None
        put(there / "remote", "m/2/model.onnx", "two")
        await it.until(lambda: it.changes > 0)
    assert "a bug" in caplog.text


def test_pauses() -> None:
    assert pause_s(30, 0, 0.5) == 30
    assert [pause_s(30, failures, 0.5) for failures in range(1, 6)] == [60, 120, 240, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert pause_s(30, 10_000, 0.5) == LONGEST_PAUSE_S
    assert pause_s(600, 3, 0.5) == 600, "never more often than was asked for"
    assert 0.79 < pause_s(30, 0, 0.0) / 30 < pause_s(30, 0, 0.999) / 30 < 1.21


# By hand


@on_loop
async def test_refresh_looks_at_one_model_at_once(there: Path) -> None:
    put(there / "remote", "n/1/model.onnx", "n")
    async with mirrored(there, poll_s=PATIENCE_S) as it:
        await it.start()
        it.keep_up()
        put(there / "remote", "m/2/model.onnx", "two")
        put(there / "remote", "n/2/model.onnx", "n two")
        assert await it.mirror.refresh("m", it.needs) == ""
        assert sorted(it.here()) == ["m/1/model.onnx", "m/2/model.onnx", "n/1/model.onnx"]
        assert it.store.looks == ["", "m"]
        assert await it.mirror.refresh("unknown", it.needs) == ""
        it.store.error = UNREACHABLE
        assert await it.mirror.refresh("m", it.needs) == "it cannot be reached"
        assert it.said == []


@on_loop
async def test_refresh_goes_before_a_long_download_which_goes_on_after_it(there: Path) -> None:
    async with mirrored(there) as it:
        await it.start()
        put(there / "remote", "big/1/model.onnx", "x" * 700_000)  # several pieces
        put(there / "remote", "m/2/model.onnx", "two")
        it.store.gate.clear()
        it.keep_up()
        assert await asyncio.to_thread(it.store.reached.wait, PATIENCE_S)
        refreshing = asyncio.create_task(it.mirror.refresh("m", it.needs))
        while not it.mirror._parts_of().fetcher._interrupted.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        it.store.gate.set()
        assert await refreshing == ""
        assert it.here()["m/2/model.onnx"] == "two"
        await it.until(lambda: "big/1/model.onnx" in it.here())
        assert it.said == []
        assert it.samples()["fetched_bytes_total"] == 3 + 3 + 700_000


@on_loop
async def test_refreshes_go_before_everything_else(there: Path) -> None:
    for name in "abc":
        put(there / "remote", f"{name}/1/model.onnx", name)
    async with mirrored(there) as it:
        await it.start()
        it.store.gate.clear()
        it.keep_up()
        assert await asyncio.to_thread(it.store.reached.wait, PATIENCE_S)
        before = len(it.store.looks)
        refreshing = [asyncio.create_task(it.mirror.refresh(name, it.needs)) for name in "abc"]
        await turns(10)
        it.store.gate.set()
        assert await asyncio.gather(*refreshing) == ["", "", ""]
        assert it.store.looks[before : before + 3] == ["a", "b", "c"]


@on_loop
async def test_refresh_does_not_wait_for_ever_for_a_store_that_says_nothing(there: Path) -> None:
    async with mirrored(there, poll_s=PATIENCE_S, cached_limit_s=0.1) as it:
        await it.start()
        it.store.gate.clear()
        assert await it.mirror.refresh("m", it.needs) == "no answer in time"
        put(there / "remote", "m/2/model.onnx", "two")
        it.store.gate.set()
        assert await it.mirror.refresh("m", it.needs) == ""
        assert sorted(it.here()) == ["m/1/model.onnx", "m/2/model.onnx"]


@on_loop
async def test_refresh_that_works_ends_a_long_pause(there: Path) -> None:
    async with mirrored(there, poll_s=0.05) as it:
        await it.start()
        it.store.error = UNREACHABLE
        it.keep_up()
        await it.until(lambda: bool(it.said))
        it.mirror._failures = 100  # as if it had been out of reach for hours
        it.store.error = None
        while not it.said[1:]:
            await it.mirror.refresh("m", it.needs)
            await asyncio.sleep(0.01)
        assert it.said[1:] == ["'URL' is in line again"]


@on_loop
async def test_close_while_nothing_answers(there: Path) -> None:
    async with mirrored(there) as it:
        await it.start()
        it.store.gate.clear()
        it.keep_up()
        assert await asyncio.to_thread(it.store.reached.wait, PATIENCE_S)
        await it.mirror.close()
        assert it.mirror.busy
        with pytest.raises(cache.CacheError, match="in use"):  # by a thread that may still write
            cache.Cache(cache.directory_for(there / "cache", it.url))
