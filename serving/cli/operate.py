"""`serving load`, `unload`, `promote`, `rollback`, `label` and `traffic`: what a running server is asked to change."""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.cli.describe import fail
from serving.cli.progress import change
from serving.client import Where


def load(url: Where, model: str, force: bool) -> int:
    return change(url, model, "load", {"force": force})


def unload(url: Where, model: str) -> int:
    return change(url, model, "unload", {}, until_gone=True)


def promote(url: Where, model: str, version: str) -> int:
    return change(url, model, "promote", {"version": version} if version else {})


def rollback(url: Where, model: str, version: str) -> int:
    return change(url, model, "rollback", {"version": version} if version else {})


def label(url: Where, model: str, name: str, version: int | None, remove: bool) -> int:
    if (version is None) != remove:
        return fail("give one of VERSION and --remove")
    return change(url, model, "labels", {"label": name, "version": version})


def traffic(
    url: Where,
    model: str,
    weights: Sequence[str],
    sticky: str | None,
    shadow: Mapping[str, Any],
    limits: Mapping[str, Any],
    reset: bool,
) -> int:
    """
    Args:
        weights: such as `stable=95`.
        shadow: as `core.traffic.Shadow` has it; None: not given.
        limits: as `core.traffic.Limits` has it; None: not given.
        reset: back to what the model's settings say; nothing else is given with it.
    """
    try:
        parts = {"weights": dict(map(_weight, weights)), "sticky": sticky and sticky.lower()}
    except ValueError as error:
        return fail(str(error))
    parts |= {"shadow": _given(shadow), "limits": _given(limits)}
    body = {name: part for name, part in parts.items() if part}
    if bool(body) == reset:
        return fail("give weights such as stable=95 canary=5, other options, or --reset alone")
    if "shadow" in body and "to" not in body["shadow"]:
        return fail("--shadow names the version that gets copies; without it the other options of it mean nothing")
    return change(url, model, "traffic", None if reset else body)


def _weight(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")
    try:
        if not name:
            raise ValueError
        return name, float(weight)
    except ValueError:
        raise ValueError(f"expected VERSION=WEIGHT or LABEL=WEIGHT, such as canary=5, got '{text}'") from None


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
