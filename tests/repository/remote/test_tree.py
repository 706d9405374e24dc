"""The local repository that is made of what was fetched."""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from serving.repository.disk.layout import Kind, scan
from serving.repository.remote.cache import Cache
from serving.repository.remote.tree import Tree
from tests.repository.remote.build import contents


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    made = Cache(tmp_path / "cache")
    yield made
    made.close()


@pytest.fixture
def tree(cache: Cache) -> Tree:
    return Tree(cache)


def kept(cache: Cache, text: str) -> str:
    key = sha256(text.encode()).hexdigest()
    if cache.known(key) is None:
        cache.partial(key).write_text(text)
        cache.keep(key)
    return key


def version(cache: Cache, text: str) -> str:
    return cache.version({"model.onnx": kept(cache, text), "more/data": kept(cache, f"more of {text}")})


def test_ordinary_repository(cache: Cache, tree: Tree) -> None:
    tree.put_loose("m", {"model.yaml": kept(cache, "instances: 2"), "sub/labels.txt": kept(cache, "cat")})
    tree.put_version("m", 1, version(cache, "one"))
    tree.put_version("m", 2, version(cache, "two"))
    (model,) = scan(tree.root, kind=Kind.REPOSITORY).values()
    assert (model.name, sorted(model.versions)) == ("m", [1, 2])
    assert model.spec_file is not None and model.spec_file.read_text() == "instances: 2"
    assert contents(model.versions[1].path) == {"model.onnx": "one", "more/data": "more of one"}
    assert {Path(file).name for file, *_ in model.versions[1].fingerprint} == {"model.onnx", "data", "model.yaml"}
    assert tree.models() == ["m"]
    assert tree.versions("m") == {1: version(cache, "one"), 2: version(cache, "two")}
    assert tree.versions("unknown") == {}


def test_version_changes_by_one_rename(cache: Cache, tree: Tree) -> None:
    tree.put_version("m", 1, version(cache, "one"))
    (before,) = scan(tree.root, kind=Kind.REPOSITORY).values()
    held = (tree.root / "m/1/model.onnx").open()
    old = (tree.root / "m/1").resolve()
    tree.put_version("m", 1, version(cache, "other"))
    (after,) = scan(tree.root, kind=Kind.REPOSITORY).values()
    assert before.versions[1].fingerprint != after.versions[1].fingerprint
    assert contents(after.versions[1].path)["model.onnx"] == "other"
    assert contents(old)["model.onnx"] == held.read() == "one", "who reads the old one still can"
    held.close()
    tree.put_version("m", 1, version(cache, "one"))  # and back, without anything to fetch
    (again,) = scan(tree.root, kind=Kind.REPOSITORY).values()
    assert again.versions[1].fingerprint == before.versions[1].fingerprint


def test_what_is_as_it_should_be_is_not_touched(cache: Cache, tree: Tree) -> None:
    for _ in range(2):
        tree.put_loose("m", {"model.yaml": kept(cache, "{}")})
        tree.put_version("m", 1, version(cache, "one"))
        changes = tree.changes
        tree.put_loose("m", {"model.yaml": kept(cache, "{}")})
        tree.put_version("m", 1, version(cache, "one"))
        assert tree.changes == changes


def test_copied_settings_are_compared_by_content(cache: Cache, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    tree.put_loose("m", {"model.yaml": kept(cache, "{}")})
    inode, changes = (tree.root / "m/model.yaml").stat().st_ino, tree.changes
    tree.put_loose("m", {"model.yaml": kept(cache, "{}")})
    assert ((tree.root / "m/model.yaml").stat().st_ino, tree.changes) == (inode, changes)


def test_settings_change_and_go(cache: Cache, tree: Tree) -> None:
    tree.put_version("m", 1, version(cache, "one"))
    tree.put_loose("m", {"model.yaml": kept(cache, "a"), "labels/en.txt": kept(cache, "b"), "x": kept(cache, "c")})
    tree.put_loose("m", {"model.yaml": kept(cache, "A"), "x/y": kept(cache, "d")})  # and a file becomes a directory
    assert {k: v for k, v in contents(tree.root / "m").items() if not k.startswith("1/")} == {
        "model.yaml": "A",
        "x/y": "d",
    }
    assert not (tree.root / "m/labels").exists()
    tree.put_loose("m", {"x": kept(cache, "c")})
    assert sorted(contents(tree.root / "m")) == ["1/model.onnx", "1/more/data", "x"]


def test_versions_and_models_go(cache: Cache, tree: Tree) -> None:
    tree.put_version("m", 1, version(cache, "one"))
    tree.put_version("m", 2, version(cache, "two"))
    tree.put_version("n", 1, version(cache, "one"))
    tree.remove_versions("m", {1})
    assert sorted(tree.versions("m")) == [2]
    tree.remove("m")
    assert tree.models() == ["n"]
    assert contents(cache.version_dir(version(cache, "one")))["model.onnx"] == "one"


def test_what_a_killed_server_left_is_in_nobodys_way(cache: Cache, tree: Tree) -> None:
    tree.put_loose("m", {"model.yaml": kept(cache, "{}")})
    tree.put_version("m", 1, version(cache, "one"))
    (tree.root / "m/.new").symlink_to("/nowhere")
    (tree.root / ".new-gone").mkdir()
    (model,) = scan(tree.root, kind=Kind.REPOSITORY).values()
    assert sorted(model.versions) == [1]
    tree.put_version("m", 1, version(cache, "two"))
    tree.put_loose("m", {"model.yaml": kept(cache, "a")})
    assert contents(tree.root / "m") == {"1/model.onnx": "two", "1/more/data": "more of two", "model.yaml": "a"}
    tree.remove("m")
    assert tree.models() == []
