"""What a store says, and how it fails: real S3 over sockets, and fsspec's own file systems."""

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from serving.repository.remote.store import Object, Store, StoreError, is_url, redacted
from tests.object_store import BUCKET, PAGE, S3, SECRET, Fault, Way


def refusal(ask: Callable[[], object]) -> StoreError:
    with pytest.raises(StoreError) as error:
        ask()
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)
    return error.value


def paths(objects: list[Object]) -> list[str]:
    return sorted(item.path for item in objects)


# What there is


def test_s3_by_the_standard_environment(endpoint: S3, way: Way, prefix: str) -> None:
    endpoint.put(f"{prefix}/m/1/model.onnx", b"0123456789")
    endpoint.put(f"{prefix}/m/2/", b"")  # a directory, as consoles make them
    endpoint.put(f"{prefix}-other/m/1/model.onnx", b"")
    store = Store(f"s3://{BUCKET}/{prefix}/")
    (item,) = store.look()
    assert (item.path, item.size) == ("m/1/model.onnx", 10)
    assert store.read(item, 2, 6) == b"2345"
    assert store.unchanged(item)
    endpoint.put(f"{prefix}/m/1/model.onnx", b"9876543210")
    assert not store.unchanged(item)
    (changed,) = store.look()
    assert changed.token != item.token
    assert store.look("m") == [changed]
    assert store.look("n") == []


def test_listing_of_several_pages(endpoint: S3, way: Way, prefix: str) -> None:
    for number in range(2 * PAGE + 1):
        endpoint.put(f"{prefix}/m/{number}/model.onnx", b"")
    assert len(Store(f"s3://{BUCKET}/{prefix}").look()) == 2 * PAGE + 1
    assert sum("continuation-token" in request.path for request in way.requests) == 2
    way.rule = lambda request: Fault(status=500, code="InternalError") if "continuation" in request.path else None
    refusal(Store(f"s3://{BUCKET}/{prefix}").look)


def test_listing_is_fresh_each_time(endpoint: S3, way: Way, prefix: str) -> None:
    store = Store(f"s3://{BUCKET}/{prefix}")
    assert store.look() == []
    for number in range(3):
        endpoint.put(f"{prefix}/m/{number}/model.onnx", b"x")
        assert len(store.look()) == number + 1


def test_url_of_one_object(endpoint: S3, way: Way, prefix: str) -> None:
    endpoint.put(f"{prefix}/model.onnx", b"x")
    (item,) = Store(f"s3://{BUCKET}/{prefix}/model.onnx").look()
    assert item.path == ""


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_other_file_systems(scheme: str, tmp_path: Path) -> None:
    filesystem, root = fsspec.core.url_to_fs(f"{scheme}://{tmp_path}/repo")
    store = Store(f"{scheme}://{tmp_path}/repo")
    assert store.look() == []
    filesystem.makedirs(f"{root}/m/1")
    filesystem.pipe(f"{root}/m/1/model.onnx", b"0123")
    filesystem.pipe(f"{root}/m/model.yaml", b"")
    found = store.look()
    assert paths(found) == ["m/1/model.onnx", "m/model.yaml"]
    assert paths(store.look("m/1")) == ["m/1/model.onnx"]
    (model,) = store.look("m/1")
    assert store.read(model, 1, 3) == b"12"
    assert store.unchanged(model)
    filesystem.rm(f"{root}/m/1/model.onnx")
    filesystem.pipe(f"{root}/m/1/model.onnx", b"3210")
    assert not store.unchanged(model)
    filesystem.rm(root, recursive=True)


