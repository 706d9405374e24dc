"""What failed through no fault of its own is tried again by itself; what is bad only when it changes or is forced."""

import asyncio
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from serving.core.artifact import MANIFEST, Manifest
from serving.core.errors import LoadError, ServingError
from serving.core.scrape import exporter
from serving.core.spec import ModelSpec
from serving.repository import reconciler
from serving.repository.control.events import Kind
from serving.repository.control.orders import Wanted
from serving.repository.loads import lifecycle, loading
from serving.repository.version import State
from tests import models
from tests.batching.control import on_loop
from tests.repository.build import add_version, corrupt_version, replace_model
from tests.repository.test_manager import HeldLoad, Served, held_load, serving
from tests.repository.test_manager import repo as repo

__all__ = ["held_load"]


class Trouble:
    """Loads of version 2 fail for want of memory as long as there is trouble; pauses are short, and noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = True
        self.tried = 0
        self.attempts: list[int] = []
        self.pause_s = 0.01
        self._load = loading.load
        monkeypatch.setattr(loading, "load", self)
        monkeypatch.setattr(lifecycle, "pause_s", self._pause)
        monkeypatch.setattr(reconciler, "UNSETTLED_CHECK_S", 0.005)

    def __call__(self, model: str, found: Any, *args: Any, **more: Any) -> object:
        if found.number == 2:
            self.tried += 1
            if self.there:
                raise LoadError("no memory left", retry=True)
        return self._load(model, found, *args, **more)

    def _pause(self, attempt: int, limit_s: float, luck: float) -> float:
        assert 0 <= luck <= 1 and limit_s == 60.0
        self.attempts.append(attempt)
        return self.pause_s


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    return Trouble(monkeypatch)


async def kinds(served: Served) -> list[str]:
    """What became of version 2."""
    return [event.kind.value for event in await served.manager.events() if event.version == 2]


async def until_tried(trouble: Trouble, times: int) -> None:
    while trouble.tried < times:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.005)


def retry_in_s(served: Served) -> float:
    """Of version 2; 0 while it is not failed."""
    (status,) = served.manager.status("m")
    return max(version.retry_in_s or 0.0 for version in status.versions)


@on_loop
async def test_it_is_tried_again_until_it_works(repo: Path, trouble: Trouble) -> None:
    async with serving(repo) as served:
        add_version(repo, 2)
        await served.manager.reconcile()
        await until_tried(trouble, 3)
        assert await served.factor() == 1 and served.engine.catalog.ready
        trouble.there = False
        await served.until(lambda: served.states() == {"m/2": "READY"})
        assert trouble.attempts[:3] == [1, 2, 3]
        assert set(await kinds(served)) == {"loading", "failed", "ready"}
        assert served.always_served()


@on_loop
async def test_the_time_of_the_next_attempt_is_shown(repo: Path, trouble: Trouble) -> None:
    trouble.pause_s = 3600.0
    async with serving(repo) as served:
        add_version(repo, 2)
        await served.settle()
        state, reason = served.index()[2]
        assert state == "FAILED"
        assert reason.startswith("no memory left (tried again at ") and reason.endswith(" UTC)")
        assert 3500 < retry_in_s(served) <= 3600
        for _ in range(3):
            await served.settle()
        assert trouble.tried == 1  # to look is not to try


@on_loop
async def test_other_content_is_tried_at_once_and_counted_from_one(repo: Path, trouble: Trouble) -> None:
    async with serving(repo) as served:
        new = add_version(repo, 2)
        await served.manager.reconcile()
        await until_tried(trouble, 2)
        trouble.pause_s = 3600.0
        while retry_in_s(served) < 3000:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)
        before = trouble.tried
        replace_model(new, 22)
        await served.settle()
        assert trouble.tried == before + 1 and trouble.attempts[-1] == 1


@on_loop
async def test_a_load_by_hand_does_not_wait(repo: Path, trouble: Trouble) -> None:
    trouble.pause_s = 3600.0
    async with serving(repo) as served:
        add_version(repo, 2)
        with pytest.raises(ServingError, match="version 2 is at UNAVAILABLE state: no memory left;"):
            await served.manager.load("m")
        trouble.there = False
        await served.manager.load("m")
        assert served.states()["m/2"] == "READY"


@pytest.mark.parametrize("mode", ["explicit", "fixed"])
@on_loop
async def test_it_is_tried_again_in_every_mode(repo: Path, trouble: Trouble, mode: str) -> None:
    add_version(repo, 2)
    async with serving(repo, mode=mode, load_model=("m",)) as served:
        assert not {"m/1", "m/2"} - served.states().keys()
        trouble.there = False
        await served.until(lambda: served.states().get("m/2") == "READY")


@pytest.mark.parametrize("end", ["unload", "removal of the version", "removal of the model"])
@on_loop
async def test_what_is_not_wanted_any_more_is_not_tried(repo: Path, trouble: Trouble, end: str) -> None:
    async with serving(repo) as served:
        add_version(repo, 2)
        add_version(repo, 1, "n")
        trouble.pause_s = 0.05
        await served.settle()
        if end == "unload":
            await served.manager.unload("m")
        else:
            shutil.rmtree(repo / "m/2" if end == "removal of the version" else repo / "m")
            await served.settle()
        tried = trouble.tried
        await asyncio.sleep(0.15)
        assert trouble.tried == tried


@on_loop
async def test_closing_ends_the_pauses(repo: Path, trouble: Trouble) -> None:
    async with serving(repo) as served:
        add_version(repo, 2)
        await served.settle()
    tried = trouble.tried
    await asyncio.sleep(0.05)
    assert trouble.tried == tried


# Bad versions


@on_loop
async def test_a_version_goes_from_loading_to_quarantine_without_a_step_between(repo: Path) -> None:
    async with serving(repo) as served:
        began = len(served.published)
        corrupt_version(repo, 2)
        await served.settle()
        seen = [entry.state for catalog in served.published[began:] for entry in catalog.index if entry.number == 2]
        assert list(dict.fromkeys(seen)) == [State.LOADING, State.FAILED]


@on_loop
async def test_a_quarantine_is_seen_everywhere(repo: Path) -> None:
    async with serving(repo) as served:
        bad = corrupt_version(repo, 2)
        await served.settle()
        state, reason = served.index()[2]
        assert state == "FAILED" and reason.startswith("quarantined: ONNX Runtime cannot load")
        (status,) = served.manager.status("m")
        assert [(v.number, v.quarantined, v.retry_in_s) for v in status.versions] == [(1, False, None), (2, True, None)]
        assert [e.text for e in await served.manager.events() if e.kind is Kind.QUARANTINED] == [
            reason.removeprefix("quarantined: ")
        ]
        scrape = exporter(served.metrics)().decode()
        assert 'serving_quarantined{model="m",version="2"} 1.0' in scrape
        assert 'serving_quarantined{model="m",version="1"}' not in scrape
        assert 'serving_events_total{kind="quarantined",model="m"} 1.0' in scrape
        shutil.rmtree(bad)
        await served.settle()
        assert "serving_quarantined{" not in exporter(served.metrics)().decode()


@on_loop
async def test_a_bad_version_is_not_tried_again_by_touch_or_copy(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        bad = corrupt_version(repo, 2)
        await served.settle()
        os.utime(bad / "model.onnx")
        await served.settle()
        shutil.copytree(bad, repo / "m/.copy")
        shutil.rmtree(bad)
        await served.settle()
        assert served.states() == {"m/1": "READY"}
        os.replace(repo / "m/.copy", bad)  # noqa: PTH105
        await served.settle()
        assert served.states() == {"m/1": "READY", "m/2": "FAILED"}
        assert held_load.begun == ["m/1", "m/2"]
        assert served.engine.catalog.ready and served.always_served()
        replace_model(bad, 2)
        await served.settle()
        assert served.states() == {"m/2": "READY"}


@on_loop
async def test_a_setting_that_matters_makes_it_worth_another_attempt(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        corrupt_version(repo, 2)
        for text, attempts in (("version_labels: {old: 1}", 1), ("max_batch_size: 3", 2), ("max_batch_size: 3\n\n", 2)):
            (repo / "m/model.yaml").write_text(text)
            await served.settle()
            assert served.states() == {"m/1": "READY", "m/2": "FAILED"}
            assert held_load.begun.count("m/2") == attempts


@on_loop
async def test_a_load_by_hand_says_how_to_force_and_force_tries(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        corrupt_version(repo, 2)
        await served.settle()
        with pytest.raises(ServingError) as error:
            await served.manager.load("m")
        assert error.value.message.startswith(
            "load failed for model 'm': version 2 is at UNAVAILABLE state: quarantined: "
        )
        assert error.value.message.endswith("; it is tried again when its content changes, or if the load is forced;")
        assert held_load.begun.count("m/2") == 1
        with pytest.raises(ServingError, match="quarantined: ONNX Runtime cannot load"):
            await served.manager.load("m", force=True)
        assert held_load.begun.count("m/2") == 2
        assert await served.factor() == 1
        assert [e.kind for e in await served.manager.events() if e.version == 2][-1] is Kind.QUARANTINED


@on_loop
async def test_settings_that_fail_with_a_load_leave_nothing_in_quarantine(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        for attempts in (2, 3):
            with pytest.raises(ServingError) as error:
                await served.manager.load("m", ModelSpec(class_labels={"z": "none.txt"}))
            assert error.value.message == (
                "load failed for model 'm': version 1 is at UNAVAILABLE state: "
                "class_labels: no output 'z', the model gives y;"
            )
            await served.settle()
            assert served.states() == {"m/1": "READY"} and served.index()[1] == ("READY", "")
            assert held_load.begun.count("m/1") == attempts
            assert served.manager._quarantine.held() == {}


@on_loop
async def test_settings_that_come_with_a_load_are_tried_on_what_failed_with_others(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("inputs: {z: FP32}")
    async with serving(repo) as served:
        assert served.index()[1][1].startswith("quarantined: ")
        await served.manager.load("m", ModelSpec(inputs={}))
        assert served.states() == {"m/1": "READY"}


@on_loop
async def test_a_copy_that_goes_on_behind_its_manifest_is_taken_when_it_is_whole(repo: Path) -> None:
    """What was there when it settled was bad; the rest makes it other content."""
    whole = {"model.onnx": models.save(models.scale(2), repo.parent / "model.onnx").read_bytes(), "notes.txt": b"all"}
    manifest = Manifest(schema=1, files={name: hashlib.sha256(content).hexdigest() for name, content in whole.items()})
    async with serving(repo) as served:
        half = repo / "m/2"
        half.mkdir()
        (half / MANIFEST).write_text(manifest.model_dump_json(by_alias=True))
        (half / "model.onnx").write_bytes(whole["model.onnx"])
        await served.settle()
        state, reason = served.index()[2]
        assert state == "FAILED" and "the files do not match the manifest: notes.txt: missing" in reason
        (half / "notes.txt").write_bytes(whole["notes.txt"])
        await served.settle()
        assert served.states() == {"m/2": "READY"}
        assert served.always_served()


@on_loop
async def test_a_version_that_is_deleted_while_it_loads_leaves_nothing(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        held_load.let.clear()
        new = add_version(repo, 2)
        await served.manager.reconcile()
        await held_load.until("m/2")
        shutil.rmtree(new)
        await served.manager.reconcile()
        held_load.let.set()
        await served.settle()
        await served.settle()
        assert served.states() == {"m/1": "READY"}
        assert served.manager._quarantine.held() == {}
        assert served.always_served()
        add_version(repo, 2)
        await served.settle()
        assert served.states() == {"m/2": "READY"}


@on_loop
async def test_a_version_that_is_wanted_by_number_and_not_there(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("versions: [1, 5]")
    async with serving(repo) as served:
        for _ in range(2):
            await served.settle()
        told = [(e.version, e.text) for e in await served.manager.events() if e.kind is Kind.REPOSITORY]
        assert told == [(5, "is wanted, and not on disk")]  # once
        assert served.states() == {"m/1": "READY"}
        add_version(repo, 5)
        await served.settle()
        assert served.states() == {"m/1": "READY", "m/5": "READY"}


@on_loop
async def test_a_version_of_a_list_that_is_not_there(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.apply([Wanted("m", versions=(1, 5))])
        assert served.states() == {"m/1": "READY"}
        assert [e.version for e in await served.manager.events() if e.kind is Kind.REPOSITORY] == [5]
        add_version(repo, 5)
        await served.settle()
        assert served.states() == {"m/1": "READY", "m/5": "READY"}
