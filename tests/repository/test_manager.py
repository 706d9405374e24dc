"""The reconcile loop on real files and real models: what is served, from when, until when."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.backends.base import Session
from serving.core.errors import ErrorKind, ServingError
from serving.core.metrics import KEEP_RETIRED, Metrics
from serving.core.scrape import exporter
from serving.core.spec import ModelSpec
from serving.core.types import InferRequest
from serving.engine import Engine
from serving.repository import reconciler, version
from serving.repository.catalog import Catalog
from serving.repository.control.orders import Wanted
from serving.repository.disk import survey, watch
from serving.repository.loads import loading
from serving.repository.manager import Manager, Source
from serving.repository.version import State, Version
from tests import models
from tests.batching.control import PATIENCE_S, on_loop, turns
from tests.repository.build import FakeSession, add_version, corrupt_version, replace_model


class Served:
    """A manager and an engine, and what they published."""

    def __init__(self, *paths: Path | Source, **settings: Any) -> None:
        sources = [path if isinstance(path, Source) else Source(path) for path in paths]
        self.root = sources[0].path
        self.metrics = Metrics()
        self.engine = Engine(self.metrics)
        self.published: list[Catalog] = []
        self._news = asyncio.Event()
        self.manager = Manager(sources, self._publish, self.metrics, **({"watch": False, "settle_s": 0.0} | settings))

    def _publish(self, catalog: Catalog) -> None:
        self.engine.publish(catalog)
        self.published.append(catalog)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for a catalog with which `condition` holds."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def settle(self) -> None:
        """Reads the sources, and waits until nothing is on its way up or down."""
        await self.manager.reconcile()
        await self.until(self._is_quiet)

    def _is_quiet(self) -> bool:
        coming = any(model.coming for model in self.engine.catalog.models.values())
        return not coming and not {"DRAINING", "UNLOADING"} & set(self.states().values())

    def index(self, model: str = "m") -> dict[int | None, tuple[str, str]]:
        """State and reason of each version."""
        return {
            e.number: (e.state.value if e.state else "", e.reason)
            for e in self.engine.catalog.index
            if e.model == model
        }

    def states(self) -> dict[str, str]:
        """Of all versions, such as {"m/1": "READY"}."""
        return {f"{e.model}/{e.number}": e.state.value for e in self.engine.catalog.index if e.state}

    def version(self, model: str = "m", number: int | None = None) -> Version:
        return self.engine.catalog.resolve(model, number)

    async def factor(self, model: str = "m", number: int | None = None) -> float:
        """What the model multiplies by, as a client sees it."""
        response = await self.engine.infer(InferRequest(model, {"x": np.ones((1, 4), np.float32)}, number))
        return float(response.outputs["y"][0, 0])

    async def refusal(self, model: str = "m", number: int | None = None) -> tuple[ErrorKind, str]:
        with pytest.raises(ServingError) as error:
            await self.factor(model, number)
        return error.value.kind, error.value.message.removeprefix("Request for unknown model: ")

    def always_served(self, model: str = "m") -> bool:
        """Did every catalog, from the first one with `model` ready on, have a version of it?"""
        ready = [model in c.models and c.models[model].latest is not None for c in self.published]
        return True in ready and all(ready[ready.index(True) :])


@asynccontextmanager
async def serving(*paths: Path | Source, **settings: Any) -> AsyncIterator[Served]:
    served = Served(*paths, **settings)
    await served.manager.start()
    try:
        yield served
    finally:
        await served.manager.close()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the model m, version 1."""
    add_version(tmp_path / "repo", 1)
    return tmp_path / "repo"


