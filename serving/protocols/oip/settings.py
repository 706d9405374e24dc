"""The trace and log settings that clients may read and change: what they are, and which changes are taken. Pure.

A change is a mapping from names of settings to values; names that are not known mean nothing, as the protocol has it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.protocols import jsonio
from serving.protocols.jsonio import describe

_MAX = 2**63 - 1
_NUMBERS = {"trace_rate": ("rate", 0), "trace_count": ("count", -1), "log_frequency": ("log_frequency", 0)}
_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")


@dataclass(frozen=True)
class TraceSettings:
    """One request in `rate` is traced, and `count` of them in all, -1 for ever; `log_frequency` of them go into one
    file, 0: all of them."""

    level: str = "OFF"
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0

    @property
    def on(self) -> bool:
        return self.level != "OFF" and self.rate > 0 and self.count != 0


def of_trace(settings: TraceSettings, file: str) -> dict[str, Any]:
    """The settings in the protocol's words, in which numbers are text."""
    return {
        "trace_level": [settings.level],
        "trace_rate": str(settings.rate),
        "trace_count": str(settings.count),
        "log_frequency": str(settings.log_frequency),
        "trace_file": file,
        "trace_mode": "triton",
    }


def of_json(body: bytes) -> dict[str, Any]:
    """The changes in the body of a REST request."""
    values = jsonio.parse(body)
    if type(values) is not dict:
        raise invalid(f"expected an object of settings, got {describe(values)}")
    return values


def of_message(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a gRPC TraceSetting, in which each value is a list of strings, as JSON would have them."""
    values: dict[str, Any] = {}
    for name, setting in settings.items():
        texts = list(setting.value)
        if len(texts) > 1 and name != "trace_level":
            raise invalid(f"expect only 1 value for '{name}', got {len(texts)}")
        values[name] = None if not texts else texts if name == "trace_level" else texts[0]
    return values


def trace_message(values: Mapping[str, Any]) -> dict[str, Any]:
    """Trace settings as a gRPC answer has them."""
    return {name: {"value": [value] if type(value) is str else value} for name, value in values.items()}


def log_message(values: Mapping[str, Any]) -> dict[str, Any]:
    """Log settings as a gRPC answer has them."""
    fields = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return {name: {fields[type(value)]: value} for name, value in values.items()}


def trace_change(values: Mapping[str, Any], has_file: bool) -> dict[str, Any]:
    """The fields of `TraceSettings` that a change sets; None where it takes a setting back.

    Args:
        has_file: whether there is a file to write traces to.

    Raises:
        ServingError: INVALID: names the setting, what was expected and what came; UNSUPPORTED: it cannot be changed.
    """
    if "trace_file" in values:
        raise _fixed("trace file")
    change: dict[str, Any] = {}
    if "trace_level" in values:
        change["level"] = _level(values["trace_level"])
        if change["level"] == "TIMESTAMPS" and not has_file:
            raise invalid("requests cannot be traced: this server was started without --trace-file")
    for name, (setting, least) in _NUMBERS.items():
        if name in values:
            change[setting] = _number(name, values[name], least)
    return change


def _level(value: Any) -> str | None:
    if value is None:
        return None
    if type(value) is not list or not all(type(level) is str for level in value):
        raise invalid(f"Unable to parse 'trace_level': expected an array of strings, got {describe(value)}")
    for level in value:
        if level not in _LEVELS:
            raise invalid(f"Unable to parse 'trace_level': expected {', '.join(_LEVELS)}, got {describe(level)}")
    if "OFF" in value and len(set(value)) > 1:
        raise invalid("Expect only one trace level 'OFF' is specified")
    if "TENSORS" in value:
        raise ServingError(ErrorKind.UNSUPPORTED, "trace level TENSORS is not supported; TIMESTAMPS is")
    return "TIMESTAMPS" if "TIMESTAMPS" in value else "OFF"


def _number(name: str, value: Any, least: int) -> int | None:
    if value is None:
        return None
    if type(value) is not str:
        raise invalid(
            f"Unable to parse '{name}': attempt to access JSON non-string as string: "
            f"expected a number as text, got {describe(value)}"
        )
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19 or int(digits) > _MAX:
        raise invalid(f"Unable to parse '{name}', got: {value[:40]}")
    if int(value) < least:
        raise invalid(f"Unable to parse '{name}'. Expecting value >= {least}, got:{value}")
    return int(value)


@dataclass(frozen=True)
class LogSettings:
    """Which of the server's lines are logged, by level; `log_verbose_level` above 0: those for debugging too.

    `log_format` is `default`, the form of lines with which the server was started, or `ISO8601`: its times are such.
    """

    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = "default"


_FORMATS = ("default", "ISO8601")
_KINDS = {"log_verbose_level": (int, "int32"), "log_format": (str, "string")}


class Logs:
    """The log settings that are in force. On the event loop.

    Args:
        settings: those with which the server was started.
        apply: makes other ones count.
    """

    def __init__(
        self, settings: LogSettings | None = None, apply: Callable[[LogSettings], None] = lambda _: None
    ) -> None:
        self._settings = settings or LogSettings()
        self._apply = apply

    def change(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Sets what is not None; the settings after that.

        Raises:
            ServingError: INVALID: names the setting, what was expected and what came; UNSUPPORTED: it cannot be
                changed. Nothing has changed then.
        """
        if values.get("log_file") is not None:
            raise _fixed("log file")
        changes: dict[str, Any] = {}
        for name in LogSettings.__dataclass_fields__:
            value = values.get(name)
            if value is None:
                continue
            kind, called = _KINDS.get(name, (bool, "bool"))
            if type(value) is not kind:
                raise invalid(f"expect {called} for '{name}', got {describe(value)}")
            changes[name] = value
        if not 0 <= changes.get("log_verbose_level", 0) < 2**31:
            raise invalid(f"expect int32 for 'log_verbose_level', 0 or more, got {changes['log_verbose_level']}")
        if changes.get("log_format", "default") not in _FORMATS:
            raise invalid(
                f"invalid argument for --log_format, got: {changes['log_format'][:40]}; there are {', '.join(_FORMATS)}"
            )
        if changes:
            settings = replace(self._settings, **changes)
            self._apply(settings)  # may refuse
            self._settings = settings
        return self.values()

    def values(self) -> dict[str, Any]:
        """The settings in the protocol's words."""
        return {"log_file": "", **{name: getattr(self._settings, name) for name in LogSettings.__dataclass_fields__}}


def _fixed(what: str) -> ServingError:
    return ServingError(ErrorKind.UNSUPPORTED, f"{what} location can not be updated through network protocol")
