"""What the batcher did, as clients are told: of the version that they ask for, in sentences and in figures."""

import asyncio
from pathlib import Path

import pytest

from serving.core.errors import ErrorKind, ServingError
from tests import models
from tests.batching.control import on_loop
from tests.protocols.oip.management import serving, value


@on_loop
async def test_before_the_first_request(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        told = value(served.rest.explain("simple", None))
        assert (told["model"], told["version"]) == ("simple", "1")
        assert told["sentences"] == ["No request has come so far."] and told["advice"] == []
        assert told["recent"]["runs"] == told["total"]["runs"] == 0 and told["estimated_run_ms"] == {}


@on_loop
async def test_requests_that_shared_runs(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for _ in range(40):
            await asyncio.gather(*(served.infer(2) for _ in range(4)))
        told = value(served.rest.explain("simple", "1"))
        assert told["sentences"][0].startswith("In the last ")
        assert "160 requests with 320 rows in " in told["sentences"][0]
        assert told["advice"]
        for period in (told["recent"], told["total"]):
            assert (period["requests"], period["rows"]) == (160, 320)
            assert period["runs"] <= 160 and 2 <= period["rows_per_run"] <= 8
            assert sum(close["runs"] for close in period["closed"].values()) == period["runs"]
            assert sum(period["sizes"].values()) == period["runs"]
            assert 0 < period["waiting_ms"] < period["request_ms"]
        assert told["estimated_run_ms"].keys() == told["total"]["sizes"].keys()
        assert all(took > 0 for took in told["estimated_run_ms"].values())


@on_loop
async def test_settings_are_those_that_count(tmp_path: Path) -> None:
    (tmp_path / "simple").mkdir()
    (tmp_path / "simple/model.yaml").write_text(
        "max_batch_size: 16\nmax_queue_delay_ms: 2.5\nmax_queue_rows: 99\ninstances: 2\nthreads: 3\n"
    )
    models.save(models.add_sub(), tmp_path / "simple/1/model.onnx")
    async with serving(tmp_path) as served:
        settings = value(served.rest.explain("simple", None))["settings"]
        assert settings["processors"] >= 1
        assert {name: settings[name] for name in ("max_batch_size", "max_queue_delay_ms", "max_queue_rows")} == {
            "max_batch_size": 16,
            "max_queue_delay_ms": 2.5,
            "max_queue_rows": 99,
        }
        assert (settings["instances"], settings["threads"]) == (2, 3)


@pytest.mark.parametrize(
    ("model", "version", "kind"),
    [
        ("none", None, ErrorKind.NOT_FOUND),
        ("simple", "7", ErrorKind.NOT_FOUND),
        ("simple", "x", ErrorKind.INVALID),
    ],
)
@on_loop
async def test_what_is_not_there(tmp_path: Path, model: str, version: str | None, kind: ErrorKind) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(ServingError) as caught:
            served.rest.explain(model, version)
        assert caught.value.kind is kind
