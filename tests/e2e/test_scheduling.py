"""What a model's owner can say about its batches, seen by clients: sizes, lengths, deadlines, priorities, shares."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.e2e.clients import FORMS, Asker, RefusedError
from tests.e2e.conftest import Serve
from tests.e2e.server import LIMIT_S, Server, wait_for

One = Callable[..., Server]


@pytest.fixture
def one(serve: Serve, tmp_path: Path) -> One:
    """Serves one model as `m`, with the settings given."""

    def start(model: Any, settings: str, *args: str, ready: bool = True) -> Server:
        models.save(model, tmp_path / "repo/m/1/model.onnx")
        (tmp_path / "repo/m/model.yaml").write_text(settings)
        return serve(tmp_path / "repo", *args, ready=ready)

    return start


def infer(server: Server, x: np.ndarray, form: str = "binary", **more: Any) -> dict[str, np.ndarray]:
    asker = Asker(server, form)
    try:
        return dict(asker.infer("m", {"x": x}, **more).outputs)
    finally:
        asker.close()


def rows_of_runs(server: Server) -> tuple[float, float]:
    samples = server.metrics()
    return samples.sum("serving_batch_rows_sum", model="m"), samples.sum("serving_batch_rows_count", model="m")


@pytest.mark.parametrize("form", FORMS)
def test_large_request_is_cut_and_put_together(one: One, form: str) -> None:
    server = one(models.scale(3), "max_batch_size: 8\nmax_request_rows: 100\n")
    x = np.arange(400, dtype=np.float32).reshape(100, 4)
    np.testing.assert_array_equal(infer(server, x, form)["y"], x * 3)
    assert rows_of_runs(server) == (100, 13)


def test_inputs_of_different_lengths_share_a_run(one: One) -> None:
    settings = "max_batch_size: 4\nmax_queue_delay_ms: 60000\npadding: {x: {sizes: [4, 8], outputs: {y: 1}}}\n"
    server = one(models.lengths(), settings)
    given = [np.arange(1, n + 1, dtype=np.float32).reshape(1, n) for n in (1, 2, 3, 4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda x: infer(server, x), given))
    assert rows_of_runs(server) == (4, 1)
    for x, answer in zip(given, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], x * 2)
        np.testing.assert_array_equal(answer["total"], x.sum(axis=1))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("padding: {x: {sizes: [4, 8], outputs: {y: 1}}}", "padding: it changes the answers: "),
        ("padding: {z: {sizes: [4, 8]}}", "padding: no input 'z', the model takes x"),
        ("padding: {x: {sizes: [4], outputs: {z: 1}}}", "padding: no output 'z', the model gives total, y"),
        ("batching: mine", "batching: no batching policy 'mine'; there are adaptive, continuous, fixed_delay"),
    ],
)
def test_settings_that_this_model_cannot_have(one: One, settings: str, told: str) -> None:
    server = one(models.lengths(masked=False), settings, ready=False)
    assert server.wait() != 0
    assert told in server.log


def test_small_batches_are_padded(one: One) -> None:
    server = one(models.scale(3), "allowed_batch_sizes: [4, 8]")
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(infer(server, x)["y"], x * 3)
    explained = server.get("/v2/models/m/batching/explain").json()
    assert explained["total"]["padded_share"] == 0.25


@pytest.mark.parametrize("form", ["binary", "grpc"])
def test_request_that_would_be_late_is_refused_at_once_with_a_hint(one: One, form: str) -> None:
    """Runs take some 200 ms each, and the queue is long: one that allows 300 ms need not wait for them."""
    server = one(models.slow(4000), "max_batch_size: 1\n")
    x = np.ones((1, 4), np.float32)
    for _ in range(3):
        infer(server, x)
    with ThreadPoolExecutor(16) as pool:
        others = [pool.submit(infer, server, x) for _ in range(16)]
        wait_for(lambda: server.metrics().sum("serving_queue_rows", model="m") > 10, "a queue")
        began = time.monotonic()
        with pytest.raises(RefusedError, match="too late") as refused:
            infer(server, x, form, timeout=300_000)
        waited = time.monotonic() - began
        ahead = server.metrics().sum("serving_queue_rows", model="m")
        for other in others:
            other.result(LIMIT_S)
    assert refused.value.status == (503 if form == "binary" else "UNAVAILABLE")
    assert ahead > 0 and waited < LIMIT_S, "it did not wait for those before it"


def test_urgent_request_goes_first(one: One) -> None:
    server = one(models.slow(2000), "max_batch_size: 1\npriority_levels: 2\n")
    x = np.ones((1, 4), np.float32)
    ended: list[str] = []

    def ask(name: str, priority: int) -> None:
        infer(server, x, priority=priority)
        ended.append(name)

    with ThreadPoolExecutor(12) as pool:
        for n in range(10):
            pool.submit(ask, f"later {n}", 2)
        wait_for(lambda: server.metrics().sum("serving_queue_rows", model="m") >= 6, "a queue")
        pool.submit(ask, "urgent", 1).result(LIMIT_S)
        seen = list(ended)
    assert seen.index("urgent") < 9, f"it overtook nobody: {seen}"


def test_models_share_the_device(serve: Serve, tmp_path: Path) -> None:
    """With one run at a time for both, each answers all the same."""
    for name in ("a", "b"):
        models.save(models.slow(200), tmp_path / f"repo/{name}/1/model.onnx")
    server = serve(tmp_path / "repo", "--max-concurrent-runs", "1")

    def ask(i: int) -> np.ndarray:
        asker = Asker(server, "binary")
        try:
            return asker.infer("ab"[i % 2], {"x": np.full((1, 4), i, np.float32)}).outputs["y"]
        finally:
            asker.close()

    with ThreadPoolExecutor(8) as pool:
        for i, answer in enumerate(pool.map(ask, range(64))):
            np.testing.assert_array_equal(answer, np.full((1, 4), i, np.float32))


@pytest.mark.parametrize("policy", ["continuous", "fixed_delay", "adaptive"])
def test_every_policy_serves(one: One, policy: str) -> None:
    server = one(models.scale(3), f"batching: {policy}\nslo_ms: 50\nmax_queue_delay_ms: 1\n")

    def ask(i: int) -> np.ndarray:
        return infer(server, np.full((1, 4), i, np.float32))["y"]

    with ThreadPoolExecutor(8) as pool:
        for i, answer in enumerate(pool.map(ask, range(64))):
            np.testing.assert_array_equal(answer, np.full((1, 4), i * 3, np.float32))
