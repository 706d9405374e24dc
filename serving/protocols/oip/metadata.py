"""What the server says of itself and of its models, the same over REST and gRPC."""

from dataclasses import dataclass
from typing import Any

from serving.core.errors import ServingError
from serving.core.types import TensorSpec
from serving.engine import Engine
from serving.repository.catalog import IndexEntry
from serving.repository.version import State, Version

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
    "trace",
)
WITH_SHARED_MEMORY = (*EXTENSIONS, "system_shared_memory")

_INDEX_STATES = {
    State.NEW: "UNAVAILABLE",
    State.LOADING: "LOADING",
    State.WARMING: "LOADING",
    State.READY: "READY",
    State.DRAINING: "UNLOADING",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
    State.FAILED: "UNAVAILABLE",
}


@dataclass(frozen=True)
class ServerIdentity:
    """What the server calls itself in metadata."""

    name: str
    version: str


def model_ready(engine: Engine, model: str, version: int | None) -> bool:
    """Whether it takes requests; one that sleeps does."""
    try:
        engine.catalog.resolve(model, version)
    except ServingError:
        found = engine.catalog.models.get(model)
        sleep = found.asleep if found is not None else None
        return sleep is not None and (version is None or version in sleep.versions)
    return True


def server_metadata(identity: ServerIdentity, shared_memory: bool) -> dict[str, Any]:
    """`shared_memory`: clients may register some."""
    extensions = WITH_SHARED_MEMORY if shared_memory else EXTENSIONS
    return {"name": identity.name, "version": identity.version, "extensions": list(extensions)}


def model_metadata(engine: Engine, model: str, number: int | None) -> dict[str, Any]:
    """Raises: ServingError: NOT_FOUND or NOT_READY."""
    version = engine.catalog.resolve(model, number)
    ready = engine.catalog.models[model].ready
    return {
        "name": model,
        "versions": [str(n) for n in (ready if number is None else [number])],
        "platform": version.platform,
        "inputs": [_tensor_metadata(s) for s in version.contract.signature.inputs.values()],
        "outputs": [_tensor_metadata(s) for s in version.contract.signature.outputs.values()],
    }


def properties(version: Version) -> dict[str, str]:
    """What else is worth knowing of a version, as metadata carries it."""
    found = {"max_batch_size": str(version.contract.max_batch_size)}
    if version.contract.unbatched_because:
        found["unbatched_because"] = version.contract.unbatched_because
    if len(version.contracts) > 1:
        found["signatures"] = ", ".join(version.contracts)
    return {**found, **version.notes}


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.dtype.name, "shape": [-1] if spec.shape is None else list(spec.shape)}


def repository_index(engine: Engine, only_ready: bool) -> list[dict[str, str]]:
    return [_index_entry(e) for e in engine.catalog.index if not only_ready or e.state is State.READY]


def _index_entry(entry: IndexEntry) -> dict[str, str]:
    if entry.number is None or entry.state is None:
        return {"name": entry.model}
    return {
        "name": entry.model,
        "version": str(entry.number),
        "state": _INDEX_STATES[entry.state],
        "reason": entry.reason,
    }
