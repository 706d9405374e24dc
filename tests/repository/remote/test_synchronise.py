"""What one pass makes of a remote repository, here a directory behind fsspec: complete, or as it was."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from serving.core.spec import ModelSpec, SpecError
from serving.repository.remote.cache import CacheError, key_of
from serving.repository.remote.fetch import PARALLEL
from serving.repository.remote.store import Object, StoreError
from serving.repository.remote.synchronise import Found
from tests.repository.remote.build import MANIFEST, Mirrored, contents, mirrored, put


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Mirrored]:
    """With version 1 of m and its settings."""
    with mirrored(tmp_path) as made:
        put(made.remote, "m/1/model.onnx", "one")
        put(made.remote, "m/model.yaml", "instances: 2")
        yield made


ONE = {"m/1/model.onnx": "one", "m/model.yaml": "instances: 2"}


def manifest(**files: str) -> str:
    """Of a version with these files; contents by name, where `_` stands for a dot."""
    hashes = {name.replace("_", "."): sha256(text.encode()).hexdigest() for name, text in files.items()}
    return json.dumps({"schema": 1, "files": hashes})


def fail(it: Mirrored, monkeypatch: pytest.MonkeyPatch, path: str, error: Exception) -> None:
    """Nobody can read objects whose path has this in it."""
    real = it.store.read

    def read(item: Object, start: int, end: int) -> bytes:
        if path in item.path:
            raise error
        return real(item, start, end)

    monkeypatch.setattr(it.store, "read", read)


# What comes


def test_everything_comes(it: Mirrored) -> None:
    put(it.remote, "n/7/saved_model.pb", "graph")
    put(it.remote, "n/7/variables/variables.index", "index")
    outcome = it.bring()
    assert it.here() == ONE | {"n/7/saved_model.pb": "graph", "n/7/variables/variables.index": "index"}
    assert (outcome.problems, outcome.waiting) == ([], [])
    assert it.cache.synced_at > 0


def test_settings_are_known_before_versions_are_fetched(it: Mirrored) -> None:
    put(it.remote, "n/1/model.onnx")
    put(it.remote, "n/model.yaml", "instancs: 2")
    found = it.pass_over.look()
    assert it.here() == {"m/model.yaml": "instances: 2", "n/model.yaml": "instancs: 2"}
    assert found.specs["m"] == ModelSpec(instances=2)
    assert isinstance(found.specs["n"], SpecError)
    assert found.held == {"m": set(), "n": set()}


def test_only_what_is_needed(it: Mirrored) -> None:
    for number in range(2, 6):
        put(it.remote, f"m/{number}/model.onnx", str(number))
    it.bring(needs=lambda *_: {3, 5, 9})
    assert sorted(it.tree.versions("m")) == [3, 5]
    assert it.fetcher.fetched_bytes == len("instances: 2") + 2
    it.bring(needs=lambda *_: {4, 5})
    assert sorted(it.tree.versions("m")) == [4, 5]
    it.bring(needs=lambda *_: {3})  # its time of grace has not ended
    assert it.fetcher.fetched_bytes == len("instances: 2") + 3


def test_nothing_is_fetched_twice(it: Mirrored, tmp_path: Path) -> None:
    it.bring()
    before, changes = it.fetcher.fetched_bytes, it.tree.changes
    it.bring()
    assert (it.fetcher.fetched_bytes, it.tree.changes) == (before, changes)
    it.close()
    with mirrored(tmp_path) as next_one:  # nor after a restart
        next_one.bring()
        assert (next_one.fetcher.fetched_bytes, next_one.tree.changes) == (0, 0)


def test_changes_come(it: Mirrored) -> None:
    it.bring()
    put(it.remote, "m/1/model.onnx", "changed")
    put(it.remote, "m/1/model.onnx.data", "data")
    put(it.remote, "m/model.yaml", "instances: 3")
    it.bring()
    assert it.here() == {"m/1/model.onnx": "changed", "m/1/model.onnx.data": "data", "m/model.yaml": "instances: 3"}


@pytest.mark.parametrize(
    ("url", "name", "path", "model"),
    [
        ("repo/m", None, "m", "m"),
        ("repo/m/", "given", "m", "given"),
        ("repo/m/1", "given", "m/1", "given"),
        ("repo/m/1/model.onnx", None, "m/1/model.onnx", "model"),
    ],
)
def test_url_of_one_model(tmp_path: Path, url: str, name: str | None, path: str, model: str) -> None:
    put(tmp_path / "repo", "m/1/model.onnx", "one")
    put(tmp_path / "repo", "m/model.yaml", "instances: 2")
    with mirrored(tmp_path, url=f"file://{tmp_path}/{url}", name=name) as it:
        it.bring()
        assert it.here()[f"{model}/1/model.onnx"] == "one"
        assert (f"{model}/model.yaml" in it.here()) == (path == "m")


def test_repository_cannot_be_named(tmp_path: Path) -> None:
    put(tmp_path / "remote", "m/1/model.onnx", "one")
    told = "is a repository of models, so --model-name cannot name it"
    with mirrored(tmp_path, name="given") as it, pytest.raises(StoreError, match=told):
        it.bring()


def test_repository_stays_one_whatever_is_put_into_it(it: Mirrored, tmp_path: Path) -> None:
    it.bring()
    put(it.remote, "1/model.onnx", "stray")
    it.bring()
    assert it.here() == ONE
    it.close()
    with mirrored(tmp_path) as next_one:
        next_one.bring()
        assert next_one.here() == ONE


# What goes


def test_what_was_removed_goes(it: Mirrored) -> None:
    put(it.remote, "m/2/model.onnx", "two")
    put(it.remote, "n/1/model.onnx", "n")
    it.bring()
    shutil.rmtree(it.remote / "m/1")
    shutil.rmtree(it.remote / "n")
    (it.remote / "m/model.yaml").unlink()
    it.bring()
    assert it.here() == {"m/2/model.onnx": "two"}


@pytest.mark.parametrize("left", [[], ["readme.md"], ["m/model.yaml"]])
def test_repository_without_any_model_changes_nothing(it: Mirrored, left: list[str]) -> None:
    it.bring()
    shutil.rmtree(it.remote)
    it.remote.mkdir()
    for path in left:
        put(it.remote, path, "{}")
    with pytest.raises(StoreError, match="it holds no model"):
        it.bring()
    assert it.here() == ONE


def test_listing_that_fails_changes_nothing(it: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    it.bring()

    def look(_: str) -> list[Object]:
        raise StoreError("it cannot be reached")

    monkeypatch.setattr(it.store, "look", look)
    with pytest.raises(StoreError):
        it.bring()
    assert it.here() == ONE


def test_object_that_cannot_be_had_keeps_its_version_as_it_is(it: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    put(it.remote, "n/1/model.onnx", "n")
    it.bring()
    synced_at = it.cache.synced_at
    os.utime(it.cache.directory / "synced", (synced_at - 100, synced_at - 100))
    put(it.remote, "m/1/model.onnx", "changed")
    put(it.remote, "m/2/model.onnx", "two")
    put(it.remote, "n/1/model.onnx", "changed n")
    fail(it, monkeypatch, "m/1/", StoreError("'m/1/model.onnx': access denied", of_store=False))
    outcome = it.bring()
    assert outcome.problems == ["model 'm' version 1: 'm/1/model.onnx': access denied"]
    assert it.here() == ONE | {"m/2/model.onnx": "two", "n/1/model.onnx": "changed n"}
    assert it.cache.synced_at < synced_at
    monkeypatch.undo()
    assert it.bring().problems == []
    assert it.here()["m/1/model.onnx"] == "changed"


def test_model_whose_settings_cannot_be_had_stays_as_it_is(it: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    it.bring()
    put(it.remote, "m/model.yaml", "instances: 3")
    put(it.remote, "m/1/model.onnx", "for three instances")
    put(it.remote, "n/1/model.onnx", "n")
    put(it.remote, "n/model.yaml", "instances: 4")
    fail(it, monkeypatch, "model.yaml", StoreError("access denied", of_store=False))
    outcome = it.bring()
    assert outcome.problems == ["model 'm': access denied", "model 'n': access denied"]
    assert it.here() == ONE, "a model without its settings is another one"


def test_store_that_stops_answering(it: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    it.bring()
    for number in range(2, 40):
        put(it.remote, f"m/{number}/model.onnx", str(number))
    reads = []
    real = it.store.read

    def read(item: Object, start: int, end: int) -> bytes:
        reads.append(item.path)
        if len(reads) > 5:
            raise StoreError("no answer in time")
        return real(item, start, end)

    monkeypatch.setattr(it.store, "read", read)
    with pytest.raises(StoreError, match="no answer in time"):
        it.bring()
    assert len(reads) <= 5 + PARALLEL, "it was asked again and again"
    assert it.here()["m/1/model.onnx"] == "one"
    assert all(text == str(number) for number in range(2, 40) if (text := it.here().get(f"m/{number}/model.onnx")))


# One model


def test_one_model_only(it: Mirrored) -> None:
    put(it.remote, "n/1/model.onnx", "n")
    put(it.remote, "gone/1/model.onnx", "gone")
    it.bring()
    put(it.remote, "m/1/model.onnx", "changed m")
    put(it.remote, "n/1/model.onnx", "changed n")
    shutil.rmtree(it.remote / "gone")
    it.bring("m")
    assert it.here()["m/1/model.onnx"] == "changed m"
    assert it.here()["n/1/model.onnx"] == "n"
    assert it.here()["gone/1/model.onnx"] == "gone"
    it.bring("unknown")
    it.bring("gone")  # that it is gone, a look at everything has to tell
    assert it.here()["gone/1/model.onnx"] == "gone"
    it.bring()
    assert sorted(it.tree.models()) == ["m", "n"]


def test_one_model_of_a_source_that_was_never_looked_at(it: Mirrored) -> None:
    put(it.remote, "n/1/model.onnx", "n")
    it.bring("m")
    assert it.here() == ONE


# Versions that may still be being written


def test_version_without_manifest_waits_until_two_listings_agree(it: Mirrored) -> None:
    it.bring()
    put(it.remote, "m/2/saved_model.pb", "graph")
    assert it.bring(at_once=False).waiting == ["m/2"]
    put(it.remote, "m/2/variables/variables.index", "index")
    assert it.bring(at_once=False).waiting == ["m/2"]
    assert it.here() == ONE
    assert it.bring(at_once=False).waiting == []
    assert it.here() == ONE | {"m/2/saved_model.pb": "graph", "m/2/variables/variables.index": "index"}


def test_version_that_changes_in_place_waits_too(it: Mirrored) -> None:
    it.bring()
    put(it.remote, "m/1/model.onnx", "changed")
    assert it.bring(at_once=False).waiting == ["m/1"]
    assert it.here() == ONE
    it.bring(at_once=False)
    assert it.here()["m/1/model.onnx"] == "changed"


def test_version_that_is_all_that_its_manifest_says_comes_at_once(it: Mirrored) -> None:
    it.bring()
    put(it.remote, f"m/2/{MANIFEST}", manifest(model_onnx="two", golden_npz="golden"))
    put(it.remote, "m/2/model.onnx", "two")
    assert it.bring(at_once=False).waiting == ["m/2"]
    put(it.remote, "m/2/golden.npz", "golden")
    assert it.bring(at_once=False).waiting == []
    assert it.here()["m/2/model.onnx"] == "two"


@pytest.mark.parametrize("text", [manifest(model_onnx="other"), manifest(none="x"), "{", "[]"])
def test_version_that_is_not_what_its_manifest_says_is_handed_on_when_it_stays_so(it: Mirrored, text: str) -> None:
    """Whoever loads it finds out, and says why it is not served."""
    it.bring()
    put(it.remote, "m/2/model.onnx", "two")
    put(it.remote, f"m/2/{MANIFEST}", text)
    assert it.bring(at_once=False).waiting == ["m/2"]
    assert it.bring(at_once=False).waiting == []
    assert it.here()["m/2/model.onnx"] == "two"


def test_look_at_one_model_does_not_make_others_settle(it: Mirrored) -> None:
    it.bring()
    put(it.remote, "n/1/model.onnx", "n")
    it.bring(at_once=False)
    it.bring("m")
    assert "n/1/model.onnx" not in it.here()
    it.bring(at_once=False)
    assert "n/1/model.onnx" in it.here()


# The disk


def test_what_nobody_needs_is_removed_after_its_time_of_grace(tmp_path: Path) -> None:
    with mirrored(tmp_path, grace_s=0) as it:
        put(it.remote, "m/1/model.onnx", "one")
        put(it.remote, "m/2/model.onnx", "two")
        put(it.remote, "m/model.yaml", "{}")
        it.bring()
        it.bring(needs=lambda *_: {2})
        assert it.here() == {"m/2/model.onnx": "two", "m/model.yaml": "{}"}
        kept = {path.read_text() for path in (it.cache.directory / "objects").iterdir()}
        assert kept == {"two", "{}"}
        assert len(list((it.cache.directory / "versions").iterdir())) == 1
        assert len(list((it.cache.directory / "keys").iterdir())) == 2


def test_nothing_is_removed_while_something_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mirrored(tmp_path, grace_s=0) as it:
        put(it.remote, "m/1/model.onnx", "one")
        it.bring()
        put(it.remote, "m/2/model.onnx", "two")
        fail(it, monkeypatch, "m/2", StoreError("access denied", of_store=False))
        it.bring(needs=lambda *_: {2})
        assert it.here() == {"m/1/model.onnx": "one"}
        assert [path.read_text() for path in (it.cache.directory / "objects").iterdir()] == ["one"]


def kept(it: Mirrored) -> set[str]:
    return {path.read_text() for path in (it.cache.directory / "objects").iterdir()}


def test_want_of_space_ends_the_time_of_grace(it: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    put(it.remote, "m/2/model.onnx", "two")
    it.bring()
    it.bring(needs=lambda *_: {2})
    assert kept(it) == {"one", "two", "instances: 2"}
    put(it.remote, "m/3/model.onnx", "three")
    monkeypatch.setattr(it.cache, "free_bytes", lambda: 0 if "one" in kept(it) else 10_000)
    assert it.bring(needs=lambda *_: {2, 3}).problems == []
    assert kept(it) == {"two", "three", "instances: 2"}


def test_version_without_room_does_not_take_that_of_others(it: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    it.bring()
    put(it.remote, "m/2/model.onnx", "2" * 20_000_000)
    put(it.remote, "m/3/model.onnx", "three")
    monkeypatch.setattr(it.cache, "free_bytes", lambda: 10_000_000)
    told = f"model 'm' version 2: no space is left in '{it.cache.directory}' for its 20.0 MB"
    assert it.bring().problems == [told]
    assert it.here() == ONE | {"m/3/model.onnx": "three"}
    assert not list((it.cache.directory / "partial").iterdir())


def test_disk_that_is_full_before_it_looks_so(it: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full refuses each write as a full disk does."""
    it.bring()
    put(it.remote, "m/2/model.onnx", "two")
    put(it.remote, "m/3/model.onnx", "three")
    two = next(key_of(item) for item in it.store.look() if item.path == "m/2/model.onnx")
    it.cache.partial(two).symlink_to("/dev/full")
    problems = it.bring().problems
    assert problems == [f"model 'm' version 2: the cache '{it.cache.directory}' cannot be written: no space is left"]
    assert it.here() == ONE | {"m/3/model.onnx": "three"}
    assert it.bring().problems == [], "what stood in the way was given up"
    assert sorted(it.tree.versions("m")) == [1, 2, 3]


