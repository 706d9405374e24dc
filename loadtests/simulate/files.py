"""Traces as files: CSV and JSON lines, and what a server's `--trace-file` holds, which is read only.

A line of CSV has the columns of FIELDS, of which only `at_s` is needed; an object of JSON lines has them as keys. Lane
`null` (in CSV the word): the request runs alone.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from serving.batching.simulation.latency import Measured
from serving.batching.simulation.replay import Request

FIELDS = tuple(field.name for field in fields(Request))
_ALONE = "null"
# How far the requests of one run may differ: it took them as long but for rounding, and began for them at the same time
# but for what each one needed from being decoded until it was queued.
_TOOK_NS = 5
_BEGAN_NS = 1_000_000


class TraceError(ValueError):
    """A file that is no trace; the message is one line that names it."""


@dataclass(frozen=True)
class Recording:
    """What a file holds: the trace, in order of arrival.

    Of a server's trace also `latencies_s`, from entering the queue to the end of the run, and `latency`, how long runs
    took by their rows.
    """

    trace: tuple[Request, ...]
    latencies_s: tuple[float, ...] = ()
    latency: Measured | None = None


def write(path: Path, trace: Iterable[Request]) -> None:
    """As CSV where the name ends so, otherwise as JSON lines."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix != ".csv":
            file.writelines(json.dumps(asdict(request)) + "\n" for request in trace)
            return
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for request in trace:
            values = asdict(request)
            writer.writerow(values | {"lane": _ALONE if request.lane is None else request.lane})


def read(path: Path, rows: int = 1, model: str = "") -> Recording:
    """Reads any of the three, told apart by how the file begins.

    Args:
        rows: of each request in a server's trace, which does not say.
        model: whose requests are taken of a server's trace; "": there is only one.

    Raises:
        TraceError, OSError
    """
    text = path.read_text(encoding="utf-8")
    begin = text.lstrip()[:1]
    try:
        if begin == "[":
            return _of_server(json.loads(text), rows, model)
        lines: Iterable[Mapping[str, Any]]
        lines = (json.loads(x) for x in text.splitlines() if x) if begin == "{" else _csv(text)
        return Recording(tuple(sorted((_request(line) for line in lines), key=lambda r: r.at_s)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise TraceError(f"{path} is no trace: {reason}") from None


def _csv(text: str) -> Iterable[Mapping[str, Any]]:
    for line in csv.DictReader(text.splitlines()):
        values: dict[str, Any] = {name: value for name, value in line.items() if value or name == "lane"}
        yield values | ({"lane": None} if values.get("lane") == _ALONE else {})


def _request(values: Mapping[str, Any]) -> Request:
    unknown = set(values) - set(FIELDS)
    if unknown:
        raise ValueError(f"unknown '{min(map(str, unknown))}', a request has {', '.join(FIELDS)}")
    timeout = values.get("timeout_s")
    request = Request(
        at_s=float(values["at_s"]),
        rows=int(values.get("rows", 1)),
        lane=values.get("lane", ""),
        timeout_s=None if timeout is None else float(timeout),
        priority=int(values.get("priority", 0)),
    )
    if not 0 <= request.at_s < math.inf or request.rows < 1:
        raise ValueError(f"a request comes at a time from 0 on and has a row at least, got {dict(values)}")
    return request


def _of_server(entries: list[Any], rows: int, model: str) -> Recording:
    """Pairs of objects with the same id: what was asked, and when each part of it began or ended."""
    models = {entry["id"]: entry["model_name"] for entry in entries if "model_name" in entry}
    if not model and len(set(models.values())) > 1:
        raise ValueError(f"it has several models, name one of {', '.join(sorted(set(models.values())))}")
    moments = sorted(
        (
            {moment["name"]: int(moment["ns"]) for moment in entry["timestamps"]}
            for entry in entries
            if "timestamps" in entry and model in ("", models[entry["id"]])
        ),
        key=lambda m: m["QUEUE_START"],
    )
    if not moments:
        raise ValueError(f"nothing was asked of '{model}'" if model else "it is empty")
    begin = moments[0]["QUEUE_START"]
    return Recording(
        trace=tuple(Request((m["QUEUE_START"] - begin) / 1e9, rows) for m in moments),
        latencies_s=tuple((m["COMPUTE_END"] - m["QUEUE_START"]) / 1e9 for m in moments),
        latency=Measured(_runs(moments, rows)),
    )


def _runs(moments: Iterable[Mapping[str, int]], rows: int) -> dict[int, float]:
    """Median seconds of runs by their rows."""
    runs: list[list[tuple[int, int]]] = []
    recent: list[list[tuple[int, int]]] = []
    for began, took in sorted((m["COMPUTE_START"], m["COMPUTE_END"] - m["COMPUTE_START"]) for m in moments):
        recent = [run for run in recent if began - run[0][0] <= _BEGAN_NS]
        mates = next((run for run in recent if abs(run[0][1] - took) <= _TOOK_NS), None)
        if mates is None:
            mates = []
            runs.append(mates)
            recent.append(mates)
        mates.append((began, took))
    by_rows: dict[int, list[int]] = {}
    for run in runs:
        by_rows.setdefault(len(run) * rows, []).append(run[0][1])
    return {size: median(took) / 1e9 for size, took in by_rows.items()}
