"""`serving explain`: what the batcher of a model did and why, and what would help, as a running server tells it."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from serving.cli.describe import fail
from serving.client import ClientError, Operator, Where

_BAR = 24  # columns
_ENDLESS = 10_000  # columns of what is no terminal


def run(url: Where, model: str, version: str, as_json: bool) -> int:
    try:
        told = Operator(url).explain(model, version)
    except ClientError as error:
        return fail(str(error))
    if as_json:
        print(json.dumps(told, ensure_ascii=False))
    else:
        terminal = sys.stdout.isatty()
        Console(highlight=False, markup=False, width=None if terminal else _ENDLESS).print(page(told))
    return 0


def page(told: Mapping[str, Any]) -> Group:
    """What there is to say, then the figures as bars.

    Args:
        told: as the server gives it.
    """
    parts: list[RenderableType] = [Text(f"{told['model']}/{told['version']}", "bold")]
    parts += [_item(text) for text in told["sentences"]]
    if told["advice"]:
        parts += [Text(), Text("advice", "bold green"), *(_item(text) for text in told["advice"])]
    recent = told["recent"]
    figures = recent if recent["runs"] else told["total"]
    if figures["runs"]:
        parts += [Text(), _bars("runs by rows", _sizes(figures))]
    if told["estimated_run_ms"]:
        most = max(told["estimated_run_ms"].values())
        costs = ((rows, took / most, f"{took:.3g} ms") for rows, took in told["estimated_run_ms"].items())
        parts += [Text(), _bars("what a run takes, by rows", costs)]
    return Group(*parts)


def _item(text: str) -> Padding:
    return Padding(Text(text), (0, 0, 0, 2), expand=False)


def _sizes(figures: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """`1`, `2`, `3-4`, `5-8`, ... with the share of the runs."""
    most = max(figures["sizes"].values())
    for size, runs in figures["sizes"].items():
        low = int(size) // 2 + 1
        yield size if low >= int(size) else f"{low}-{size}", runs / most, f"{runs:,}"


def _bars(title: str, rows: Iterator[tuple[str, float, str]]) -> Group:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column(width=_BAR)
    table.add_column(justify="right")
    for name, share, value in rows:
        table.add_row(name, Text("━" * max(1, round(share * _BAR)), "cyan"), value)
    return Group(Text(title, "bold"), Padding(table, (0, 0, 0, 2), expand=False))