class HeldLoad:
    """Lets no load begin before the test says so; notes which did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self._began: SimpleQueue[str] = SimpleQueue()
        self.let = threading.Event()
        self._real = loading.load
        monkeypatch.setattr(loading, "load", self)

    def __call__(self, model: str, found: Any, spec: Any, scratch: Any, *, verified: bool) -> Session:
        self.begun.append(f"{model}/{found.number}")
        self._began.put(self.begun[-1])
        assert self.let.wait(PATIENCE_S)
        return self._real(model, found, spec, scratch, verified=verified)

    async def until(self, version: str) -> None:
        """Waits for the load of `version` to begin."""
        while await asyncio.to_thread(self._began.get, timeout=PATIENCE_S) != version:
            pass


@pytest.fixture
def held_load(monkeypatch: pytest.MonkeyPatch) -> HeldLoad:
    return HeldLoad(monkeypatch)


# Start


@on_loop
async def test_start_returns_when_what_is_wanted_serves(repo: Path) -> None:
    add_version(repo, 2)
    add_version(repo, 7, "n")
    async with serving(repo) as served:
        assert served.states() == {"m/2": "READY", "n/7": "READY"}
        assert served.engine.catalog.ready
        assert await served.factor("m") == 2 and await served.factor("n") == 7
        assert await served.refusal("m", 1) == (ErrorKind.NOT_FOUND, "'m' version 1 is not found")


@on_loop
async def test_start_does_not_wait_for_files_to_settle(repo: Path) -> None:
    async with serving(repo, settle_s=2.0) as served:
        assert served.states() == {"m/1": "READY"}


@on_loop
async def test_one_file_under_another_name(tmp_path: Path) -> None:
    file = models.save(models.scale(3), tmp_path / "net.onnx")
    async with serving(Source(file, "m")) as served:
        assert await served.factor("m", 1) == 3


@on_loop
async def test_a_model_that_fails_is_in_the_index_with_its_reason_and_harms_no_other(repo: Path) -> None:
    corrupt_version(repo, 1, "broken")
    async with serving(repo) as served:
        ((state, reason),) = served.index("broken").values()
        assert state == "FAILED" and reason.startswith("quarantined: ONNX Runtime cannot load model.onnx")
        assert await served.refusal("broken") == (ErrorKind.NOT_FOUND, "'broken' has no available versions")
        assert not served.engine.catalog.ready
        assert await served.factor("m") == 1


@on_loop
async def test_while_a_version_comes_it_is_not_ready(repo: Path, held_load: HeldLoad) -> None:
    served = Served(repo)
    starting = asyncio.ensure_future(served.manager.start())
    await served.until(lambda: served.states() == {"m/1": "LOADING"})
    assert await served.refusal() == (ErrorKind.NOT_READY, "'m' version 1 is not at ready state")
    assert not starting.done() and not served.engine.catalog.ready
    held_load.let.set()
    await starting
    assert await served.factor() == 1
    await served.manager.close()


# New versions


@on_loop
async def test_a_new_version_takes_over(repo: Path) -> None:
    async with serving(repo) as served:
        add_version(repo, 2)
        await served.settle()
        assert served.states() == {"m/2": "READY"}
        assert await served.factor() == 2
        assert served.always_served()


@on_loop
async def test_the_old_version_is_drained_only_after_the_new_one_can_be_reached(repo: Path) -> None:
    async with serving(repo) as served:
        old = served.version()
        session = old.session
        old.lease()  # a request that is under way
        add_version(repo, 2)
        await served.manager.reconcile()
        await served.until(lambda: old.state is State.DRAINING)
        assert await served.factor() == 2
        assert await served.refusal("m", 1) == (ErrorKind.NOT_FOUND, "'m' version 1 is not found")
        item = old.batcher.submit({"x": np.ones((1, 4), np.float32)}, ("y",), 1)
        assert (await item.reply)[0]["y"][0, 0] == 1  # it still answers who had it
        assert old.session is session
        old.release()
        await served.until(lambda: served.states() == {"m/2": "READY"})
        assert old.state is State.END and old.session is None
        assert served.always_served()


@on_loop
async def test_both_serve_while_the_new_one_loads(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        held_load.let.clear()
        add_version(repo, 2)
        await served.manager.reconcile()
        await served.until(lambda: served.states() == {"m/1": "READY", "m/2": "LOADING"})
        assert await served.factor() == 1
        assert (await served.refusal("m", 2))[0] is ErrorKind.NOT_READY
        assert served.engine.catalog.ready
        await served.manager.reconcile()  # meanwhile: nothing is loaded twice
        held_load.let.set()
        await served.settle()
        assert held_load.begun == ["m/1", "m/2"]


@on_loop
async def test_all_versions_or_some_can_be_served(repo: Path) -> None:
    add_version(repo, 2)
    (repo / "m/model.yaml").write_text("versions: all")
    async with serving(repo) as served:
        assert [await served.factor("m", n) for n in (None, 1, 2)] == [2, 1, 2]
        (repo / "m/model.yaml").write_text("versions: [1]")
        await served.settle()
        assert served.states() == {"m/1": "READY"}


@on_loop
async def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(
    repo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(repo) as served:
        version_2 = corrupt_version(repo, 2)
        await served.settle()
        (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert told.startswith("m/2 quarantined: ONNX Runtime cannot load")
        assert await served.factor() == 1
        state, reason = served.index()[2]
        assert state == "FAILED" and reason.startswith("quarantined: ONNX Runtime cannot load")
        assert served.engine.catalog.ready  # the model serves
        replace_model(version_2, 20)
        await served.settle()
        assert served.states() == {"m/2": "READY"}
        assert await served.factor() == 20
        assert served.always_served()


@on_loop
async def test_what_failed_is_not_tried_again_until_it_changes_and_is_forgotten_when_removed(
    repo: Path, held_load: HeldLoad
) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        version_2 = corrupt_version(repo, 2)
        for _ in range(3):
            await served.settle()
        assert held_load.begun == ["m/1", "m/2"]
        shutil.rmtree(version_2)
        await served.settle()
        assert served.states() == {"m/1": "READY"}


@on_loop
async def test_a_failed_version_at_start_gives_way_to_the_next_best(repo: Path) -> None:
    corrupt_version(repo, 2)
    async with serving(repo) as served:
        assert served.states() == {"m/1": "READY", "m/2": "FAILED"}
        assert await served.factor() == 1


@pytest.mark.parametrize("stage", ["load", "warm_up"])
@pytest.mark.parametrize(
    ("failure", "reason"),
    [(MemoryError(), "not enough memory to load it"), (KeyError(), "KeyError"), (ValueError(" odd\n"), "odd")],
    ids=repr,
)
@on_loop
async def test_whatever_a_load_raises_becomes_its_reason(
    repo: Path, monkeypatch: pytest.MonkeyPatch, stage: str, failure: Exception, reason: str
) -> None:
    session = FakeSession()

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(loading, "load", lambda *_, **__: session)
    monkeypatch.setattr(loading, stage, fail)
    async with serving(repo) as served:
        ((state, told),) = served.index().values()
        assert state == "FAILED" and told.startswith(f"{reason} (tried again at ")  # it is not the content's fault
        assert session.closed == (stage == "warm_up")


@on_loop
async def test_a_version_whose_instances_cannot_start_has_failed(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_threads(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    session = FakeSession()
    monkeypatch.setattr(loading, "load", lambda *_, **__: session)
    monkeypatch.setattr(version, "Batcher", no_threads)
    async with serving(repo) as served:
        ((state, told),) = served.index().values()
        assert state == "FAILED" and told.startswith("can't start new thread (tried again at ")
        assert session.closed


# Removal


@on_loop
async def test_a_version_that_is_removed_makes_way_for_the_next_and_can_come_back(repo: Path) -> None:
    add_version(repo, 2)
    async with serving(repo) as served:
        shutil.rmtree(repo / "m/2")
        await served.settle()
        assert served.states() == {"m/1": "READY"}
        add_version(repo, 2, factor=22)
        await served.settle()
        assert await served.factor() == 22
        assert served.always_served()


@on_loop
async def test_a_model_that_is_removed_is_unknown_and_can_come_back(repo: Path) -> None:
    add_version(repo, 1, "n")
    async with serving(repo) as served:
        used = served.version()
        used.lease()
        (repo / "m").rename(repo.parent / "away")
        await served.manager.reconcile()
        assert await served.refusal() == (ErrorKind.NOT_FOUND, "'m' is not found")
        assert served.states() == {"n/1": "READY"} and served.engine.catalog.ready
        used.release()
        await served.until(lambda: used.state is State.END)
        (repo.parent / "away").rename(repo / "m")
        await served.settle()
        assert await served.factor() == 1


@on_loop
async def test_a_model_that_comes_back_while_its_last_request_runs(repo: Path) -> None:
    add_version(repo, 1, "n")
    async with serving(repo) as served:
        used = served.version()
        used.lease()
        (repo / "m").rename(repo.parent / "away")
        await served.manager.reconcile()
        (repo.parent / "away").rename(repo / "m")
        await served.manager.reconcile()
        await served.until(lambda: served.states().get("m/1") == "READY")
        assert served.version() is not used
        used.release()
        await served.until(lambda: used.state is State.END)
        assert await served.factor() == 1


@on_loop
async def test_a_model_that_is_removed_while_it_loads_does_not_stay(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        held_load.let.clear()
        add_version(repo, 1, "n")
        await served.manager.reconcile()
        shutil.rmtree(repo / "n")
        await served.manager.reconcile()
        held_load.let.set()
        await served.settle()
        await served.until(lambda: served.states() == {"m/1": "READY"})
        assert (await served.refusal("n"))[1] == "'n' is not found"


@on_loop
async def test_removal_is_noticed_also_if_another_model_was_loaded_by_hand_in_between(repo: Path) -> None:
    add_version(repo, 1, "n")
    async with serving(repo) as served:
        shutil.rmtree(repo / "n")
        await served.manager.load("m")
        await served.settle()
        assert served.states() == {"m/1": "READY"}


# Changed in place


@on_loop
async def test_new_files_in_a_version_replace_it(repo: Path) -> None:
    async with serving(repo) as served:
        old = served.version()
        replace_model(repo / "m/1", 11)
        await served.settle()
        assert await served.factor("m", 1) == 11
        await served.until(lambda: old.state is State.END)
        assert served.always_served()


@on_loop
async def test_new_files_that_fail_leave_the_old_ones_serving_with_the_reason(repo: Path) -> None:
    async with serving(repo) as served:
        (repo / "m/1/model.onnx").write_bytes(b"no graph")
        await served.settle()
        assert await served.factor() == 1
        state, reason = served.index()[1]
        assert state == "READY"
        assert reason.startswith("its files have changed, and the new ones failed: quarantined: ONNX Runtime cannot")
        replace_model(repo / "m/1", 11)
        await served.settle()
        assert await served.factor() == 11
        assert served.index() == {1: ("READY", "")}


@on_loop
async def test_files_that_change_while_they_load_are_loaded_again(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        held_load.let.clear()
        replace_model(repo / "m/1", 11)
        await served.manager.reconcile()
        replace_model(repo / "m/1", 12)
        await served.manager.reconcile()
        held_load.let.set()
        await served.settle()
        await served.settle()
        assert await served.factor() == 12
        assert served.always_served()


# Settings


@on_loop
async def test_new_settings_are_taken_up(repo: Path) -> None:
    async with serving(repo) as served:
        (repo / "m/model.yaml").write_text("max_batch_size: 5")
        await served.settle()
        assert served.version().contract.max_batch_size == 5
        assert served.always_served()


@pytest.mark.parametrize(
    "text", ["max_batch_siez: 5", "trained: 2020-13-45"], ids=["an unknown key", "a date that YAML chokes on"]
)
@on_loop
async def test_bad_settings_fail_one_model_only(repo: Path, text: str) -> None:
    add_version(repo, 1, "n")
    (repo / "n/model.yaml").write_text(text)
    async with serving(repo) as served:
        state, reason = served.index("n")[1]
        assert state == "FAILED" and reason.startswith(f"{repo}/n/model.yaml: ")
        assert await served.factor("m") == 1
        (repo / "n/model.yaml").write_text("max_batch_size: 5")
        await served.settle()
        assert await served.factor("n") == 1


@on_loop
async def test_settings_that_turn_bad_leave_the_model_serving_with_the_reason(repo: Path) -> None:
    async with serving(repo) as served:
        (repo / "m/model.yaml").write_text("max_batch_siez: 5")
        await served.settle()
        assert await served.factor() == 1
        assert "did you mean 'max_batch_size'?" in served.index()[1][1]


@on_loop
async def test_settings_that_cannot_be_read(repo: Path) -> None:
    (repo / "m/model.yaml").write_bytes(b"\xff\xfe")
    async with serving(repo) as served:
        state, reason = served.index()[1]
        assert state == "FAILED" and "model.yaml" in reason


@on_loop
async def test_settings_that_are_being_written_take_nothing_away(repo: Path) -> None:
    """An editor empties the file first: for a moment it asks for the defaults, the latest version alone."""
    add_version(repo, 2)
    settings = repo / "m/model.yaml"
    settings.write_text("versions: all")
    async with serving(repo, settle_s=2.0) as served:
        settings.write_text("")
        await served.manager.reconcile()
        await turns()
        settings.write_text("versions: all\nmax_batch_size: 5")
        await served.manager.reconcile()
        assert await served.factor("m", 1) == 1


# Nothing there: nothing changes


@pytest.mark.parametrize("gone", ["emptied", "renamed"])
@on_loop
async def test_a_repository_that_vanishes_changes_nothing(
    repo: Path, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A volume that is not mounted, for instance."""
    away = repo.parent / "away"
    async with serving(repo) as served:
        shutil.move(repo, away)
        if gone == "emptied":
            os.mkdir(repo)  # noqa: PTH102
        caplog.clear()
        for _ in range(3):
            await served.settle()
        assert await served.factor() == 1
        assert len(caplog.messages) == 1 and str(repo) in caplog.messages[0]  # told once
        shutil.rmtree(repo, ignore_errors=True)
        shutil.move(away, repo)
        add_version(repo, 2)
        await served.settle()
        assert await served.factor() == 2


