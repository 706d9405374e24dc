"""Requests that name no version: where they go, and what becomes of a version on trial that does not do well."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.core.traffic import Limits, Traffic
from serving.core.types import InferRequest
from serving.repository.control.events import Kind
from serving.repository.control.state import Store
from tests import models
from tests.batching.control import on_loop, turns
from tests.repository.build import add_version
from tests.repository.test_manager import Served, serving

LIMITS = Limits(requests=100, error_rate=0.1)
HALVES = Traffic(weights={"1": 50, "2": 50}, limits=LIMITS)


@pytest.fixture(autouse=True)
def seed() -> None:
    random.seed(0)  # the draws of requests without a key


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """The model m with two versions, both loaded, each of which multiplies by its number."""
    add_version(tmp_path / "repo", 1)
    add_version(tmp_path / "repo", 2)
    (tmp_path / "repo" / "m" / "model.yaml").write_text("versions: all\n")
    return tmp_path / "repo"


@pytest.fixture
def lookups(tmp_path: Path) -> Path:
    """The model m with two versions, the second of which fails for x > 3, and the first for x > 15."""
    models.save(models.lookup(16), tmp_path / "lookups" / "m" / "1" / "model.onnx")
    models.save(models.lookup(4), tmp_path / "lookups" / "m" / "2" / "model.onnx")
    (tmp_path / "lookups" / "m" / "model.yaml").write_text("versions: all\n")
    return tmp_path / "lookups"


async def factor(served: Served, key: str | None = None) -> float:
    request = InferRequest("m", {"x": np.ones((1, 4), np.float32)}, route_key=key)
    return float((await served.engine.infer(request)).outputs["y"][0, 0])


async def look_up(served: Served, x: int = 5, number: int | None = None) -> str:
    """The version that answers, or the kind of the error."""
    try:
        response = await served.engine.infer(InferRequest("m", {"x": np.full((1, 1), x, np.int64)}, number))
    except ServingError as error:
        return error.kind.value
    return str(response.version)


async def rolled_back(served: Served) -> list[tuple[int | None, str]]:
    return [(e.version, e.text) for e in await served.manager.events() if e.kind is Kind.ROLLED_BACK]


@on_loop
async def test_requests_are_shared_out_by_weight(repo: Path) -> None:
    async with serving(repo) as served:
        await served.manager.share("m", Traffic(weights={"1": 95, "2": 5}))
        counts = Counter(await asyncio.gather(*(factor(served) for _ in range(2000))))
        assert set(counts) == {1, 2} and 55 < counts[2] < 155  # five standard deviations, and the seed is fixed
        assert served.version().number == 1  # questions about the model go to the same version each time
        assert await served.factor(number=2) == 2


@on_loop
async def test_a_key_stays_with_its_version_over_restarts_and_growth(repo: Path, tmp_path: Path) -> None:
    keys = [f"user-{i}" for i in range(100)]
    seen: list[dict[str, float]] = []
    store = Store(tmp_path / "state")
    async with serving(repo, store=store) as served:
        for weight in (10, 10, 40):
            await served.manager.share("m", Traffic(weights={"1": 100 - weight, "2": weight}, sticky="x-user"))
            seen.append({key: await factor(served, key) for key in keys})
    store.close()
    store = Store(tmp_path / "state")
    async with serving(repo, store=store) as served:
        seen.append({key: await factor(served, key) for key in keys})
    store.close()
    few, same, more, restarted = seen
    assert few == same and more == restarted
    assert {key for key in keys if few[key] == 2} < {key for key in keys if more[key] == 2}


@on_loop
async def test_a_canary_that_always_fails_is_gone_after_a_few_requests(lookups: Path) -> None:
    async with serving(lookups) as served:
        await served.manager.share("m", HALVES)
        answers = [await look_up(served) for _ in range(400)]
        assert answers.count("model") in (11, 12)  # the verdict counts a turn of the loop later
        assert "model" not in answers[50:]
        text = "it failed on 11 of 11 requests; allowed are 10 % of 100"
        assert await rolled_back(served) == [(2, text)]
        assert served.states() == {"m/1": "READY", "m/2": "READY"}
        assert await look_up(served, 3, number=2) == "2"  # who names it gets it


@on_loop
async def test_what_clients_do_wrong_is_not_held_against_a_version(lookups: Path) -> None:
    async with serving(lookups) as served:
        await served.manager.share("m", HALVES)
        assert {await look_up(served, x=99) for _ in range(400)} == {"model"}  # neither version takes it
        wrong = InferRequest("m", {"x": np.zeros((1, 1), np.float32)})
        for _ in range(400):
            with pytest.raises(ServingError) as error:
                await served.engine.infer(wrong)
            assert error.value.kind is ErrorKind.INVALID
        assert not await rolled_back(served)


@on_loop
async def test_a_canary_that_refuses_what_the_other_takes_is_rolled_back(tmp_path: Path) -> None:
    models.save(models.scale(1, width=4), tmp_path / "m" / "1" / "model.onnx")
    models.save(models.scale(2, width=8), tmp_path / "m" / "2" / "model.onnx")
    (tmp_path / "m" / "model.yaml").write_text("versions: all\n")
    async with serving(tmp_path) as served:
        await served.manager.share("m", HALVES)
        answers = await asyncio.gather(*(factor(served) for _ in range(200)), return_exceptions=True)
        assert {error.kind for error in answers if isinstance(error, ServingError)} == {ErrorKind.INVALID}
        assert await rolled_back(served) == [(2, "it failed on 11 of 11 requests; allowed are 10 % of 100")]


@on_loop
async def test_a_canary_that_is_slow_is_rolled_back(tmp_path: Path) -> None:
    """Forty times as long for each run, and three times is allowed."""
    models.save(models.slow(loops=5), tmp_path / "m" / "1" / "model.onnx")
    models.save(models.slow(loops=200), tmp_path / "m" / "2" / "model.onnx")
    (tmp_path / "m" / "model.yaml").write_text("{versions: all, max_batch_size: 1}\n")
    async with serving(tmp_path) as served:
        limits = Limits(requests=10, latency_ratio=3)
        await served.manager.share("m", Traffic(weights={"1": 50, "2": 50}, limits=limits))
        while not (found := await rolled_back(served)):
            await factor(served)
        ((number, text),) = found
        assert number == 2 and "and more than 3 times as long in " in text


@on_loop
async def test_a_verdict_is_about_the_versions_that_are_on_trial_now(lookups: Path) -> None:
    """A catalog that is published meanwhile changes nothing; another trial begins anew."""
    async with serving(lookups) as served:
        await served.manager.share("m", HALVES)
        for _ in range(10):
            assert await look_up(served, number=2) == "model"
        await served.manager.reconcile()
        assert not await rolled_back(served)
        await served.manager.share("m", Traffic(weights={"1": 60, "2": 40}, limits=LIMITS))  # the same trial
        assert await look_up(served, number=2) == "model"
        await turns()
        assert len(await rolled_back(served)) == 1
        await served.manager.share("m", HALVES)
        for _ in range(10):
            assert await look_up(served, number=2) == "model"
        await turns()
        assert len(await rolled_back(served)) == 1


@on_loop
async def test_shares_are_in_the_metrics(repo: Path) -> None:
    async with serving(repo) as served:
        assert {(v.version, v.share) for v in served.metrics.live()} == {("1", 0.0), ("2", 1.0)}
        await served.manager.share("m", Traffic(weights={"1": 3, "2": 1}))
        assert {(v.version, v.share) for v in served.metrics.live()} == {("1", 0.75), ("2", 0.25)}
