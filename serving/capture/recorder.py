"""Takes samples of answered and failed requests, and has them written.

Samples are taken on the event loop, which never waits: what cannot be held is dropped and counted. A thread of its own
writes. What goes wrong there is in the log, and no client ever hears of it. While nothing is captured, no request sees
any of this: it is no observer of the engine.
"""

import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from serving.capture.record import Record, encode
from serving.capture.segments import Writer
from serving.core.errors import ErrorKind
from serving.core.types import InferRequest, InferResponse, Parameters, Tensors
from serving.engine import Engine, Times

log = logging.getLogger(__name__)

_MAX_WAITING = 1000
_MAX_WAITING_BYTES = 64 * 1024 * 1024  # if none waits, one is taken of any size
_MOST_COPIED_BYTES = 1024 * 1024  # more would keep clients waiting
_CLOSE_S = 10.0  # for what waits when the server stops
_SILENT_S = 60.0  # between two lines in the log about a disk that takes nothing


@dataclass(frozen=True)
class CaptureSettings:
    """
    Attributes:
        rate: the share of requests that is kept, 0 to 1.
        models: those whose requests are; empty: all.
    """

    directory: Path
    rate: float
    max_bytes: int
    models: Collection[str] = ()


class Recorder:
    """Captures from its start to `close`."""

    def __init__(self, engine: Engine, settings: CaptureSettings, draw: Callable[[], float] = random.random) -> None:
        """Args: draw: a number from 0 to 1 for each request; it is kept if that is below the rate."""
        self._engine = engine
        self._settings = settings
        self._draw = draw
        self._queue: SimpleQueue[Record | None] = SimpleQueue()
        # Each is written by one thread alone: the first two on the loop, the others where records are written.
        self._taken = self._taken_bytes = 0
        self._done = self._done_bytes = 0
        self._not_taken = 0
        self._not_written = 0
        self._complained_at = -_SILENT_S
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="capture", daemon=True)
        self._thread.start()
        engine.metrics.dropped["capture"] = lambda: self.dropped
        engine.observe(self._answered)
        engine.failures = self._failed

    @property
    def dropped(self) -> int:
        """Samples that were lost, because too many waited or the disk did not take them."""
        return self._not_taken + self._not_written

    def close(self) -> None:
        """Takes no more, and writes what waits. Blocks, for as long as the disk does and for ten seconds at most."""
        self._engine.unobserve(self._answered)
        self._engine.failures = None
        self._queue.put(None)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            log.warning("capture: not all samples were written before the server stopped")

    # On the event loop

    def _wants(self, model: str) -> bool:
        models = self._settings.models
        return (not models or model in models) and self._draw() < self._settings.rate

    def _answered(self, protocol: str, request: InferRequest, response: InferResponse, times: Times) -> None:
        if not self._wants(request.model) or (inputs := self._held(request)) is None:
            return
        timing = response.timing
        self._take(
            Record(
                at=time.time() - (time.perf_counter() - times.arrived),
                took_s=times.encoded - times.arrived,
                protocol=protocol,
                model=request.model,
                version=request.version,
                id=request.id,
                inputs=inputs,
                outputs=request.outputs,
                parameters=_parameters(request),
                answered_by=response.version,
                answer={name: _alone(array) for name, array in response.outputs.items()},
                queue_s=timing.queue_s,
                compute_s=timing.compute_s,
                batch_rows=timing.rows,
            )
        )

    def _failed(self, protocol: str, request: InferRequest, kind: ErrorKind, arrived: float) -> None:
        if not self._wants(request.model) or (inputs := self._held(request)) is None:
            return
        took_s = time.perf_counter() - arrived
        self._take(
            Record(
                at=time.time() - took_s,
                took_s=took_s,
                protocol=protocol,
                model=request.model,
                version=request.version,
                id=request.id,
                inputs=inputs,
                outputs=request.outputs,
                parameters=_parameters(request),
                error=kind.value,
            )
        )

    def _held(self, request: InferRequest) -> Tensors | None:
        """The inputs, as they stay; None: they cannot be kept."""
        if not request.lent:
            return request.inputs
        if sum(array.nbytes for array in request.inputs.values()) > _MOST_COPIED_BYTES:
            self._not_taken += 1
            return None
        return {name: array.copy() for name, array in request.inputs.items()}

    def _take(self, record: Record) -> None:
        waiting = self._taken - self._done
        waiting_bytes = self._taken_bytes - self._done_bytes
        nbytes = record.nbytes()
        if waiting >= _MAX_WAITING or (waiting and waiting_bytes + nbytes > _MAX_WAITING_BYTES):
            self._not_taken += 1
            return
        self._taken += 1
        self._taken_bytes += nbytes
        self._queue.put(record)

    # In the thread

    def _write_all(self) -> None:
        writer = Writer(self._settings.directory, self._settings.max_bytes)
        while (record := self._queue.get()) is not None:
            nbytes = record.nbytes()
            try:
                if not writer.append(encode(record)):
                    self._lost(f"a sample of {nbytes} bytes is larger than all that is allowed")
            except Exception as error:  # the thread must go on, whatever a disk or a value does
                self._lost(f"a sample cannot be written: {error}")
            self._done_bytes += nbytes
            self._done += 1
            del record  # or its arrays would stay until the next one comes
        writer.close()

    def _lost(self, why: str) -> None:
        self._not_written += 1
        now = time.monotonic()
        if now - self._complained_at >= _SILENT_S:
            self._complained_at = now
            log.warning("capture: %s", why)


def _alone(array: np.ndarray) -> np.ndarray:
    """A copy of what is a small part of something large, such as a row of a batch, which would be kept with it."""
    base = array.base
    if isinstance(base, np.ndarray) and base.nbytes > 2 * array.nbytes and array.nbytes <= _MOST_COPIED_BYTES:
        return array.copy()
    return array


def _parameters(request: InferRequest) -> Parameters:
    """Those of the request, with what other protocols say elsewhere."""
    more: Parameters = {}
    if request.signature:
        more["signature_name"] = request.signature
    if request.priority:
        more["priority"] = request.priority
    return {**request.parameters, **more} if more else request.parameters


class CaptureError(Exception):
    """Nothing can be captured; the message is one line that says why."""


@contextmanager
def capturing(engine: Engine, settings: CaptureSettings) -> Iterator[None]:
    """Captures until the context is left; at a rate of 0, nothing happens.

    Raises:
        CaptureError: the directory cannot be used.
    """
    if not settings.rate:
        yield
        return
    try:
        settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(settings.directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise CaptureError(f"--capture-dir '{settings.directory}' cannot be used: {error.strerror}") from None
    recorder = Recorder(engine, settings)
    try:
        yield
    finally:
        recorder.close()