def test_directory_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/1/model.onnx").write_bytes(b"x")
    (tmp_path / "n").mkdir()
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).rstrip("/").endswith("/n"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything
    assert str(refusal(Store(f"file://{tmp_path}").look)) == "access denied"


# How it fails


@pytest.mark.parametrize(
    ("fault", "told", "lasting"),
    [
        (Fault(status=503, code="SlowDown"), "it answers with errors (SlowDown)", False),
        (Fault(status=500, code="InternalError"), "it answers with errors (InternalError)", False),
        (Fault(status=403, code="AccessDenied"), "access denied", True),
        (Fault(status=403, code="SignatureDoesNotMatch"), "access denied", True),
        (Fault(status=403, code="ExpiredToken"), "access denied", True),
        (Fault(status=404, code="NoSuchBucket"), "there is no such bucket", True),
        (Fault(hang=True), "no answer in time", False),
        (Fault(cut=300), "it cannot be reached, or the connection breaks", False),
    ],
)
def test_listing_fails(endpoint: S3, way: Way, prefix: str, fault: Fault, told: str, lasting: bool) -> None:
    endpoint.put(f"{prefix}/m/1/model.onnx", b"x")
    store = Store(f"s3://{BUCKET}/{prefix}", listing_limit_s=1 if fault.hang else 60)
    way.rule = lambda _: fault
    error = refusal(store.look)
    assert (str(error), error.lasting, error.of_store) == (told, lasting, True)
    way.rule = lambda _: None
    if not fault.hang:  # that one has little time
        assert len(store.look()) == 1


@pytest.mark.parametrize(
    ("fault", "told", "of_store"),
    [
        (Fault(status=503, code="SlowDown"), "it answers with errors (SlowDown)", True),
        (Fault(status=403, code="AccessDenied"), "'m/1/model.onnx': access denied", False),
        (Fault(status=404, code="NoSuchKey"), "'m/1/model.onnx': not there any more", False),
        (Fault(status=416, code="InvalidRange"), "'m/1/model.onnx': it is not as long as the listing says", False),
        (Fault(hang=True), "no answer in time", True),
    ],
)
def test_reading_fails(endpoint: S3, way: Way, prefix: str, fault: Fault, told: str, of_store: bool) -> None:
    endpoint.put(f"{prefix}/m/1/model.onnx", b"0123456789")
    store = Store(f"s3://{BUCKET}/{prefix}", limit_s=1 if fault.hang else 60)
    (item,) = store.look()
    way.rule = lambda _: fault
    error = refusal(lambda: store.read(item, 0, 10))
    assert (str(error), error.of_store) == (told, of_store)


def test_object_that_became_shorter(endpoint: S3, way: Way, prefix: str) -> None:
    endpoint.put(f"{prefix}/m/1/model.onnx", b"0123456789")
    store = Store(f"s3://{BUCKET}/{prefix}")
    (item,) = store.look()
    endpoint.put(f"{prefix}/m/1/model.onnx", b"01234")
    assert str(refusal(lambda: store.read(item, 0, 10))) == "'m/1/model.onnx': it is not as long as the listing says"


def test_nobody_is_there_and_then_somebody_is(endpoint: S3, way: Way, prefix: str) -> None:
    endpoint.put(f"{prefix}/m/1/model.onnx", b"x")
    store = Store(f"s3://{BUCKET}/{prefix}")
    assert len(store.look()) == 1
    way.shut()
    error = refusal(store.look)
    assert (str(error), error.lasting) == ("it cannot be reached, or the connection breaks", False)
    way.open()
    assert len(store.look()) == 1


def test_credentials_that_were_renewed_count(
    endpoint: S3, way: Way, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.put(f"{prefix}/m/1/model.onnx", b"x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    store = Store(f"s3://{BUCKET}/{prefix}")
    error = refusal(store.look)
    assert (str(error), error.lasting) == ("no credentials were found for it", True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert len(store.look()) == 1


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nope://bucket/models", "it cannot be opened: Protocol not known: nope"),
        ("abfs://container/models", "fsspec's package for abfs:// is not installed: pip install 'serving[remote]'"),
        ("s3://", "it names no bucket or directory"),
    ],
)
def test_url_that_cannot_be_opened(url: str, told: str) -> None:
    error = refusal(Store(url).look)
    assert (str(error), error.lasting) == (told, True)


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    told = "fsspec is not installed: pip install 'serving[remote]'"
    assert str(refusal(Store("s3://bucket/models").look)) == told


def test_unknown_errors_are_told_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_TOKEN", "token-of-somebody")
    text = "no\nluck at https://user:pass@host/x?signature=abc with token-of-somebody"

    def find(*_: object, **__: object) -> None:
        raise RuntimeError(text)

    store = Store(f"file://{tmp_path}")
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.find", find)
    assert str(refusal(store.look)) == "RuntimeError: no luck at https://***@host/x?*** with ***"


# URLs


def test_which_paths_are_urls() -> None:
    assert is_url("s3://bucket/models") and is_url("memory://x")
    assert not is_url("/srv/models") and not is_url("models") and not is_url("C:/models")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/models", "s3://bucket/models"),
        ("ftp://user:pass@host:21/models", "ftp://host:21/models"),
        ("ftp://user:p@ss@host/models", "ftp://host/models"),
        ("https://host/models?signature=abc", "https://host/models"),
        ("gs://bucket/a@b/models", "gs://bucket/a@b/models"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert "pass" not in repr(Store(url))
