"""What a protocol adapter sees: requests find their version, hold it, and get their rows or a reason."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from serving.batching.batcher import Batcher
from serving.batching.settings import BatchSettings
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.metrics import Metrics
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, InferRequest, InferResponse
from serving.core.validate import Contract
from serving.engine import Engine
from serving.repository.catalog import Catalog, CatalogModel
from serving.repository.version import Version
from tests.batching.control import Gate, all_idle, on_loop, turns
from tests.leftovers import without_collector
from tests.repository.build import FakeSession, version


async def ready_version(gate: Gate, number: int = 1, **spec: Any) -> Version:
    """A version whose runs wait at the gate."""
    made = version(number, spec=ModelSpec(**spec))
    made.contract = Contract("m", FakeSession.signatures[DEFAULT_SIGNATURE], made.spec.max_batch_size)
    made.contracts = {DEFAULT_SIGNATURE: made.contract, "other": replace(made.contract, signature_name="other")}
    made.batcher = Batcher(str(made), gate, BatchSettings(made.spec.max_batch_size), asyncio.get_running_loop())
    await all_idle(made.batcher)
    return made


def catalog(*versions: Version) -> Catalog:
    by_number = MappingProxyType({v.number: v for v in versions})
    return Catalog(MappingProxyType({"m": CatalogModel("m", by_number, versions[-1])}), ready=True)


@asynccontextmanager
async def engine_with(*versions: Version, gate: Gate) -> AsyncIterator[Engine]:
    engine = Engine(Metrics())
    engine.publish(catalog(*versions))
    try:
        yield engine
    finally:
        gate.open()
        for each in versions:
            await each.batcher.close()


def request(*values: float, number: int | None = None, **more: Any) -> InferRequest:
    x = np.repeat(np.array(values, np.float32)[:, None], 4, axis=1)
    return InferRequest("m", {"x": x}, number, **more)


def values(response: InferResponse) -> list[float]:
    return [float(row[0]) for row in response.outputs["y"]]


@on_loop
async def test_a_request_is_answered_by_the_version_it_means() -> None:
    tenfold, double = Gate(), Gate(lambda x: x * 2)
    tenfold.open()
    double.open()
    old, new = await ready_version(tenfold, 1), await ready_version(double, 2)
    async with engine_with(old, new, gate=tenfold) as engine:
        answer = await engine.infer(request(1, 2, id="abc"))
        assert (answer.model, answer.version, answer.id, values(answer)) == ("m", 2, "abc", [2, 4])
        assert answer.signature is new.contract.signature
        assert answer.timing.queue_s >= 0 and answer.timing.compute_s > 0
        answer = await engine.infer(request(1, number=1))
        assert (answer.version, values(answer)) == (1, [10])


@on_loop
async def test_requests_of_one_turn_share_a_run() -> None:
    gate = Gate()
    gate.open()
    async with engine_with(await ready_version(gate), gate=gate) as engine:
        answers = await asyncio.gather(*(engine.infer(request(n)) for n in range(3)))
        assert [values(a) for a in answers] == [[0], [10], [20]]
        assert gate.batches == [[0, 1, 2]]


@on_loop
async def test_a_version_is_held_while_a_request_uses_it_and_no_longer() -> None:
    gate = Gate()
    used = await ready_version(gate)
    async with engine_with(used, gate=gate) as engine:
        first, second = (asyncio.ensure_future(engine.infer(request(n))) for n in range(2))
        await gate.entered()
        assert used.leases == 2
        first.cancel()
        await turns()
        assert used.leases == 1
        gate.open()
        await second
        assert used.leases == 0


@on_loop
async def test_a_request_keeps_its_version_when_another_catalog_is_published() -> None:
    gate = Gate()
    old, new = await ready_version(gate, 1), await ready_version(gate, 2)
    async with engine_with(old, new, gate=gate) as engine:
        engine.publish(catalog(old))
        answer = asyncio.ensure_future(engine.infer(request(1)))
        await gate.entered()
        engine.publish(catalog(new))
        gate.open()
        assert (await answer).version == 1
        assert (await engine.infer(request(1))).version == 2


@on_loop
async def test_a_caller_that_leaves_takes_its_request_along() -> None:
    gate = Gate()
    used = await ready_version(gate)
    async with engine_with(used, gate=gate) as engine:
        running = asyncio.ensure_future(engine.infer(request(0)))
        await gate.entered()
        leaving, staying = (asyncio.ensure_future(engine.infer(request(n))) for n in (1, 2))
        await turns()
        leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled() and used.batcher.queued_rows == 1
        gate.open()
        assert values(await staying) == [20]
        await running
        assert gate.batches == [[0], [2]]


@on_loop
async def test_a_caller_that_resolved_the_version_gets_that_one() -> None:
    gate = Gate()
    gate.open()
    old, new = await ready_version(gate, 1), await ready_version(gate, 2)
    async with engine_with(old, new, gate=gate) as engine:
        assert (await engine.infer(request(1), old)).version == 1


@on_loop
async def test_a_signature_by_name() -> None:
    gate = Gate()
    gate.open()
    async with engine_with(await ready_version(gate), gate=gate) as engine:
        answers = await asyncio.gather(engine.infer(request(1)), engine.infer(request(2, signature="other")))
        assert [a.signature_name for a in answers] == [DEFAULT_SIGNATURE, "other"]
        assert sorted(gate.batches) == [[1], [2]]  # one run for each


@on_loop
async def test_no_rows_are_answered_with_no_rows_where_that_is_allowed() -> None:
    gate = Gate()
    async with engine_with(await ready_version(gate), gate=gate) as engine:
        asked = request(allow_empty=True)
        asked.inputs["x"] = np.empty((0, 4), np.float32)
        answer = await engine.infer(asked)
        assert answer.outputs["y"].shape == (0, 4) and answer.outputs["y"].dtype == np.float32
        assert gate.batches == []


@on_loop
async def test_statistics_count_what_was_answered_and_what_ran() -> None:
    gate = Gate()
    used = await ready_version(gate)
    async with engine_with(used, gate=gate) as engine:
        first = asyncio.ensure_future(engine.infer(request(0)))
        await gate.entered()
        others = [asyncio.ensure_future(engine.infer(request(*values))) for values in ((1, 2), (3,), (4,))]
        late = asyncio.ensure_future(engine.infer(request(5, deadline=time.monotonic() + 0.01)))
        with pytest.raises(ServingError):
            await late
        others[2].cancel()
        await asyncio.wait([others[2]])
        gate.open()
        await asyncio.gather(first, *others[:2])
        seen = used.statistics
        assert (seen.success.count, seen.rows, seen.fail.count) == (3, 4, 0)  # who never ran counts nowhere
        assert seen.queue.count == seen.run.count == 3
        assert seen.success.ns >= seen.queue.ns and seen.run.ns > 0
        with pytest.raises(ServingError):
            await engine.infer(request(*range(65)))
        assert seen.fail.count == 0  # it never got as far as the model


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (InferRequest("nosuch", {}), ErrorKind.NOT_FOUND),
        (request(1, number=9), ErrorKind.NOT_FOUND),
        (InferRequest("m", {}), ErrorKind.INVALID),
        (request(*range(65)), ErrorKind.INVALID),
        (request(1, outputs=("z",)), ErrorKind.INVALID),
        (request(1, signature="nosuch"), ErrorKind.PRECONDITION),
        (request(1, deadline=0.0), ErrorKind.EXPIRED),
    ],
    ids=["model", "version", "inputs", "rows", "output", "signature", "deadline"],
)
@on_loop
async def test_what_cannot_be_answered_is_refused_and_holds_nothing(asked: InferRequest, kind: ErrorKind) -> None:
    gate = Gate()
    unused = await ready_version(gate)
    async with engine_with(unused, gate=gate) as engine:
        with pytest.raises(ServingError) as error:
            await engine.infer(asked)
        assert error.value.kind is kind
        assert (unused.leases, unused.batcher.queued_rows, gate.batches) == (0, 0, [])


@on_loop
async def test_a_model_that_fails_releases_its_version() -> None:
    def fail(x: np.ndarray) -> np.ndarray:
        raise ValueError("broken")

    gate = Gate(fail)
    gate.open()
    used = await ready_version(gate)
    async with engine_with(used, gate=gate) as engine:
        with pytest.raises(ServingError, match="ValueError: broken"):
            await engine.infer(request(1))
        assert used.leases == 0


@pytest.mark.parametrize("error", [RuntimeError, invalid], ids=["model", "refusal"])
@on_loop
async def test_a_request_that_failed_is_freed_at_once(error: Callable[[str], Exception]) -> None:
    def fail(x: np.ndarray) -> np.ndarray:
        raise error("no") from ValueError("because")

    gate = Gate(fail)
    gate.open()
    async with engine_with(await ready_version(gate), gate=gate) as engine:
        with without_collector() as watched:
            asked = request(1)
            watched.add(asked.inputs["x"])
            try:
                await engine.infer(asked)
            except ServingError:
                asked = request(2)
            await watched.freed()


@on_loop
async def test_a_request_that_expired_is_freed_at_once() -> None:
    gate = Gate()
    async with engine_with(await ready_version(gate), gate=gate) as engine:
        held = asyncio.ensure_future(engine.infer(request(1)))
        await gate.entered()
        with without_collector() as watched:
            asked = request(2, deadline=time.monotonic() + 0.01)
            watched.add(asked.inputs["x"])
            try:
                await engine.infer(asked)
            except ServingError:
                asked = request(3)
            await watched.freed()
        gate.open()
        await held


@pytest.mark.parametrize(
    ("timeout_ms", "allowance_s"), [(10, None), (10, 3600), (3600_000, 0.01), (None, 0.01)], ids=str
)
@on_loop
async def test_the_earlier_of_two_deadlines_counts(timeout_ms: float | None, allowance_s: float | None) -> None:
    """The model's own, and the request's."""
    gate = Gate()
    async with engine_with(await ready_version(gate, queue_timeout_ms=timeout_ms), gate=gate) as engine:
        running = asyncio.ensure_future(engine.infer(request(0)))
        await gate.entered()
        deadline = None if allowance_s is None else time.monotonic() + allowance_s
        with pytest.raises(ServingError) as error:
            await engine.infer(request(1, deadline=deadline))
        assert error.value.kind is ErrorKind.EXPIRED
        gate.open()
        await running


def test_ready_is_started_and_not_stopping_and_all_that_is_wanted_serves() -> None:
    engine = Engine(Metrics())
    assert not engine.ready and not engine.metrics.ready()
    engine.started = True
    assert not engine.ready
    engine.publish(Catalog(ready=True))
    assert engine.ready and engine.metrics.ready()
    engine.stopping = True
    assert not engine.ready and not engine.metrics.ready()


@pytest.mark.parametrize(
    ("model", "number", "labels"),
    [
        ("m", None, ("m", "2")),
        ("m", 1, ("m", "1")),
        ("m", 7, ("m", "")),
        ("made up", None, ("", "")),
        ("made up", 1, ("", "")),
    ],
)
@on_loop
async def test_clients_cannot_make_up_labels(model: str, number: int | None, labels: tuple[str, str]) -> None:
    engine = Engine(Metrics())
    engine.publish(catalog(version(1), version(2)))
    assert engine.known(model, number) == labels


def test_a_model_without_a_ready_version_has_a_label_and_its_version_has_none() -> None:
    engine = Engine(Metrics())
    engine.publish(Catalog(MappingProxyType({"m": CatalogModel("m", {}, None)})))
    assert engine.known("m", None) == ("m", "") == engine.known("m", 1)
