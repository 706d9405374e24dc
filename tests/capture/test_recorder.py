"""Samples are taken on the event loop, which never waits for the disk."""

import logging
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.capture import recorder
from serving.capture.recorder import CaptureError, CaptureSettings, Recorder, capturing
from serving.capture.segments import Writer, read
from serving.core.errors import ErrorKind
from serving.core.metrics import Metrics
from serving.core.types import InferRequest, InferResponse, Signature, Timing
from serving.engine import Engine, Times

MB = 1024 * 1024


@contextmanager
def capture(directory: Path, draws: Iterable[float] = (), **settings: Any) -> Iterator[tuple[Engine, Recorder]]:
    engine = Engine(Metrics())
    drawn = iter(draws)
    values = {"rate": 1.0, "max_bytes": 100 * MB, **settings}
    running = Recorder(engine, CaptureSettings(directory, **values), lambda: next(drawn, 0.0))
    try:
        yield engine, running
    finally:
        running.close()


def ask(engine: Engine, model: str = "m", **more: Any) -> None:
    """A request that was answered."""
    request = InferRequest(model, {"x": np.full((1, 2), 3.0, np.float32)}, **more)
    timing = Timing(queue_s=0.001, compute_s=0.002, rows=8)
    outputs = {"y": np.full((1, 1), 6.0, np.float32)}
    response = InferResponse(model, 4, outputs, Signature({}, {}), request.id, timing=timing)
    now = time.perf_counter()
    for observer in engine.observers:
        observer("oip_rest", request, response, Times(now - 0.005, now - 0.004, now - 0.001, now))


def fail(engine: Engine, kind: ErrorKind = ErrorKind.MODEL) -> None:
    assert engine.failures is not None
    request = InferRequest("m", {"x": np.ones((1, 2), np.float32)}, id="f")
    engine.failures("oip_grpc", request, kind, time.perf_counter() - 0.01)


def test_what_is_kept_of_a_request(tmp_path: Path) -> None:
    before = time.time()
    with capture(tmp_path) as (engine, _):
        ask(engine, id="a", version=4, outputs=("y",), signature="s", priority=2, parameters={"timeout": 9})
    (one,) = read(tmp_path)
    assert (one.protocol, one.model, one.version, one.answered_by, one.id) == ("oip_rest", "m", 4, 4, "a")
    assert one.parameters == {"timeout": 9, "signature_name": "s", "priority": 2} and one.outputs == ("y",)
    assert one.inputs["x"].tolist() == [[3, 3]] and one.answer["y"].tolist() == [[6]]
    assert (one.queue_s, one.compute_s, one.batch_rows, one.error) == (0.001, 0.002, 8, "")
    assert one.took_s == pytest.approx(0.005) and before - 0.1 < one.at < time.time()


def test_what_is_kept_of_a_failed_request(tmp_path: Path) -> None:
    with capture(tmp_path) as (engine, _):
        fail(engine)
    (one,) = read(tmp_path)
    assert (one.error, one.answered_by, one.answer, one.id) == ("model", 0, {}, "f")
    assert one.inputs["x"].tolist() == [[1, 1]] and one.took_s >= 0.009


def test_a_share_of_the_requests(tmp_path: Path) -> None:
    with capture(tmp_path, [0.0, 0.25, 0.24, 0.9, 0.1], rate=0.25) as (engine, _):
        for number in range(5):
            ask(engine, id=str(number))
    assert [one.id for one in read(tmp_path)] == ["0", "2", "4"]


def test_some_models_alone(tmp_path: Path) -> None:
    with capture(tmp_path, models=("b",)) as (engine, _):
        for model in "abc":
            ask(engine, model)
    assert [one.model for one in read(tmp_path)] == ["b"]


def test_afterwards_nobody_is_told(tmp_path: Path) -> None:
    with capture(tmp_path) as (engine, _):
        assert len(engine.observers) == 1 and engine.failures is not None
    assert engine.observers == () and engine.failures is None


def test_at_a_rate_of_nothing_there_is_no_observer_and_no_thread(tmp_path: Path) -> None:
    engine = Engine(Metrics())
    with capturing(engine, CaptureSettings(tmp_path / "none", 0.0, MB)):
        assert engine.observers == () and engine.failures is None and not engine.metrics.dropped
    assert not (tmp_path / "none").exists()


def test_a_directory_that_cannot_be_made_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = CaptureSettings(tmp_path / "file/kept", 1.0, MB)
    refused = pytest.raises(CaptureError, match=r"^--capture-dir '.*' cannot be used: Not a directory$")
    with refused, capturing(Engine(Metrics()), settings):
        pass


def test_memory_that_clients_can_write_to_is_copied(tmp_path: Path) -> None:
    with capture(tmp_path) as (engine, running):
        array = np.ones((1, 2), np.float32)
        request = InferRequest("m", {"x": array}, lent=True)
        assert engine.failures is not None
        engine.failures("oip_rest", request, ErrorKind.MODEL, 0.0)
        array[:] = 7  # the client has its answer, and goes on
        request.inputs = {"x": np.zeros((1, MB), np.float32)}
        engine.failures("oip_rest", request, ErrorKind.MODEL, 0.0)
        assert running.dropped == 1
    (one,) = read(tmp_path)
    assert one.inputs["x"].tolist() == [[1, 1]]


class SlowWriter(Writer):
    """Writes nothing before it may."""

    may = threading.Event()

    def append(self, parts: Iterable[bytes | memoryview]) -> bool:
        assert self.may.wait(60)
        return super().append(parts)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    monkeypatch.setattr(recorder, "Writer", SlowWriter)
    monkeypatch.setattr(SlowWriter, "may", threading.Event())
    return SlowWriter.may


def test_what_cannot_wait_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_disk: threading.Event
) -> None:
    monkeypatch.setattr(recorder, "_MAX_WAITING", 5)
    with capture(tmp_path) as (engine, running):
        for number in range(12):
            ask(engine, id=str(number))
        assert running.dropped == engine.metrics.dropped["capture"]() == 7
        slow_disk.set()
    assert [one.id for one in read(tmp_path)] == list("01234")


def test_large_ones_are_bounded_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_disk: threading.Event
) -> None:
    monkeypatch.setattr(recorder, "_MAX_WAITING_BYTES", 3000)
    with capture(tmp_path) as (engine, running):
        for _ in range(4):
            ask(engine)
        assert running.dropped == 2
        slow_disk.set()


def test_a_row_does_not_keep_its_batch(tmp_path: Path, slow_disk: threading.Event) -> None:
    batch = np.zeros((64, 100), np.float32)
    alone = weakref.ref(batch)
    with capture(tmp_path) as (engine, _):
        response = InferResponse("m", 1, {"y": batch[3:4]}, Signature({}, {}))
        engine.observers[0]("oip_rest", InferRequest("m", {}), response, Times(0.0, 0.0, 0.0, 0.0))
        del batch, response
        assert alone() is None
        slow_disk.set()
    (one,) = read(tmp_path)
    assert one.answer["y"].shape == (1, 100)


def test_a_disk_that_takes_nothing_is_in_the_log_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING), capture(tmp_path / "file/kept") as (engine, running):
        for _ in range(3):
            ask(engine)
        fail(engine)
    assert running.dropped == 4
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line.startswith("capture: a sample cannot be written: ")


def test_one_that_is_too_large_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with capture(tmp_path, max_bytes=100) as (engine, running):
        ask(engine)
    assert running.dropped == 1 and "larger than all that is allowed" in caplog.text and list(read(tmp_path)) == []
