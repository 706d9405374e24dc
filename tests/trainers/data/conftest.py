from collections.abc import Iterator

import pytest

from tests.trainers.data.web import Web


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Web()
    try:
        yield server
    finally:
        server.close()
