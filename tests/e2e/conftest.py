"""Servers for end-to-end tests: always ended, by their process id, and their logs shown when a test fails."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

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
