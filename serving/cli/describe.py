"""How the command line words things."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from serving.core.types import TensorSpec
from serving.core.validate import Contract


def fail(message: str) -> int:
    """Prints one line for the user and returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return 1


def tensors(specs: Iterable[TensorSpec]) -> str:
    """Such as `x FP32 [-1, 64], mask BOOL [-1]`."""
    return ", ".join(f"{s.name} {s.dtype.name} {shape(s)}" for s in specs)


def shape(spec: TensorSpec) -> str:
    return "[...]" if spec.shape is None else str(list(spec.shape))


def batching(contract: Contract) -> str:
    if contract.max_batch_size:
        return f"batches of up to {contract.max_batch_size} rows"
    return f"one request at a time ({contract.unbatched_because})"


def size(count: int) -> str:
    """Of bytes: `640 kB`, `1.9 MB`, `103 MB`, `2.1 GB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.{0 if unit == 'MB' and count >= 1e7 else 1}f} {unit}"
    return f"{count / 1e3:.0f} kB"


def seconds(value: float) -> str:
    """`0.35 s`, `1.2 s`, `75 s`."""
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def event(one: Mapping[str, Any]) -> Text:
    """What has happened, as `Operator.events` gives it: `digits/2 ready: in 1.2 s`."""
    version = "" if one["version"] is None else f"/{one['version']}"
    kind = one["kind"].replace("_", " ")
    named = [(f"{one['model']}{version} ", "bold")] if one["model"] else []
    return Text.assemble(*named, (kind, _COLOURS.get(one["kind"], "")), f": {one['text']}" if one["text"] else "")


_COLOURS = {"ready": "green", "awake": "green", "promoted": "green"}
_COLOURS |= dict.fromkeys(("failed", "quarantined", "refused", "rolled_back", "repository"), "bold red")


def shares(model: Mapping[str, Any]) -> str:
    """Who takes the requests of a model, as `Operator.model` gives it, and which versions have labels."""
    taken = sorted(model["shares"].items(), key=lambda item: -item[1])
    if not taken:
        text = "nothing is served" + (" until the next request" if model["asleep"] else "")
    elif len(taken) == 1:
        text = f"version {taken[0][0]} takes all requests"
    else:
        text = ", ".join(f"version {number} takes {percent:g} %" for number, percent in taken)
    labels = ", ".join(f"{label} is {number}" for label, number in sorted(model["labels"].items()))
    return f"{model['name']}: {text}" + (f"; {labels}" if labels else "")
