"""What is seen while a test runs: the clients' side as locust counts it, and the server's own metrics beside it.

A greenlet looks every `EVERY_S` seconds, where locust runs alone or as master. Workers send the latencies of their
requests to the master with their reports.
"""

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent

from loadtests.locust.target import TargetError, access, scrape

EVERY_S = 1.0
_PER_OCTAVE = 16  # of the latencies' classes: 4 % wide each

Latencies = Counter[int]  # by class


def class_of(ms: float) -> int:
    return round(_PER_OCTAVE * math.log2(max(ms, 1e-3)))


def percentile(latencies: Mapping[int, int], share: float) -> float | None:
    """In ms, to 4 %; None of none."""
    wanted = share * sum(latencies.values())
    for number in sorted(latencies):
        wanted -= latencies[number]
        if wanted <= 0:
            return float(2 ** (number / _PER_OCTAVE))
    return None


@dataclass(frozen=True)
class Server:
    """One scrape: what has been counted since the start, and what waits now. Of one model where that is told."""

    cpu_s: float = 0.0
    queue_rows: float = 0.0
    in_flight: float = 0.0
    batches: float = 0.0
    batch_rows: float = 0.0
    resident_bytes: float = 0.0

    @classmethod
    def of(cls, text: str, model: str) -> "Server":
        sums: defaultdict[str, float] = defaultdict(float)
        of_model = f'model="{model}"'
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            name, _, labels = line.partition("{")
            if labels and of_model not in labels:
                continue
            with suppress(ValueError, IndexError):
                sums[name.split()[0]] += float(line.rsplit(" ", 1)[1])
        return cls(
            sums["process_cpu_seconds_total"],
            sums["serving_queue_rows"],
            sums["serving_in_flight_requests"],
            sums["serving_batch_rows_count"],
            sums["serving_batch_rows_sum"],
            sums["process_resident_memory_bytes"],
        )


@dataclass
class Look:
    """What happened since the look before it. `cores` and `rows_per_batch` are None where the server did not say.

    `locust_percent`: of a core that the busiest process of locust takes. Near 100 its latencies are its own.
    """

    at_s: float
    users: int
    answered_per_s: float
    failed_per_s: float
    latencies: Latencies
    queue_rows: float | None = None
    in_flight: float | None = None
    rows_per_batch: float | None = None
    cores: float | None = None
    resident_bytes: float | None = None
    locust_percent: float = 0.0

    def plain(self) -> dict[str, Any]:
        shares = {f"p{round(100 * share)}_ms": percentile(self.latencies, share) for share in (0.5, 0.95, 0.99)}
        return {**{key: value for key, value in vars(self).items() if key != "latencies"}, **shares}


@dataclass
class Watch:
    """`looks` grows from `start` to `stop`."""

    environment: Any
    looks: list[Look] = field(default_factory=list)
    _new: Latencies = field(default_factory=Counter)
    _counts: tuple[int, int] = (0, 0)
    _server: Server | None = None
    _greenlet: Any = None
    _begun_s: float = 0.0
    _at_s: float = 0.0

    def listen(self) -> None:
        """To what this process asks itself, and, as master, to what its workers report."""
        events = self.environment.events
        events.request.add_listener(self._requested)
        events.report_to_master.add_listener(self._report)
        events.worker_report.add_listener(self._reported)

    def _requested(self, response_time: float, exception: object, **_: Any) -> None:
        if exception is None:
            self._new[class_of(response_time)] += 1

    def _report(self, data: dict[str, Any], **_: Any) -> None:
        data["latency_classes"], self._new = list(self._new.items()), Counter()

    def _reported(self, data: Mapping[str, Any], **_: Any) -> None:
        self._new.update(dict(data.get("latency_classes", ())))

    def start(self) -> None:
        self._begun_s = self._at_s = time.monotonic()
        self._server = self._scrape()
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def _run(self) -> None:
        while True:
            gevent.sleep(EVERY_S)
            self.look()

    def look(self) -> None:
        total = self.environment.stats.total
        now_s, counts, new = time.monotonic(), (total.num_requests, total.num_failures), self._new
        span_s, self._new = now_s - self._at_s, Counter()
        requests, failures = (max(0, a - b) for a, b in zip(counts, self._counts, strict=True))
        look = Look(
            now_s - self._begun_s,
            self.environment.runner.user_count,
            (requests - failures) / span_s,
            failures / span_s,
            new,
            locust_percent=_busiest(self.environment.runner),
        )
        server, before = self._scrape(), self._server
        if server is not None:
            look.queue_rows, look.in_flight = server.queue_rows, server.in_flight
            look.resident_bytes = server.resident_bytes
            if before is not None and server.cpu_s >= before.cpu_s:
                look.cores = (server.cpu_s - before.cpu_s) / span_s
                batches = server.batches - before.batches
                look.rows_per_batch = (server.batch_rows - before.batch_rows) / batches if batches > 0 else None
        self.looks.append(look)
        self._at_s, self._counts, self._server = now_s, counts, server

    def _scrape(self) -> Server | None:
        options = self.environment.parsed_options
        with suppress(TargetError):
            return Server.of(scrape(self.environment.host, access(options)), options.model)
        return None


def _busiest(runner: Any) -> float:
    workers = getattr(runner, "clients", None)
    return float(max([runner.current_cpu_usage, *(worker.cpu_usage for worker in (workers or {}).values())]))


def write(path: Path, looks: Iterable[Look]) -> None:
    path.write_text(json.dumps([look.plain() for look in looks], indent=1) + "\n", encoding="utf-8")
