"""The course of a version that comes up: what may end it early, whose fault that is, and what is done about it."""

import asyncio
import dataclasses
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.artifact import GOLDEN
from serving.core.errors import ErrorKind, LoadError, ServingError
from serving.core.spec import ModelSpec
from serving.repository.disk.layout import FoundVersion
from serving.repository.loads import latency, lifecycle, loading
from serving.repository.loads.calibration import Execution, Setting
from serving.repository.loads.latency import Times
from serving.repository.loads.memory import Free, Memory
from serving.repository.loads.trial import OutOfMemoryError, Report, Trials
from serving.repository.version import State, Version
from tests import models
from tests.batching.control import PATIENCE_S, on_loop
from tests.e2e.faults import builders
from tests.repository.build import add_version, replace_model
from tests.repository.test_manager import HeldLoad, Served, held_load, serving

__all__ = ["held_load"]

REPORT = Report(30_000_000, 20_000_000, 0.5)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with the model m, version 1."""
    add_version(tmp_path / "repo", 1)
    return tmp_path / "repo"


@pytest.fixture
def scratches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where scratch directories are made."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def left_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


class FakeTrials:
    """Answers what it is told to, trial by trial; the last answer is for all that come after it."""

    def __init__(self, *answers: Report | Exception) -> None:
        self.answers = list(answers) or [REPORT]
        self.tried: list[tuple[str, bool]] = []  # and whether it was in a hurry

    def run(self, model: str, found: FoundVersion, spec: ModelSpec, scratch: Path, *, hurry: bool = False) -> Report:
        self.tried.append((f"{model}/{found.number}", hurry))
        (scratch / "left").touch()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


async def events(served: Served) -> list[tuple[str, int | None, str]]:
    return [(e.kind.value, e.version, e.text) for e in await served.manager.events(model="m")]


# Trials


@on_loop
async def test_what_comes_up_has_been_tried(repo: Path, scratches: Path) -> None:
    trials = FakeTrials()
    async with serving(repo, trials=trials) as served:
        assert trials.tried == [("m/1", True)]  # nobody was served
        add_version(repo, 2)
        await served.settle()
        assert trials.tried == [("m/1", True), ("m/2", False)]
        version = served.version()
        assert version.memory_bytes == 20_000_000
        assert version.load_s is not None and version.load_s > 0
        kinds = [(kind, number) for kind, number, _ in await events(served)]
        assert kinds == [("loading", 1), ("ready", 1), ("loading", 2), ("ready", 2), ("unloaded", 1)]
        assert (await events(served))[3][2].endswith(" s, 20 MB")
    assert left_in(scratches) == []


def measured(instances: int, threads: int, *, sure: bool = True) -> Report:
    return dataclasses.replace(REPORT, execution=Execution(Setting(instances, threads), "measured", sure))


@on_loop
async def test_a_version_runs_as_its_trial_found_best(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, threads = loading.load, []

    def load(model: str, found: FoundVersion, spec: ModelSpec, *rest: Any, **more: Any) -> Any:
        threads.append(spec.threads)
        return real(model, found, spec, *rest, **more)

    monkeypatch.setattr(loading, "load", load)
    async with serving(repo, trials=FakeTrials(measured(3, 2))) as served:
        version = served.version()
        assert (version.execution.setting, threads) == ((3, 2), [2])
        assert len([t for t in threading.enumerate() if t.name.startswith(f"{version}#")]) == 3
        assert version.notes["parallel"] == "3 x 2 (instances x threads): measured"


@on_loop
async def test_what_could_not_be_measured_runs_as_what_it_replaces(repo: Path) -> None:
    trials = FakeTrials(measured(3, 2), measured(1, 1, sure=False))
    async with serving(repo, trials=trials) as served:
        add_version(repo, 2)
        await served.settle()
        assert (served.version().number, served.version().execution.setting) == (2, (3, 2))


@on_loop
@pytest.mark.parametrize("report", [REPORT, measured(1, 1, sure=False)])
async def test_where_nothing_is_known_one_run_has_one_thread(repo: Path, report: Report) -> None:
    async with serving(repo, trials=FakeTrials(report)) as served:
        assert served.version().execution.setting == (1, 1)


@on_loop
async def test_what_is_set_by_hand_is_not_changed(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("instances: 2")
    async with serving(repo, trials=FakeTrials(measured(3, 2))) as served:
        assert served.version().execution == Execution(Setting(2, 1))
        assert served.version().notes == {}


@on_loop
async def test_what_was_verified_in_its_trial_is_not_verified_again(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    real = loading.load

    def load(*args: Any, verified: bool) -> Any:
        told.append(verified)
        return real(*args, verified=verified)

    monkeypatch.setattr(loading, "load", load)
    async with serving(repo, trials=FakeTrials()):
        pass
    async with serving(repo):
        pass
    assert told == [True, False]


@on_loop
async def test_what_has_been_ready_is_not_tried_again(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are verified again, since nobody has looked at them meanwhile."""
    trials = FakeTrials()
    async with serving(repo, trials=trials) as served:
        await served.manager.unload("m")
        await served.until(lambda: served.states() == {"m/1": "END"})
        real, told = loading.load, []

        def load(*args: Any, verified: bool) -> Any:
            told.append(verified)
            return real(*args, verified=verified)

        monkeypatch.setattr(loading, "load", load)
        await served.manager.load("m")
        assert len(trials.tried) == 1 and told == [False]
        assert served.version().memory_bytes == 20_000_000
        replace_model(repo / "m/1", 5)
        await served.settle()
        assert len(trials.tried) == 2 and told == [False, True]


