"""Downloads that end early and go on, seen from the other side of the connection."""

import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from serving.repository.remote import fetch
from serving.repository.remote.cache import Cache, CacheError, key_of
from serving.repository.remote.fetch import Fetcher, FetchStoppedError
from serving.repository.remote.store import Object, Store, StoreError
from tests.object_store import BUCKET, S3, Fault, Request, Way

PIECE = 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    monkeypatch.setattr(fetch, "_LEAST_BYTES", PIECE)
    monkeypatch.setattr(fetch, "_MOST_BYTES", PIECE)
    made = Cache(tmp_path / "cache")
    yield made
    made.close()


def content(length: int) -> bytes:
    return bytes(i % 251 for i in range(length))


class Source:
    """One object in S3, and what fetches it."""

    def __init__(self, endpoint: S3, prefix: str, cache: Cache, length: int) -> None:
        self.endpoint, self.cache = endpoint, cache
        self.key = f"{prefix}/m/1/model.onnx"
        self.content = content(length)
        endpoint.put(self.key, self.content)
        self.store = Store(f"s3://{BUCKET}/{prefix}")
        self.fetcher = Fetcher(self.store, cache, parallel=2)

    def item(self) -> Object:
        (found,) = self.store.look()
        return found

    def fetch(self, item: Object | None = None) -> str:
        item = item or self.item()
        return self.fetcher.begin([item])[item].result(30)

    def part(self, item: Object) -> bytes:
        return self.cache.partial(key_of(item)).read_bytes()


@pytest.fixture
def source(endpoint: S3, way: Way, prefix: str, cache: Cache) -> Iterator[Source]:
    made = Source(endpoint, prefix, cache, 4500)
    yield made
    made.fetcher.close()


def ranges(way: Way, source: Source) -> list[str]:
    return [request.range.removeprefix("bytes=") for request in way.gets(source.key)]


def test_in_pieces(source: Source, way: Way) -> None:
    assert source.fetch() == sha256(source.content).hexdigest()
    assert ranges(way, source) == ["0-999", "1000-1999", "2000-2999", "3000-3999", "4000-4499"]
    assert source.fetcher.fetched_bytes == 4500
    assert source.cache.object(source.fetch()).read_bytes() == source.content
    assert len(way.gets(source.key)) == 5, "what is here was fetched again"


def test_empty_object(endpoint: S3, way: Way, prefix: str, cache: Cache) -> None:
    empty = Source(endpoint, prefix, cache, 0)
    assert empty.fetch() == sha256(b"").hexdigest()
    assert way.gets(empty.key) == []
    empty.fetcher.close()


@pytest.mark.parametrize("fault", [Fault(status=503, code="SlowDown"), Fault(cut=700)])
def test_goes_on_where_it_ended(source: Source, way: Way, fault: Fault) -> None:
    item = source.item()
    way.rule = lambda request: fault if request.range.startswith("bytes=3000-") else None
    with pytest.raises(StoreError):
        source.fetch(item)
    assert source.part(item) == source.content[:3000]
    way.rule = lambda _: None
    way.requests.clear()
    assert source.fetch() == sha256(source.content).hexdigest()
    assert ranges(way, source) == ["3000-3999", "4000-4499"]


def test_piece_that_was_cut_off_by_the_end_of_the_process_counts(source: Source, way: Way) -> None:
    """`kill -9` in the middle of a write leaves a part of a piece."""
    item = source.item()
    source.cache.partial(key_of(item)).write_bytes(source.content[:1234])
    assert source.fetch(item) == sha256(source.content).hexdigest()
    assert ranges(way, source)[0] == "1234-2233"


def test_more_than_there_is_was_not_ours(source: Source, way: Way) -> None:
    item = source.item()
    source.cache.partial(key_of(item)).write_bytes(bytes(5000))
    assert source.fetch(item) == sha256(source.content).hexdigest()
    assert ranges(way, source)[0] == "0-999"


def test_object_that_changes_meanwhile_is_not_taken(source: Source, way: Way) -> None:
    item = source.item()
    newer = bytes(reversed(source.content))

    def rule(request: Request) -> None:
        if request.range.startswith("bytes=2000-"):
            source.endpoint.put(source.key, newer)

    way.rule = rule
    with pytest.raises(StoreError, match="it changed while it was fetched") as error:
        source.fetch(item)
    assert not error.value.of_store
    assert not source.cache.partial(key_of(item)).exists(), "half of each was kept"
    way.rule = lambda _: None
    assert source.fetch() == sha256(newer).hexdigest()


