"""`kill -9` at any moment of a rollout: what was answered is there after the next start, what was under way is there
whole or not at all, and nobody has to put anything right."""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from signal import SIGKILL
from typing import Any

import httpx
import numpy as np
import pytest

from tests import models
from tests.e2e.clients import Asker
from tests.e2e.conftest import Serve
from tests.e2e.faults import builders
from tests.e2e.faults.operators import Operator
from tests.e2e.faults.site import descendants
from tests.e2e.plain import lives
from tests.e2e.server import LIMIT_S, Server, wait_for

MODEL = "m"
WEIGHTS = {"stable": 75.0, "canary": 25.0}
ALL = {"stable": 100.0}


@dataclass(frozen=True)
class Standing:
    """How a model's requests are shared out, as the server tells it."""

    labels: dict[str, int]
    weights: dict[str, float]
    before: tuple[int, ...]

    @classmethod
    def of(cls, status: dict[str, Any]) -> "Standing":
        weights = (status["traffic"] or {}).get("weights", {})
        return cls(status["labels"], weights, tuple(status["before"]))

    @property
    def stable(self) -> int:
        return self.labels["stable"]

    @property
    def canary(self) -> int:
        return self.labels["canary"]

    @property
    def shares(self) -> dict[str, float]:
        """Percent by version."""
        total = sum(self.weights.values())
        return {str(self.labels[name]): 100 * weight / total for name, weight in self.weights.items() if weight}


@dataclass(frozen=True)
class Step:
    """What an operator does, how it stands after that, and the event that tells of it."""

    what: str
    after: Standing
    event: str
    version: int | None

    def do(self, operator: Operator) -> dict[str, Any]:
        if self.what == "label":
            return operator.label("canary", self.version)
        if self.what == "traffic":
            return operator.traffic(weights=self.after.weights)
        return operator.promote() if self.what == "promote" else operator.rollback()


def rollout(now: Standing, version: int, good: bool) -> Iterator[Step]:
    """A version becomes the canary, gets a share, and then takes over or is rolled back."""
    labelled = replace(now, labels={**now.labels, "canary": version})
    yield Step("label", labelled, "labelled", version)
    shared = replace(labelled, weights=WEIGHTS)
    yield Step("traffic", shared, "traffic", None)
    if good:
        before = tuple(n for n in now.before if n not in (version, now.stable))
        yield Step("promote", Standing({"stable": version}, ALL, (*before, now.stable)[-20:]), "promoted", version)
    else:
        yield Step("rollback", Standing({"stable": now.stable}, ALL, now.before), "rolled_back", now.stable)


class Rollout:
    """One rollout by an operator, in a thread, until it is done or the server is gone.

    Attributes:
        begun: gets when (monotonic) each of its stages began, and in the end when it was done: first the version is
            published, then come the steps.
        done: steps that were answered.
        pending: the one that is under way.
        now: how things stand, as was answered last.
    """

    def __init__(self, server: Server, repo: Path, now: Standing, version: int, good: bool) -> None:
        self.begun: SimpleQueue[float] = SimpleQueue()
        self.done: list[Step] = []
        self.pending: Step | None = None
        self.now = now
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(Operator(server, MODEL), repo, version, good))
        self._thread.start()

    def _run(self, operator: Operator, repo: Path, version: int, good: bool) -> None:
        try:
            self.begun.put(time.monotonic())
            builders.release(repo, MODEL, models.scale(version), version)
            for step in rollout(self.now, version, good):
                self.pending = step
                self.begun.put(time.monotonic())
                found = Standing.of(step.do(operator))
                assert found == step.after
                self.now, self.pending = found, None
                self.done.append(step)
            self.begun.put(time.monotonic())
        except httpx.TransportError:
            pass  # killed
        except Exception as error:
            self._problem = error

    def join(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        if self._problem is not None:
            raise self._problem

    @property
    def legal(self) -> list[Standing]:
        """How things may stand when the server was killed: a change that was not answered may have come through."""
        return [self.now] + ([self.pending.after] if self.pending else [])


def kill(server: Server) -> None:
    """With all that it has started: nobody else ends that."""
    children = descendants(server.process.pid)
    server.signal(SIGKILL)
    server.wait()
    wait_for(lambda: not any(map(lives, children)), "the helpers to end as well")


def check_answers(server: Server, now: Standing) -> None:
    """Requests go where they shall, and labels mean what they shall."""
    asker = Asker(server, "grpc")
    x = np.ones((1, builders.WIDTH), np.float32)
    for _ in range(20):
        answer = asker.infer(MODEL, {"x": x})
        assert answer.version in now.shares
        assert np.array_equal(answer.outputs["y"], x * int(answer.version))
    asker.close()
    for label, version in now.labels.items():
        predicted = server.post(f"/v1/models/{MODEL}/labels/{label}:predict", json={"instances": x.tolist()})
        assert predicted.json() == {"predictions": (x * version).tolist()}


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_rollouts(serve: Serve, tmp_path: Path, kills: int) -> None:
    repo, chance = tmp_path / "repo", random.Random(kills)
    builders.release(repo, MODEL, models.scale(1), 1)
    arguments = (repo, "--state-dir", tmp_path / "state", "--settle-s", "0.2", "--poll-s", "0.5")
    server = serve(*arguments)
    now = Standing.of(Operator(server, MODEL).promote(1))
    assert now == Standing({"stable": 1}, ALL, ())

    whole = Rollout(server, repo, now, 2, good=True)
    whole.join()
    assert [step.what for step in whole.done] == ["label", "traffic", "promote"]
    now, done = whole.now, whole.done
    stages_s = [end - begin for begin, end in pairwise(whole.begun.get() for _ in range(5))]

    for version in range(3, 3 + kills):
        going = Rollout(server, repo, now, version, good=chance.random() < 0.7)
        stage = chance.randrange(len(stages_s))  # they take from a few milliseconds to a second
        for _ in range(stage + 1):
            going.begun.get(timeout=LIMIT_S)
        time.sleep(chance.uniform(0, 1.2 * stages_s[stage]))
        kill(server)
        going.join()
        done += going.done
        if chance.random() < 0.3:  # and while it starts
            server = serve(*arguments, ready=False)
            time.sleep(chance.uniform(0, 2))
            kill(server)

        server = serve(*arguments)
        operator = Operator(server, MODEL)
        status = operator.status()
        now = Standing.of(status)
        assert now in going.legal
        assert status["shares"] == now.shares
        check_answers(server, now)
        assert server.get("/v2/health/ready").status_code == 200
        for event in {step.event for step in done}:
            told = [e["version"] for e in operator.events(event)]
            expected = [step.version for step in done if step.event == event]
            assert in_order(expected, told), f"{event}: answered were {expected}, the history has {told}"


def in_order(some: list[Any], all_of_them: list[Any]) -> bool:
    """Whether all of `some` are in the other list, in their order."""
    rest = iter(all_of_them)
    return all(one in rest for one in some)