@on_loop
async def test_real_trials(repo: Path, scratches: Path) -> None:
    """One that would end this process, and one that is wrong."""
    async with serving(repo, trials=Trials(60.0)) as served:
        assert await served.factor() == 1
        builders.put(repo, "m", 2, builders.dies())
        await served.settle()
        state, reason = served.index()[2]
        assert state == "FAILED" and reason.startswith("quarantined: the process that tried to load it was ended by")
        builders.release(repo, "n", models.scale(3), factor=2)
        await served.settle()
        ((state, reason),) = served.index("n").values()
        assert state == "FAILED"
        assert reason.startswith("quarantined: the model does not reproduce its golden sample: 'y' differs by up to")
        assert await served.factor() == 1
    assert left_in(scratches) == []


def has_children() -> bool:
    return any(path.read_text().split() for path in Path("/proc/self/task").glob("*/children"))


@on_loop
async def test_close_ends_a_trial_that_hangs(repo: Path, scratches: Path) -> None:
    served = Served(repo, trials=Trials(600.0))
    builders.put(repo, "m", 2, builders.hangs())
    starting = asyncio.ensure_future(served.manager.start())
    while not has_children():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.01)
    starting.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await served.manager.close()
    assert not served.manager.loading
    assert left_in(scratches) == []


