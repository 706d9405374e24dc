"""Versions that are tried out in a process of their own: what they report, how they end, and that nothing is left."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from serving.backends import convert, registry
from serving.core.artifact import Golden, write_golden
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.repository.disk.layout import FoundVersion, scan
from serving.repository.loads import trial_process
from serving.repository.loads.calibration import Execution, Setting
from serving.repository.loads.remembered import Remembered
from serving.repository.loads.trial import OutOfMemoryError, Report, Trials
from tests import models, savedmodels
from tests.batching.control import PATIENCE_S
from tests.e2e.faults import builders


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Tried:
    """Trials, and a scratch directory for them."""

    def __init__(
        self,
        scratch: Path,
        limit_s: float = 60.0,
        limit_bytes: int | None = None,
        *,
        idle_s: float = 60.0,
        **settings: Any,
    ) -> None:
        self.scratch = scratch
        self.trials = Trials(limit_s, lambda: limit_bytes, idle_s=idle_s, **settings)

    def __call__(self, found: FoundVersion, spec: ModelSpec | None = None) -> Report:
        return self.trials.run("m", found, spec or ModelSpec(), self.scratch)

    def refusal(self, found: FoundVersion) -> LoadError:
        with pytest.raises(LoadError) as error:
            self(found)
        return error.value


@pytest.fixture
def tried(tmp_path: Path, threads: ThreadPoolExecutor) -> Iterator[Callable[..., Tried]]:
    """Makes trials; what hangs in them is ended before `threads` are waited for."""
    made: list[Tried] = []

    def tried(**settings: Any) -> Tried:
        (tmp_path / "scratch").mkdir(exist_ok=True)
        made.append(Tried(tmp_path / "scratch", **settings))
        return made[-1]

    yield tried
    for each in made:
        each.trials.close()
    wait_for(lambda: not forkers())


def version(repo: Path, proto: onnx.ModelProto | None = None, number: int = 1) -> FoundVersion:
    builders.put(repo, "m", number, proto)
    return scan(repo)["m"].versions[number]


def forkers() -> list[int]:
    """The processes of trials that were started here; other tests may have left processes of their own."""
    return [child for child in children(os.getpid()) if b"trial_process" in Path(f"/proc/{child}/cmdline").read_bytes()]


def children(pid: int) -> list[int]:
    """Processes that it has started and that still run."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return []
    return [child for child in found if lives(child)]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descent(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *descent(child))]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 3 * PATIENCE_S  # processes start slowly where many do
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def watcher_and_trial() -> tuple[int, int]:
    """The process that watches a trial, and the one that it runs in, when both are there."""
    wait_for(lambda: [grandchild for child in forkers() for grandchild in children(child)])
    (watcher,) = forkers()
    (trial,) = children(watcher)
    return watcher, trial


def status(pid: int, name: str) -> str:
    (line,) = (s for s in Path(f"/proc/{pid}/status").read_text().splitlines() if s.startswith(f"{name}:"))
    return line.split()[1]


# Calibration


