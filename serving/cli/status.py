"""`serving status`: how the models of a running server stand, once or again and again."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from serving.cli.describe import fail, seconds, size
from serving.client import ClientError, Operator, Where

_PERIOD_S = 1.0
_ENDLESS = 10_000  # columns of what is no terminal: programs want each thing on one line
_TITLES = ("model", "version", "state", "share", "label", "memory", "requests", "errors")
_RIGHT = {1, 3, 5, 6, 7}  # columns of numbers
_COLOURS = {"READY": "green", "FAILED": "bold red", "ON_DISK": "dim", "END": "dim"}
_OUTCOMES = ("same", "different", "failed", "dropped")  # of a request's copy
_GAP = "  "
_LIMITS = {"error_rate": "error rate", "latency_ratio": "latency ratio", "different_rate": "rate of differences"}

Model = Mapping[str, Any]  # as the server describes it


def run(url: Where, model: str, watch: bool, as_json: bool) -> int:
    terminal = sys.stdout.isatty()
    if watch and (as_json or not terminal):
        return fail("--watch is for a terminal" + (", and without --json" if as_json else ""))
    try:
        server = Operator(url)
        if watch:
            return _watch(server, model)
        found = _ask(server, model)
    except ClientError as error:
        return fail(str(error))
    if as_json:
        print(json.dumps(found[0] if model else {"models": found}, ensure_ascii=False))
    else:
        _console(terminal).print(table(found))
    return 0


def _ask(server: Operator, model: str) -> list[dict[str, Any]]:
    return [server.model(model)] if model else server.models()


def _console(terminal: bool = True) -> Console:
    return Console(highlight=False, markup=False, width=None if terminal else _ENDLESS)


def _watch(server: Operator, model: str) -> int:
    """Until Ctrl-C. A server that goes away may come back."""
    shown: Group | Text = table(_ask(server, model))
    try:
        with Live(shown, console=_console(), auto_refresh=False) as live:
            while True:
                time.sleep(_PERIOD_S)
                try:
                    shown = table(_ask(server, model))
                except ClientError as error:
                    shown = Text(str(error), "bold red")
                live.update(shown, refresh=True)
    except KeyboardInterrupt:
        return 0


def table(models: Sequence[Model]) -> Group:
    """A line for each version, and below it what there is to say of it. That is not a column, so that a terminal of 80
    characters is wide enough."""
    if not models:
        return Group(Text("the server has no models"))
    blocks = [list(_rows(model)) for model in models]
    cells = [_TITLES, *(row for rows in blocks for row, _, _ in rows)]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(len(_TITLES))]
    lines: list[Any] = [Text(_line(_TITLES, widths), "bold")]
    for model, rows in zip(models, blocks, strict=True):
        for row, colour, notes in rows:
            line = Text(_line(row, widths))
            start = len(_line(row[:2], widths[:2]) + _GAP)
            line.stylize(colour, start, start + len(row[2]))
            lines += [line, *(_indented(note, "red" if colour == "bold red" else "dim") for note in notes)]
        lines += [_indented(note) for note in _notes(model)]
    return Group(*lines)


def _indented(text: str, style: str = "dim") -> Padding:
    return Padding(Text(text, style), (0, 0, 0, 4), expand=False)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = []
    for i, (text, width) in enumerate(zip(row, widths, strict=True)):
        blank = " " * (width - cell_len(text))
        cells.append(blank + text if i in _RIGHT else text + blank)
    return _GAP.join(cells).rstrip()


def _rows(model: Model) -> Iterator[tuple[tuple[str, ...], str, list[str]]]:
    """Cells, the state's colour, and notes for each version; one line for a model without any."""
    name = model["name"]
    for version in model["versions"]:
        number, state = str(version["number"]), version["state"]
        serves = state == "READY"
        share = model["shares"].get(number, 0)
        cells = (
            name,
            number,
            state.replace("_", " ").lower() if state == "ON_DISK" else state,
            f"{share:.3g} %" if serves else "",
            " ".join(label for label, of in sorted(model["labels"].items()) if of == version["number"]),
            "" if version["memory_bytes"] is None else size(version["memory_bytes"]),
            str(version["requests"]) if serves else "",
            str(version["failures"]) if serves else "",
        )
        yield cells, _COLOURS.get(state, "yellow"), list(_version_notes(version))
        name = ""
    if not model["versions"]:
        yield (name, *[""] * (len(_TITLES) - 1)), "", ["it has no versions"]


def _version_notes(version: Mapping[str, Any]) -> Iterator[str]:
    if version["reason"]:
        again = "" if version["retry_in_s"] is None else f" (tried again in {seconds(version['retry_in_s'])})"
        yield version["reason"] + again
    if version["queued_rows"]:
        yield f"{version['queued_rows']} rows are waiting"
    if (shadow := version["shadow"]) and any(shadow[key] for key in _OUTCOMES):
        outcomes = ", ".join(f"{shadow[key]} {key}" for key in _OUTCOMES)
        yield f"shadow: {outcomes}; outputs differ by up to {shadow['largest_absolute']:.3g}"


def _notes(model: Model) -> Iterator[str]:
    if model["settings_error"] and model["settings_error"] not in {version["reason"] for version in model["versions"]}:
        yield f"settings that count are the last good ones: {model['settings_error']}"
    yield from model["warnings"]
    if model["kept_out"]:
        yield "unloaded by hand"
    if model["asleep"]:
        yield "asleep: loads on the next request"
    ready = {version["number"] for version in model["versions"] if version["state"] == "READY"}
    for label, number in sorted(model["labels"].items()):
        if number not in ready:
            yield f"label {label}: version {number} is not ready"
    traffic = model["traffic"] or {}
    if "sticky" in traffic:
        yield f"sticky by {traffic['sticky']}"
    if "shadow" in traffic:
        yield f"copies of {traffic['shadow']['percent']:g} % of the requests go to {traffic['shadow']['to']}"
    if "limits" in traffic:
        limits = [f"{_LIMITS[name]} {value:g}" for name, value in traffic["limits"].items() if name in _LIMITS]
        yield f"rolled back beyond {', '.join(limits) or 'no limit'}, over {traffic['limits']['requests']} requests"
