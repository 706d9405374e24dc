"""What each mode serves, and when it looks: watched is in test_manager."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.spec import ModelSpec
from serving.core.traffic import Traffic
from serving.repository.control.orders import Wanted
from serving.repository.disk import survey
from serving.repository.manager import Manager
from tests.batching.control import on_loop
from tests.repository.build import add_version, corrupt_version
from tests.repository.test_manager import Served, serving

UNLOADED = {"m/1": "END", "n/1": "END"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the models m and n."""
    for model in "mn":
        add_version(tmp_path / "repo", 1, model)
    return tmp_path / "repo"


# Explicit


@on_loop
async def test_nothing_is_served_that_nobody_asked_for(repo: Path) -> None:
    async with serving(repo, mode="explicit") as served:
        assert served.states() == UNLOADED
        assert served.engine.catalog.ready
        assert await served.refusal("m") == (ErrorKind.NOT_FOUND, "'m' has no available versions")
        await served.manager.load("m")
        assert served.states() == {"m/1": "READY", "n/1": "END"}
        await served.manager.unload("m")
        await served.until(lambda: served.states() == UNLOADED)


@pytest.mark.parametrize(
    ("asked", "states"),
    [
        (("m",), {"m/1": "READY", "n/1": "END"}),
        (("n", "m"), {"m/1": "READY", "n/1": "READY"}),
        (("*",), {"m/1": "READY", "n/1": "READY"}),
        (("*", "m"), {"m/1": "READY", "n/1": "READY"}),
    ],
)
@on_loop
async def test_what_is_asked_for_at_the_start(repo: Path, asked: tuple[str, ...], states: dict[str, str]) -> None:
    async with serving(repo, mode="explicit", load_model=asked) as served:
        assert served.states() == states


@on_loop
async def test_a_model_that_is_asked_for_and_not_there_ends_the_start(repo: Path) -> None:
    served = Served(repo, mode="explicit", load_model=("m", "nn"))
    with pytest.raises(ServingError, match="there is no model 'nn'; did you mean 'n'"):
        await served.manager.start()
    await served.manager.close()


@on_loop
async def test_what_was_there_at_the_start_is_not_thought_half_written_later(repo: Path) -> None:
    add_version(repo, 2)
    async with serving(repo, mode="explicit", load_model=("m",), settle_s=60.0) as served:
        assert served.states() == {"m/2": "READY", "n/1": "END"}
        versions = served.manager.status("m")[0].versions
        assert [(v.number, v.state, v.reason) for v in versions] == [(1, "ON_DISK", ""), (2, "READY", "")]


