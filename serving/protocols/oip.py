"""What REST and gRPC of the Open Inference Protocol share: everything but the framing."""

import re
import time
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from serving.core import dtypes, strings
from serving.core.dtypes import DType
from serving.core.errors import ServingError, invalid
from serving.core.types import InferRequest, InferResponse, Parameters, TensorSpec
from serving.engine import Engine
from serving.protocols.jsonio import describe
from serving.repository.catalog import IndexEntry
from serving.repository.version import State, Version

EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters")
MAX_INT64 = 2**63 - 1
MAX_DIMENSIONS = 32

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
_DIGITS = re.compile("[0-9]+", re.ASCII)


@dataclass(frozen=True)
class ServerIdentity:
    """What the server calls itself in metadata."""

    name: str
    version: str


def parse_version(text: str | None) -> int | None:
    """A version as requests spell it; None or "" leaves the choice to the server."""
    if not text:
        return None
    digits = text.lstrip("0")
    if not _DIGITS.fullmatch(text) or len(digits) > 19 or (digits and int(digits) > MAX_INT64):
        raise invalid(
            f"failed to get model version from specified version string '{text[:40]}', "
            "version should be an integral value > 0"
        )
    if not digits:
        raise invalid(f"invalid model version specified '{text[:40]}' , version should be an integral value > 0")
    return int(digits)


def model_ready(engine: Engine, model: str, version: int | None) -> bool:
    try:
        engine.catalog.resolve(model, version)
    except ServingError:
        return False
    return True


def server_metadata(identity: ServerIdentity) -> dict[str, Any]:
    return {"name": identity.name, "version": identity.version, "extensions": list(EXTENSIONS)}


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
    if version.unbatched_because:
        found["unbatched_because"] = version.unbatched_because
    return found


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.dtype.name, "shape": list(spec.shape)}


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


def deadline_of(parameters: Parameters) -> float | None:
    """When a request that carries a `timeout` (microseconds) is no longer wanted, on the monotonic clock."""
    timeout_us = parameters.get("timeout")
    if timeout_us is None:
        return None
    if type(timeout_us) is not int or not 0 <= timeout_us <= MAX_INT64:
        raise invalid(
            f"parameter 'timeout' is the microseconds to wait, a whole number >= 0, got {describe(timeout_us)}"
        )
    return time.monotonic() + timeout_us / 1e6 if timeout_us else None


def check_parameter_names(parameters: Parameters) -> None:
    if any(name.startswith("triton_") for name in parameters):
        raise invalid(
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
        )


def datatype(name: str, text: Any) -> DType:
    found = dtypes.BY_NAME.get(text) if isinstance(text, str) else None
    if found is None:
        raise invalid(
            f"invalid datatype for input {name}: expected one of {', '.join(dtypes.BY_NAME)}, got {describe(text)}"
        )
    return found


def check_shape(name: str, model: str, shape: tuple[int, ...]) -> None:
    """Refuses shapes that no tensor can have, also where a zero among the dimensions hides the others.

    Raises:
        ServingError: INVALID, naming the input.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise invalid(f"the shape of input '{name}' has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are possible")
    size = 1
    for d in shape:
        if d < 0:
            raise invalid(
                f"unexpected shape for input '{name}' for model '{model}': dimensions must be >= 0, got {list(shape)}"
            )
        size *= max(d, 1)
    if size * 8 > MAX_INT64:
        raise invalid(
            f"the shape of input '{name}' causes total element count to exceed maximum size of {MAX_INT64}, "
            f"got {list(shape)}"
        )


def add_input(request: InferRequest, name: str, array: np.ndarray) -> None:
    if name in request.inputs:
        raise invalid(f"input '{name}' already exists in request")
    request.inputs[name] = array


def from_raw(name: str, model: str, dtype: DType, shape: tuple[int, ...], data: bytes | memoryview) -> np.ndarray:
    """A tensor as a view of its raw bytes: little endian, row major; BYTES as `core.strings` has them.

    Raises:
        ServingError: INVALID, if the bytes are not exactly the tensor's.
    """
    size = prod(shape)
    if dtype is dtypes.BYTES:
        try:
            elements = strings.unpack(data)
        except ValueError as error:
            what, _, why = str(error).partition(", ")
            raise invalid(f"{what} for inference input '{name}', {why}") from None
        if len(elements) > size:
            raise invalid(
                f"unexpected number of string elements {len(elements)} for inference input '{name}', expecting {size}"
            )
        if len(elements) < size:
            raise invalid(f"expected {size} string elements for inference input '{name}', got {len(elements)}")
        return elements.reshape(shape)
    if len(data) != size * dtype.itemsize:
        raise invalid(
            f"input byte size mismatch for input '{name}' for model '{model}'. "
            f"Expected {size * dtype.itemsize}, got {len(data)}"
        )
    if not size:
        return np.empty(shape, dtype.numpy)
    return np.frombuffer(data, dtype.numpy).reshape(shape)


def to_raw(array: np.ndarray) -> bytes:
    """The bytes of an output, little endian and row major."""
    return strings.pack(array) if array.dtype == object else array.tobytes()


def tensor_head(name: str, array: np.ndarray) -> dict[str, Any]:
    """Name, datatype and shape of a tensor, as requests carry them."""
    return {"name": name, "datatype": dtypes.BY_NUMPY[array.dtype].name, "shape": list(array.shape)}


def output_dtype(response: InferResponse, name: str) -> DType:
    return response.signature.outputs[name].dtype
