"""A repository in an object store that is gone, silent, slow or full of errors, and a cache whose disk is full.

What was fetched is served on, and what is new is taken as soon as it can be had.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models
from tests.e2e.conftest import Serve
from tests.e2e.faults import builders
from tests.e2e.faults.disks import SmallDisk
from tests.e2e.faults.endpoint import BUCKET, Endpoint, Manner
from tests.e2e.faults.site import Site
from tests.e2e.server import wait_for

MODEL = "m"
FLAGS = ("--remote-poll-s", "0.3")
LARGE_BYTES = 2_000_000


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    pytest.importorskip("s3fs")
    with Endpoint(tmp_path_factory.mktemp("endpoint")) as made:
        yield made


class Remote:
    """A repository of its own in the store."""

    def __init__(self, endpoint: Endpoint, directory: Path, name: str) -> None:
        self._endpoint, self._directory, self._name = endpoint, directory / "published", name
        self.url = f"s3://{BUCKET}/{name}"
        self.publish()

    def publish(self, more_bytes: int = 0) -> int:
        """The next version, which is so much larger than it needs to be. Returns its number."""
        number = sum(1 for _ in (self._directory / MODEL).glob("[0-9]*")) + 1
        version = builders.release(self._directory, MODEL, models.scale(number), number)
        if more_bytes:
            (version / "MANIFEST.json").unlink()
            (version / "weights.bin").write_bytes(os.urandom(more_bytes))
        self._endpoint.upload(version, f"{self._name}/{MODEL}/{number}")
        return number


@pytest.fixture(scope="module")
def remote(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Remote:
    return Remote(endpoint, tmp_path_factory.mktemp("remote"), "steady")


@pytest.fixture(scope="module")
def served(endpoint: Endpoint, remote: Remote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("served")
    flags = ("--cache-dir", directory / "cache", *FLAGS)
    with Site(directory, paths=[remote.url], flags=flags, env=endpoint.environment) as made:
        made.load.add(MODEL)
        yield made


@pytest.fixture
def site(endpoint: Endpoint, served: Site) -> Iterator[Site]:
    yield served
    endpoint.behave("well")
    served.check(MODEL)


@pytest.mark.parametrize("manner", ["gone", "silent", "failing", "forbidding"])
def test_endpoint(site: Site, endpoint: Endpoint, remote: Remote, manner: Manner) -> None:
    endpoint.behave(manner)
    number = remote.publish()
    wait_for(lambda: endpoint.asked, "the server to ask")
    site.check(MODEL)
    assert site.server.state(MODEL, number) == ("", "")
    endpoint.behave("well")
    site.load.wait_for(MODEL, str(number))


def test_endpoint_that_fails_is_told_once(site: Site, endpoint: Endpoint) -> None:
    before = len(complaints(site))
    endpoint.behave("failing")
    wait_for(lambda: endpoint.asked >= 4, "several attempts")
    assert len(complaints(site)) == before + 1
    endpoint.behave("well")
    wait_for(lambda: "in line again" in complaints(site)[-1], "the end of it to be told")


def test_slow_endpoint(site: Site, endpoint: Endpoint, remote: Remote) -> None:
    """A version that takes seconds to come; nothing waits for it."""
    endpoint.behave("slow")
    number = remote.publish(LARGE_BYTES)
    begun = endpoint.sent_bytes
    wait_for(lambda: endpoint.sent_bytes > begun + LARGE_BYTES / 4, "the download to go on")
    assert site.server.state(MODEL, number) == ("", "")
    site.check(MODEL)
    site.load.wait_for(MODEL, str(number))


def test_broken_download_goes_on_where_it_was(site: Site, endpoint: Endpoint, remote: Remote) -> None:
    endpoint.behave("slow")
    begun = endpoint.sent_bytes
    number = remote.publish(LARGE_BYTES)
    wait_for(lambda: endpoint.sent_bytes > begun + 0.8 * LARGE_BYTES, "most of it to be there")
    endpoint.behave("gone")
    wait_for(lambda: endpoint.asked, "another attempt")
    site.check(MODEL)
    endpoint.behave("well")
    site.load.wait_for(MODEL, str(number))
    assert endpoint.sent_bytes - begun < 1.5 * LARGE_BYTES, "it began anew"


def complaints(site: Site) -> list[str]:
    """What the history says of repositories."""
    events = site.server.get("/serving/events?limit=1000").json()["events"]
    return [event["text"] for event in events if event["kind"] == "repository"]


def test_full_cache(endpoint: Endpoint, tmp_path: Path) -> None:
    """The version that serves stays; the next one comes when there is room, or when it is small enough."""
    disk, remote = SmallDisk(tmp_path / "cache"), Remote(endpoint, tmp_path, "full")
    flags = ("--cache-dir", tmp_path / "cache", *FLAGS)
    with Site(tmp_path, paths=[remote.url], flags=flags, env=endpoint.environment, under=disk.under) as site:
        site.load.add(MODEL)
        disk.fill(site.server)
        number = remote.publish()
        wait_for(lambda: any("no space is left" in text for text in complaints(site)), "the problem to be told")
        site.check(MODEL)
        disk.empty(site.server)
        site.load.wait_for(MODEL, str(number))

        too_large = remote.publish(LARGE_BYTES)
        wait_for(lambda: "no space is left" in complaints(site)[-1], "the problem to be told again")
        assert site.server.state(MODEL, too_large) == ("", "")
        site.check(MODEL)
        site.load.wait_for(MODEL, str(remote.publish()))
        site.check(MODEL)


def test_start_without_the_endpoint(serve: Serve, endpoint: Endpoint, tmp_path: Path) -> None:
    """From what was fetched before, if there is anything; what is new is taken later."""
    remote = Remote(endpoint, tmp_path, "restarted")
    arguments = (remote.url, "--cache-dir", tmp_path / "cache", *FLAGS)
    first = serve(*arguments, env=endpoint.environment)
    first.signal()
    assert first.wait() == 0
    endpoint.behave("gone")
    number = remote.publish()
    again = serve(*arguments, env=endpoint.environment)
    assert again.state(MODEL, 1)[0] == "READY"
    endpoint.behave("well")
    wait_for(lambda: again.state(MODEL, number)[0] == "READY", "the newer version")
