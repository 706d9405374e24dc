"""Pictures that are written beside a run, all in one style. Draws into files, never into a window.

Without pyplot, whose way of showing figures belongs to the program that imports this, such as a notebook.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

# Told apart by people who do not see all colours, and on grey paper by the line styles that go with them.
COLOURS = ("#0b6bcb", "#d9480f", "#2b8a3e", "#862e9c", "#b08800", "#0c8599", "#495057")
LINES = ("-", "--", "-.", ":")
_STYLE = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@contextmanager
def figure(path: Path, rows: int = 1, columns: int = 1, *, width: float = 6.4, height: float = 4.0) -> Iterator[Any]:
    """Axes to draw on, or an array of them (always 2-d where there is more than one); saved as a PNG in the end.

    Args:
        width, height: of one pair of axes, in inches.
    """
    with mpl.rc_context(_STYLE):
        canvas = Figure(figsize=(width * columns, height * rows))
        axes = canvas.subplots(rows, columns, squeeze=False)
        yield axes if rows * columns > 1 else axes[0, 0]
        canvas.savefig(path)


def curves(
    path: Path,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x: str = "step",
    y: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """A picture of curves: by name, their x and y values."""
    with figure(path) as axes:
        for index, (name, (xs, ys)) in enumerate(lines.items()):
            style = LINES[index // len(COLOURS) % len(LINES)]
            axes.plot(xs, ys, style, label=name, marker="o" if len(xs) == 1 else None)
        axes.set(title=title, xlabel=x, ylabel=y)
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        if len(lines) > 1:
            axes.legend()


def pictures(path: Path, images: Any, *, title: str, columns: int = 8, names: Sequence[str] = ()) -> None:
    """A table of pictures [pictures, height, width] or [.., 3], each with the greys or colours that it has."""
    rows = -(-len(images) // columns)
    with mpl.rc_context(_STYLE | {"axes.grid": False}):
        canvas = Figure(figsize=(columns * 1.0, rows * 1.15 + 0.4))
        axes = canvas.subplots(rows, columns, squeeze=False)
        canvas.suptitle(title, x=0.01, ha="left")
        for place in axes.flat:
            place.axis("off")
        for index, (image, place) in enumerate(zip(images, axes.flat, strict=False)):
            place.imshow(image, cmap="gray")
            if index < len(names):
                place.set_title(names[index], fontsize=7, loc="center")
        canvas.savefig(path)