def test_how_it_is_best_served_is_reported_and_remembered(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    found, kept = version(tmp_path / "repo"), Remembered(tmp_path / "cache")
    run = tried(remembered=kept)
    report = run(found)
    assert report.execution is not None and report.execution.setting == (1, 1)  # no model could be smaller
    assert report.about is not None and report.about.notes == report.execution.note
    assert kept.find(found, ModelSpec()) == (report.execution if report.execution.sure else None)
    chosen = Execution(Setting(2, 3), "found earlier")
    kept.keep(found, ModelSpec(), chosen)
    assert run(found).execution == chosen
    assert run(found, ModelSpec(threads=1)).execution is None


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        ("raise MemoryError('too large')", "it could not be measured: MemoryError: too large"),
        ("os._exit(3)", "it could not be measured"),
        ("os.kill(os.getpid(), 9)", "it could not be measured"),
        ("time.sleep(600)", "it could not be measured"),
        ("rows.append(bytearray(400_000_000)); time.sleep(600)", "it could not be measured"),
    ],
    ids=["raises", "ends", "is killed", "hangs", "takes too much memory"],
)
def test_what_happens_to_a_calibration_is_not_held_against_a_version(tmp_path: Path, happens: str, reason: str) -> None:
    """In a process like that of trials: what is replaced there is replaced in its children."""
    version(tmp_path / "repo")
    script = f"""
import os, pickle, sys, time
from pathlib import Path
from multiprocessing import Pipe
from serving.core.spec import ModelSpec
from serving.repository.disk.layout import scan
from serving.repository.loads import execution, trial_process
from serving.repository.loads.trial_child import Job

rows = []
def chosen(*_):
    {happens}
execution.chosen, execution.LIMIT_S = chosen, 1.0
found = scan(Path({str(tmp_path / "repo")!r}))["m"].versions[1]
here, server = Pipe()
job = Job("m", found, ModelSpec(), Path({str(tmp_path)!r}), 60.0, 300_000_000, frozenset())
sys.stdout.buffer.write(pickle.dumps(trial_process._outcome(job, here, {{}})))
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, timeout=6 * PATIENCE_S)
    report = pickle.loads(done.stdout)
    assert isinstance(report, Report) and report.resident_bytes >= 0
    assert report.execution == Execution(reason=reason, sure=False)


# What comes up


def test_what_a_version_takes_is_reported(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    report = tried()(version(tmp_path, models.mlp((2000, 2000, 10))))  # 16 MB of weights
    assert 16e6 < report.resident_bytes <= report.peak_bytes < 300e6
    assert report.seconds > 0


def test_what_the_server_has_imported_is_no_part_of_it(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    found = version(tmp_path)
    registry.load(found.path, ModelSpec()).close()  # imports the runtime here
    assert tried()(found).resident_bytes < 20e6  # the runtime has more


def test_one_process_serves_many_trials(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    run, found = tried(), version(tmp_path)
    run(found)
    (watcher,) = forkers()
    run(found)
    assert forkers() == [watcher]
    assert status(watcher, "Threads") == "1"  # so that it may fork
    assert children(watcher) == []


def test_a_process_that_has_nothing_to_do_ends(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    run, found = tried(idle_s=0.01), version(tmp_path)
    run(found)
    wait_for(lambda: not forkers())
    run(found)


def test_what_a_trial_left_stays_as_long_as_the_server_lives(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    run, found = tried(idle_s=0.01), version(tmp_path)
    (run.scratch / "left").touch()
    run(found)
    wait_for(lambda: not forkers())
    assert (run.scratch / "left").exists()


def test_a_process_that_ended_while_it_was_idle_is_replaced(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    run, found = tried(), version(tmp_path)
    run(found)
    (watcher,) = forkers()
    os.kill(watcher, signal.SIGKILL)
    wait_for(lambda: not lives(watcher))
    run(found)


def test_tensorflow_is_imported_once(
    tmp_path: Path, tried: Callable[..., Tried], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts no thread, so that a process may fork that has imported it."""
    monkeypatch.delitem(sys.modules, "serving.backends.tensorflow", raising=False)
    run = tried()
    savedmodels.write("half_plus_two", tmp_path / "repo/m/1")
    found = scan(tmp_path / "repo")["m"].versions[1]
    first = run(found)
    (watcher,) = forkers()
    second = run(found)
    assert forkers() == [watcher] and status(watcher, "Threads") == "1"
    assert first.peak_bytes > 100e6 > first.resident_bytes  # the server has yet to import it
    assert abs(first.resident_bytes - second.resident_bytes) < 50e6


