"""The command for memory: what a server's process keeps of a large model that was loaded and unloaded many times.

    python -m loadtests.memory [--cycles 50] [--quick] [--only onnx,onnx-fine,accelerated,tensorflow] [--json FILE]

For each kind of the large model (heavy.py, 102 MB of weights; `onnx-fine`: 105 MB in 1600 small tensors) a server on
free loopback ports serves a small one in the same runtime. Then the cycles go on: the large model is loaded, asked
twice, and unloaded, all through the protocol; the process's resident memory is read with the model loaded, and when
the server says that it is gone. The figure to look at is what is left after the last cycle over what there was before
the first (`kept`); at most 20 MB are wanted where ONNX Runtime runs the model.

A kind is void, and the exit code 1, when a step fails or the model is not served in the runtime that its kind names.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

from loadtests import cycles
from loadtests.command import environment
from loadtests.memory_measure import KINDS, Cycles, measure

ORDER = ("onnx", "onnx-fine", "accelerated", "tensorflow")
COLUMNS = ("large model", "cycles", "began", "loaded", "1st", "last", "most", "kept", "per cycle", "load s")


def table(found: Sequence[Cycles]) -> Table:
    """One line for each kind; a void one says so."""
    result = Table(title="Resident memory of the server's process in MB, with a large model loaded and gone again")
    for index, column in enumerate(COLUMNS):
        result.add_column(column, justify="right" if index else "left", no_wrap=True)
    for one in found:
        if one.failure is not None:
            result.add_row(one.kind, str(len(one.left)), Text("void", style="red"))
            continue
        result.add_row(
            one.kind,
            str(len(one.left)),
            f"{one.began / 1e6:.0f}",
            f"{max(one.loaded) / 1e6:.0f}",
            f"{one.left[0] / 1e6:.0f}",
            f"{one.left[-1] / 1e6:.0f}",
            f"{max(one.left) / 1e6:.0f}",
            f"{kept(one) / 1e6:.1f}",
            f"{growth(one) / 1e6:.2f}",
            f"{median(one.load_s):.2f}",
        )
    return result


def kept(one: Cycles) -> int:
    """Bytes that are left after the last cycle, over those before the first."""
    return one.left[-1] - one.began


def growth(one: Cycles) -> float:
    """Bytes by which a cycle raises what is left: the slope of the line through all but the first, in which what is
    made once is made. By Theil and Sen: the median of the slopes between all pairs, so that one odd cycle does not
    count."""
    left = one.left[1:]
    slopes = [(left[j] - left[i]) / (j - i) for i in range(len(left)) for j in range(i + 1, len(left))]
    return median(slopes) if slopes else 0.0


def document(found: Sequence[Cycles], environment: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain data."""
    figures = [{} if one.failure else {"kept": kept(one), "growth": growth(one)} for one in found]
    return {
        "environment": environment,
        "kinds": [{**asdict(one), **each} for one, each in zip(found, figures, strict=True)],
    }


def arguments() -> argparse.ArgumentParser:
    description = "What a server's process keeps of a large model that was loaded and unloaded many times."
    steps = "loads and unloads"
    return cycles.parser("loadtests.memory", description, cycles=50, quick=5, steps=steps, known=KINDS, order=ORDER)


def main() -> int:
    options = arguments().parse_args()
    server = tuple(options.server)
    return cycles.run(
        options,
        lambda kind, files, say: measure(kind, options.cycles, server, files, say),
        table,
        lambda found: document(found, environment({"cycles": options.cycles, "server": server})),
    )


if __name__ == "__main__":
    sys.exit(main())
