"""Bad versions are known by what they hold: what counts as a change, what does not, and that a restart forgets none."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.core.spec import Latest, ModelSpec
from serving.core.traffic import Traffic
from serving.repository.control.state import Store
from serving.repository.disk.layout import scan
from serving.repository.loads import quarantine
from serving.repository.loads.quarantine import Quarantine
from serving.repository.version import Version
from tests.batching.control import on_loop

SPEC = ModelSpec(max_batch_size=8, class_labels={"y": "labels.txt"})


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the model m, versions 1 and 2; the files are of no particular kind."""
    for number in (1, 2):
        directory = tmp_path / "repo/m" / str(number)
        (directory / "variables").mkdir(parents=True)
        (directory / "saved_model.pb").write_text(f"graph {number}")
        (directory / "variables/data").write_text("weights")
    (tmp_path / "repo/m/labels.txt").write_text("a\nb")
    return tmp_path / "repo"


def there(repo: Path, number: int = 1, spec: ModelSpec = SPEC) -> Version:
    """A version as it is on disk now."""
    return Version("m", scan(repo)["m"].versions[number], spec)


@on_loop
async def test_what_was_never_bad_is_not_read(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Quarantine(Store())
    await held.add(there(repo, 2), "bad")

    def read(*_: object) -> str:
        raise AssertionError("nothing there is to be compared")

    monkeypatch.setattr(quarantine, "_key", read)
    assert await held.reason(there(repo, 1)) is None


def touch(repo: Path) -> None:
    for path in (repo / "m/1").rglob("*"):
        os.utime(path)


def copy_back(repo: Path) -> None:
    shutil.copytree(repo / "m/1", repo / ".copy")
    shutil.rmtree(repo / "m/1")
    shutil.copytree(repo / ".copy", repo / "m/1")


def other_settings_file(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("# the settings that count are given to each version")


@pytest.mark.parametrize("change", [touch, copy_back, other_settings_file], ids=lambda c: c.__name__)
@on_loop
async def test_the_same_content_stays(repo: Path, change: Callable[[Path], None]) -> None:
    held = Quarantine(Store())
    assert await held.add(there(repo), "bad")
    change(repo)
    assert await held.reason(there(repo)) == "bad"
    assert await held.reason(there(repo)) == "bad"  # it was not used up


@pytest.mark.parametrize("name", ["versions", "version_labels", "traffic"])
@on_loop
async def test_a_setting_that_no_version_is_made_of_changes_nothing(repo: Path, name: str) -> None:
    values = {"versions": Latest(latest=3), "version_labels": {"stable": 1}, "traffic": Traffic(weights={"1": 1})}
    held = Quarantine(Store())
    await held.add(there(repo), "bad")
    assert await held.reason(there(repo, spec=SPEC.model_copy(update={name: values[name]}))) == "bad"


def other_bytes(repo: Path) -> None:
    (repo / "m/1/variables/data").write_text("WEIGHTS")


def more_files(repo: Path) -> None:
    (repo / "m/1/variables/index").write_text("")


def fewer_files(repo: Path) -> None:
    (repo / "m/1/variables/data").unlink()


def another_name(repo: Path) -> None:
    (repo / "m/1/variables/data").rename(repo / "m/1/variables/data2")


def bytes_that_moved_between_files(repo: Path) -> None:
    (repo / "m/1/saved_model.pb").write_text("graph 1w")
    (repo / "m/1/variables/data").write_text("eights")


def other_labels(repo: Path) -> None:
    (repo / "m/labels.txt").write_text("a\nb\nc")


def no_labels(repo: Path) -> None:
    (repo / "m/labels.txt").unlink()


CHANGES = [
    other_bytes, more_files, fewer_files, another_name, bytes_that_moved_between_files, other_labels, no_labels,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
@on_loop
async def test_other_content_may_be_tried(repo: Path, change: Callable[[Path], None]) -> None:
    held = Quarantine(Store())
    await held.add(there(repo), "bad")
    change(repo)
    assert await held.reason(there(repo)) is None
    assert held.held() == {}  # what it was is of no interest any more


@pytest.mark.parametrize("change", [{"max_batch_size": 4}, {"latency_limit": 2.0}, {"class_labels": {}}], ids=str)
@on_loop
async def test_other_settings_may_be_tried(repo: Path, change: dict[str, object]) -> None:
    held = Quarantine(Store())
    await held.add(there(repo), "bad")
    assert await held.reason(there(repo, spec=SPEC.model_copy(update=change))) is None


@on_loop
async def test_one_file_is_a_version_too(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"no graph")

    def one() -> Version:
        return Version("net", scan(file)["net"].versions[1], ModelSpec())

    held = Quarantine(Store())
    assert await held.add(one(), "bad")
    os.utime(file)
    assert await held.reason(one()) == "bad"
    file.write_bytes(b"a graph!")
    assert await held.reason(one()) is None


@pytest.mark.parametrize("change", [other_bytes, more_files, fewer_files], ids=lambda c: c.__name__)
@on_loop
async def test_files_that_changed_since_they_were_found_are_not_what_failed(
    repo: Path, change: Callable[[Path], None]
) -> None:
    """The rest of a copy that was loaded too early, for one, must not be kept out for what its first half was."""
    held = Quarantine(Store())
    found = there(repo)
    change(repo)
    assert not await held.add(found, "bad")
    assert held.held() == {}
    assert await held.reason(there(repo)) is None


@on_loop
async def test_files_that_change_while_they_are_read_are_not_what_failed(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, real = Quarantine(Store()), quarantine._digest

    def read(*args: object) -> str:
        other_bytes(repo)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(quarantine, "_digest", read)
    assert not await held.add(there(repo), "bad")


@on_loop
async def test_a_version_that_is_gone_is_not_kept_out(repo: Path) -> None:
    held = Quarantine(Store())
    found = there(repo)
    await held.add(found, "bad")
    shutil.rmtree(repo / "m/1")
    assert await held.reason(found) is None
    assert not await held.add(found, "bad")


@on_loop
async def test_a_release_by_hand(repo: Path) -> None:
    held = Quarantine(Store())
    for number in (1, 2):
        await held.add(there(repo, number), "bad")
    await held.release("n")
    await held.release("m", 1)
    assert held.held() == {("m", 2): "bad"}
    await held.release("m")
    assert await held.reason(there(repo, 2)) is None


@on_loop
async def test_a_restart_forgets_none_and_remembers_what_was_released(repo: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    held = Quarantine(store)
    for number in (1, 2):
        await held.add(there(repo, number), f"bad {number}")
    await held.release("m", 1)
    store.close()
    store = Store(tmp_path / "state")
    held = Quarantine(store)
    touch(repo)
    assert [await held.reason(there(repo, number)) for number in (1, 2)] == [None, "bad 2"]
    store.close()


@on_loop
async def test_a_disk_that_takes_nothing_does_not_let_bad_versions_in(
    repo: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "state")
    await store._save(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone())
    held = Quarantine(store)
    assert await held.add(there(repo), "bad " * 10_000)
    assert await held.reason(there(repo)) is not None
    assert "the quarantine of m/1 ends with this server: the change cannot be kept" in caplog.text
    store.close()


@on_loop
async def test_names_that_clients_make_up_do_not_fill_the_memory(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "_MOST", 3)
    held = Quarantine(Store())
    for name in "abcde":
        await held.add(Version(name, there(repo).found, SPEC), "bad")
    assert [model for model, _ in held.held()] == ["c", "d", "e"]
