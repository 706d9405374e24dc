"""Variants of a model, trained one after the other; those that are done are not trained again when a survey resumes."""

import csv
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from trainers.contract import DivergenceError
from trainers.run import Run

DONE = "result.json"

Variant = TypeVar("Variant")
Result = Mapping[str, Any]


def compare(
    run: Run, variants: Mapping[str, Variant], train: Callable[[Run, Variant], dict[str, Any]]
) -> dict[str, Result]:
    """By name of the variant what `train` returned for it, with `cpu_s`, the processor's seconds that it took.

    Each is trained in a part of the run that has its name. What it returned is kept there (so it has to be JSON), and a
    resumed survey reads it. A variant that ends in numbers that are none has the result {"diverged": when}.

    Raises:
        TrainingError: of another kind.
    """
    results: dict[str, Result] = {}
    console = Console()
    for number, (name, variant) in enumerate(variants.items(), start=1):
        part = run.part(name, bar=False)
        done = part.path(DONE)
        if not (run.options.resume and done.exists()):
            began = time.process_time()
            try:
                result = train(part, variant)
            except DivergenceError as error:
                result = {"diverged": str(error).partition(":")[0]}
            result["cpu_s"] = round(time.process_time() - began, 2)
            _write(done, result)
        results[name] = json.loads(done.read_text(encoding="utf-8"))
        shown = "  ".join(f"{key} {_short(value)}" for key, value in results[name].items() if not _is_long(value))
        console.print(f"{number}/{len(variants)} {name}: {shown}", highlight=False)
    return results


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """A table with the first row's columns; what a row has not is empty, and what is not a column is left out."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write(path: Path, result: Result) -> None:
    """Whole or not at all."""
    new = path.with_name(f".{path.name}")
    new.write_text(json.dumps(result) + "\n", encoding="utf-8")
    new.replace(path)


def _is_long(value: Any) -> bool:
    return isinstance(value, (list, dict))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
