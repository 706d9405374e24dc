"""One S3 endpoint for all tests of a process; each test has a prefix of its own, and a way to it that it may break."""

from collections.abc import Iterator

import pytest

from tests import object_store
from tests.object_store import S3, Way


@pytest.fixture(scope="session")
def endpoint() -> Iterator[S3]:
    with object_store.s3() as server:
        yield server


@pytest.fixture
def way(endpoint: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The environment of this process takes it."""
    with object_store.way(endpoint) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return "".join(c if c.isalnum() else "-" for c in request.node.name).strip("-")
