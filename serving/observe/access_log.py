"""The access log: one line for each request that has ended, over HTTP and gRPC alike.

The event loop makes the line, which takes some 5 us, and puts it into a queue. A thread writes many at a time, a few
times a second. (Lines made by the thread cost more: it would wait for the interpreter, and the event loop for it, and
the garbage collector would look through all records that wait.) What does not fit into the queue is counted and lost: a
disk that is slow or full must not slow down requests.
"""

import logging
import os
import threading
import time
from collections import deque
from contextlib import suppress
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

from serving.core.metrics import OK
from serving.logs import printable
from serving.protocols import jsonio
from serving.protocols.record import Record

log = logging.getLogger(__name__)

STANDARD_OUTPUT = Path("-")
MAX_WAITING = 20_000  # lines
_EVERY_S = 0.2
_MAX_PATH = 1000  # characters
_CLOSE_S = 5.0


class AccessLog:
    """
    Args:
        path: the file, to which lines are added; it may be renamed or removed at any time, and is begun anew then.
            `-`: standard output.
        form: `human` or `json`.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, form: str, max_waiting: int = MAX_WAITING) -> None:
        self.dropped = 0
        self._path = path
        self._line = json_line if form == "json" else human_line
        self._max_waiting = max_waiting
        self._wall = time.time() - time.perf_counter()  # what turns moments into times of the day
        self._waiting: deque[bytes] = deque()
        self._end = threading.Event()
        self._file: FileIO | None = None
        self._failed = False  # the last write did
        self._open()
        self._thread = threading.Thread(target=self._work, name="access-log", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """On the event loop."""
        if len(self._waiting) < self._max_waiting:
            self._waiting.append(self._line(record, self._wall))
        else:
            self.dropped += 1

    def close(self) -> None:
        """Writes what waits. Blocks for as long as the disk does, up to some seconds."""
        self._end.set()
        self._thread.join(_CLOSE_S)

    def _work(self) -> None:
        while not self._end.wait(_EVERY_S):
            self._write()
        self._write()
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        self._wall = time.time() - time.perf_counter()  # the clock may have been put right
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not lines:
            return
        try:
            file = self._open()
            rest = memoryview(b"".join(lines))
            while rest:
                rest = rest[file.write(rest) :]
            self._failed = False
        except OSError as error:
            self.dropped += len(lines)
            if not self._failed:
                log.warning("the access log cannot be written: %s", error)
            self._failed = True

    def _open(self) -> FileIO:
        """The file, which is opened unless the one that is open is the one of this name. Nothing is buffered here: what
        could not be written would be tried again and again."""
        if self._path == STANDARD_OUTPUT:
            self._file = self._file or FileIO(1, "w", closefd=False)
            return self._file
        if self._file is not None:
            with suppress(OSError):
                if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                    return self._file
            self._file.close()
        self._file = FileIO(self._path, "a")
        return self._file


def json_line(record: Record, wall: float) -> bytes:
    """
    Args:
        wall: what `time.time()` is ahead of `time.perf_counter()`.
    """
    fields: dict[str, Any] = {
        "time": _iso8601(record.began + wall),
        "peer": record.peer,
        "transport": record.transport,
    }
    if record.method:
        fields["method"] = record.method
    fields["path"] = record.path[:_MAX_PATH]
    fields["status"] = record.status or "cancelled"
    _add(fields, record)
    return jsonio.dump(fields) + b"\n"


def human_line(record: Record, wall: float) -> bytes:
    """See `json_line`."""
    fields: dict[str, Any] = {}
    _add(fields, record)
    more = " ".join([f"{name}={value}" for name, value in fields.items()])
    line = (
        f"{_iso8601(record.began + wall)} {record.peer or '-'} {record.method or record.transport} "
        f"{record.path[:_MAX_PATH]} {record.status or 'cancelled'} {more}"
    )
    return printable(line).encode("utf-8", "backslashreplace") + b"\n"


def _add(fields: dict[str, Any], record: Record) -> None:
    """All else that is known of it, in the order of a line. Durations are in seconds, to the microsecond."""
    fields["seconds"] = round(record.ended - record.began, 6)
    fields["received_bytes"] = record.received_bytes
    fields["sent_bytes"] = record.sent_bytes
    inferences = record.inferences
    if len(inferences) == 1:
        inference = inferences[0]
        fields["protocol"] = inference.protocol
        fields["model"] = inference.model
        fields["version"] = inference.version
        fields["outcome"] = inference.outcome
        times, timing = inference.times, inference.timing
        if times is not None and timing is not None:
            fields["decode_s"] = round(times.decoded - times.arrived, 6)
            fields["queue_s"] = round(timing.queue_s, 6)
            fields["compute_s"] = round(timing.compute_s, 6)
            fields["encode_s"] = round(times.encoded - times.inferred, 6)
            fields["batch_rows"] = timing.rows
    elif inferences:
        fields["model"] = inferences[0].model
        fields["inferences"] = len(inferences) + record.more
        if failed := sum(inference.outcome != OK for inference in inferences):
            fields["failed"] = failed
    if record.request_id:
        fields["request_id"] = record.request_id
    if record.trace is not None:
        fields["trace_id"] = record.trace.trace_id
    if record.key:
        fields["key"] = record.key


def _iso8601(at: float) -> str:
    second = int(at)
    return f"{_of_second(second)}.{int((at - second) * 1e6):06d}Z"


@lru_cache(4)  # most lines are of the second of the one before
def _of_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
