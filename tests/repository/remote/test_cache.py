"""What is kept of a remote source, and what survives a server that is killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from serving.repository.remote.cache import Cache, CacheError, directory_for, key_of
from serving.repository.remote.store import Object


def item(path: str = "m/1/model.onnx", size: int = 1, token: str = "a") -> Object:
    return Object(path, size, token, f"bucket/{path}")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    made = Cache(tmp_path / "cache", grace_s=0)
    yield made
    made.close()


def keep(cache: Cache, content: bytes, key: str = "key") -> str:
    cache.partial(key).write_bytes(content)
    return cache.keep(key)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_objects_go_by_their_content(cache: Cache) -> None:
    assert cache.known("key") is None
    content = keep(cache, b"abc")
    assert content == sha256(b"abc").hexdigest()
    assert cache.known("key") == content
    assert cache.object(content).read_bytes() == b"abc"
    assert not cache.partial("key").exists()
    assert keep(cache, b"abc", "other") == content
    assert len(names(cache.directory / "objects")) == 1


def test_key_is_of_name_size_and_token() -> None:
    keys = [key_of(i) for i in (item(), item(path="m/2/model.onnx"), item(size=2), item(token="b"))]
    assert len(set(keys)) == 4
    assert key_of(item()) == keys[0]


def test_key_without_its_content_is_not_known(cache: Cache) -> None:
    cache.object(keep(cache, b"abc")).unlink()
    assert cache.known("key") is None
    assert keep(cache, b"abc") == cache.known("key")


def test_versions_are_links_to_objects(cache: Cache) -> None:
    first, second = keep(cache, b"1", "1"), keep(cache, b"2", "2")
    name = cache.version({"model.onnx": first, "variables/index": second})
    directory = cache.version_dir(name)
    assert (directory / "model.onnx").samefile(cache.object(first))
    assert (directory / "variables/index").read_bytes() == b"2"
    assert cache.version({"variables/index": second, "model.onnx": first}) == name
    assert cache.version({"variables/index": first, "model.onnx": second}) != name


def test_files_are_copied_where_they_cannot_have_two_names(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    content = keep(cache, b"1")
    monkeypatch.setattr(os, "link", link)
    directory = cache.version_dir(cache.version({"model.onnx": content}))
    assert (directory / "model.onnx").read_bytes() == b"1"
    assert not (directory / "model.onnx").samefile(cache.object(content))


def test_what_is_not_needed_goes(cache: Cache) -> None:
    kept, gone = keep(cache, b"1", "kept"), keep(cache, b"2", "gone")
    needed, other = cache.version({"model.onnx": kept}), cache.version({"model.onnx": gone})
    cache.partial("kept-too").write_bytes(b"")
    cache.partial("gone-too").write_bytes(b"")
    cache.collect({needed}, {kept}, {"kept", "kept-too"})
    assert names(cache.directory / "objects") == [kept]
    assert names(cache.directory / "versions") == [needed]
    assert names(cache.directory / "keys") == ["kept"]
    assert names(cache.directory / "partial") == ["kept-too.part"]
    assert not cache.version_dir(other).exists()


def test_it_goes_after_a_while_so_that_going_back_is_quick(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", grace_s=3600)
    content = keep(cache, b"1")
    cache.collect((), (), ())
    assert cache.known("key") == content
    cache.collect((), (), (), at_once=True)  # the disk is full
    assert cache.known("key") is None
    cache.close()


def test_time_of_grace_begins_anew_when_it_was_needed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    cache = Cache(tmp_path / "cache", grace_s=10)
    content = keep(cache, b"1")
    for later, needed in ((0.0, False), (9.0, True), (18.0, False), (27.0, False)):
        now = later
        cache.collect((), {content} if needed else (), {"key"} if needed else ())
        assert cache.known("key") == content
    now = 28.0
    cache.collect((), (), ())
    assert cache.known("key") is None
    cache.close()


# Servers


def test_it_is_one_servers(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    with pytest.raises(CacheError) as error:
        Cache(tmp_path / "cache")
    told = f"the cache '{tmp_path}/cache' is in use by another server: give this one its own --cache-dir"
    assert str(error.value) == told
    cache.close()
    Cache(tmp_path / "cache").close()


_KILLED = """
import os, sys
from pathlib import Path
from serving.repository.remote.cache import Cache

STEPS = ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.chmod", "os.remove")

def run(directory, left):
    def count(event, _):
        nonlocal left
        left -= event in STEPS
        if left < 0:
            os._exit(9)
    cache = Cache(directory)
    sys.addaudithook(count)
    if cache.known("key") is None:
        cache.partial("key").write_bytes(b"abc")
        cache.keep("key")
    cache.version({"a/b": cache.known("key"), "c": cache.known("key")})
    os._exit(0)

for left in [int(text) for text in sys.argv[2:]]:
    for attempt in (left, 1000):
        child = os.fork()
        if not child:
            run(Path(sys.argv[1], f"{left}-{attempt}" if attempt == left else f"{left}-{left}"), attempt)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end=" ", flush=True)
        if attempt == left:
            import shutil
            shutil.copytree(Path(sys.argv[1], f"{left}-{left}"), Path(sys.argv[1], f"{left}-after"), symlinks=True)
"""


def test_what_a_killed_server_left_is_whole_or_nothing(tmp_path: Path) -> None:
    """Killed before each step of making an object and a version of it; and the next server is none the worse for it."""
    steps = range(14)
    run = [sys.executable, "-c", _KILLED, str(tmp_path), *map(str, steps)]
    said = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    killed, repaired = said[::2], said[1::2]
    assert killed[0] == "9" and killed[-1] == "0" and set(repaired) == {"0"}
    for left in steps:
        for directory in (tmp_path / f"{left}-after", tmp_path / f"{left}-{left}"):
            cache = Cache(directory)
            for version in (directory / "versions").iterdir():
                assert sorted(p.name for p in version.rglob("*")) == ["a", "b", "c"]
            content = cache.known("key")
            assert content is None or cache.object(content).read_bytes() == b"abc"
            cache.close()


def test_when_it_was_in_line(cache: Cache) -> None:
    assert cache.synced_at == 0.0
    cache.synced()
    assert cache.synced_at == (cache.directory / "synced").stat().st_mtime


# Disks


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=f"the cache '{tmp_path}/file/cache' cannot be written: Not a directory"):
        Cache(tmp_path / "file/cache")


def test_directories_of_urls(tmp_path: Path) -> None:
    one = directory_for(tmp_path, "s3://bucket/models")
    assert one.parent == tmp_path and one.name.startswith("s3-bucket-models-")
    assert directory_for(tmp_path, "s3://bucket/models") == one
    others = ["s3://bucket-models", "gs://bucket/models", "s3://bucket/models/", f"s3://bucket/{'x' * 500}"]
    made = {directory_for(tmp_path, url) for url in others}
    assert len(made) == 4 and one not in made
    assert all(len(path.name) < 120 for path in made)
    assert "secret" not in directory_for(tmp_path, "ftp://user:secret@host/x").name
