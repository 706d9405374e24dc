"""The table of `serving status`, as it looks in terminals of several widths."""

from typing import Any

import pytest
from rich.console import Console

from serving.cli.describe import event, seconds, shares, size
from serving.cli.status import table


def version(number: int, state: str = "READY", **more: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "reason": "",
        "trying": False,
        "quarantined": False,
        "retry_in_s": None,
        "memory_bytes": None,
        "load_s": None,
    }
    plain |= {"requests": 0, "failures": 0, "in_flight": 0, "queued_rows": 0, "shadow": None, "notes": {}}
    return {"number": number, "state": state, **plain, **more}


def model(name: str, *versions: dict[str, Any], **more: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"path": "", "settings_file": "", "settings_error": "", "kept_out": False, "asleep": False}
    plain |= {"labels": {}, "shares": {}, "default": None, "before": [], "traffic": None, "warnings": []}
    return {"name": name, "versions": list(versions), **plain, **more}


def shown(*models: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as caught:
        console.print(table(models))
    lines = caught.get().splitlines()
    assert all(len(line) <= width for line in lines)
    return [line.rstrip() for line in lines]


def test_versions_stand_in_lines_of_80_characters() -> None:
    digits = model(
        "digits",
        version(2, memory_bytes=12_600_000, requests=1034),
        version(3, memory_bytes=103_000_000, requests=54, failures=1),
        shares={"2": 95.0, "3": 5.0},
        labels={"stable": 2, "canary": 3},
    )
    assert shown(digits) == [
        "model   version  state  share  label   memory  requests  errors",
        "digits        2  READY   95 %  stable   13 MB      1034       0",
        "              3  READY    5 %  canary  103 MB        54       1",
    ]


def test_a_version_that_takes_nothing() -> None:
    (line,) = shown(model("m", version(1, "ON_DISK"), version(2), shares={"2": 100.0}))[1:2]
    assert line.split() == ["m", "1", "on", "disk"]


def test_what_is_wrong_stands_below_and_is_broken_where_the_terminal_ends() -> None:
    reason = "quarantined: the model does not reproduce its golden sample: " + "'y' differs, " * 10
    lines = shown(model("m", version(4, "FAILED", reason=reason.strip(), retry_in_s=12.3)), width=70)
    assert lines[1].split() == ["m", "4", "FAILED"]
    assert len(lines) > 4 and all(line.startswith("    ") for line in lines[2:])
    assert " ".join(line.strip() for line in lines[2:]).endswith("'y' differs, (tried again in 12 s)")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"kept_out": True}, "unloaded by hand"),
        ({"asleep": True}, "asleep: loads on the next request"),
        ({"settings_error": "unknown key 'x'"}, "settings that count are the last good ones: unknown key 'x'"),
        ({"labels": {"canary": 7}}, "label canary: version 7 is not ready"),
        ({"traffic": {"weights": {}, "sticky": "x-user"}}, "sticky by x-user"),
        ({"traffic": {"shadow": {"to": "2", "percent": 10.0}}}, "copies of 10 % of the requests go to 2"),
        (
            {"traffic": {"limits": {"requests": 100, "error_rate": 0.05}}},
            "rolled back beyond error rate 0.05, over 100 requests",
        ),
        ({"warnings": ["config.pbtxt: no response_cache here"]}, "config.pbtxt: no response_cache here"),
    ],
)
def test_what_there_is_to_say_of_a_model(more: dict[str, Any], says: str) -> None:
    assert f"    {says}" in shown(model("m", version(1), **more))


def test_what_came_of_copies() -> None:
    shadow = {"same": 7, "different": 2, "failed": 1, "dropped": 0, "largest_absolute": 0.25, "largest_relative": 1.0}
    lines = shown(model("m", version(1, shadow=shadow)), width=120)
    assert lines[2] == "    shadow: 7 same, 2 different, 1 failed, 0 dropped; outputs differ by up to 0.25"


def test_names_are_no_markup() -> None:
    name = "[bold]m[/]"
    assert shown(model(name, version(1, "FAILED", reason=f"{name} [red]")))[1:] == [
        f"{name}        1  FAILED",
        f"    {name} [red]",
    ]


def test_wide_characters_take_two_columns() -> None:
    lines = shown(model("数字", version(1, "FAILED")), model("m", version(12, "FAILED")))
    assert lines[1:] == ["数字         1  FAILED", "m           12  FAILED"]


def test_no_models() -> None:
    assert shown() == ["the server has no models"]
    assert shown(model("m"))[1:] == ["m", "    it has no versions"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 kB"), (640_000, "640 kB"), (1_900_000, "1.9 MB"), (103_400_000, "103 MB"), (2.1e9, "2.1 GB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("value", "text"), [(0.046, "0.05 s"), (1.23, "1.2 s"), (75.4, "75 s")])
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "m: nothing is served"),
        ({"asleep": True}, "m: nothing is served until the next request"),
        ({"shares": {"2": 100.0}}, "m: version 2 takes all requests"),
        (
            {"shares": {"2": 5.0, "1": 95.0}, "labels": {"stable": 1, "canary": 2}},
            "m: version 1 takes 95 %, version 2 takes 5 %; canary is 2, stable is 1",
        ),
    ],
)
def test_shares(more: dict[str, Any], text: str) -> None:
    assert shares(model("m", **more)) == text


@pytest.mark.parametrize(
    ("model_name", "number", "kind", "text", "line"),
    [
        ("m", 2, "ready", "in 1.2 s", "m/2 ready: in 1.2 s"),
        ("m", None, "traffic", "1 95, 2 5", "m traffic: 1 95, 2 5"),
        ("", None, "repository", "it is empty", "repository: it is empty"),
        ("[b]", 1, "rolled_back", "", "[b]/1 rolled back"),
    ],
)
def test_events(model_name: str, number: int | None, kind: str, text: str, line: str) -> None:
    assert event({"model": model_name, "version": number, "kind": kind, "text": text}).plain == line