def test_changed_object_does_not_go_on_from_what_was_before(source: Source, way: Way) -> None:
    way.rule = lambda request: Fault(status=500) if request.range.startswith("bytes=3000-") else None
    with pytest.raises(StoreError):
        source.fetch()
    way.rule = lambda _: None
    newer = bytes(reversed(source.content))
    source.endpoint.put(source.key, newer)
    assert source.fetch() == sha256(newer).hexdigest()


def test_slow_connections_get_small_pieces(source: Source, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def read(*args: Any) -> bytes:
        nonlocal now
        now += 0.5 if now < 3 else 10.0
        return real(source.store, *args)

    real = Store.read
    monkeypatch.setattr(source.store, "read", read)
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(fetch, "_LEAST_BYTES", 100)
    monkeypatch.setattr(fetch, "_MOST_BYTES", 800)
    source.fetch()
    sizes = [int(end) - int(start) + 1 for start, end in (text.split("-") for text in ranges(way, source))]
    assert sizes == [100, 200, 400, 800, 800, 800, 800, 400, 200]


# Several at once


def test_few_at_a_time(endpoint: S3, way: Way, prefix: str, cache: Cache) -> None:
    for number in range(6):
        endpoint.put(f"{prefix}/m/1/{number}", content(10 + number))
    under_way, most, lock = 0, 0, threading.Lock()
    full = threading.Event()
    store = Store(f"s3://{BUCKET}/{prefix}")
    items = store.look()
    real = store.read

    def read(*args: Any) -> bytes:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
            if under_way == 3:
                full.set()
        assert full.wait(30)
        try:
            return real(*args)
        finally:
            with lock:
                under_way -= 1

    store.read = read  # type: ignore[method-assign]
    fetcher = Fetcher(store, cache, parallel=3)
    begun = fetcher.begin([*items, *items])
    assert [begun[item].result(30) for item in items] == [
        sha256(content(10 + number)).hexdigest() for number in range(6)
    ]
    assert most == 3
    assert len(way.gets(f"{prefix}/m/1/0")) == 1
    fetcher.close()


def test_one_that_fails_does_not_keep_the_others(endpoint: S3, way: Way, prefix: str, cache: Cache) -> None:
    for number in range(3):
        endpoint.put(f"{prefix}/m/{number}/model.onnx", content(10 + number))
    way.rule = lambda request: Fault(status=403, code="AccessDenied") if "/m/1/" in request.path else None
    store = Store(f"s3://{BUCKET}/{prefix}")
    fetcher = Fetcher(store, cache)
    begun = fetcher.begin(store.look())
    fetched = {item.path: future.exception(30) for item, future in begun.items()}
    assert fetched["m/0/model.onnx"] is None and fetched["m/2/model.onnx"] is None
    assert str(fetched["m/1/model.onnx"]) == "'m/1/model.onnx': access denied"
    fetcher.close()


def test_interruption_ends_after_a_piece_and_what_was_fetched_counts(source: Source, way: Way) -> None:
    item = source.item()

    def rule(request: Request) -> None:
        if request.range.startswith("bytes=1000-"):
            source.fetcher.interrupt()

    way.rule = rule
    with pytest.raises(FetchStoppedError):
        source.fetch(item)
    assert source.part(item) == source.content[:2000]
    way.rule = lambda _: None
    with pytest.raises(FetchStoppedError):
        source.fetch(item)
    source.fetcher.resume()
    source.fetch(item)
    assert ranges(way, source)[2:] == ["2000-2999", "3000-3999", "4000-4499"]


def test_end_waits_for_what_is_under_way(source: Source, way: Way) -> None:
    item = source.item()
    way.rule = lambda request: Fault(rate=2000) if request.range else None
    begun = source.fetcher.begin([item, *(Object(f"x{i}", 1, "", f"{BUCKET}/x{i}") for i in range(9))])
    source.fetcher.end(begun.values())
    assert all(future.done() for future in begun.values())


# Disks


def test_full_disk(source: Source) -> None:
    """/dev/full refuses each write as a full disk does."""
    item = source.item()
    source.cache.partial(key_of(item)).symlink_to("/dev/full")
    with pytest.raises(CacheError) as error:
        source.fetch(item)
    assert error.value.full
    assert str(error.value) == f"the cache '{source.cache.directory}' cannot be written: no space is left"
    assert source.cache.known(key_of(item)) is None
    source.cache.partial(key_of(item)).unlink()
    assert source.fetch(item) == sha256(source.content).hexdigest()