class GatedTrials(FakeTrials):
    """Trials that go on until the test ends them; notes how many there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way = self.most = 0
        self.let = threading.Event()
        self._lock = threading.Lock()

    def run(self, *args: Any, **settings: Any) -> Report:
        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        assert self.let.wait(PATIENCE_S)
        with self._lock:
            self.under_way -= 1
        return super().run(*args, **settings)


@on_loop
async def test_two_are_tried_at_once(repo: Path) -> None:
    for name in ("a", "b", "c", "d"):
        add_version(repo, 1, name)
    trials = GatedTrials()
    served = Served(repo, trials=trials)
    starting = asyncio.ensure_future(served.manager.start())
    while trials.under_way < 2:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.005)
    trials.let.set()
    await starting
    assert trials.most == 2
    await served.manager.close()


@on_loop
async def test_trials_that_hang_do_not_hold_up_others_for_ever(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_PATIENCE_S", 0.01)
    for name in ("a", "b", "c"):
        add_version(repo, 1, name)
    trials = GatedTrials()
    served = Served(repo, trials=trials)
    starting = asyncio.ensure_future(served.manager.start())
    while trials.under_way < 4:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.005)
    trials.let.set()
    await starting
    add_version(repo, 2)
    await served.settle()
    assert await served.factor() == 2
    await served.manager.close()


# Whose fault it is


@on_loop
async def test_a_bad_version_is_not_tried_again(repo: Path) -> None:
    trials = FakeTrials(LoadError("it is odd"), REPORT)
    async with serving(repo, trials=trials) as served:
        assert served.index() == {1: ("FAILED", "quarantined: it is odd")}
        await served.settle()
        os.utime(repo / "m/1/model.onnx")  # as if it were new, and it is not
        await served.settle()
        assert served.index() == {1: ("FAILED", "quarantined: it is odd")}
        assert len(trials.tried) == 1
        assert await events(served) == [("loading", 1, ""), ("quarantined", 1, "it is odd")]
        replace_model(repo / "m/1", 5)
        await served.settle()
        assert await served.factor() == 5


@on_loop
async def test_what_is_forced_is_tried_in_spite_of_its_quarantine(repo: Path) -> None:
    async with serving(repo, trials=FakeTrials(LoadError("it is odd"), REPORT)) as served:
        with pytest.raises(ServingError, match="quarantined: it is odd"):
            await served.manager.load("m")
        await served.manager.load("m", force=True)
        assert await served.factor() == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LoadError("no luck", retry=True), "no luck"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (MemoryError(), "not enough memory to load it"),
        (RuntimeError("what nobody knows"), "what nobody knows"),
    ],
    ids=["said so", "disk", "memory", "unknown"],
)
@on_loop
async def test_what_its_surroundings_are_to_blame_for_is_tried_again(repo: Path, error: Exception, reason: str) -> None:
    trials = FakeTrials(error, error, REPORT)
    async with serving(repo, trials=trials, retry_limit_s=0.01) as served:
        await served.until(lambda: served.states() == {"m/1": "READY"})
        assert len(trials.tried) == 3
        failed = [(kind, text) for kind, _, text in await events(served) if kind not in ("loading", "ready")]
        assert failed == [("failed", reason)] * 2


@on_loop
async def test_pauses_become_longer_until_it_loads_or_changes(repo: Path) -> None:
    trials = FakeTrials(LoadError("no luck", retry=True))
    async with serving(repo, trials=trials, retry_limit_s=3600.0) as served:
        seen = []

        async def again() -> Version:
            model = served.manager._models["m"]
            model.failed[1].retry_at = 0.0
            served.manager._reconciler.act(model)
            await served.until(lambda: not model.coming)
            return model.failed[1]

        for _ in range(3):
            version = await again()
            seen.append(version.attempts)
        assert seen == [2, 3, 4]
        replace_model(repo / "m/1", 5)
        await served.settle()
        assert served.manager._models["m"].failed[1].attempts == 1


@on_loop
async def test_settings_that_cannot_be_used_are_no_reason_for_quarantine(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("thread: 1")
    async with serving(repo, trials=FakeTrials()) as served:
        ((state, reason),) = served.index().values()
        assert state == "FAILED" and "unknown key 'thread'" in reason and "quarantined" not in reason
        (repo / "m/model.yaml").write_text("threads: 1")
        await served.settle()
        assert await served.factor() == 1


# What becomes of the files meanwhile


@on_loop
async def test_a_version_that_is_deleted_while_it_loads(repo: Path, held_load: HeldLoad) -> None:
    held_load.let.set()
    async with serving(repo) as served:
        held_load.let.clear()
        version_2 = add_version(repo, 2)
        await served.manager.reconcile()
        await held_load.until("m/2")
        shutil.rmtree(version_2)
        held_load.let.set()
        await served.until(lambda: served.states()["m/2"] == "FAILED")
        assert await events(served) == [*(await events(served))[:-1], ("failed", 2, "it was deleted while it loaded")]
        await served.settle()
        assert served.states() == {"m/1": "READY"}


@on_loop
async def test_what_changed_before_it_was_tried_is_not_tried(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = FakeTrials()
    async with serving(repo, trials=trials) as served:
        add_version(repo, 2)
        monkeypatch.setattr(lifecycle, "mkdtemp", _and(lambda: replace_model(repo / "m/2", 7)))
        await served.manager.reconcile()
        await served.until(lambda: served.states()["m/2"] == "FAILED")
        assert trials.tried == [("m/1", True)]
        monkeypatch.undo()
        await served.settle()
        assert await served.factor() == 7


def _and(change: Callable[[], object]) -> Callable[..., str]:
    def mkdtemp(**_: str) -> str:
        change()
        return tempfile.mkdtemp()

    return mkdtemp


@on_loop
async def test_no_place_for_the_scratch_directory(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: str) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lifecycle, "mkdtemp", full)
    async with serving(repo) as served:
        ((state, reason),) = served.index().values()
        assert state == "FAILED" and reason.startswith("[Errno 28] No space left on device (tried again at ")


# Memory


def memory(free_bytes: Callable[[], int], pressure: Any = "refuse") -> Memory:
    return Memory(None, pressure, lambda _: Free(free_bytes(), "here"))


@on_loop
async def test_what_does_not_fit_is_refused_and_tried_again(repo: Path) -> None:
    free = [29_000_000] * 4 + [31_000_000]  # each attempt looks again after what was freed has been given back
    room = memory(lambda: free.pop(0) if len(free) > 1 else free[0])
    async with serving(repo, trials=FakeTrials(), memory=room, retry_limit_s=0.01) as served:
        await served.until(lambda: served.states() == {"m/1": "READY"})
        refused = [text for kind, _, text in await events(served) if kind == "refused"]
        assert len(refused) == 2 and "it needs 30 MB to load" in refused[0]


@on_loop
async def test_what_serves_makes_way_for_its_successor_only(repo: Path) -> None:
    """And only where that is allowed."""
    (repo / "m/model.yaml").write_text("versions: all")

    def free_bytes() -> int:
        return 50_000_000 - 20_000_000 * sum(version.session is not None for version in used)

    used: list[Version] = []
    async with serving(repo, trials=FakeTrials(), memory=memory(free_bytes, "unload_first")) as served:
        used.append(served.version())
        used.append(served.version())  # 10 MB are left
        add_version(repo, 2)
        await served.settle()
        assert served.states()["m/2"] == "FAILED" and await served.factor(number=1) == 1  # both are wanted
        replace_model(repo / "m/1", 5)
        await served.settle()
        assert await served.factor(number=1) == 5
        assert used[0].state is State.END


@on_loop
async def test_a_trial_that_needs_more_is_tried_again_when_there_is_room(repo: Path) -> None:
    used: list[Version] = []

    def free_bytes() -> int:
        return 50_000_000 - 20_000_000 * sum(version.session is not None for version in used)

    trials = FakeTrials(REPORT, OutOfMemoryError("too much", needed_bytes=40_000_000), REPORT)
    async with serving(repo, trials=trials, memory=memory(free_bytes, "unload_first")) as served:
        used.append(served.version())
        add_version(repo, 2)
        await served.settle()
        assert await served.factor() == 2
        assert [name for name, _ in trials.tried] == ["m/1", "m/2", "m/2"]


@on_loop
async def test_what_takes_too_much_twice_is_refused(repo: Path) -> None:
    trials = FakeTrials(OutOfMemoryError("too much", needed_bytes=40_000_000))
    free = [39_000_000] * 2  # and more when what was freed has been given back
    room = memory(lambda: free.pop(0) if free else 90_000_000)
    async with serving(repo, trials=trials, memory=room, retry_limit_s=1000.0) as served:
        assert served.index()[1][1].startswith("too much (tried again at")
        assert [kind for kind, _, _ in await events(served)] == ["loading", "refused"]
        assert len(trials.tried) == 2


# Latency


@contextmanager
def taking(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> Iterator[list[float]]:
    """A new version takes so many times as long as the one that serves, measurement by measurement."""
    left = list(ratios)
    monkeypatch.setattr(latency, "times", lambda *_: Times(0.002 * left.pop(0), 0.002))
    monkeypatch.setattr(latency, "_PAUSES_S", (0.0, 0.0))
    yield left


@asynccontextmanager
async def with_a_limit(repo: Path) -> AsyncIterator[Served]:
    (repo / "m/model.yaml").write_text("latency_limit: 1.5")
    async with serving(repo) as served:
        add_version(repo, 2)
        await served.settle()
        yield served


@on_loop
async def test_a_slower_version_is_refused_when_it_was_slower_each_time(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taking(monkeypatch, 2, 3, 1.6) as left:
        async with with_a_limit(repo) as served:
            assert left == []
            state, reason = served.index()[2]
            assert state == "FAILED" and reason == (
                "quarantined: it is slower than version 1: its sample takes 3.2 ms, 1.6 times as long; "
                "latency_limit is 1.5"
            )
            assert await served.factor() == 1
            await served.manager.load("m", force=True)  # it is not even measured
            assert await served.factor() == 2


@on_loop
async def test_a_version_that_is_fast_enough_once_is_taken(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with taking(monkeypatch, 2, 1.4) as left:
        async with with_a_limit(repo) as served:
            assert left == [] and await served.factor() == 2


@on_loop
async def test_a_version_that_is_really_slower(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By some 50 times, so that no noise can hide it."""
    monkeypatch.setattr(latency, "_PAUSES_S", ())
    (repo / "m/model.yaml").write_text("latency_limit: 3")
    async with serving(repo) as served:
        builders.put(repo, "m", 2, models.slow(loops=40))
        await served.settle()
        assert served.index()[2][1].startswith("quarantined: it is slower than version 1: its sample takes ")