def test_what_starts_threads_is_imported_by_each_trial(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    """A process that has threads must not fork."""
    run, found = tried(import_once="serving.backends.onnx"), version(tmp_path)
    run(found)
    (watcher,) = forkers()
    assert status(watcher, "Threads") == "1"
    run(found)
    assert forkers() == [watcher]


@pytest.mark.slow  # TensorFlow is imported in two processes
def test_a_savedmodel_is_converted_once(
    tmp_path: Path, tried: Callable[..., Tried], monkeypatch: pytest.MonkeyPatch
) -> None:
    savedmodels.write("mlp", tmp_path / "repo/m/1")
    spec, run = ModelSpec(accelerate="onnx"), tried()
    run(scan(tmp_path / "repo")["m"].versions[1], spec)
    monkeypatch.setattr(convert, "_convert", lambda *_: pytest.fail("it is converted again"))
    session = registry.load(tmp_path / "repo/m/1", spec, run.scratch)
    assert session.run({"x": np.zeros((1, 784), np.float32)}, ("output_0",))["output_0"].shape == (1, 10)
    assert session.platform == "onnxruntime_onnx"
    session.close()


# What does not


def test_what_is_wrong_with_a_version_is_told(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    run = tried()
    (tmp_path / "repo/m/1").mkdir(parents=True)
    (tmp_path / "repo/m/1/model.onnx").write_bytes(b"no graph")
    refusal = run.refusal(scan(tmp_path / "repo")["m"].versions[1])
    assert str(refusal).startswith("ONNX Runtime cannot load model.onnx") and not refusal.retry


def test_another_answer_to_the_golden_sample(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    golden = Golden({"x": np.ones((3, 4), np.float32)}, {"y": np.ones((3, 4), np.float32)})
    write_golden(builders.put(tmp_path, "m", 2), golden)
    refusal = tried().refusal(scan(tmp_path)["m"].versions[2])
    assert str(refusal).startswith("the model does not reproduce its golden sample: 'y' differs by up to 1 in")
    assert not refusal.retry


def test_a_crash_is_the_versions_fault(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    run = tried()
    refusal = run.refusal(version(tmp_path, builders.dies()))
    assert str(refusal) == "the process that tried to load it was ended by SIGFPE while it loaded the model"
    assert not refusal.retry
    run(version(tmp_path, number=2))


def test_a_hang_is_the_versions_fault(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    run = tried(limit_s=0.5)
    refusal = run.refusal(version(tmp_path, builders.hangs()))
    told = "the process that tried to load it did not finish within 0.5 s: it was ended while it loaded the model"
    assert (str(refusal), refusal.retry) == (told, False)
    (watcher,) = forkers()
    assert children(watcher) == []


def test_more_memory_than_there_is_may_be_there_later(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    refusal = tried(limit_bytes=100_000_000).refusal(version(tmp_path, builders.devours(4096)))
    assert isinstance(refusal, OutOfMemoryError) and refusal.retry and refusal.needed_bytes > 100_000_000
    told = "the process that tried to load it took more memory than the 100 MB that are left for it, while it loaded"
    assert str(refusal).startswith(told)


@pytest.mark.parametrize(
    ("code", "said", "told", "retry"),
    [
        (-signal.SIGSEGV, "", "was ended by SIGSEGV", False),
        (-signal.SIGABRT, "terminate\n  what():  odd\n", "was ended by SIGABRT (what():  odd)", False),
        (-signal.SIGABRT, "  what():  std::bad_alloc", "was ended by SIGABRT (what():  std::bad_alloc)", True),
        (-signal.SIGKILL, "", "was ended by SIGKILL, as the system does when memory runs out,", True),
        (3, "", "ended with exit code 3", False),
    ],
)
def test_how_a_process_died(code: int, said: str, told: str, retry: bool) -> None:
    error = trial_process._how_it_died(code, said, "while it loaded the model")
    assert str(error) == f"the process that tried to load it {told} while it loaded the model"
    assert error.retry == retry


def test_the_system_takes_the_trial_first(
    tmp_path: Path, tried: Callable[..., Tried], threads: ThreadPoolExecutor
) -> None:
    run, found = tried(), version(tmp_path, builders.hangs())
    refusal: Future[LoadError] = threads.submit(run.refusal, found)
    _, trial = watcher_and_trial()
    assert Path(f"/proc/{trial}/oom_score_adj").read_text().strip() == "1000"
    wait_for(lambda: os.getpriority(os.PRIO_PROCESS, trial) >= 10)
    os.kill(trial, signal.SIGKILL)  # as the system would
    error = refusal.result()
    assert isinstance(error, OutOfMemoryError) and error.retry


# What hangs concerns nobody else


def test_a_trial_that_hangs_does_not_hold_up_another(
    tmp_path: Path, tried: Callable[..., Tried], threads: ThreadPoolExecutor
) -> None:
    run = tried()
    hanging = threads.submit(run.refusal, version(tmp_path / "a", builders.hangs()))
    watcher_and_trial()
    run(version(tmp_path / "b"))
    assert not hanging.done()
    run.trials.close()
    assert (str(hanging.result()), hanging.result().retry) == ("the server stops", True)
    assert str(run.refusal(version(tmp_path / "b"))) == "the server stops"


def test_the_end_of_the_watching_process_ends_the_trial(
    tmp_path: Path, tried: Callable[..., Tried], threads: ThreadPoolExecutor
) -> None:
    run = tried()
    refusal = threads.submit(run.refusal, version(tmp_path / "a", builders.hangs()))
    watcher, trial = watcher_and_trial()
    os.kill(watcher, signal.SIGKILL)
    assert str(refusal.result()) == "the process that watches trial loads was ended by SIGKILL"
    assert refusal.result().retry
    wait_for(lambda: not lives(trial))
    run(version(tmp_path / "b"))


def test_one_that_does_not_answer_is_given_up(
    tmp_path: Path, tried: Callable[..., Tried], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.repository.loads.trial._GRACE_S", 0.0)
    monkeypatch.setattr("serving.repository.loads.trial._END_S", 0.01)
    run, found = tried(), version(tmp_path)
    run(found)
    (watcher,) = forkers()
    os.kill(watcher, signal.SIGSTOP)
    monkeypatch.setattr(run.trials, "_limit_s", 0.1)
    refusal = run.refusal(found)
    assert (str(refusal), refusal.retry) == ("the process that watches trial loads does not answer", True)
    assert not lives(watcher)


SERVER = """
import sys, time
from pathlib import Path
from serving.core.spec import ModelSpec
from serving.repository.disk.layout import scan
from serving.repository.loads.trial import Trials
found = scan(Path(sys.argv[1]))["m"].versions[1]
Trials(600).run("m", found, ModelSpec(), Path(sys.argv[2]))
time.sleep(600)
"""


@pytest.mark.parametrize("during", [True, False], ids=["during a trial", "after one"])
def test_the_end_of_the_server_ends_it_all(tmp_path: Path, during: bool) -> None:
    version(tmp_path / "repo", builders.hangs() if during else None)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "half").touch()
    server = subprocess.Popen([sys.executable, "-c", SERVER, tmp_path / "repo", scratch])
    wait_for(lambda: len(descent(server.pid)) == 2)
    if not during:
        wait_for(lambda: len(descent(server.pid)) == 1)
    family = descent(server.pid)
    server.kill()
    server.wait()
    wait_for(lambda: not any(map(lives, family)))
    assert not scratch.exists()


def test_a_conversion_ends_with_its_trial(
    tmp_path: Path, tried: Callable[..., Tried], threads: ThreadPoolExecutor
) -> None:
    savedmodels.write("half_plus_two", tmp_path / "repo/m/1")
    found, spec, run = scan(tmp_path / "repo")["m"].versions[1], ModelSpec(accelerate="onnx"), tried()
    converting = threads.submit(run, found, spec)
    _, trial = watcher_and_trial()
    wait_for(lambda: children(trial))
    (conversion,) = children(trial)
    run.trials.close()
    assert isinstance(converting.exception(), LoadError)
    wait_for(lambda: not lives(conversion))


def test_nothing_waits_for_the_timer(tmp_path: Path, tried: Callable[..., Tried]) -> None:
    run = tried(idle_s=3600.0)
    run(version(tmp_path))
    run.trials.close()
    wait_for(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))
    assert forkers() == []
