"""A version that is half there, wrong, or deadly: it is not served, says why, and nobody else notices."""

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from tests import models
from tests.e2e.faults import builders
from tests.e2e.faults.site import Site, Subject, descendants
from tests.e2e.plain import children, lives
from tests.e2e.server import wait_for

LIMIT_S = 10
LIMIT_MIB = 600


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("versions")
    flags = ("--state-dir", directory / "state", "--memory-limit-mb", LIMIT_MIB, "--retry-limit-s", 1)
    with Site(directory, flags=flags) as made:
        yield made


@pytest.fixture
def m(site: Site, request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A model of its own for each test."""
    with site.model(re.sub(r"\W+", "_", request.node.name).removeprefix("test_").strip("_")) as subject:
        yield subject


# Half there


@pytest.mark.parametrize("manifest", [False, True], ids=["without_manifest", "with_manifest"])
def test_half_copied(m: Subject, tmp_path: Path, manifest: bool) -> None:
    """The copy stops for longer than files have to be left alone; when it goes on, the version is taken."""
    made = m.elsewhere(tmp_path, models.scale(2), 2)
    if not manifest:
        (made / "MANIFEST.json").unlink()
    whole = (made / "model.onnx").read_bytes()
    (made / "model.onnx").write_bytes(whole[: len(whole) // 2])
    shutil.copytree(made, m.path / "2")
    m.wait_for(2, "UNAVAILABLE", "model.onnx")
    m.only(1)
    (m.path / "2/model.onnx").write_bytes(whole)
    m.only(2)
    m.wait_for(2, "READY")


def test_deleted_while_loading(m: Subject) -> None:
    m.put(2, builders.busy(60))
    m.wait_for(2, "LOADING")
    shutil.rmtree(m.path / "2")
    m.wait_gone(2)
    m.only(1)
    m.put(3)
    m.only(3)


def test_model_deleted_while_it_loads_for_the_first_time(site: Site) -> None:
    builders.put(site.repo, "short_lived", 1, builders.busy(60))
    wait_for(lambda: site.server.state("short_lived", 1)[0] == "LOADING", "the load to begin")
    shutil.rmtree(site.repo / "short_lived")
    wait_for(lambda: not site.server.index("short_lived"), "the model to go")
    site.check()


# Wrong


def other_hash(m: Subject, tmp_path: Path) -> None:
    """A good model whose manifest was made of another one."""
    made = m.elsewhere(tmp_path, models.scale(2), 2)
    models.save(models.scale(3), made / "model.onnx")
    made.rename(m.path / "2")


def other_answers(m: Subject, _: Path) -> None:
    m.release(models.scale(3), 2)


def nan(m: Subject, _: Path) -> None:
    m.release(builders.nothing_but_nan(), 2)


def failing_run(m: Subject, _: Path) -> None:
    m.release(builders.fails_above(3, 2), 2)


def no_model(m: Subject, _: Path) -> None:
    m.put(2)
    (m.path / "2/model.onnx").write_bytes(b"not a graph" * 1000)


WRONG = {
    other_hash: "do not match the manifest",
    other_answers: "golden",
    nan: "NaN",
    failing_run: "golden",
    no_model: "cannot load model.onnx",
}


@pytest.mark.parametrize(("bring", "reason"), WRONG.items(), ids=[bring.__name__ for bring in WRONG])
def test_wrong(m: Subject, bring: Callable[[Subject, Path], None], reason: str, tmp_path: Path) -> None:
    """It is not tried again because its files' times change, and it is when their content does."""
    bring(m, tmp_path)
    m.wait_for(2, "UNAVAILABLE", reason)
    assert m.state(2)[1].startswith("quarantined: ")
    m.only(1)
    (m.path / "2/model.onnx").touch()
    m.wait_until_looked_at()
    assert m.failures() == 1
    assert m.events("loading").count(2) == 1
    shutil.copytree(m.elsewhere(tmp_path, models.scale(2), 2), m.path / "2", dirs_exist_ok=True)
    m.only(2)
    m.wait_for(2, "READY")


# Deadly


def test_dies(m: Subject) -> None:
    check_deadly(m, builders.dies(), "SIGFPE")


def test_devours(m: Subject) -> None:
    check_deadly(m, builders.devours(16 * LIMIT_MIB), "memory")


def test_hangs(tmp_path: Path) -> None:
    """On a server of its own, since its limit would be too short for others where the machine is slow."""
    with Site(tmp_path, flags=("--trial-limit-s", LIMIT_S)) as site, site.model("hangs") as m:
        check_deadly(m, builders.hangs(), f"did not finish within {LIMIT_S} s")


def check_deadly(m: Subject, graph: onnx.ModelProto, reason: str) -> None:
    """It ends a process that is there to be ended, and nothing of that is left."""
    m.put(2, graph)
    m.wait_for(2, "UNAVAILABLE", reason)
    m.only(1)
    assert m.server.process.poll() is None
    pid = m.server.process.pid
    assert descendants(pid) <= set(children(pid)), "something of the trial still runs"
    m.put(2)
    m.only(2)
    m.wait_for(2, "READY")


def test_helpers_killed_during_a_load(site: Site, m: Subject) -> None:
    """By the kernel, say, which needs memory: that says nothing about the version, so it is tried again."""
    m.put(2, builders.busy(30, factor=2))
    m.wait_for(2, "LOADING")
    kill_helpers(site)
    m.wait_for(2, "READY")
    m.put(3)
    m.only(3)


def test_helpers_killed_between_loads(site: Site, m: Subject) -> None:
    kill_helpers(site)
    m.put(2)
    m.only(2)


def kill_helpers(site: Site) -> None:
    killed = descendants(site.server.process.pid)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(lives, killed)), "the helpers to end")
