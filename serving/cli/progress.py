"""What a running server does while it is asked for a change: its events as they come and, in a terminal, a line that
says what goes on just now.

The change is asked for in a thread, and the rest is done in the main one, so that Ctrl-C works at any time. It ends
the view and not the change.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from serving.cli.describe import event, fail, shares
from serving.client import ClientError, Operator, Where

_LOOK_S = 0.05
_POLL_S = 0.25
_INTERRUPTED = 130  # what shells expect after Ctrl-C
_UNDER_WAY = {
    "NEW": "is about to load",
    "LOADING": "is loading",
    "WARMING": "is warming up",
    "DRAINING": "is finishing its requests",
    "UNLOADING": "is unloading",
}


def change(url: Where, model: str, what: str, body: Any, *, until_gone: bool = False) -> int:
    """Asks for a change and shows its course, then how the model stands.

    Args:
        what: the last part of the route, such as `load`.
        until_gone: the change has ended when versions that leave have answered their last request, and are gone.
    """
    out = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        server = Operator(url)
        view = _View(out, server, model, what)
        asked = _Asked(server, model, what, body)
        with view.line:
            while not asked.ended(_LOOK_S) or (until_gone and view.under_way()):
                view.go_on(_POLL_S)
            view.go_on()
        out.print(shares(asked.answer()))
    except ClientError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        out.print(f"\nthe {what} goes on; `serving events {model} --follow` shows how")
        return _INTERRUPTED
    return 0


class _Asked:
    """The request for the change, in a thread that does not keep the process."""

    def __init__(self, server: Operator, model: str, what: str, body: Any) -> None:
        self._answer: dict[str, Any] = {}
        self._error: Exception | None = None

        def ask() -> None:
            try:
                self._answer = server.change(model, what, body)
            except Exception as error:  # raised where it is asked for
                self._error = error

        self._thread = threading.Thread(target=ask, daemon=True)
        self._thread.start()

    def ended(self, wait_s: float) -> bool:
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def answer(self) -> dict[str, Any]:
        """How the model stands now. Raises: ClientError: the change was refused, or has failed."""
        if self._error is not None:
            raise self._error
        return self._answer


class _View:
    """What happens to a model from now on. `line` is shown while it is entered."""

    def __init__(self, out: Console, server: Operator, model: str, what: str) -> None:
        self._out = out
        self._server = server
        self._model = model
        self._what = f"{model}: {what}"
        self._started = time.monotonic()
        self._after = server.events(limit=1)[1]
        self.line = out.status(Text(self._what))

    def go_on(self, wait_s: float = 0) -> None:
        """Prints new events, which it waits for if there are none, and says what goes on."""
        events, self._after = self._server.events(self._after, self._model, wait_s=wait_s)
        for one in events:
            self._out.print(event(one))
        if self._out.is_terminal:
            waited_s = time.monotonic() - self._started
            self.line.update(Text(f"{self.under_way() or self._what} ({waited_s:.0f} s)"))

    def under_way(self) -> str:
        """What versions are doing; empty: they stand as they shall, or the model is not known."""
        try:
            versions = self._server.model(self._model)["versions"]
        except ClientError as error:
            if error.status == 404:
                return ""
            raise
        busy = [version for version in versions if version["state"] in _UNDER_WAY]
        return ", ".join(f"{self._model}/{version['number']} {_doing(version)}" for version in busy)


def _doing(version: Mapping[str, Any]) -> str:
    return "is tried out in a process of its own" if version["trying"] else _UNDER_WAY[version["state"]]