@on_loop
async def test_directories_are_read_on_a_load_only(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(repo, mode="explicit", load_model=("m", "n"), watch=True, poll_s=0.001) as served:
        reads = 0
        real = survey.scan

        def scan(*args: object) -> object:
            nonlocal reads
            reads += 1
            return real(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(survey, "scan", scan)
        for model in "mn":
            add_version(repo, 2, model)
        assert served.states() == {"m/1": "READY", "n/1": "READY"}
        await served.manager.load("m")
        await served.until(lambda: served.states() == {"m/2": "READY", "n/1": "READY"})  # and n has to be asked for
        assert reads == 1


@on_loop
async def test_a_model_that_came_after_the_start_can_be_loaded(repo: Path) -> None:
    async with serving(repo, mode="explicit") as served:
        add_version(repo, 3, "o")
        await served.manager.load("o")
        assert served.states() == UNLOADED | {"o/3": "READY"}


@on_loop
async def test_a_repository_may_be_empty(tmp_path: Path) -> None:
    async with serving(tmp_path, mode="explicit") as served:
        assert served.states() == {} and served.engine.catalog.ready
        add_version(tmp_path, 1)
        await served.manager.load("m")
        assert served.states() == {"m/1": "READY"}


# Fixed

CHANGES: list[tuple[str, Callable[[Manager], Awaitable[object]]]] = [
    ("load 'm'", lambda manager: manager.load("m")),
    ("load 'm'", lambda manager: manager.load("m", force=True)),
    ("load 'm'", lambda manager: manager.load("m", ModelSpec(), {"1/model.onnx": b""})),
    ("unload 'm'", lambda manager: manager.unload("m")),
    ("change the list of models", lambda manager: manager.apply([Wanted("m")])),
    ("change the list of models", lambda manager: manager.apply([])),
    ("label 'm'", lambda manager: manager.label("m", "stable", 1)),
    ("share the traffic of 'm'", lambda manager: manager.share("m", Traffic(weights={"1": 1}))),
    ("promote 'm'", lambda manager: manager.promote("m", "1")),
    ("roll back 'm'", lambda manager: manager.rollback("m", "1")),
]


@pytest.mark.parametrize(("what", "change"), CHANGES)
@on_loop
async def test_fixed_mode_refuses_every_change(
    repo: Path, what: str, change: Callable[[Manager], Awaitable[object]]
) -> None:
    async with serving(repo, mode="fixed", allow_upload=True) as served:
        before = served.engine.catalog
        with pytest.raises(ServingError) as error:
            await change(served.manager)
        assert error.value.kind is ErrorKind.FORBIDDEN
        assert error.value.message == (
            f"failed to {what}: this server was started in fixed mode, in which what is served does not change"
        )
        assert served.engine.catalog is before


@on_loop
async def test_fixed_mode_does_not_watch(repo: Path) -> None:
    async with serving(repo, mode="fixed", watch=True, poll_s=0.001) as served:
        add_version(repo, 2)
        shutil.rmtree(repo / "n")
        assert served.manager._watching is None
        assert served.states() == {"m/1": "READY", "n/1": "READY"}


# Readiness


@on_loop
async def test_a_bad_new_model_does_not_take_the_server_out_of_service(repo: Path) -> None:
    async with serving(repo) as served:
        corrupt_version(repo, 1, "broken")
        await served.settle()
        assert served.states()["broken/1"] == "FAILED"
        assert served.engine.catalog.ready
        add_version(repo, 2, "broken")
        await served.settle()
        assert served.states()["broken/2"] == "READY" and served.engine.catalog.ready


@on_loop
async def test_a_model_that_was_ready_once_counts_from_then_on(repo: Path) -> None:
    async with serving(repo, mode="explicit") as served:
        await served.manager.load("m")
        (version,) = served.engine.catalog.models["m"].ready.values()
        model = served.manager._models["m"]
        assert model.required
        served.manager._lifecycle.retire(model, version)  # as where there is no memory for two
        served.manager._reconciler.publish()
        assert not served.engine.catalog.ready


@on_loop
async def test_a_model_that_is_loaded_again_by_hand_counts_when_it_is_ready(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.unload("m")
        assert served.engine.catalog.ready
        await served.manager.load("m")
        assert served.engine.catalog.ready
        ready = [catalog.ready for catalog in served.published]
        assert ready[ready.index(True) :] == [True] * (len(ready) - ready.index(True))


@on_loop
async def test_a_model_whose_requests_all_go_to_a_version_that_is_not_there_is_not_ready(repo: Path) -> None:
    (repo / "m" / "model.yaml").write_text("versions: all\ntraffic: {weights: {'4': 1}}\n")
    corrupt_version(repo, 4)
    async with serving(repo) as served:
        assert served.states()["m/1"] == "READY" and not served.engine.catalog.ready
        shutil.rmtree(repo / "m" / "4")
        add_version(repo, 4)
        await served.settle()
        assert served.engine.catalog.ready


@on_loop
async def test_a_bad_newer_version_never_changes_readiness(repo: Path) -> None:
    async with serving(repo) as served:
        began = len(served.published)
        corrupt_version(repo, 2)
        await served.settle()
        assert served.states()["m/2"] == "FAILED"
        assert all(catalog.ready for catalog in served.published[began:])
