"""`serving replay`: sends captured requests again, and says how the answers compare with those that were kept."""

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from serving.capture import segments
from serving.capture.record import Record
from serving.capture.segments import Damage
from serving.cli.describe import fail
from serving.client import Client, ClientError, Where, connect
from serving.core.compare import difference, largest_difference

_SHOWN = 10  # differences and failures that are told one by one
_OURS = "binary_data_output"  # how an answer travels, which is for this client to say


@dataclass(frozen=True)
class Tolerance:
    """How far floats may differ: `atol + rtol * |recorded|`."""

    atol: float
    rtol: float


@dataclass
class Tally:
    """What came of the requests of one model.

    Attributes:
        answered, failed: requests, this time; `expected` of the latter failed when they were captured, too.
        same, different: answers, against those that were kept; neither where there is nothing to compare.
        largest: the largest difference among the same ones.
        versions: those that answered.
    """

    model: str
    answered: int = 0
    failed: int = 0
    expected: int = 0
    same: int = 0
    different: int = 0
    largest: float = 0.0
    versions: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list, repr=False)

    def quantile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies_s, percent)) * 1e3 if self.latencies_s else 0.0

    @property
    def good(self) -> bool:
        return self.failed == self.expected and not self.different


class Replay:
    """Counts what comes of requests that are sent again. `send` may be called from several threads."""

    def __init__(self, client: Client, compare: Tolerance | None, pinned: bool = False) -> None:
        """Args: pinned: each request is for the version that answered it; otherwise the server chooses."""
        self._client = client
        self._compare = compare
        self._pinned = pinned
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}
        self._told: list[tuple[int, str]] = []  # what was not as expected

    @property
    def told(self) -> list[str]:
        """Some of what was not as expected, by the number of the request."""
        return [text for _, text in sorted(self._told)]

    @property
    def tallies(self) -> list[Tally]:
        return [self._tallies[key] for key in sorted(self._tallies)]

    def send(self, number: int, record: Record) -> None:
        """Args: number: of the record, as `serving capture show --records` counts them."""
        version = str(record.answered_by) if self._pinned and record.answered_by else ""
        parameters = {name: value for name, value in record.parameters.items() if name != _OURS}
        began = time.perf_counter()
        try:
            answer = self._client.infer(
                record.model, version, record.inputs, outputs=record.outputs, parameters=parameters
            )
        except ClientError as error:
            with self._lock:
                tally = self._tally(record)
                tally.failed += 1
                tally.expected += bool(record.error)
                if not record.error:
                    self._tell(number, record, f"failed: {error}")
            return
        took_s = time.perf_counter() - began
        problem, gap = None, 0.0
        compared = self._compare is not None and not record.error
        if compared and self._compare is not None:
            problem = difference(answer.outputs, record.answer, atol=self._compare.atol, rtol=self._compare.rtol)
            gap = 0.0 if problem else largest_difference(answer.outputs, record.answer)
        with self._lock:
            tally = self._tally(record)
            tally.answered += 1
            tally.latencies_s.append(took_s)
            tally.same += compared and problem is None
            tally.different += problem is not None
            tally.largest = max(tally.largest, gap)
            if answer.version not in tally.versions:
                tally.versions.append(answer.version)
            if problem:
                then = f"version {record.answered_by} answered then, version {answer.version} now"
                self._tell(number, record, f"{problem} ({then})")

    def _tally(self, record: Record) -> Tally:
        return self._tallies.setdefault(record.model, Tally(record.model))

    def _tell(self, number: int, record: Record, what: str) -> None:
        if len(self._told) < _SHOWN:
            named = f" id {record.id!r}" if record.id else ""
            self._told.append((number, f"request {number} ({record.model}{named}): {what}"))


