"""What operators are told of models, from a manager with real files and real models."""

from pathlib import Path

import numpy as np
import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.traffic import Traffic
from serving.core.types import InferRequest
from serving.repository.status import ON_DISK, ModelStatus, VersionStatus
from tests.batching.control import on_loop
from tests.repository.build import add_version, corrupt_version, replace_model
from tests.repository.test_manager import Served, serving


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the model m, versions 1 and 2."""
    add_version(tmp_path / "repo", 1)
    add_version(tmp_path / "repo", 2)
    return tmp_path / "repo"


def of(served: Served, name: str = "m") -> ModelStatus:
    (status,) = served.manager.status(name)
    return status


def version(served: Served, number: int, name: str = "m") -> VersionStatus:
    """The one that serves, if there are two."""
    return next(v for v in of(served, name).versions if v.number == number)


@on_loop
async def test_a_model_that_serves(repo: Path) -> None:
    async with serving(repo) as served:
        status = of(served)
        assert (status.name, status.path, status.settings_file) == ("m", str(repo / "m"), "")
        assert (status.default, status.shares, status.labels) == (2, {2: 100.0}, {})
        assert not status.kept_out and status.traffic is None and status.before == ()
        assert [(v.number, v.state) for v in status.versions] == [(1, ON_DISK), (2, "READY")]


@on_loop
async def test_all_models_by_name(repo: Path) -> None:
    add_version(repo, 1, "z")
    add_version(repo, 1, "a")
    async with serving(repo) as served:
        assert [status.name for status in served.manager.status()] == ["a", "m", "z"]


@on_loop
async def test_a_model_that_is_not_there(repo: Path) -> None:
    async with serving(repo) as served:
        with pytest.raises(ServingError, match="there is no model 'mm'; did you mean 'm'") as error:
            served.manager.status("mm")
        assert error.value.kind is ErrorKind.NOT_FOUND


@on_loop
async def test_requests_are_counted_for_the_version_that_answered(repo: Path) -> None:
    async with serving(repo) as served:
        for _ in range(3):
            await served.factor()
        with pytest.raises(ServingError):
            await served.engine.infer(InferRequest("m", {"x": np.ones((1, 3), np.float32)}))
        assert version(served, 2).requests == 3
        assert (version(served, 2).failures, version(served, 2).in_flight, version(served, 2).queued_rows) == (0, 0, 0)


@on_loop
async def test_what_failed_says_why(repo: Path) -> None:
    corrupt_version(repo, 3)
    async with serving(repo) as served:
        assert version(served, 3).state == "FAILED"
        assert "ONNX Runtime cannot load model.onnx" in version(served, 3).reason
        assert of(served).default == 2


@on_loop
async def test_a_version_that_serves_and_its_replacement_are_two(repo: Path) -> None:
    async with serving(repo) as served:
        (repo / "m/2/model.onnx").write_bytes(b"no graph")
        await served.settle()
        assert [(v.number, v.state) for v in of(served).versions] == [(1, ON_DISK), (2, "READY"), (2, "FAILED")]


@on_loop
async def test_a_model_that_was_unloaded(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.unload("m")
        await served.until(served._is_quiet)
        status = of(served)
        assert status.kept_out and status.default is None and status.shares == {}
        assert [(v.number, v.state, v.reason) for v in status.versions] == [(n, ON_DISK, "unloaded") for n in (1, 2)]


@on_loop
async def test_files_that_are_still_being_written(repo: Path) -> None:
    async with serving(repo, settle_s=2.0) as served:
        replace_model(add_version(repo, 3), 3)
        await served.manager.reconcile()
        assert (version(served, 3).state, version(served, 3).reason) == ("NEW", "its files are still being written")


@on_loop
async def test_settings_that_cannot_be_read(repo: Path) -> None:
    async with serving(repo) as served:
        (repo / "m/model.yaml").write_text("max_batchsize: 3\n")
        await served.settle()
        assert of(served).settings_file == str(repo / "m/model.yaml")
        assert "did you mean 'max_batch_size'?" in of(served).settings_error


@on_loop
async def test_shares_and_labels(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.label("m", "stable", 2)
        await served.manager.label("m", "canary", 1)
        await served.manager.share("m", Traffic(weights={"stable": 3, "canary": 1}, sticky="x-user"))
        status = of(served)
        assert (status.shares, status.default) == ({1: 25.0, 2: 75.0}, 2)
        assert status.labels == {"stable": 2, "canary": 1}
        assert status.traffic is not None and status.traffic.sticky == "x-user"
        await served.manager.promote("m")
        status = of(served)
        assert (status.shares, status.before) == ({1: 100.0}, (2,))
