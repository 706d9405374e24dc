"""What log lines look like, and whose are shown."""

import json
import logging
import re
from collections.abc import Iterator
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import pytest

from serving.logs import apply, configure, settings
from serving.protocols.record import Record, begun, current


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Puts the loggers back, pytest's own handlers included."""
    root, ours = logging.getLogger(), logging.getLogger("serving")
    before = (root.handlers[:], root.level, ours.level)
    root.handlers = []
    yield
    root.handlers, root.level = before[:2]
    ours.setLevel(before[2])


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure("human", "info")
    logging.getLogger("serving.repository").info("%s is %s", "m/1", "READY")
    (line,) = lines(capsys)
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    m/1 is READY", line)


def test_lines_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    logging.getLogger("serving.repository").warning("odd: %s", 'Zürich "模型"\nsecond line')
    (line,) = lines(capsys)
    entry = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {
        "level": "warning",
        "logger": "serving.repository",
        "message": 'odd: Zürich "模型"\nsecond line',
    }


def test_nobody_can_make_up_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("human", "info")
    logging.getLogger("serving").warning("odd: %s", "Zürich\n12:00:00 INFO    all is well\r\x1b[2J\u2028.")
    (line,) = lines(capsys)
    assert line.endswith("odd: Zürich\\n12:00:00 INFO    all is well\\r\\x1b[2J\\u2028.")


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_trace_comes_along(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(form, "info")
    try:
        raise KeyError("missing")
    except KeyError:
        logging.getLogger("serving").exception("a bug")
    printed = lines(capsys)
    if form == "json":
        entry = json.loads(printed[0])
        assert len(printed) == 1
        assert entry["message"] == "a bug" and entry["level"] == "error"
        printed = entry["exception"].splitlines()
    assert any(line.startswith("Traceback") for line in printed)
    assert printed[-1] == "KeyError: 'missing'"


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_our_own_lines_are_shown_from_the_level_asked_for(
    level: str, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure("json", level)
    for each in ("debug", "info", "warning", "error"):
        logging.getLogger("serving.batching").log(logging.getLevelNamesMapping()[each.upper()], "text")
    assert [json.loads(line)["level"] for line in lines(capsys)] == shown


def test_libraries_are_heard_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "debug")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")
    assert [json.loads(line)["message"] for line in lines(capsys)] == ["trouble"]


def test_the_last_configuration_counts(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    configure("human", "info")
    logging.getLogger("serving").info("once")
    assert len(lines(capsys)) == 1


def test_times_may_be_iso_8601_for_people_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("human", "info")
    apply(replace(settings("info"), log_format="ISO8601"))
    logging.getLogger("serving").info("whole")
    apply(settings("info"))
    logging.getLogger("serving").info("of the day")
    whole, of_the_day = lines(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    whole", whole)
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    of the day", of_the_day)


LEVELS = ("debug", "info", "warning", "error", "critical")


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The levels of lines that are logged now."""
    for each in LEVELS:
        logging.getLogger("serving.batching").log(logging.getLevelNamesMapping()[each.upper()], "text")
    return [json.loads(line)["level"] for line in lines(capsys)]


@pytest.mark.parametrize("level", LEVELS[:-1])
def test_settings_of_a_level_show_the_same_lines(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", level)
    before = shown(capsys)
    apply(settings(level))
    assert shown(capsys) == before == list(LEVELS[LEVELS.index(level) :])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"log_verbose_level": 1}, ["debug", "info", "warning", "error", "critical"]),
        ({"log_info": False}, ["warning", "error", "critical"]),
        ({"log_warning": False}, ["info", "error", "critical"]),
        ({"log_error": False}, ["info", "warning"]),
        ({"log_info": False, "log_warning": False, "log_error": False}, []),
        ({"log_info": False, "log_verbose_level": 3}, ["debug", "warning", "error", "critical"]),
    ],
    ids=str,
)
def test_levels_are_switched_one_by_one_and_back(
    changes: dict[str, Any], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure("json", "info")
    apply(replace(settings("info"), **changes))
    assert shown(capsys) == expected
    apply(settings("info"))
    assert shown(capsys) == ["info", "warning", "error", "critical"]


# Lines that requests cause


def during(request_id: str, traced: bool) -> Record:
    """A request is under way from now on."""
    record = Record("http", "POST", "/", "", 1.0, request_id, True, begun() if traced else None)
    current.set(record)
    return record


def logged(form: str, **extra: str) -> None:
    configure(form, "info")
    logging.getLogger("serving").info("odd", extra=extra)


def test_a_line_says_which_request_caused_it(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        record = during("a-1", traced=True)
        logged("json")
        logged("human")
        record.ended = 2.0  # what goes on is no part of it
        logged("json")
        trace = record.trace
        assert trace is not None
        entry, human, after = lines(capsys)
        assert (json.loads(entry)["request_id"], json.loads(entry)["trace_id"]) == ("a-1", trace.trace_id)
        assert human.endswith(f"odd [request id: a-1, trace id: {trace.trace_id}]")
        assert json.loads(after).keys() == {"time", "level", "logger", "message"}

    copy_context().run(main)


def test_an_id_may_be_known_to_the_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    logged("human", request_id="own-1")
    logged("json", request_id="own-1")
    human, entry = lines(capsys)
    assert human.endswith("odd [request id: own-1]")
    assert json.loads(entry)["request_id"] == "own-1" and "trace_id" not in json.loads(entry)
