"""The statistics extension: what versions have done, in the protocol's words. Pure; the same over REST and gRPC."""

from collections.abc import Iterator
from typing import Any

from serving.core.errors import invalid
from serving.core.statistics import BatchDurations, Duration, Statistics
from serving.engine import Engine
from serving.repository.version import Version


def model_statistics(engine: Engine, model: str | None, number: int | None) -> list[dict[str, Any]]:
    """An entry for each ready version: of all models, of one model, or that one.

    Raises:
        ServingError: INVALID: not known, or not ready.
    """
    if not model:
        return [_entry(version) for version in _all_versions(engine)]
    found = engine.catalog.models.get(model)
    if found is None or not found.ready:
        raise invalid(f"requested model '{model}' is not available")
    if number is None:
        return [_entry(version) for version in found.ready.values()]
    if number not in found.ready:
        raise invalid(f"requested model version is not available for model '{model}'")
    return [_entry(found.ready[number])]


def _all_versions(engine: Engine) -> Iterator[Version]:
    for model in engine.catalog.models.values():
        yield from model.ready.values()


def _entry(version: Version) -> dict[str, Any]:
    seen = version.statistics
    return {
        "name": version.model,
        "version": str(version.number),
        "last_inference": seen.last_inference_ms,
        "inference_count": seen.rows,
        "execution_count": seen.runs,
        "inference_stats": _requests(seen),
        "response_stats": {},
        "batch_stats": [_runs(rows, durations) for rows, durations in sorted(seen.batches.items())],
        "memory_usage": _memory(version),
    }


def _memory(version: Version) -> list[dict[str, Any]]:
    """Of the machine's memory only; what a version takes on a GPU is not known."""
    taken = version.memory_bytes
    return [] if taken is None else [{"type": "CPU", "id": 0, "byte_size": taken}]


def _requests(seen: Statistics) -> dict[str, dict[str, int]]:
    nothing = Duration()  # there is no cache
    durations = {
        "success": seen.success,
        "fail": seen.fail,
        "queue": seen.queue,
        "compute_input": seen.input,
        "compute_infer": seen.run,
        "compute_output": seen.output,
        "cache_hit": nothing,
        "cache_miss": nothing,
    }
    return {name: _duration(duration) for name, duration in durations.items()}


def _runs(rows: int, durations: BatchDurations) -> dict[str, Any]:
    return {
        "batch_size": rows,
        "compute_input": _duration(durations.input),
        "compute_infer": _duration(durations.run),
        "compute_output": _duration(durations.output),
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
