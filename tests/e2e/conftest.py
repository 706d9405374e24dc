"""Servers for end-to-end tests: always ended, by their process id, and their logs shown when a test fails."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import triton_models
from tests.e2e.server import Server

_SHOWN_CHARACTERS = 6000

Serve = Callable[..., Server]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Generator[None, None, None]:
    outcome: pytest.CallInfo[None] = yield  # type: ignore[assignment]
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for server in Server.running:
            report.sections.append(("server log", server.log[-_SHOWN_CHARACTERS:]))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers: `serve(PATH, "--flag", value)` returns when it is ready."""
    started: list[Server] = []

    def start(*args: object, ready: bool = True, **more: object) -> Server:
        server = Server(tmp_path / "logs", *args, **more)  # type: ignore[arg-type]
        started.append(server)
        return server.wait_ready() if ready else server

    yield start
    for server in started:
        server.end()
    for server in started:
        assert "Traceback" not in server.log


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves all models that the published examples expect, and offers all that has to be allowed first.

    For tests that leave it as they found it.
    """
    root = tmp_path_factory.mktemp("examples")
    repo = triton_models.write(root / "repo")
    yield from _served(root, repo, "--allow-client-shm", "--allow-model-upload", "--server-name", "triton")


@pytest.fixture(scope="session")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves `simple` with the settings that a server has by itself: nothing is allowed that need not be."""
    root = tmp_path_factory.mktemp("closed")
    yield from _served(root, triton_models.write(root / "repo", "simple"))


def _served(root: Path, *args: object) -> Iterator[Server]:
    server = Server(root / "logs", *args).wait_ready()
    yield server
    server.end()
    assert "Traceback" not in server.log


@pytest.fixture(scope="session")
def api() -> Any:
    """The client of TensorFlow Serving, as a module; importing it imports TensorFlow."""
    from tests.e2e import tfs_client

    return tfs_client
