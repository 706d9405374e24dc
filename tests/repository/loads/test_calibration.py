"""Which setting is chosen for what was measured, and what is measured. No test depends on real times."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from serving.core.spec import ModelSpec
from serving.repository.loads import calibration
from serving.repository.loads.calibration import (
    SINGLE,
    Execution,
    Measured,
    Setting,
    by_hand,
    calibrate,
    candidates,
    decide,
    expected,
    may_gain,
)

THREADS, INSTANCES = Setting(1, 2), Setting(2, 1)


def heavy(row_ms: float, batch_ms: float, per_s: float, cpu_us: float = 1000.0) -> Measured:
    return Measured(row_ms / 1000, batch_ms / 1000, per_s, cpu_us / 1e6)


ONE_CORE = heavy(4, 20, 1000)


# By hand


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({}, None),
        ({"instances": 3}, Setting(3, 1)),
        ({"threads": 2}, Setting(1, 2)),
        ({"instances": 1, "threads": 1}, SINGLE),
        ({"devices": [0, 3]}, Setting(2, 1)),
        ({"devices": [0, 3], "instances": 4}, Setting(4, 1)),
    ],
)
def test_what_is_set_by_hand(settings: dict[str, Any], setting: Setting | None) -> None:
    execution = by_hand(ModelSpec.model_validate(settings))
    assert execution == (None if setting is None else Execution(setting))
    assert may_gain(ModelSpec.model_validate(settings), "onnxruntime_onnx") == (setting is None)


def test_only_onnx_runtime_on_the_processor_has_a_choice() -> None:
    assert not may_gain(ModelSpec(), "tensorflow_savedmodel")
    assert not may_gain(ModelSpec(), "identity")
    assert not may_gain(ModelSpec(providers=("CUDAExecutionProvider",)), "onnxruntime_onnx")


def test_what_is_chosen_is_told() -> None:
    assert Execution().note == {}
    assert Execution(Setting(2, 4), "so").note == {"parallel": "2 x 4 (instances x threads): so"}


# Decisions


@pytest.mark.parametrize(
    ("cores", "settings"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (1, 2), (2, 1)]),
        (3, [(1, 1), (1, 3), (3, 1)]),
        (4, [(1, 1), (1, 4), (4, 1), (2, 2)]),
        (16, [(1, 1), (1, 16), (16, 1), (4, 4)]),
        (64, [(1, 1), (1, 64), (64, 1), (8, 8)]),
    ],
)
def test_candidates(cores: int, settings: list[tuple[int, int]]) -> None:
    assert candidates(cores) == settings


def test_the_server_needs_its_part_of_the_cores() -> None:
    assert expected(heavy(1, 1, 1000, cpu_us=1000), cores=2) == 1000  # the model's own rate
    assert expected(heavy(1, 1, 2000, cpu_us=1000), cores=2) == pytest.approx(2 / 1060e-6)
    assert expected(heavy(1, 1, 1e6, cpu_us=1), cores=64) == pytest.approx(1 / 60e-6)  # the event loop's


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [
        ({}, SINGLE),
        ({THREADS: heavy(4, 19, 1050), INSTANCES: heavy(4, 20, 1140)}, SINGLE),  # that could be noise
        ({THREADS: heavy(4, 20, 1000), INSTANCES: heavy(4, 20, 1800)}, INSTANCES),
        ({THREADS: heavy(2, 11, 1800), INSTANCES: heavy(4, 20, 1000)}, THREADS),
        ({THREADS: heavy(2, 11, 1750), INSTANCES: heavy(4, 20, 1850)}, THREADS),  # as good, and done sooner
        ({THREADS: heavy(2, 11, 1300), INSTANCES: heavy(4, 20, 1850)}, INSTANCES),
        ({THREADS: heavy(6, 11, 1800), INSTANCES: heavy(4, 20, 1300)}, INSTANCES),  # one row takes too long
        ({THREADS: heavy(6, 11, 1800)}, SINGLE),
    ],
)
def test_decision(measured: Mapping[Setting, Measured], chosen: Setting) -> None:
    assert decide({SINGLE: ONE_CORE, **measured}, cores=2).setting == chosen


def test_more_is_no_use_where_the_event_loop_is_the_limit() -> None:
    light = {SINGLE: heavy(0.1, 0.5, 17_000, 58), INSTANCES: heavy(0.1, 0.5, 34_000, 58)}
    assert decide(light, cores=2).setting == SINGLE


def test_reasons() -> None:
    assert decide({SINGLE: ONE_CORE}, 2).reason == "nothing else serves clearly more rows/s"
    sooner = decide({SINGLE: ONE_CORE, THREADS: heavy(2.5, 11, 1800)}, 2)
    assert sooner.reason == "1.8 times the rows/s of 1 x 1; one row alone takes 2.5 ms, not 4 ms"
    as_soon = decide({SINGLE: ONE_CORE, INSTANCES: heavy(4, 20, 1800)}, 2)
    assert as_soon.reason == "1.8 times the rows/s of 1 x 1; one row alone takes 4 ms"


# Measurements, with a clock that only runs of models move


class Machine:
    """Runs take as long as they are said to. `together`: how many runs go on at once without taking longer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, row_s: float, *, gain: float = 1.0, together: int = 1) -> None:
        self.now = 0.0
        self.waited = 0.0
        self.waits = 0.0  # for each second
        self.loaded: list[int] = []
        self.ran: set[tuple[int, int]] = set()  # threads and rows
        self._row_s, self._gain, self._together = row_s, gain, together
        self._lock = threading.Lock()
        monkeypatch.setattr(calibration, "time", self)

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        pass

    def load(self, threads: int) -> Any:
        self.loaded.append(threads)
        return lambda rows: self._run(threads, rows)

    def _run(self, threads: int, rows: int) -> None:
        with self._lock:
            seconds = rows * self._row_s / (self._gain if threads > 1 else 1)
            self.now += seconds
            self.waited += self.waits * seconds
            self.ran.add((threads, rows))

    def calibrate(self, most_rows: int = 64, cores: int = 2, budget_s: float = 0.3) -> Execution:
        return calibrate(self.load, most_rows, cores, ran_and_waited=lambda: (self.now, self.waited), budget_s=budget_s)


