"""What log lines look like, for people or one JSON object each, and which are shown. That may change at any time.

A line that a request has caused says the request's id and that of its trace, as far as it has them.
"""

import json
import logging
import time

from serving.protocols.oip.settings import LogSettings
from serving.protocols.record import under_way


class HumanFormatter(logging.Formatter):
    """`iso8601`: times are whole and in UTC; otherwise the local time of day.

    What a client has sent may be part of a message, so what would begin a line or move the cursor is written out.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self.iso8601 = False

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return _iso8601(record) if self.iso8601 else super().formatTime(record, datefmt)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(record.message)
        about = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in _about(record).items())
        return super().formatMessage(record) + (f" [{about}]" if about else "")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _iso8601(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def printable(text: str) -> str:
    """The same in one line, with all that cannot be printed written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _about(line: logging.LogRecord) -> dict[str, str]:
    """Of the request that a line is about."""
    record = under_way()
    request_id = getattr(line, "request_id", "") or (record.request_id if record else "")
    about = {"request_id": request_id} if request_id else {}
    return about if record is None or record.trace is None else {**about, "trace_id": record.trace.trace_id}


def _iso8601(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def configure(form: str, level: str) -> None:
    """Sends all log lines to standard error.

    Args:
        form: `human` or `json`.
        level: the least level of our own lines; libraries are heard from `warning` on.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else HumanFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("serving").setLevel(level.upper())


def settings(level: str) -> LogSettings:
    """What `level` means, switch by switch."""
    least = logging.getLevelNamesMapping()[level.upper()]
    return LogSettings(
        log_info=least <= logging.INFO,
        log_warning=least <= logging.WARNING,
        log_error=least <= logging.ERROR,
        log_verbose_level=int(least <= logging.DEBUG),
    )


def apply(settings: LogSettings) -> None:
    """From now on these settings count, for lines of ours and of libraries."""
    switches = {
        logging.DEBUG: settings.log_verbose_level > 0,
        logging.INFO: settings.log_info,
        logging.WARNING: settings.log_warning,
        logging.ERROR: settings.log_error,
        logging.CRITICAL: settings.log_error,
    }
    shown = {level for level, on in switches.items() if on}
    logging.getLogger("serving").setLevel(min(shown, default=logging.CRITICAL + 1))
    for handler in logging.getLogger().handlers:
        for filter_ in handler.filters[:]:
            if isinstance(filter_, _Shown):
                handler.removeFilter(filter_)
        handler.addFilter(_Shown(shown))
        if isinstance(handler.formatter, HumanFormatter):
            handler.formatter.iso8601 = settings.log_format == "ISO8601"


class _Shown(logging.Filter):
    """Passes lines of some levels, which need not be a range."""

    def __init__(self, levels: set[int]) -> None:
        super().__init__()
        self._levels = levels

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno in self._levels