@on_loop
async def test_versions_that_take_other_inputs_are_not_compared(repo: Path) -> None:
    (repo / "m/model.yaml").write_text("latency_limit: 0.001")
    async with serving(repo) as served:
        builders.put(repo, "m", 2, models.identity("INT64"))
        await served.settle()
        assert served.states()["m/2"] == "READY"


@on_loop
async def test_the_golden_sample_is_what_is_measured(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def times(new: Any, serving: Any, inputs: dict[str, np.ndarray]) -> None:
        seen.append([len(array) for array in inputs.values()])

    monkeypatch.setattr(latency, "times", times)
    (repo / "m/model.yaml").write_text("latency_limit: 2")
    async with serving(repo) as served:
        assert (builders.release(repo, "m", models.scale(2), factor=2) / GOLDEN).exists()
        await served.settle()
        assert seen == [[3]] and await served.factor() == 2


@on_loop
async def test_the_version_that_is_measured_is_kept_meanwhile(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    async with serving(repo) as served:
        serving_now = served.version()
        monkeypatch.setattr(latency, "times", lambda *_: held.append(serving_now.leases))
        (repo / "m/model.yaml").write_text("latency_limit: 2")
        await served.settle()
        assert held == [1] and serving_now.leases == 0
        assert (await served.refusal(number=9))[0] is ErrorKind.NOT_FOUND
