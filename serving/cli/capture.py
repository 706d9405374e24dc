"""`serving capture show`: what a directory of captured requests holds."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from serving.capture import segments
from serving.capture.record import Record
from serving.capture.segments import Damage
from serving.cli.describe import fail, size
from serving.core import dtypes
from serving.core.types import Tensors


@dataclass
class Summary:
    """Of the records of one model. Times are seconds since the epoch."""

    model: str
    records: int = 0
    failed: int = 0
    rows: int = 0
    tensor_bytes: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    versions: list[int] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list, repr=False)

    def add(self, record: Record) -> None:
        self.first_at = min(self.first_at, record.at) if self.records else record.at
        self.last_at = max(self.last_at, record.at)
        self.records += 1
        self.failed += bool(record.error)
        self.rows += record.rows
        self.tensor_bytes += sum(array.nbytes for array in (*record.inputs.values(), *record.answer.values()))
        self.took_s.append(record.took_s)
        if record.answered_by and record.answered_by not in self.versions:
            self.versions.append(record.answered_by)
        if record.protocol not in self.protocols:
            self.protocols.append(record.protocol)

    def quantile_ms(self, percent: float) -> float:
        return float(np.percentile(self.took_s, percent)) * 1e3


def show(path: Path, model: str, each: bool, trace: Path | None, as_json: bool) -> int:
    """
    Args:
        model: whose records; "": all.
        each: a line for each record, instead of one for each model.
        trace: file for the arrivals, as JSON lines that `loadtests.simulate` reads.
    """
    damage = Damage()
    try:
        chosen = (pair for pair in enumerate(segments.read(path, damage), 1) if model in ("", pair[1].model))
        if trace is not None:
            records = sorted((record for _, record in chosen), key=lambda record: record.at)
            with trace.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in _arrivals(records))
            print(f"{len(records)} arrivals in {trace}")
        elif each:
            found = False
            for number, record in chosen:
                found = True
                print(json.dumps({"number": number, **about(record)}) if as_json else _line(number, record))
            if not found:
                return _nothing(path, model)
        else:
            summaries: dict[str, Summary] = {}
            for _, record in chosen:
                summaries.setdefault(record.model, Summary(record.model)).add(record)
            if not summaries:
                return _nothing(path, model)
            _print([summaries[name] for name in sorted(summaries)], damage, as_json)
    except OSError as error:
        return fail(f"'{error.filename or path}': {error.strerror}")
    if damage.places:
        print(f"{damage.places} damaged places were passed over ({damage.bytes} bytes)", file=sys.stderr)
    return 0


def _nothing(path: Path, model: str) -> int:
    return fail(f"there is no request{f' for {model}' if model else ''} in '{path}'")


def about(record: Record) -> dict[str, Any]:
    """A record without the values of its tensors."""
    value = {name: each for name, each in vars(record).items() if name not in ("inputs", "answer")}
    return {**value, "inputs": _shapes(record.inputs), "answer": _shapes(record.answer)}


def _shapes(arrays: Tensors) -> dict[str, str]:
    return {name: f"{dtypes.BY_NUMPY[array.dtype].name} {list(array.shape)}" for name, array in arrays.items()}


def _line(number: int, record: Record) -> str:
    when = datetime.fromtimestamp(record.at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    asked = f"/{record.version}" if record.version is not None else ""
    inputs = ", ".join(f"{name} {what}" for name, what in _shapes(record.inputs).items())
    outcome = f"failed: {record.error}" if record.error else f"version {record.answered_by}"
    took = f"{record.took_s * 1e3:.1f} ms"
    return "  ".join((f"{number:>6}", when, record.protocol, f"{record.model}{asked}", inputs, outcome, took))


def _arrivals(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    first: float | None = None
    for record in records:
        first = record.at if first is None else first
        timeout_us = record.parameters.get("timeout")
        yield {
            "at_s": record.at - first,
            "rows": record.rows,
            "lane": record.lane,
            "timeout_s": timeout_us / 1e6 if isinstance(timeout_us, int) and timeout_us else None,
            "priority": record.parameters.get("priority", 0),
        }


def _print(summaries: list[Summary], damage: Damage, as_json: bool) -> None:
    if as_json:
        models = []
        for summary in summaries:
            value = asdict(summary)
            del value["took_s"]
            models.append({**value, "p50_ms": summary.quantile_ms(50), "p99_ms": summary.quantile_ms(99)})
        print(json.dumps({"models": models, "damaged": asdict(damage)}, ensure_ascii=False, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for title in ("requests", "failed", "rows", "tensors", "p50 ms", "p99 ms"):
        table.add_column(title, justify="right")
    for title in ("from", "to", "versions", "protocols"):
        table.add_column(title, overflow="fold")
    for summary in summaries:
        moments = (datetime.fromtimestamp(at, UTC) for at in (summary.first_at, summary.last_at))
        table.add_row(
            summary.model,
            *map(str, (summary.records, summary.failed, summary.rows)),
            size(summary.tensor_bytes),
            *(f"{summary.quantile_ms(percent):.1f}" for percent in (50, 99)),
            *(f"{moment:%Y-%m-%d %H:%M:%S}" for moment in moments),
            ", ".join(map(str, sorted(summary.versions))),
            ", ".join(sorted(summary.protocols)),
        )
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200).print(table)