def test_settings_without_room(it: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    put(it.remote, "m/2/model.onnx", "two")
    it.bring()
    it.bring(needs=lambda *_: {2})
    put(it.remote, "m/model.yaml", "instances: 3")
    settings = next(key_of(item) for item in it.store.look() if item.path == "m/model.yaml")
    it.cache.partial(settings).symlink_to("/dev/full")
    with pytest.raises(CacheError, match="no space is left"):
        it.bring(needs=lambda *_: {2})
    assert "one" not in kept(it), "what is kept for later stood in the way"
    assert it.here() == {"m/2/model.onnx": "two", "m/model.yaml": "instances: 2"}
    it.bring(needs=lambda *_: {2})
    assert it.here()["m/model.yaml"] == "instances: 3"


def test_full_file_system(tmp_path: Path) -> None:
    """A real one of 256 KiB, where this may be mounted."""
    (tmp_path / "cache").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path / "cache")]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        with mirrored(tmp_path) as it:
            put(it.remote, "m/1/model.onnx", "one")
            it.bring()
            put(it.remote, "m/2/model.onnx", "2" * 300_000)
            put(it.remote, "m/3/model.onnx", "three")
            (problem,) = it.bring().problems
            assert "version 2: no space is left" in problem
            assert sorted(it.tree.versions("m")) == [1, 3]
            it.cache.free_bytes = lambda: 10**9  # type: ignore[method-assign]  # others were faster to fill it
            (problem,) = it.bring().problems
            assert problem.endswith("cannot be written: no space is left")
            assert it.here() == {"m/1/model.onnx": "one", "m/3/model.onnx": "three"}
            put(it.remote, "m/2/model.onnx", "2" * 1000)
            assert it.bring().problems == []
            assert it.here()["m/2/model.onnx"] == "2" * 1000
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "cache")], check=True)


def test_found_tells_what_is_here(it: Mirrored) -> None:
    it.bring()
    put(it.remote, "m/2/model.onnx", "two")
    seen: list[Any] = []

    def needs(found: Found, name: str) -> set[int]:
        seen.append((name, sorted(found.models[name].versions), found.held[name], found.specs[name]))
        return {1, 2}

    it.bring(needs=needs)
    assert seen == [("m", [1, 2], {1}, ModelSpec(instances=2))]
    assert contents(it.tree.root / "m/2") == {"model.onnx": "two"}
