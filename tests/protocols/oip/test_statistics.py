"""The statistics extension: every request and run is counted where it belongs, and clients read it."""

import asyncio
from pathlib import Path

import pytest

from serving.core.errors import ErrorKind, ServingError
from tests import models
from tests.batching.control import on_loop
from tests.protocols.oip.management import serving, value

NOTHING = {"count": 0, "ns": 0}


@on_loop
async def test_before_the_first_request_all_is_zero(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        told = value(served.rest.statistics("simple", None))
        (taken,) = told["model_stats"][0].pop("memory_usage")
        assert (taken["type"], taken["id"]) == ("CPU", 0)
        assert taken["byte_size"] == served.engine.catalog.resolve("simple").memory_bytes
        assert told == {
            "model_stats": [
                {
                    "name": "simple",
                    "version": "1",
                    "last_inference": 0,
                    "inference_count": 0,
                    "execution_count": 0,
                    "inference_stats": dict.fromkeys(
                        (
                            "success",
                            "fail",
                            "queue",
                            "compute_input",
                            "compute_infer",
                            "compute_output",
                            "cache_hit",
                            "cache_miss",
                        ),
                        NOTHING,
                    ),
                    "response_stats": {},
                    "batch_stats": [],
                }
            ]
        }


@on_loop
async def test_requests_rows_and_runs(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.infer(3)
        await asyncio.gather(served.infer(1), served.infer(1))  # in one run
        (seen,) = value(served.rest.statistics("simple", "1"))["model_stats"]
        assert (seen["inference_count"], seen["execution_count"]) == (5, 2)
        assert seen["last_inference"] > 1_600_000_000_000
        counts = {name: duration["count"] for name, duration in seen["inference_stats"].items()}
        phases = ("success", "queue", "compute_input", "compute_infer", "compute_output")
        assert counts == dict.fromkeys(phases, 3) | {"fail": 0, "cache_hit": 0, "cache_miss": 0}
        times = {name: duration["ns"] for name, duration in seen["inference_stats"].items()}
        assert times["success"] >= sum(times[name] for name in phases[1:]) > times["compute_infer"] > 0
        assert [(b["batch_size"], b["compute_infer"]["count"]) for b in seen["batch_stats"]] == [(2, 1), (3, 1)]
        assert all(b["compute_infer"]["ns"] > 0 for b in seen["batch_stats"])


@on_loop
async def test_refused_requests_count_nowhere_and_those_that_fail_in_the_model_do(tmp_path: Path) -> None:
    models.save(models.lookup(), tmp_path / "simple/1/model.onnx")
    async with serving(tmp_path) as served:
        ask = '{"inputs":[{"name":"x","datatype":"INT64","shape":[1,%d],"data":[%s]}]}'
        with pytest.raises(ServingError, match="unexpected shape"):
            await served.rest.infer("simple", None, (ask % (2, "1,1")).encode())
        with pytest.raises(ServingError, match="out of"):
            await served.rest.infer("simple", None, (ask % (1, "1000")).encode())
        await served.rest.infer("simple", None, (ask % (1, "1")).encode())
        await asyncio.sleep(0)  # runs are counted behind their answers
        (seen,) = value(served.rest.statistics(None, None))["model_stats"]
        assert (seen["inference_count"], seen["execution_count"]) == (1, 1)
        assert seen["inference_stats"]["fail"]["count"] == 1 == seen["inference_stats"]["success"]["count"]


@on_loop
async def test_which_versions_are_told(tmp_path: Path) -> None:
    models.save(models.add_sub(), tmp_path / "simple/1/model.onnx")
    models.save(models.add_sub(), tmp_path / "simple/2/model.onnx")
    (tmp_path / "simple/model.yaml").write_text("versions: all")
    models.save(models.identity(), tmp_path / "copy/7/model.onnx")
    async with serving(tmp_path) as served:
        for model, version, told in (
            (None, None, ["copy/7", "simple/1", "simple/2"]),
            ("simple", None, ["simple/1", "simple/2"]),
            ("simple", "2", ["simple/2"]),
        ):
            over_rest = value(served.rest.statistics(model, version))["model_stats"]
            over_grpc = (await served.call("ModelStatistics", name=model or "", version=version or "")).model_stats
            assert [f"{s['name']}/{s['version']}" for s in over_rest] == told
            assert [f"{s.name}/{s.version}" for s in over_grpc] == told


@on_loop
async def test_grpc_tells_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.infer(4)
        await asyncio.sleep(0)
        (there,) = value(served.rest.statistics("simple", None))["model_stats"]
        (here,) = (await served.call("ModelStatistics", name="simple")).model_stats
        assert (here.inference_count, here.execution_count, here.last_inference) == (4, 1, there["last_inference"])
        for name, duration in there["inference_stats"].items():
            told = getattr(here.inference_stats, name)
            assert {"count": told.count, "ns": told.ns} == duration
        assert [(b.batch_size, b.compute_infer.ns) for b in here.batch_stats] == [
            (4, there["batch_stats"][0]["compute_infer"]["ns"])
        ]


@pytest.mark.parametrize(
    ("model", "version", "told"),
    [
        ("nosuch", None, "requested model 'nosuch' is not available"),
        ("gone", None, "requested model 'gone' is not available"),
        ("simple", "9", "requested model version is not available for model 'simple'"),
    ],
)
@on_loop
async def test_what_is_not_there(tmp_path: Path, model: str, version: str | None, told: str) -> None:
    models.save(models.identity(), tmp_path / "gone/1/model.onnx")
    async with serving(tmp_path) as served:
        await served.manager.unload("gone")
        with pytest.raises(ServingError) as over_rest:
            served.rest.statistics(model, version)
        with pytest.raises(ServingError) as over_grpc:
            await served.call("ModelStatistics", name=model, version=version or "")
        assert over_rest.value.kind is over_grpc.value.kind is ErrorKind.INVALID
        assert over_rest.value.message == over_grpc.value.message == told
