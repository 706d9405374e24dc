"""The server's own REST endpoints, below /serving: how models stand, what has happened to them, and what operators
change. Bodies in, replies out; no sockets.

A change is answered when it is done, with how the model stands then. It goes on if the client leaves meanwhile; how it
went is in the history.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from serving.core.errors import invalid
from serving.core.spec import MAX_VERSION, explain
from serving.core.traffic import Traffic
from serving.engine import Control
from serving.protocols import jsonio
from serving.protocols.http import HttpReply, json_reply
from serving.protocols.jsonio import describe
from serving.repository.control.events import Event
from serving.repository.status import ModelStatus

MAX_WAIT_S = 30.0
MAX_EVENTS = 1000
_EVENTS = 100


class Manage:
    """The endpoints. Each returns a reply; a `ServingError` that one raises is for `error_reply`."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def models(self) -> HttpReply:
        return json_reply({"models": [_of_model(status) for status in self._control.status()]})

    def model(self, model: str) -> HttpReply:
        (status,) = self._control.status(model)
        return json_reply(_of_model(status))

    async def events(self, query: Sequence[tuple[str, str]]) -> HttpReply:
        """
        Args:
            query: `after`, the number of the last event that the client has; `model`; `limit`; `wait_s`, how long to
                wait for the first event if there is none.
        """
        asked = _asked(query)
        after = _whole("after", asked.get("after", "0"), 0, MAX_VERSION)
        limit = _whole("limit", asked.get("limit", str(_EVENTS)), 1, MAX_EVENTS)
        wait_s = _seconds("wait_s", asked.get("wait_s", "0"))
        found = await self._control.events(after, asked.get("model", ""), limit, wait_s)
        return json_reply({"events": [_of_event(e) for e in found], "after": found[-1].number if found else after})

    async def load(self, model: str, body: bytes) -> HttpReply:
        force = _fields(body, "force").get("force", False)
        if not isinstance(force, bool):
            raise invalid(f"'force': expected a boolean, got {describe(force)}")
        await self._control.load(model, force=force)
        return self.model(model)

    async def unload(self, model: str, body: bytes) -> HttpReply:
        _fields(body)
        self._control.status(model)  # one that is not known is not kept out either
        await self._control.unload(model)
        return self.model(model)

    async def promote(self, model: str, body: bytes) -> HttpReply:
        await self._control.promote(model, _version(_fields(body, "version").get("version")))
        return self.model(model)

    async def rollback(self, model: str, body: bytes) -> HttpReply:
        await self._control.rollback(model, _version(_fields(body, "version").get("version")))
        return self.model(model)

    async def label(self, model: str, body: bytes) -> HttpReply:
        given = _fields(body, "label", "version")
        for key in ("label", "version"):
            if key not in given:
                raise invalid(f"'{key}' is missing; expected a label and its version, or null to take it away")
        label, number = given["label"], given["version"]
        if not isinstance(label, str) or not label:
            raise invalid(f"'label': expected a text, got {describe(label)}")
        if number is not None and not _is_version(number):
            raise invalid(f"'version': expected a version number > 0 or null, got {describe(number)}")
        await self._control.label(model, label, number)
        return self.model(model)

    async def traffic(self, model: str, body: bytes) -> HttpReply:
        value = jsonio.parse(body)
        if value is not None and not isinstance(value, dict):
            raise invalid(f'expected an object such as {{"weights": {{"stable": 95}}}}, or null, got {describe(value)}')
        try:
            traffic = None if value is None else Traffic.model_validate(value)
        except ValidationError as error:
            raise invalid(explain(error, tuple(Traffic.model_fields))) from None
        await self._control.share(model, traffic)
        return self.model(model)


def _of_model(status: ModelStatus) -> dict[str, Any]:
    value = dataclasses.asdict(status)
    value["shares"] = {str(number): share for number, share in status.shares.items()}
    value["traffic"] = status.traffic.model_dump(mode="json", exclude_none=True) if status.traffic else None
    return value


def _of_event(event: Event) -> dict[str, Any]:
    return dataclasses.asdict(event) | {"kind": event.kind.value}


def _fields(body: bytes, *known: str) -> dict[str, Any]:
    """The keys and values of a body, which may be empty; null for a value is as good as none, but for a label.

    Raises:
        ServingError: INVALID: no object, or a key that is not known.
    """
    value = jsonio.parse(body) if body.strip() else {}
    if not isinstance(value, dict):
        raise invalid(f"expected an object{_with_keys(known)}, got {describe(value)}")
    _refuse_unknown("key", value, known)
    return value


def _with_keys(known: Sequence[str]) -> str:
    return f" with {' and '.join(known)}" if known else ""


def _asked(query: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The parameters of a query; one that is empty is none."""
    _refuse_unknown("parameter", (name for name, _ in query), ("after", "model", "limit", "wait_s"))
    asked: dict[str, str] = {}
    for name, value in query:
        if name in asked:
            raise invalid(f"'{name}' is given twice")
        if value:
            asked[name] = value
    return asked


def _refuse_unknown(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name[:100], known, n=1)
            valid = f"did you mean '{near[0]}'?" if near else f"valid {what}s are {', '.join(known) or '(none)'}"
            raise invalid(f"unknown {what} '{name[:100]}'; {valid}")


def _whole(name: str, text: str, least: int, most: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= number <= most:
        raise invalid(f"'{name}': expected a whole number from {least} to {most}, got '{text[:100]}'")
    return number


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_S:  # NaN is refused as well
        raise invalid(f"'{name}': expected seconds from 0 to {MAX_WAIT_S:g}, got '{text[:100]}'")
    return seconds


def _version(value: Any) -> str:
    """A version or label as `Control` takes it; empty: the one that it chooses."""
    if value is None:
        return ""
    if _is_version(value):
        return str(value)
    if isinstance(value, str) and value:
        return value
    raise invalid(f"'version': expected a version number > 0 or a label, got {describe(value)}")


def _is_version(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_VERSION
