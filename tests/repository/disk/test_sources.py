"""What a listing may take away: nothing that serves goes because a directory was wrong for a while."""

import shutil
from pathlib import Path

import pytest

from serving.core.errors import ServingError
from serving.repository.control.events import Kind
from serving.repository.manager import Source
from tests.batching.control import on_loop
from tests.repository.build import add_version
from tests.repository.test_manager import Served, serving


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the models m and n."""
    for model in "mn":
        add_version(tmp_path / "repo", 1, model)
    return tmp_path / "repo"


async def told(served: Served) -> list[str]:
    """What the history says of repositories; the repository is `repo` there."""
    events = await served.manager.events()
    return [
        event.text.replace("'" + str(served.root) + "'", "repo") for event in events if event.kind is Kind.REPOSITORY
    ]


def move(source: Path, target: Path) -> None:
    source.rename(target)


BOTH = {"m/1": "READY", "n/1": "READY"}


@on_loop
async def test_a_model_that_is_removed_beside_others_goes(repo: Path) -> None:
    async with serving(repo) as served:
        shutil.rmtree(repo / "m")
        await served.settle()
        assert served.states() == {"n/1": "READY"}
        assert await told(served) == []


@on_loop
async def test_an_emptied_repository_that_is_filled_again_model_by_model(repo: Path, tmp_path: Path) -> None:
    async with serving(repo) as served:
        shutil.copytree(repo, tmp_path / "backup")
        for model in "mn":
            shutil.rmtree(repo / model)
        await served.settle()
        assert served.states() == BOTH
        shutil.copytree(tmp_path / "backup/n", repo / "n")
        for _ in range(2):
            await served.settle()
            assert served.states() == BOTH
        add_version(repo, 1, "o")  # what is new is welcome
        await served.settle()
        assert served.states() == BOTH | {"o/1": "READY"}
        shutil.copytree(tmp_path / "backup/m", repo / "m")
        await served.settle()
        assert await told(served) == ["repo is empty; its models stay as they are", "repo is in order again"]
        shutil.rmtree(repo / "m")  # from here on it is believed again
        await served.settle()
        assert served.states() == {"n/1": "READY", "o/1": "READY"}


@on_loop
async def test_what_is_removed_in_passing_is_not_gone_when_the_rest_follows(repo: Path) -> None:
    """A repository is not emptied in one step: whoever looks meanwhile sees a part of it."""
    async with serving(repo, settle_s=3600.0) as served:
        shutil.rmtree(repo / "m")
        await served.settle()
        assert served.states() == BOTH
        shutil.rmtree(repo / "n")
        await served.settle()
        await served.manager.reconcile(settle_s=0.0)  # much later
        assert served.states() == BOTH


@on_loop
async def test_a_model_that_is_away_for_a_moment_is_not_touched(repo: Path) -> None:
    async with serving(repo, settle_s=3600.0) as served:
        serves = served.version("m")
        move(repo / "m", repo / ".m")
        await served.settle()
        move(repo / ".m", repo / "m")
        await served.settle()
        assert served.version("m") is serves and served.states() == BOTH


@on_loop
async def test_a_model_that_stays_away_goes_by_itself(repo: Path) -> None:
    async with serving(repo, settle_s=0.1, watch=True, poll_s=3600.0) as served:
        shutil.rmtree(repo / "m")
        await served.manager.reconcile()  # as after a file event
        await served.until(lambda: served.states() == {"n/1": "READY"})


@on_loop
async def test_a_repository_out_of_reach(repo: Path, tmp_path: Path) -> None:
    async with serving(repo) as served:
        move(repo, tmp_path / "away")
        for _ in range(2):
            await served.settle()
            assert served.states() == BOTH
        add_version(tmp_path / "away", 2)
        move(tmp_path / "away", repo)
        await served.settle()
        assert served.states() == {"m/2": "READY", "n/1": "READY"}
        assert await told(served) == ["no such file or directory: repo", "repo is in order again"]


@on_loop
async def test_a_mount_point_without_its_disk_is_not_believed(repo: Path, tmp_path: Path) -> None:
    """It is another directory then, mostly an empty one, and may hold what was put there by mistake."""
    async with serving(repo) as served:
        move(repo, tmp_path / "disk")
        add_version(repo, 1, "stray")
        await served.settle()
        assert served.states() == BOTH | {"stray/1": "READY"}
        (complaint,) = await told(served)
        assert complaint == (
            "repo was emptied, replaced or out of reach, and has no 'm', 'n' since then; "
            "what serves of that stays until it is unloaded"
        )
        move(repo, tmp_path / "stray")
        move(tmp_path / "disk", repo)
        await served.settle()
        assert {"m/1", "n/1"} <= served.states().keys()
        assert (await told(served))[0] == complaint


@on_loop
async def test_an_operator_can_end_what_a_listing_could_not(repo: Path, tmp_path: Path) -> None:
    async with serving(repo) as served:
        move(repo, tmp_path / "old")
        add_version(repo, 1, "o")
        await served.settle()
        await served.manager.unload("m")
        await served.settle()
        await served.settle()
        assert served.states() == {"n/1": "READY", "o/1": "READY"}
        with pytest.raises(ServingError, match="failed to load 'm'"):
            await served.manager.load("m")


@on_loop
async def test_another_directory_that_holds_some_of_them_takes_none_away(repo: Path, tmp_path: Path) -> None:
    async with serving(repo) as served:
        add_version(tmp_path / "new", 2)
        move(repo, tmp_path / "old")
        move(tmp_path / "new", repo)
        await served.settle()
        assert served.states() == {"m/2": "READY", "n/1": "READY"}
        (complaint,) = await told(served)
        assert "has no 'n' since then" in complaint
        shutil.rmtree(repo / "m")
        add_version(repo, 1, "o")
        await served.settle()  # that was somebody's will: it is the same directory
        assert served.states() == {"n/1": "READY", "o/1": "READY"}


def switch(link: Path, target: str) -> None:
    """In one step, as `ln -sfn` with a rename does, and Kubernetes with its volumes."""
    new = link.with_name(".new-link")
    new.symlink_to(target)
    new.rename(link)


@on_loop
async def test_a_link_that_is_switched_to_the_next_release(tmp_path: Path) -> None:
    add_version(tmp_path / "r1", 1)
    add_version(tmp_path / "r1", 1, "n")
    add_version(tmp_path / "r2", 2)
    link = tmp_path / "repo"
    add_version(tmp_path / "wrong", 1, "x")
    switch(link, "r1")
    async with serving(link) as served:
        switch(link, "wrong")
        await served.settle()
        assert served.states() == BOTH | {"x/1": "READY"}
        switch(link, "r2")
        await served.settle()
        assert served.states() == {"m/2": "READY", "n/1": "READY"}
        assert served.always_served()
    switch(link, "r1")
    async with serving(link) as served:
        switch(link, "r2")
        await served.settle()
        assert served.states() == {"m/2": "READY"}
        assert await told(served) == []


@on_loop
async def test_a_volume_of_kubernetes(tmp_path: Path) -> None:
    """Each model is a link through `..data` to a directory with the date of its release."""
    repo = tmp_path / "repo"
    for number, date in ((1, "..2026_01"), (2, "..2026_02")):
        add_version(repo / date, number)
        add_version(repo / date, 1, "n")
    switch(repo / "..data", "..2026_01")
    for model in "mn":
        (repo / model).symlink_to(f"..data/{model}")
    async with serving(repo) as served:
        assert served.states() == BOTH
        switch(repo / "..data", "..2026_02")
        shutil.rmtree(repo / "..2026_01")
        await served.settle()
        assert served.states() == {"m/2": "READY", "n/1": "READY"}
        assert await served.factor("m") == 2
        assert served.always_served()


@on_loop
async def test_one_model_whose_directory_is_replaced(repo: Path, tmp_path: Path) -> None:
    """The source is the model's directory itself here."""
    async with serving(Source(repo / "m", "m")) as served:
        add_version(tmp_path, 2, "new")
        move(repo / "m", repo / ".old")
        await served.settle()
        assert served.states() == {"m/1": "READY"}
        move(tmp_path / "new", repo / "m")
        await served.settle()
        assert served.states() == {"m/2": "READY"}
        assert served.always_served()