@on_loop
async def test_a_repository_that_cannot_be_read_changes_nothing(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise OSError(5, "Input/output error")

    async with serving(repo) as served:
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refuse)
            await served.settle()
        assert await served.factor() == 1


@on_loop
async def test_a_model_whose_versions_all_vanish_goes_on(repo: Path) -> None:
    async with serving(repo) as served:
        shutil.rmtree(repo / "m/1")
        await served.settle()
        assert await served.factor() == 1


@on_loop
async def test_a_models_directory_whose_versions_vanish_goes_on_whatever_else_is_in_it(repo: Path) -> None:
    (repo / "m/labels").mkdir()
    async with serving(repo / "m") as served:
        shutil.rmtree(repo / "m/1")
        await served.settle()
        assert await served.factor() == 1


@pytest.mark.parametrize("stray", ["model.onnx", "2024/1/model.onnx"], ids=["a model file", "a numbered directory"])
@on_loop
async def test_a_repository_stays_a_repository_whatever_is_put_into_it(repo: Path, stray: str) -> None:
    """Taken for one model's directory, it would lose all of its models."""
    async with serving(repo) as served:
        models.save(models.scale(5), repo / stray)
        await served.settle()
        assert await served.factor("m") == 1


# Settling


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The manager's clocks; `clock.now` moves both. Files seem to come from the future, as from a server whose clock is
    fast, so that only what the manager itself has seen counts."""
    import time

    clock = SimpleNamespace(now=0.0)
    began, wall = time.monotonic(), time.time() - 3600
    monkeypatch.setattr(
        reconciler, "time", SimpleNamespace(monotonic=lambda: began + clock.now, time=lambda: wall + clock.now)
    )
    return clock


@on_loop
async def test_a_version_is_not_read_before_its_files_were_left_alone(repo: Path, clock: SimpleNamespace) -> None:
    async with serving(repo, settle_s=1.0) as served:
        add_version(repo, 2)
        await served.settle()
        assert served.index() == {1: ("READY", ""), 2: ("NEW", "its files are still being written")}
        clock.now = 0.9
        replace_model(repo / "m/2", 22)  # they are not: it begins anew
        await served.settle()
        clock.now = 1.8
        await served.settle()
        assert served.states() == {"m/1": "READY", "m/2": "NEW"}
        clock.now = 1.9
        await served.settle()
        assert served.states() == {"m/2": "READY"}
        assert await served.factor() == 22


@on_loop
async def test_a_version_directory_that_is_still_empty_has_not_failed(repo: Path) -> None:
    async with serving(repo, settle_s=2.0) as served:
        (repo / "m/2").mkdir()
        await served.settle()
        assert served.states() == {"m/1": "READY", "m/2": "NEW"}


# By hand


@on_loop
async def test_unload_and_load(repo: Path) -> None:
    add_version(repo, 1, "n")
    async with serving(repo) as served:
        await served.manager.unload("m")
        assert await served.refusal() == (ErrorKind.NOT_FOUND, "'m' has no available versions")
        await served.settle()
        assert served.index() == {1: ("END", "unloaded")}
        assert served.engine.catalog.ready  # nobody wants it
        add_version(repo, 2)
        await served.settle()  # the watch does not bring it back
        assert served.index() == {1: ("END", "unloaded"), 2: ("END", "unloaded")}
        await served.manager.load("m")
        assert await served.factor() == 2
        assert served.states() == {"m/2": "READY", "n/1": "READY"}


@on_loop
async def test_unload_lets_requests_that_are_under_way_end(repo: Path) -> None:
    async with serving(repo) as served:
        used = served.version()
        used.lease()
        await served.manager.unload("m")
        assert served.index() == {1: ("DRAINING", "")}
        assert (await served.refusal())[0] is ErrorKind.NOT_FOUND
        await turns()
        assert used.state is State.DRAINING
        used.release()
        await served.until(lambda: served.index() == {1: ("END", "unloaded")})


@on_loop
async def test_a_version_that_ends_gives_its_memory_back(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession()
    monkeypatch.setattr(loading, "load", lambda *_, **__: session)
    async with serving(repo) as served:
        used = served.version()
        assert await served.factor() == 10
        await served.manager.unload("m")
        await served.until(lambda: used.state is State.END)
        assert session.closed


@on_loop
async def test_load_while_the_last_request_before_the_unload_runs(repo: Path) -> None:
    async with serving(repo) as served:
        used = served.version()
        used.lease()
        await served.manager.unload("m")
        await served.manager.load("m")
        assert served.version() is not used and await served.factor() == 1
        used.release()
        await served.until(lambda: used.state is State.END)
        assert served.index() == {1: ("READY", "")}


@on_loop
async def test_unload_while_it_loads(repo: Path, held_load: HeldLoad) -> None:
    served = Served(repo)
    starting = asyncio.ensure_future(served.manager.start())
    await served.until(lambda: served.states() == {"m/1": "LOADING"})
    await served.manager.unload("m")
    held_load.let.set()
    await starting
    await served.until(lambda: served.index() == {1: ("END", "unloaded")})
    assert (await served.refusal())[0] is ErrorKind.NOT_FOUND
    await served.manager.close()


@on_loop
async def test_what_is_unloaded_is_told_so_even_if_its_files_have_not_settled(repo: Path) -> None:
    async with serving(repo, settle_s=2.0) as served:
        add_version(repo, 2)
        await served.settle()
        await served.manager.unload("m")
        await served.settle()
        assert served.index() == {1: ("END", "unloaded"), 2: ("END", "unloaded")}


@on_loop
async def test_load_does_not_wait_for_files_to_settle(repo: Path) -> None:
    async with serving(repo, settle_s=2.0) as served:
        add_version(repo, 2)
        add_version(repo, 1, "n")
        await served.manager.load("m")
        assert await served.factor() == 2
        await served.manager.load("n")
        assert await served.factor("n") == 1


@on_loop
async def test_load_tries_again_what_failed(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(loading, "load", fail)
        served = Served(repo)
        await served.manager.start()
    await served.settle()
    assert served.states() == {"m/1": "FAILED"}
    await served.manager.load("m")
    assert await served.factor() == 1
    await served.manager.close()


@on_loop
async def test_a_caller_of_load_that_leaves_does_not_stop_the_load(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        held_load.let.clear()
        add_version(repo, 2)
        caller = asyncio.ensure_future(served.manager.load("m"))
        await held_load.until("m/2")
        caller.cancel()
        await asyncio.wait([caller])
        held_load.let.set()
        await served.until(lambda: served.states() == {"m/2": "READY"})


@on_loop
async def test_callers_of_load_share_one_load(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        held_load.let.clear()
        add_version(repo, 2)
        callers = [asyncio.ensure_future(served.manager.load("m")) for _ in range(3)]
        await held_load.until("m/2")
        held_load.let.set()
        await asyncio.gather(*callers)
        assert held_load.begun == ["m/1", "m/2"]
        assert await served.factor() == 2


@on_loop
async def test_load_says_why_it_failed(repo: Path) -> None:
    async with serving(repo) as served:
        corrupt_version(repo, 2)
        with pytest.raises(ServingError) as error:
            await served.manager.load("m")
        assert error.value.kind is ErrorKind.INVALID
        assert error.value.message.startswith(
            "load failed for model 'm': version 2 is at UNAVAILABLE state: quarantined: ONNX Runtime cannot load"
        )
        assert await served.factor() == 1


@pytest.mark.parametrize("name", ["nosuch", "M", "m ", "m/1", "../repo/m", "..", ".", "", "a\\b", "a\0b", "a\nb"])
@on_loop
async def test_load_of_what_is_not_there(repo: Path, name: str) -> None:
    async with serving(repo) as served:
        with pytest.raises(ServingError) as error:
            await served.manager.load(name)
        assert error.value.kind is ErrorKind.INVALID
        assert error.value.message.startswith(f"failed to load '{name}'")
        assert served.states() == {"m/1": "READY"}


@pytest.mark.parametrize("name", ["..", "", "a/b", "a\nb", "a" * 256])
@on_loop
async def test_what_is_no_name_is_refused(repo: Path, name: str) -> None:
    async with serving(repo, allow_upload=True) as served:
        for what, change in (
            ("load", served.manager.load(name, ModelSpec(), {"1/model.onnx": graph(3)})),
            ("unload", served.manager.unload(name)),
            ("load", served.manager.apply([Wanted(name)])),
        ):
            with pytest.raises(ServingError, match=rf"(?s)^failed to {what} '.*': not a model name") as error:
                await change
            assert error.value.kind is ErrorKind.INVALID and len(error.value.message) < 200
        assert served.states() == {"m/1": "READY"}


@on_loop
async def test_unload_of_what_is_not_there_is_no_error(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.unload("nosuch")
        assert served.states() == {"m/1": "READY"}


# With other settings


@on_loop
async def test_settings_that_a_load_brings_count_until_the_next(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("max_batch_size: 5\nthreads: 2\nversion_labels: {stable: 1}")
    async with serving(repo) as served:
        old = served.version()
        await served.manager.load("m", ModelSpec(max_batch_size=16))
        new = served.version()
        assert new is not old and new.contract.max_batch_size == 16
        assert new.spec.threads == 2  # what was not said is as before
        assert served.engine.catalog.models["m"].labels == {"stable": 1}
        await served.settle()  # the watch does not undo it
        assert served.version() is new
        await served.manager.load("m")
        assert served.version().contract.max_batch_size == 5
        assert served.always_served()


@on_loop
async def test_other_versions_and_labels_load_nothing_anew(repo: Path) -> None:
    add_version(repo, 2)
    async with serving(repo) as served:
        two = served.version()
        await served.manager.load("m", ModelSpec(versions="all", version_labels={"old": 1}))
        assert served.states() == {"m/1": "READY", "m/2": "READY"} and served.version() is two
        assert served.engine.catalog.models["m"].labels == {"old": 1}
        await served.manager.load("m")
        await served.settle()
        assert served.states() == {"m/2": "READY"} and served.version() is two
        assert served.engine.catalog.models["m"].labels == {}


@on_loop
async def test_settings_that_fail_are_given_up(repo: Path) -> None:
    async with serving(repo) as served:
        before = served.version()
        with pytest.raises(
            ServingError, match=r"load failed for model 'm': version 1 is at UNAVAILABLE state: .*NoSuch"
        ):
            await served.manager.load("m", ModelSpec(providers=("NoSuch",)))
        assert served.version() is before and served.index() == {1: ("READY", "")}
        await served.manager.unload("m")
        with pytest.raises(ServingError, match="load failed"):
            await served.manager.load("m", ModelSpec(providers=("NoSuch",)))
        await served.settle()
        assert served.states() == {"m/1": "FAILED"} and served.engine.catalog.ready  # it stays out


@on_loop
async def test_settings_that_a_load_brings_mend_a_broken_file(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("max_batch_siez: 5")
    async with serving(repo) as served:
        await served.manager.load("m", ModelSpec(max_batch_size=16))
        assert served.version().contract.max_batch_size == 16


@on_loop
async def test_a_load_of_versions_that_are_not_there_is_an_error(repo: Path) -> None:
    async with serving(repo) as served:
        with pytest.raises(
            ServingError, match=r"failed to load 'm': none of the wanted versions \[7\] is in .*has \[1\]"
        ):
            await served.manager.load("m", ModelSpec(versions=(7,)))
        add_version(repo, 2)
        await served.settle()  # under the settings from before
        assert served.states() == {"m/2": "READY"}


# With other files


def graph(factor: float) -> bytes:
    """y = factor * x, as an ONNX file."""
    return bytes(models.scale(factor).SerializeToString())


def uploaded(served: Served, number: int | None = None) -> Path:
    """The directory from which a version was loaded."""
    return served.version(number=number).found.path.parent


@on_loop
async def test_uploaded_files_are_the_model_until_the_next_load(repo: Path) -> None:
    async with serving(repo, allow_upload=True) as served:
        await served.manager.load("m", ModelSpec(), {"7/model.onnx": graph(7)})
        await served.settle()
        assert served.states() == {"m/7": "READY"} and await served.factor() == 7
        directory = uploaded(served)
        assert repo not in directory.parents
        add_version(repo, 9)
        await served.settle()
        assert await served.factor() == 7
        await served.manager.load("m")
        await served.settle()
        assert served.states() == {"m/9": "READY"} and await served.factor() == 9
        assert served.always_served()
        while directory.exists():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


@on_loop
async def test_an_upload_of_the_same_version_replaces_it(repo: Path) -> None:
    async with serving(repo, allow_upload=True) as served:
        directories = []
        for factor in (5, 6):
            await served.manager.load("m", ModelSpec(), {"1/model.onnx": graph(factor)})
            assert await served.factor() == factor
            directories.append(uploaded(served))
        while directories[0].exists():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)
        assert directories[1].exists() and served.always_served()


@on_loop
async def test_settings_and_labels_may_come_with_the_files(repo: Path) -> None:
    files = {
        "1/model.onnx": graph(3),
        "2/model.onnx": graph(4),
        "model.yaml": b"versions: all\nmax_batch_size: 5\nclass_labels: {y: names.txt}",
        "names.txt": b"one\ntwo\n",
    }
    async with serving(repo, allow_upload=True) as served:
        await served.manager.load("m", None, files)
        assert served.states() == {"m/1": "READY", "m/2": "READY"}
        assert served.version().contract.max_batch_size == 5
        assert served.version().class_labels == {"y": ("one", "two")}


@on_loop
async def test_a_model_may_be_made_by_upload_and_ends_when_it_is_unloaded(repo: Path) -> None:
    async with serving(repo, allow_upload=True) as served:
        await served.manager.load("new", ModelSpec(), {"1/model.onnx": graph(3)})
        assert await served.factor("new") == 3 and served.engine.catalog.ready
        with pytest.raises(ServingError, match="failed to load 'new', failed to poll from model repository"):
            await served.manager.load("new")  # there is nothing else to load
        assert await served.factor("new") == 3
        directory = served.version("new").found.path.parent
        await served.manager.unload("new")
        await served.settle()
        assert (await served.refusal("new"))[1] == "'new' is not found"
        while directory.exists():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", ["m", "new"])
@on_loop
async def test_files_that_fail_leave_everything_as_it_was(repo: Path, name: str) -> None:
    async with serving(repo, allow_upload=True) as served:
        with pytest.raises(ServingError, match=f"load failed for model '{name}': version 2 is at UNAVAILABLE"):
            await served.manager.load(name, ModelSpec(), {"2/model.onnx": b"no graph"})
        await served.settle()
        assert served.states() == {"m/1": "READY"} and served.engine.catalog.ready
        assert await served.factor() == 1


@on_loop
async def test_nobody_is_told_where_uploads_are(repo: Path) -> None:
    async with serving(repo, allow_upload=True) as served:
        with pytest.raises(ServingError, match=r"cannot load model\.onnx: it cannot be read as an ONNX model"):
            await served.manager.load("m", ModelSpec(), {"2/model.onnx": b"no graph"})


@on_loop
async def test_of_several_loads_at_once_each_is_told_of_its_own(repo: Path) -> None:
    sent = ({"2/model.onnx": b"no graph"}, {"3/model.onnx": graph(3)}, {"4/model.onnx": b"none either"})
    async with serving(repo, allow_upload=True) as served:
        loads = [served.manager.load("m", ModelSpec(), files) for files in sent]
        told = await asyncio.gather(*loads, return_exceptions=True)
        assert "version 2 is at UNAVAILABLE" in str(told[0]) and "version 4 is at UNAVAILABLE" in str(told[2])
        assert told[1] is None and await served.factor() == 3


@on_loop
async def test_after_loads_that_failed_at_once_the_directory_counts_again(repo: Path) -> None:
    async with serving(repo, allow_upload=True) as served:
        loads = [served.manager.load("m", ModelSpec(), {"2/model.onnx": b"no graph"}) for _ in range(2)]
        assert all(await asyncio.gather(*loads, return_exceptions=True))
        add_version(repo, 5, factor=5)
        await served.settle()
        assert await served.factor() == 5


@on_loop
async def test_files_are_refused_where_they_are_not_allowed(repo: Path) -> None:
    async with serving(repo) as served:
        with pytest.raises(ServingError) as error:
            await served.manager.load("m", ModelSpec(), {"1/model.onnx": graph(3)})
        assert error.value.kind is ErrorKind.FORBIDDEN and await served.factor() == 1


@on_loop
async def test_files_that_would_leave_the_directory_are_refused(repo: Path) -> None:
    async with serving(repo, allow_upload=True) as served:
        with pytest.raises(ServingError, match=r"'\.' and '\.\.' are not taken"):
            await served.manager.load("m", ModelSpec(), {"1/model.onnx": graph(3), "1/../../x": b""})
        assert await served.factor() == 1


@on_loop
async def test_close_removes_what_was_uploaded(repo: Path) -> None:
    async with serving(repo, allow_upload=True) as served:
        await served.manager.load("m", ModelSpec(), {"1/model.onnx": graph(3)})
        directory = uploaded(served)
    assert not directory.parent.exists()


# A list of all that is wanted


@on_loop
async def test_a_list_replaces_everything(repo: Path) -> None:
    add_version(repo, 1, "n")
    add_version(repo, 1, "o")
    async with serving(repo) as served:
        await served.manager.unload("n")
        await served.manager.apply([Wanted("n"), Wanted("m", labels={"stable": 1})])
        await served.settle()
        assert served.states() == {"m/1": "READY", "n/1": "READY", "o/1": "END"}
        assert served.engine.catalog.models["m"].labels == {"stable": 1}
        assert (await served.refusal("o"))[0] is ErrorKind.NOT_FOUND
        add_version(repo, 1, "p")
        await served.settle()  # what comes later stays out too
        assert served.states()["p/1"] == "END" and served.engine.catalog.ready
        await served.manager.load("o")  # but by hand
        assert await served.factor("o") == 1
        await served.manager.apply([])
        await served.settle()
        assert set(served.states().values()) == {"END"}


@on_loop
async def test_a_list_says_which_versions_and_touches_none_that_stays(repo: Path) -> None:
    for number in (2, 3):
        add_version(repo, number)
    async with serving(repo) as served:
        three = served.version()
        await served.manager.apply([Wanted("m", versions=(1, 3), labels={"stable": 1, "canary": 3})])
        assert served.states() == {"m/1": "READY", "m/3": "READY"} and served.version() is three
        assert served.engine.catalog.models["m"].labels == {"stable": 1, "canary": 3}
        await served.manager.apply([Wanted("m", versions=(1,))])
        await served.settle()
        assert served.states() == {"m/1": "READY"}
        assert served.engine.catalog.models["m"].labels == {}
        assert served.always_served()


@on_loop
async def test_a_list_may_name_a_directory_and_give_it_another_name(repo: Path) -> None:
    add_version(repo, 4, "team/n")
    async with serving(repo) as served:
        await served.manager.apply([Wanted("x", f"{repo}/team/n"), Wanted("y", "m"), Wanted("m", f"{repo}/m")])
        assert served.states() == {"m/1": "READY", "x/4": "READY", "y/1": "READY"}
        assert await served.factor("x") == 4
        add_version(repo, 5, "team/n")
        await served.settle()  # such a place is watched as others are
        assert await served.factor("x") == 5
        await served.manager.apply([Wanted("m")])
        await served.settle()
        assert served.states() == {"m/1": "READY"}


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ([Wanted("m", "/etc")], ErrorKind.FORBIDDEN),
        ([Wanted("nosuch")], ErrorKind.INVALID),
        ([Wanted("m", "nosuch")], ErrorKind.INVALID),
        ([Wanted("m"), Wanted("m")], ErrorKind.INVALID),
        ([Wanted("../m")], ErrorKind.INVALID),
        ([Wanted("m", versions=(7,))], ErrorKind.INVALID),
        ([Wanted("m", labels={"stable": 9})], ErrorKind.PRECONDITION),
    ],
    ids=["path", "model", "place", "twice", "name", "versions", "label"],
)
@on_loop
async def test_a_list_that_cannot_be_had_changes_nothing(repo: Path, wanted: list[Wanted], kind: ErrorKind) -> None:
    add_version(repo, 1, "n")
    async with serving(repo) as served:
        before = served.version(), served.version("n")
        with pytest.raises(ServingError) as error:
            await served.manager.apply(wanted)
        assert error.value.kind is kind
        await served.settle()
        assert (served.version(), served.version("n")) == before


@on_loop
async def test_a_list_with_a_model_that_fails_says_so_and_serves_the_rest(repo: Path) -> None:
    corrupt_version(repo, 1, "broken")
    add_version(repo, 1, "n")
    async with serving(repo) as served:
        with pytest.raises(ServingError, match="load failed for model 'broken': version 1 is at UNAVAILABLE state"):
            await served.manager.apply([Wanted("broken"), Wanted("n")])
        await served.settle()
        assert served.states() == {"broken/1": "FAILED", "m/1": "END", "n/1": "READY"}
        assert not served.engine.catalog.ready


@on_loop
async def test_a_label_for_a_version_that_fails_is_told(repo: Path) -> None:
    corrupt_version(repo, 2)
    async with serving(repo) as served:
        with pytest.raises(ServingError, match="load failed for model 'm': version 2"):
            await served.manager.apply([Wanted("m", versions="all", labels={"canary": 2})])
        assert await served.factor() == 1


@on_loop
async def test_a_list_ends_uploads_and_other_settings(repo: Path) -> None:
    async with serving(repo, allow_upload=True) as served:
        await served.manager.load("m", ModelSpec(max_batch_size=3), {"1/model.onnx": graph(3)})
        await served.manager.apply([Wanted("m")])
        assert await served.factor() == 1 and served.version().contract.max_batch_size == 64


# Two sources


@on_loop
async def test_of_two_models_of_one_name_the_first_source_has_it(
    tmp_path: Path, repo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    for name in ("m", "n", "o"):
        add_version(other, 5, name)
    add_version(repo, 1, "n")
    async with serving(repo, other) as served:
        assert served.states() == {"m/1": "READY", "n/1": "READY", "o/5": "READY"}
        for _ in range(3):
            await served.settle()
        told = [text for text in caplog.messages if "is served from another path already" in text]
        assert sorted(told) == sorted(set(told))  # each once, however often it is looked at
        assert {name for name in "mno" for text in told if f"'{name}'" in text} == {"m", "n"}


@on_loop
async def test_the_second_source_takes_over_what_the_first_gives_up(tmp_path: Path, repo: Path) -> None:
    other = tmp_path / "other"
    add_version(other, 5)
    add_version(repo, 1, "n")
    async with serving(repo, other) as served:
        shutil.rmtree(repo / "m")
        await served.settle()
        await served.settle()
        assert served.states() == {"m/5": "READY", "n/1": "READY"}


# Watching


@on_loop
async def test_a_file_event_is_enough(repo: Path) -> None:
    async with serving(repo, watch=True, poll_s=3600.0) as served:
        add_version(repo, 2)
        while served.states() != {"m/2": "READY"}:
            (repo / "nudge").write_text("")  # the watch may begin later than the first event came
            await asyncio.sleep(0.05)


@on_loop
async def test_without_file_events_directories_are_read_now_and_then(
    repo: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_watch(*_: Any, **__: Any) -> None:
        raise OSError("inotify watch limit reached")

    monkeypatch.setattr(watch, "awatch", no_watch)
    async with serving(repo, watch=True, poll_s=0.01) as served:
        add_version(repo, 2)
        await served.until(lambda: served.states() == {"m/2": "READY"})
        assert "no file events (inotify watch limit reached)" in caplog.text


@on_loop
async def test_a_bug_in_one_round_does_not_end_the_watch(
    repo: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: Any) -> None:
        raise KeyError("bug")

    async with serving(repo, watch=True, poll_s=0.01) as served:
        with monkeypatch.context() as patch:
            patch.setattr(survey, "scan", bug)
            while "reading the model repository failed" not in caplog.text:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        add_version(repo, 2)
        await served.until(lambda: served.states() == {"m/2": "READY"})


@on_loop
async def test_without_watch_nothing_is_picked_up(repo: Path) -> None:
    async with serving(repo, watch=False, poll_s=0.001) as served:
        add_version(repo, 2)
        await asyncio.sleep(0.05)
        assert served.states() == {"m/1": "READY"}


# Close


@on_loop
async def test_in_a_hurry_no_request_waits_for_company(repo: Path) -> None:
    """Neither at a version that serves, nor at one that drains."""
    (repo / "m/model.yaml").write_text("max_queue_delay_ms: 60000")
    async with serving(repo) as served:
        old = asyncio.ensure_future(served.factor())
        await turns()
        add_version(repo, 2)
        await served.manager.reconcile()
        await served.until(lambda: served.version().number == 2)
        new = asyncio.ensure_future(served.factor())
        await turns()
        served.manager.hurry()
        assert [await old, await new] == [1, 2]


@on_loop
async def test_close_waits_for_requests_and_takes_everything_down(repo: Path) -> None:
    before = set(threading.enumerate())
    served = Served(repo)
    await served.manager.start()
    used = served.version()
    used.lease()
    closing = asyncio.ensure_future(served.manager.close())
    await turns()
    assert (await served.refusal())[0] is ErrorKind.NOT_FOUND
    assert not closing.done() and used.session is not None
    used.release()
    await closing
    assert used.state is State.END and used.session is None
    assert own_threads(before, "m/") == []


@pytest.mark.parametrize("when", ["at start", "later"])
@on_loop
async def test_close_does_not_wait_for_a_load_that_hangs(
    repo: Path, held_load: HeldLoad, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    before = set(threading.enumerate())
    served = Served(repo)
    if when == "later":
        held_load.let.set()
    starting = asyncio.ensure_future(served.manager.start())
    if when == "later":
        await starting
        held_load.let.clear()
        add_version(repo, 2)
        await served.manager.reconcile()
    await held_load.until("m/2" if when == "later" else "m/1")
    starting.cancel()
    await served.manager.close()
    assert "READY" not in served.states().values()
    assert served.manager.loading  # so that nobody waits for its thread
    held_load.let.set()
    while own_threads(before, "load", "m/"):  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.005)
    while served.manager.loading:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.005)
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
    assert await served.refusal()
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []  # to stop is no failure


def own_threads(before: set[threading.Thread], *kinds: str) -> list[threading.Thread]:
    return [t for t in set(threading.enumerate()) - before if t.name.startswith(kinds)]


# Metrics


def unique(served: Served) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every series of a scrape; none may come twice, or Prometheus refuses the scrape."""
    series: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(exporter(served.metrics)().decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in series, key
            series[key] = sample.value
    return series


def state_of(served: Served, version: str) -> list[str]:
    return [
        labels["state"]
        for (name, pairs), value in unique(served).items()
        if name == "serving_model_state" and (labels := dict(pairs))["version"] == version and value == 1
    ]


@on_loop
async def test_states_in_a_scrape(repo: Path) -> None:
    corrupt_version(repo, 2)
    async with serving(repo) as served:
        served.version().lease()
        assert (state_of(served, "1"), state_of(served, "2")) == (["READY"], ["FAILED"])
        series = unique(served)
        labels = (("model", "m"), ("version", "1"))
        assert series["serving_in_flight_requests", labels] == 1
        assert series["serving_queue_rows", labels] == 0
        assert series["serving_model_load_seconds_count", (("model", "m"), ("outcome", "failed"))] == 1
        assert series["serving_model_load_seconds_count", (("model", "m"), ("outcome", "ok"))] == 1
        served.version().release()


@on_loop
async def test_a_number_that_is_held_twice_is_one_series(repo: Path, held_load: HeldLoad) -> None:
    """Serving, while its replacement loads, has failed, or has taken over but not finished."""
    held_load.let.set()
    async with serving(repo) as served:
        held_load.let.clear()
        (repo / "m/1/model.onnx").write_bytes(b"no graph")
        await served.manager.reconcile()
        assert state_of(served, "1") == ["READY"]  # and loads
        held_load.let.set()
        await served.settle()
        assert state_of(served, "1") == ["READY"]  # and has failed
        used = served.version()
        used.lease()
        replace_model(repo / "m/1", 11)
        await served.manager.reconcile()
        await served.until(lambda: used.state is State.DRAINING)
        assert state_of(served, "1") == ["READY"]  # and drains
        labels = (("model", "m"), ("version", "1"))
        assert unique(served)["serving_in_flight_requests", labels] == 1
        used.release()


@on_loop
async def test_rows_of_each_run_are_counted_by_version(repo: Path) -> None:
    async with serving(repo) as served:
        await asyncio.gather(served.factor(), served.factor(), served.factor())
        series = unique(served)
        labels = (("model", "m"), ("version", "1"))
        assert series["serving_batch_rows_sum", labels] == 3
        assert series["serving_batch_rows_count", labels] >= 1


@on_loop
async def test_series_of_a_number_that_serves_again_are_not_those_of_one_that_ended(repo: Path) -> None:
    async with serving(repo) as served:
        old = served.version()
        replace_model(repo / "m/1", 11)
        await served.settle()
        await served.until(lambda: old.state is State.END)
        await served.factor()
        await asyncio.sleep(0)  # runs are counted behind their answers
        for number in range(KEEP_RETIRED + 1):
            served.metrics.retire("another", str(number))
        assert unique(served)["serving_batch_rows_count", (("model", "m"), ("version", "1"))] == 1
