"""Traces: when the parts of a request began and ended, of one request in so many, written to a file as JSON.

Sampling and settings live on the event loop; the file is written by a thread of its own. While nothing is traced, no
request sees any of this: it is no observer of the engine.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serving.core.errors import invalid
from serving.core.types import InferRequest, InferResponse
from serving.engine import Engine, Times
from serving.protocols import jsonio
from serving.protocols.oip.settings import TraceSettings, of_trace, trace_change

log = logging.getLogger(__name__)

_BEGIN, _BETWEEN, _END = b"[\n", b",\n", b"\n]\n"


@dataclass
class _Sampler:
    """Says which requests are traced: of one model, or of all that have no settings of their own."""

    settings: TraceSettings
    seen: int = 0
    taken: int = 0
    held: list[bytes] = field(default_factory=list)  # on their way into a file of `log_frequency` traces

    @property
    def left(self) -> int:
        return self.settings.count if self.settings.count < 0 else self.settings.count - self.taken

    @property
    def on(self) -> bool:
        return self.settings.on and self.left != 0

    def takes(self) -> bool:
        if not self.on:
            return False
        self.seen += 1
        if self.seen % self.settings.rate:
            return False
        self.taken += 1
        return True


class Tracer:
    """The trace settings that are in force, and the file.

    Args:
        file: where traces go; what it holds is replaced. None: nothing can be traced.
    """

    def __init__(self, engine: Engine, file: Path | None = None) -> None:
        self._engine = engine
        self.file = file
        self._changes: dict[str, dict[str, Any]] = {}  # by model, "" for all: what differs from the defaults
        self._all = _Sampler(TraceSettings())
        self._of_models: dict[str, _Sampler] = {}
        self._last_id = 0
        self._numbered_files = 0
        self._array = _Array(file) if file is not None else None
        self._writer: ThreadPoolExecutor | None = None

    def values(self, model: str = "") -> dict[str, Any]:
        """The settings of a model, or of all models that have none of their own, in the protocol's words; what is left
        of `trace_count`.

        Raises:
            ServingError: INVALID: no such model.
        """
        if model and model not in self._engine.catalog.models:
            raise invalid(f"Request for unknown model : {model}")
        sampler = self._of_models.get(model, self._all)
        return of_trace(replace(sampler.settings, count=sampler.left), str(self.file or ""))

    def change(self, model: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Changes settings of a model, or of all ("") that do not have them otherwise; the settings after that.

        None takes a setting back: to that of all models, or to its default. What follows these settings counts anew.

        Raises:
            ServingError: INVALID or UNSUPPORTED: see `trace_change`; or no such model. Nothing has changed then.
        """
        self.values(model)
        change = trace_change(values, has_file=self.file is not None)
        if not change:
            return self.values(model)
        own = {**self._changes.get(model, {}), **change}
        self._changes[model] = {name: value for name, value in own.items() if value is not None}
        common = self._changes.get("", {})
        self._flush(model)  # what would be lost
        if not model:
            self._all = _Sampler(TraceSettings(**common))
        for each in [model] if model else list(self._of_models):
            own = self._changes[each]
            self._of_models[each] = _Sampler(TraceSettings(**{**common, **own}))
            if not own:
                del self._of_models[each], self._changes[each]
        self._switch()
        return self.values(model)

    def _switch(self) -> None:
        on = self._all.on or any(sampler.on for sampler in self._of_models.values())
        if on:
            self._engine.observe(self._observe)
        else:
            self._engine.unobserve(self._observe)

    def _flush(self, model: str) -> None:
        """Writes what is held of a model, or of all ("")."""
        touched = [self._of_models.get(model)] if model else [self._all, *self._of_models.values()]
        for sampler in filter(None, touched):
            self._write_numbered(sampler)

    def close(self) -> None:
        """Writes what is left and ends the thread. Blocks for as long as the disk does."""
        self._engine.unobserve(self._observe)
        self._flush("")
        if self._writer is not None:
            self._writer.shutdown()

    def _observe(self, protocol: str, request: InferRequest, response: InferResponse, times: Times) -> None:
        sampler = self._of_models.get(request.model, self._all)
        if not sampler.takes():
            return
        self._last_id += 1
        entry = _BETWEEN.join(jsonio.dump(line) for line in lines(self._last_id, protocol, request, response, times))
        frequency = sampler.settings.log_frequency
        if frequency:
            sampler.held.append(entry)
            if len(sampler.held) >= frequency:
                self._write_numbered(sampler)
        elif self._array is not None:
            self._write(self._array.append, entry)
        if not sampler.on:  # that was the last one
            self._switch()

    def _write_numbered(self, sampler: _Sampler) -> None:
        if sampler.held:
            path = Path(f"{self.file}.{self._numbered_files}")
            self._numbered_files += 1
            self._write(path.write_bytes, _BEGIN + _BETWEEN.join(sampler.held) + _END)
            sampler.held = []

    def _write(self, write: Callable[[bytes], object], data: bytes) -> None:
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "trace")
        self._writer.submit(_logged, write, data)


def lines(number: int, protocol: str, request: InferRequest, response: InferResponse, times: Times) -> list[Any]:
    """The two objects of one trace: what was asked, and when (nanoseconds on the monotonic clock)."""
    about: dict[str, Any] = {"id": number, "model_name": response.model, "model_version": response.version}
    if request.id:
        about["request_id"] = request.id
    timing = response.timing
    began = times.decoded + timing.queue_s
    if protocol.endswith("grpc"):
        received, sent = "GRPC_WAITREAD_END", "GRPC_SEND_START"
    else:
        received, sent = "HTTP_RECV_END", "HTTP_SEND_START"
    moments = {
        received: times.arrived,
        "REQUEST_START": times.decoded,
        "QUEUE_START": times.decoded,
        "COMPUTE_START": began,
        "COMPUTE_INPUT_END": began + timing.input_s,
        "COMPUTE_OUTPUT_START": began + timing.input_s + timing.run_s,
        "COMPUTE_END": began + timing.compute_s,
        "REQUEST_END": times.inferred,
        sent: times.encoded,
    }
    return [about, {"id": number, "timestamps": [{"name": n, "ns": int(t * 1e9)} for n, t in moments.items()]}]


class _Array:
    """A file that holds a JSON array and is whole after every write. Used by one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False

    def append(self, entry: bytes) -> None:
        if not self._begun:
            self._path.write_bytes(_BEGIN + entry + _END)
            self._begun = True
            return
        with self._path.open("r+b") as file:
            file.seek(-len(_END), 2)
            file.write(_BETWEEN + entry + _END)


def _logged(write: Callable[[bytes], object], data: bytes) -> None:
    try:
        write(data)
    except OSError as error:
        log.warning("a trace cannot be written: %s", error)
