"""Google's store through gcsfs, against an emulator where one is installed."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.core.metrics import Metrics
from serving.repository.remote import Mirror
from serving.repository.remote.store import Store, StoreError
from tests.repository.remote.build import contents

pytest.importorskip("gcp_storage_emulator")

_SERVER = """
import sys
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket")
server.start()
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(number)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    while True:
        try:
            socket.create_connection(("127.0.0.1", number)).close()
            break
        except ConnectionRefusedError:
            assert process.poll() is None
            time.sleep(0.05)
    yield number
    process.communicate(timeout=30)


@pytest.fixture
def bucket(port: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """To write to."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # whose name nobody here can resolve
    import fsspec

    return fsspec.filesystem("gs", token="anon", skip_instance_cache=True, use_listings_cache=False)


def test_objects(bucket: Any) -> None:
    bucket.pipe("bucket/objects/m/1/model.onnx", b"0123456789")
    store = Store("gs://bucket/objects")
    (item,) = store.look()
    assert (item.path, item.size, store.read(item, 2, 6)) == ("m/1/model.onnx", 10, b"2345")
    assert store.unchanged(item)
    bucket.pipe("bucket/objects/m/1/model.onnx", b"9876543210")
    assert not store.unchanged(item)
    assert store.look() != [item]
    bucket.rm("bucket/objects/m/1/model.onnx")
    with pytest.raises(StoreError, match="not there any more"):
        store.read(item, 0, 1)
    assert store.look() == []
    assert Store("gs://nowhere/models").look() == []


def test_repository(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe("bucket/models/m/1/model.onnx", b"one")
    bucket.pipe("bucket/models/m/model.yaml", b"{}")

    async def mirror() -> dict[str, str]:
        made = Mirror("gs://bucket/models", tmp_path / "cache", Metrics())
        await made.start(lambda _name, _spec, there, _here: set(there))
        await made.close()
        return contents(made.source.path)

    assert asyncio.run(mirror()) == {"m/1/model.onnx": "one", "m/model.yaml": "{}"}
