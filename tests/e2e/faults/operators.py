"""What an operator does over REST, and asks."""

from typing import Any

import httpx

from tests.e2e.server import Server


class RefusedError(Exception):
    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"{answer.status_code}: {answer.text}")
        self.status = answer.status_code


class Operator:
    """Of one model. Each change returns when it is answered, with how the model stands then.

    Raises:
        RefusedError: the server says no. httpx.TransportError: it is not there, or went away before it answered.
    """

    def __init__(self, server: Server, model: str) -> None:
        self._server, self._model = server, model

    def label(self, label: str, version: int | None) -> dict[str, Any]:
        return self._change("labels", {"label": label, "version": version})

    def traffic(self, **traffic: Any) -> dict[str, Any]:
        return self._change("traffic", traffic)

    def promote(self, version: int | str | None = None) -> dict[str, Any]:
        return self._change("promote", {"version": version})

    def rollback(self) -> dict[str, Any]:
        return self._change("rollback", {})

    def load(self, force: bool = False) -> dict[str, Any]:
        return self._change("load", {"force": force})

    def unload(self) -> dict[str, Any]:
        return self._change("unload", {})

    def status(self) -> dict[str, Any]:
        return _good(self._server.get(f"/serving/models/{self._model}"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Oldest first."""
        answer = _good(self._server.get(f"/serving/events?model={self._model}&limit=1000"))
        return [event for event in answer["events"] if event["kind"] == kind]

    def _change(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        return _good(self._server.post(f"/serving/models/{self._model}/{what}", json=body))


def _good(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != 200:
        raise RefusedError(answer)
    found: dict[str, Any] = answer.json()
    return found
