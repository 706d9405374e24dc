"""A trainer's own settings, as text on the command line and as values. Pure."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trainers.contract import TrainingError

Value = bool | int | float | str

_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def changed(settings: Any, values: Mapping[str, str | Value]) -> Any:
    """A copy of a dataclass of settings with some of them changed; text is read as the setting's type asks.

    Raises:
        TrainingError: names the setting, what was expected and what came.
    """
    hints = get_type_hints(type(settings))
    known = [field.name for field in fields(settings)]
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise TrainingError(f"there is no setting '{name}': {hint}")
        read[name] = _read(name, hints[name], value)
        usual = getattr(settings, name)
        if isinstance(usual, (int, float)) and usual >= 0 > read[name]:  # sizes, rates, shares
            raise TrainingError(f"setting '{name}': expected 0 or more, got {read[name]}")
    return replace(settings, **read)


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """`key=value` texts as a mapping; the last of a key counts. Raises TrainingError."""
    found = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise TrainingError(f"'{text}': expected key=value")
        found[key.strip()] = value.strip()
    return found


def described(settings: Any) -> dict[str, Value]:
    """Each setting's name and value, as they go into manifests and tables."""
    return asdict(settings)


def _read(name: str, hint: Any, value: str | Value) -> Value:
    if get_origin(hint) is Literal:
        if str(value) not in get_args(hint):
            raise TrainingError(f"setting '{name}': expected one of {', '.join(get_args(hint))}, got '{value}'")
        return str(value)
    try:
        if hint is bool:
            return _SWITCH[str(value).lower()]
        if hint is int:
            number = float(value)
            if number != int(number):
                raise ValueError
            return int(number)
        if hint is float:
            if not math.isfinite(number := float(value)):
                raise ValueError
            return number
    except (KeyError, ValueError, OverflowError):
        expected = {bool: "yes or no", int: "a whole number", float: "a number"}[hint]
        raise TrainingError(f"setting '{name}': expected {expected}, got '{value}'") from None
    return str(value)
