"""`serving start s3://…` against a real S3 endpoint, which is slow, wrong or gone when a test says so."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.core.artifact import publish
from tests import models, object_store
from tests.e2e.conftest import Serve
from tests.e2e.server import Server, command, error_line, wait_for
from tests.e2e.traffic import traffic
from tests.object_store import BUCKET, S3, SECRET, Fault, Way

QUICK = ("--settle-s", "0.3", "--remote-poll-s", "0.3", "--no-trial-load")
BIG_BYTES = 6_000_000


@pytest.fixture(scope="module")
def endpoint() -> Iterator[S3]:
    with object_store.s3() as made:
        yield made


@pytest.fixture
def way(endpoint: S3) -> Iterator[Way]:
    with object_store.way(endpoint) as made:
        yield made


class Remote:
    """A repository `m` in the store, and servers that serve it."""

    def __init__(self, endpoint: S3, way: Way, prefix: str, directory: Path, serve: Serve) -> None:
        self.endpoint, self.way, self.prefix, self.directory = endpoint, way, prefix, directory
        self.url = f"s3://{BUCKET}/{prefix}"
        self._serve = serve

    def start(self, *args: object, **more: Any) -> Server:
        return self._serve(
            *(args or (self.url,)), *QUICK, "--cache-dir", self.directory / "cache", env=self.way.environment, **more
        )

    def publish(self, version: int, model: str = "m", more: bytes = b"") -> None:
        """By the artifact contract, and its manifest last; with a second file of these bytes, if there are any."""

        def write(directory: Path) -> None:
            models.save(models.scale(version), directory / "model.onnx")
            if more:
                (directory / "more.bin").write_bytes(more)

        made = publish(
            self.directory / f"published-{version}",
            model,
            write,
            golden=None,
            signature={},
            metric=None,
            seed=None,
            libraries={},
            atol=1e-5,
            rtol=1e-5,
        )
        for path in sorted(made.iterdir(), key=lambda path: path.name == "MANIFEST.json"):
            self.endpoint.put(f"{self.prefix}/{model}/{version}/{path.name}", path.read_bytes())

    def failures(self, server: Server) -> float:
        return server.metrics().sum("serving_repository_sync_failures_total", source=self.url)


@pytest.fixture
def remote(endpoint: S3, way: Way, tmp_path: Path, serve: Serve, request: pytest.FixtureRequest) -> Iterator[Remote]:
    """With version 1 of m."""
    prefix = "".join(c if c.isalnum() else "-" for c in request.node.name).strip("-")
    made = Remote(endpoint, way, prefix, tmp_path, serve)
    made.publish(1)
    yield made
    for log in (tmp_path / "logs").glob("server-*"):
        assert SECRET not in log.read_text()


def told(server: Server) -> list[str]:
    """What the history says of repositories."""
    events = server.get("/serving/events?limit=1000").json()["events"]
    return [event["text"] for event in events if event["kind"] == "repository"]


def serves(server: Server, version: int) -> Callable[[], bool]:
    return lambda: server.state("m", version)[0] == "READY"


def test_new_version_takes_over_under_load(remote: Remote) -> None:
    server = remote.start()
    with traffic(server, "m") as seen:
        seen.wait_for_more(50, "1")
        remote.publish(2)
        seen.wait_for_more(50, "2")
        models.save(models.scale(3), remote.directory / "plain/model.onnx")  # and one without a manifest
        remote.endpoint.upload(remote.directory / "plain", f"{remote.prefix}/m/3")
        seen.wait_for_more(50, "3")
    assert (seen.failed, seen.wrong) == ([], [])
    assert told(server) == []
    metrics = server.metrics()
    assert remote.failures(server) == 0
    assert metrics.sum("serving_repository_last_sync_timestamp_seconds", source=remote.url) > 1e9
    assert metrics.sum("serving_repository_fetched_bytes_total", source=remote.url) > 0


def test_beside_a_local_repository(remote: Remote, tmp_path: Path) -> None:
    models.save(models.scale(1), tmp_path / "local/n/1/model.onnx")
    server = remote.start(remote.url, tmp_path / "local")
    assert sorted(server.index()) == [("m", 1), ("n", 1)]


def test_url_of_one_model(remote: Remote) -> None:
    server = remote.start(f"{remote.url}/m", "--model-name", "other")
    assert list(server.index()) == [("other", 1)]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (None, "it cannot be reached, or the connection breaks"),
        (Fault(status=503, code="SlowDown"), "it answers with errors (SlowDown)"),
        (Fault(status=403, code="AccessDenied"), "access denied"),
    ],
)
def test_what_serves_goes_on_whatever_the_store_does(remote: Remote, fault: Fault | None, reason: str) -> None:
    server = remote.start()
    with traffic(server, "m", clients=4) as seen:
        if fault is None:
            remote.way.shut()
        else:
            remote.way.rule = lambda _: fault
        remote.publish(2)
        wait_for(lambda: remote.failures(server) >= 2, "two attempts")
        assert told(server) == [f"'{remote.url}': {reason}; what was fetched before stays"]
        assert server.get("/v2/health/ready").status_code == 200
        assert list(server.index()) == [("m", 1)]
        remote.way.rule = object_store.no_faults
        if fault is None:
            remote.way.open()
        seen.wait_for_more(20, "2")
    assert (seen.failed, seen.wrong) == ([], [])
    wait_for(lambda: told(server)[1:] == [f"'{remote.url}' is in line again"], "the end of it to be told")


def test_slow_store(remote: Remote) -> None:
    """A version whose download takes seconds comes when it is whole, and nobody waits for it."""
    server = remote.start()
    remote.way.rule = lambda request: Fault(rate=500_000) if "more.bin" in request.path else None
    sent = remote.way.sent_bytes
    remote.publish(2, more=os.urandom(1_000_000))
    with traffic(server, "m", clients=4) as seen:
        wait_for(lambda: remote.way.sent_bytes > sent + 300_000, "a part of it")
        assert list(server.index()) == [("m", 1)]
        seen.wait_for_more(20, "2")
    assert (seen.failed, seen.wrong, told(server)) == ([], [], [])


def test_download_goes_on_after_kill_9(remote: Remote) -> None:
    server = remote.start()
    key = f"{remote.prefix}/m/2/more.bin"
    remote.way.rule = lambda request: Fault(rate=3_000_000) if "more.bin" in request.path else None
    before = remote.way.sent_bytes
    remote.publish(2, more=os.urandom(BIG_BYTES))
    wait_for(lambda: remote.way.sent_bytes - before > BIG_BYTES / 2, "half of it")
    server.process.kill()
    server.wait()
    assert not list(remote.directory.glob("cache/*/versions/*/more.bin")), "half a file is in a version"
    first = len(remote.way.gets(key))
    remote.way.rule = object_store.no_faults
    again = remote.start()
    assert list(again.index()) == [("m", 2)]
    ranges = [request.range.removeprefix("bytes=").split("-") for request in remote.way.gets(key)[first:]]
    assert int(ranges[0][0]) > 500_000, "it began anew"
    assert sum(int(end) - int(start) + 1 for start, end in ranges) == BIG_BYTES - int(ranges[0][0])
    assert told(again) == []


def test_start_from_the_cache_without_the_store(remote: Remote) -> None:
    server = remote.start()
    server.signal()
    assert server.wait() == 0
    remote.way.shut()
    again = remote.start()
    assert again.state("m", 1) == ("READY", "")
    (said,) = told(again)
    assert said.startswith(f"'{remote.url}': it cannot be reached, or the connection breaks; started from what was ")
    assert said in again.log
    remote.publish(2)
    remote.way.open()
    wait_for(serves(again, 2), "the new version")


def test_operators_get_versions_that_were_not_fetched(remote: Remote) -> None:
    for version in (2, 3, 4):
        remote.publish(version)
    server = remote.start()
    assert server.get("/v2/models/m").json()["versions"] == ["4"]
    assert remote.way.gets(f"{remote.prefix}/m/1/model.onnx") == []
    assert server.post("/serving/models/m/promote", json={"version": "1"}).status_code == 200
    assert server.state("m", 1)[0] == "READY"
    answer = server.post("/v2/models/m/infer", json={
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]
    })  # fmt: skip
    assert answer.json()["outputs"][0]["data"] == [1, 1, 1, 1]


def test_explicit_mode(remote: Remote) -> None:
    remote.publish(1, "n")
    server = remote.start(remote.url, "--mode", "explicit")
    assert remote.way.gets(f"{remote.prefix}/n/1/model.onnx") == []
    assert server.post("/v2/repository/models/n/load").status_code == 200
    assert server.state("n", 1) == ("READY", "")
    assert remote.way.gets(f"{remote.prefix}/m/1/model.onnx") == []


# What cannot be


@pytest.mark.parametrize(
    ("url", "fault", "said"),
    [
        ("s3://nowhere/models", None, "'s3://nowhere/models': there is no such bucket"),
        (f"s3://{BUCKET}/none", None, f"'s3://{BUCKET}/none': it holds no model (looked for <name>/<version>/ with "),
        (f"s3://{BUCKET}/x", Fault(status=403, code="AccessDenied"), f"'s3://{BUCKET}/x': access denied"),
        ("abfs://x/y", None, "'abfs://x/y': fsspec's package for abfs:// is not installed: pip install 'serving[rem"),
    ],
)
def test_start_that_cannot_be(way: Way, tmp_path: Path, url: str, fault: Fault | None, said: str) -> None:
    way.rule = lambda _: fault
    ports = ("--http-port", 0, "--grpc-port", 0)
    result = command("start", url, *ports, "--cache-dir", tmp_path / "cache", env=way.environment)
    assert f"error: {said}" in error_line(result)


def test_cache_of_another_server(remote: Remote) -> None:
    remote.start()
    ports = ("--http-port", 0, "--grpc-port", 0)
    cache = remote.directory / "cache"
    result = command("start", remote.url, *ports, "--cache-dir", cache, env=remote.way.environment)
    line = error_line(result)
    assert "is in use by another server: give this one its own --cache-dir" in line


def test_cache_is_in_the_state_directory(remote: Remote, tmp_path: Path) -> None:
    server = remote._serve(remote.url, *QUICK, "--state-dir", tmp_path / "state", env=remote.way.environment)
    assert list(server.index()) == [("m", 1)]
    assert len(list((tmp_path / "state/cache").iterdir())) == 1