def test_a_model_that_gains_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 0.001, gain=1.9)
    execution = machine.calibrate()
    assert execution.setting == THREADS and execution.sure
    assert machine.loaded == [1, 2]
    assert {(1, 1), (1, 16), (2, 1), (2, 16)} <= machine.ran
    assert 0.3 < machine.now < 0.9


def test_a_model_that_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Machine(monkeypatch, 0.001).calibrate().setting == SINGLE


def test_a_quick_model_is_not_measured_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 10e-6, gain=1.9)
    assert machine.calibrate() == Execution(SINGLE, "a row is less work for the model than for the server")
    assert machine.loaded == [1]
    assert machine.now < 0.02


def test_one_core_leaves_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1.0)
    assert machine.calibrate(cores=1) == Execution(SINGLE, "there is one core")
    assert machine.loaded == []


@pytest.mark.parametrize(("row_s", "most", "rows"), [(0.001, 8, 8), (0.02, 64, 1), (0.004, 64, 4), (0.001, 1, 1)])
def test_the_batch_that_is_measured(monkeypatch: pytest.MonkeyPatch, row_s: float, most: int, rows: int) -> None:
    """No larger than allowed, and than what takes about 20 ms."""
    machine = Machine(monkeypatch, row_s)
    machine.calibrate(most_rows=most)
    assert max(n for threads, n in machine.ran if threads == 2) == rows


def test_a_slow_model_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 1.0, gain=1.9)
    assert machine.calibrate().setting == THREADS
    assert machine.now < 12  # each setting once: a row, and a batch of one


def test_on_a_busy_machine_nothing_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 0.001, gain=1.9)
    machine.waits = 0.3
    assert machine.calibrate() == Execution(SINGLE, "the machine had too much else to do to find out more", sure=False)
    machine.waits = 0.05
    assert machine.calibrate().setting == THREADS


def test_what_the_model_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, 0.001)

    def load(threads: int) -> Any:
        raise MemoryError

    with pytest.raises(MemoryError):
        calibrate(load, 8, 2, ran_and_waited=lambda: (0.0, 0.0))
