"""The comparison as a picture: CPU time per request and requests per second, a panel for each form.

Needs matplotlib, which is imported only when a picture is drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.compare.report import Row, Summary, summary
from loadtests.compare.servers import FORMS, OURS, SERVERS, TRITON

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {OURS: "#c8442d", TRITON: "#4b8b3b"}
PEER_COLOUR = "#8296b0"


def draw(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Write a PNG. Void rows are left out; forms without rows have no panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {}
    for form, title in FORMS.items():
        found = [(row.server, summary(row, rows)) for row in rows if row.form == form]
        if known := {server: one for server, one in found if one is not None}:
            panels[title] = known
    if not panels:
        return
    height = 0.9 + 0.27 * max(map(len, panels.values()))
    figure = Figure(figsize=(4.6 * len(panels) + 0.6, 2 * height + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(panels), squeeze=False)
    for column, (title, shown) in enumerate(panels.items()):
        _bars(axes[0][column], shown, "cpu_us", f"{title}: server CPU, µs per request (less is better)")
        _bars(axes[1][column], shown, "requests_per_s", f"{title}: requests per second (more is better)")
    figure.supxlabel(caption, fontsize=8, color="#555555")
    figure.savefig(path, dpi=130)


def _bars(axes: "Axes", found: dict[str, Summary], name: str, title: str) -> None:
    servers = list(found)
    spreads = [getattr(found[server], name) for server in servers]
    values = [spread.median for spread in spreads]
    colours = [COLOURS.get(server, PEER_COLOUR) for server in servers]
    places = range(len(servers))
    lows, highs = [one.low for one in spreads], [one.high for one in spreads]
    left = min(lows) / 2
    # Dots, not bars: a logarithmic axis has no zero for a bar to begin at.
    axes.hlines(places, left, values, color="#dddddd", linewidth=1, zorder=1)
    axes.hlines(places, lows, highs, color=colours, linewidth=3, zorder=2)
    axes.scatter(values, places, c=colours, s=55, zorder=3)
    for place, value, spread in zip(places, values, spreads, strict=True):
        axes.annotate(
            f"{value:,.0f}", (spread.high, place), (9, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, [SERVERS[server].title for server in servers])
    axes.set_xscale("log")
    axes.set_xlim(left, max(highs) * 3)
    axes.set_ylim(-0.6, len(servers) - 0.4)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
