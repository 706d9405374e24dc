"""The dashboard as a picture: what Grafana would show, drawn from the same answers. Pure, apart from the file."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from loadtests.monitor.dashboard import Answer

_ACROSS, _STATS_ACROSS = 3, 8  # panels beside each other, as in Grafana
_FINE = 24
_MOST = 10  # series of one panel that are named
_SECONDS_A_DAY = 86400


def draw(
    path: Path, answers: Sequence[Answer], start_s: float, spans: Sequence[tuple[float, float]], title: str
) -> None:
    """
    Args:
        start_s: where the time axis begins.
        spans: when incidents were under way.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [(row, panels(list(some))) for row, some in groupby(answers, key=lambda answer: answer.question.row)]
    heights = [height for _, of_row in rows for height in (0.25, *[_height(of_row)] * _lines(of_row))]
    figure = pyplot.figure(figsize=(18, 2.5 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), _FINE, height_ratios=heights)
    figure.suptitle(title, fontsize=11)
    at = 0
    for name, of_row in rows:
        heading = figure.add_subplot(grid[at, :])
        heading.axis("off")
        heading.text(0, 0.5, name, fontsize=12, weight="bold", va="center")
        at += 1
        across = _per_line(of_row)
        wide = _FINE // across
        for number, panel in enumerate(of_row):
            line, column = divmod(number, across)
            axes = figure.add_subplot(grid[at + line, wide * column : wide * (column + 1)])
            {"stat": _stat, "table": _table}.get(panel[0].question.kind, _lines_of)(axes, panel, start_s, spans)
            axes.set_title(panel[0].question.panel, fontsize=9, loc="left")
        at += _lines(of_row)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)
    pyplot.close(figure)


def panels(answers: Sequence[Answer]) -> list[list[Answer]]:
    return [list(some) for _, some in groupby(answers, key=lambda answer: answer.question.panel)]


def _small(of_row: Sequence[Sequence[Answer]]) -> bool:
    return all(panel[0].question.kind == "stat" for panel in of_row)


def _height(of_row: Sequence[Sequence[Answer]]) -> float:
    return 0.4 if _small(of_row) else 1.0


def _lines(of_row: Sequence[Sequence[Answer]]) -> int:
    return -(-len(of_row) // _per_line(of_row))


def _per_line(of_row: Sequence[Sequence[Answer]]) -> int:
    return _STATS_ACROSS if _small(of_row) else _ACROSS


def legend(template: str, labels: Mapping[str, str]) -> str:
    """As Grafana fills a legend's `{{label}}`."""
    if template == "__auto":
        return ", ".join(f"{name}={value}" for name, value in labels.items() if name != "__name__")
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), template)


def worded(value: float, unit: str) -> str:
    """A value with its unit, as short as can be."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        if value >= 2 * _SECONDS_A_DAY:
            return f"{value / _SECONDS_A_DAY:.3g} d"
        return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.4g} MiB"
    return f"{value:.3g}{ {'reqps': '/s', 'ops': '/s', 'cps': '/s'}.get(unit, '') }"


def _stat(axes: Any, panel: Sequence[Answer], start_s: float, spans: Sequence[tuple[float, float]]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    values = [series.values for answer in panel for series in answer.series if series.values]
    text = worded(values[0][-1][1], panel[0].question.unit) if values else "no data"
    axes.text(0.5, 0.5, text, fontsize=15, ha="center", va="center", transform=axes.transAxes)


def _table(axes: Any, panel: Sequence[Answer], start_s: float, spans: Sequence[tuple[float, float]]) -> None:
    axes.axis("off")
    columns = ("model", "version", "state")
    last = max((values[-1][0] for answer in panel for s in answer.series if (values := s.values)), default=0.0)
    cells = sorted(
        [[series.labels.get(column, "") for column in columns] for answer in panel for series in answer.series
         if series.values and series.values[-1][0] == last]
    )  # fmt: skip
    for number, row in enumerate([columns, *cells]):
        for column, text in enumerate(row):
            weight = "normal" if number else "bold"
            axes.text(0.35 * column, 1 - 0.09 * (number + 1), text, fontsize=7, weight=weight, transform=axes.transAxes)


def _lines_of(axes: Any, panel: Sequence[Answer], start_s: float, spans: Sequence[tuple[float, float]]) -> None:
    for start, end in spans:
        axes.axvspan(start - start_s, end - start_s, color="tab:red", alpha=0.07, linewidth=0)
    unit, number = panel[0].question.unit, 0
    if panel[0].question.stacked:
        number = _stack(axes, panel[0], start_s)
    else:
        for answer in panel:
            for series in answer.series:
                times = [at - start_s for at, _ in series.values]
                label = legend(answer.question.legend, series.labels) if number < _MOST else None
                axes.plot(times, [value for _, value in series.values], linewidth=0.9, label=label)
                number += 1
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=7)
    axes.yaxis.set_major_formatter(lambda value, _: worded(value, unit))
    axes.set_ylim(bottom=0)
    if number:
        axes.legend(fontsize=6, loc="upper right", ncols=2, framealpha=0.5)
    else:
        axes.text(0.5, 0.5, "no data", fontsize=9, ha="center", va="center", transform=axes.transAxes, color="grey")
        axes.set_yticks([])


def _stack(axes: Any, answer: Answer, start_s: float) -> int:
    """Areas on one another; a series is 0 where it has no value. How many there were."""
    times = sorted({at for series in answer.series for at, _ in series.values})
    rows = [[dict(series.values).get(at, 0.0) for at in times] for series in answer.series]
    names = [legend(answer.question.legend, series.labels) for series in answer.series]
    if rows:
        labels = [name if number < _MOST else "_" for number, name in enumerate(names)]
        axes.stackplot([at - start_s for at in times], rows, labels=labels, linewidth=0, alpha=0.75)
    return len(rows)