def run(
    path: Path,
    url: Where,
    model: str,
    rate: float | None,
    as_recorded: bool,
    connections: int,
    limit: int | None,
    compare: Tolerance | None,
    pinned: bool,
    as_json: bool,
) -> int:
    """Exit code 1: something failed that had not failed before, or was answered otherwise.

    Args:
        model: whose requests; "": all.
        rate: requests per second; None: as fast as answers come.
        as_recorded: at the times at which they came.
        connections: how many may wait for their answers at once.
        limit: how many at most.
        compare: None: answers are not looked at.
        pinned: see `Replay`.
    """
    if rate is not None and as_recorded:
        return fail("choose one of --rate and --as-recorded")
    damage = Damage()
    try:
        replay = Replay(connect(url), compare, pinned)
        chosen = _chosen(segments.read(path, damage), model, limit)
        began = time.perf_counter()
        _send_all(replay, _due(chosen, rate, as_recorded), connections)
        took_s = time.perf_counter() - began
    except ClientError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"'{path}' cannot be read: {error.strerror}")
    if not replay.tallies:
        return fail(f"there is no request{f' for {model}' if model else ''} in '{path}'")
    if as_json:
        print(json.dumps(_as_json(replay, damage, took_s), ensure_ascii=False, indent=2))
    else:
        _print(replay, damage, took_s, compare is not None)
    return 0 if all(tally.good for tally in replay.tallies) else 1


def _chosen(records: Iterable[Record], model: str, limit: int | None) -> Iterator[tuple[int, Record]]:
    """Records with their numbers, which count from 1."""
    sent = 0
    for number, record in enumerate(records, 1):
        if limit is not None and sent >= limit:
            return
        if model in ("", record.model):
            sent += 1
            yield number, record


def _due(
    records: Iterable[tuple[int, Record]], rate: float | None, as_recorded: bool
) -> Iterator[tuple[float, int, Record]]:
    """When each is to be sent, in seconds from the beginning. Those that are late are sent at once."""
    first: float | None = None
    for sent, (number, record) in enumerate(records):
        first = record.at if first is None else first
        yield record.at - first if as_recorded else sent / rate if rate else 0.0, number, record


def _send_all(replay: Replay, due: Iterable[tuple[float, int, Record]], connections: int) -> None:
    """Raises: whatever was raised where one was sent."""
    free = threading.Semaphore(connections)
    failures: list[BaseException] = []

    def send(number: int, record: Record) -> None:
        try:
            replay.send(number, record)
        except BaseException as error:  # it is raised again where somebody sees it
            failures.append(error)
        finally:
            free.release()

    with ThreadPoolExecutor(connections, "replay") as threads:
        began = time.monotonic()
        for at_s, number, record in due:
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            free.acquire()  # so that no more is read than can be sent
            if failures:
                break
            threads.submit(send, number, record)
    if failures:
        raise failures[0]


def _as_json(replay: Replay, damage: Damage, took_s: float) -> Mapping[str, Any]:
    models = []
    for tally in replay.tallies:
        value = asdict(tally)
        del value["latencies_s"]
        models.append({**value, "p50_ms": tally.quantile_ms(50), "p99_ms": tally.quantile_ms(99)})
    return {"models": models, "told": replay.told, "seconds": took_s, "damaged": asdict(damage)}


def _print(replay: Replay, damage: Damage, took_s: float, compared: bool) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("answered by")
    titles = ["answered", "failed", "as before"]
    titles += ["same", "different", "largest difference"] if compared else []
    for title in (*titles, "p50 ms", "p99 ms"):
        table.add_column(title, justify="right")
    for tally in replay.tallies:
        numbers = [str(tally.answered), str(tally.failed), str(tally.expected)]
        numbers += [str(tally.same), str(tally.different), f"{tally.largest:.3g}"] if compared else []
        times = [f"{tally.quantile_ms(percent):.1f}" for percent in (50, 99)]
        table.add_row(tally.model, ", ".join(sorted(tally.versions)), *numbers, *times)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)
    sent = sum(tally.answered + tally.failed for tally in replay.tallies)
    console.print(f"{sent} requests in {took_s:.1f} s")
    for line in replay.told:
        console.print(line, soft_wrap=True)
    if damage.places:
        console.print(f"{damage.places} damaged places were passed over ({damage.bytes} bytes)")
