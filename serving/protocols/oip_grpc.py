"""Open Inference Protocol over gRPC: message bytes in, message bytes out. Free of any transport."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from serving.core import dtypes
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import InferRequest, InferResponse, Parameters
from serving.engine import Control, Engine
from serving.protocols import messages as m
from serving.protocols import oip
from serving.protocols.answer import answer
from serving.protocols.status import Family

PROTOCOL = "oip_grpc"


@dataclass(slots=True)
class Call:
    """What a method may know of its call. `deadline` is on the monotonic clock."""

    deadline: float | None = None


Method = Callable[[bytes, Call], Awaitable[bytes]]

# Which field of InferTensorContents holds which datatype; FP16 and BF16 have none.
_CONTENTS = {
    dtypes.BOOL: "bool_contents",
    dtypes.INT8: "int_contents", dtypes.INT16: "int_contents", dtypes.INT32: "int_contents",
    dtypes.INT64: "int64_contents",
    dtypes.UINT8: "uint_contents", dtypes.UINT16: "uint_contents", dtypes.UINT32: "uint_contents",
    dtypes.UINT64: "uint64_contents",
    dtypes.FP32: "fp32_contents",
    dtypes.FP64: "fp64_contents",
    dtypes.BYTES: "bytes_contents",
}  # fmt: skip


class OipGrpc:
    """The methods of `inference.GRPCInferenceService` by name. A `ServingError` that one raises becomes a status."""

    service = m.OIP_SERVICE.full_name
    family = Family.OIP

    def __init__(self, engine: Engine, control: Control, identity: oip.ServerIdentity) -> None:
        self._engine = engine
        self._control = control
        self._identity = identity
        self.methods: dict[str, Method] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.repository_model_load,
            "RepositoryModelUnload": self.repository_model_unload,
        }

    async def model_infer(self, data: bytes, call: Call) -> bytes:
        started = time.perf_counter()
        try:
            message = _read(m.ModelInferRequest, data)
        except ServingError as error:
            self._engine.metrics.requests("", "", PROTOCOL).failed(error.kind.value)
            raise
        return await answer(self._engine, PROTOCOL, message.model_name, lambda: decode(message, call), encode, started)

    async def server_live(self, data: bytes, call: Call) -> bytes:
        return _write(m.ServerLiveResponse(live=True))

    async def server_ready(self, data: bytes, call: Call) -> bytes:
        return _write(m.ServerReadyResponse(ready=self._engine.ready))

    async def model_ready(self, data: bytes, call: Call) -> bytes:
        request = _read(m.ModelReadyRequest, data)
        version = oip.parse_version(request.version)
        return _write(m.ModelReadyResponse(ready=oip.model_ready(self._engine, request.name, version)))

    async def server_metadata(self, data: bytes, call: Call) -> bytes:
        return _write(m.ServerMetadataResponse(**oip.server_metadata(self._identity)))

    async def model_metadata(self, data: bytes, call: Call) -> bytes:
        request = _read(m.ModelMetadataRequest, data)
        number = oip.parse_version(request.version)
        metadata = oip.model_metadata(self._engine, request.name, number)
        version = self._engine.catalog.resolve(request.name, number)
        return _write(m.ModelMetadataResponse(**metadata, properties=oip.properties(version)))

    async def repository_index(self, data: bytes, call: Call) -> bytes:
        request = _read(m.RepositoryIndexRequest, data)
        _refuse_repository_name(request)
        return _write(m.RepositoryIndexResponse(models=oip.repository_index(self._engine, request.ready)))

    async def repository_model_load(self, data: bytes, call: Call) -> bytes:
        request = _read(m.RepositoryModelLoadRequest, data)
        _refuse_repository_name(request)
        if request.parameters:
            names = sorted(request.parameters)
            raise ServingError(ErrorKind.UNSUPPORTED, f"load parameters are not supported, got {names}")
        await self._control.load(request.model_name)
        return _write(m.RepositoryModelLoadResponse())

    async def repository_model_unload(self, data: bytes, call: Call) -> bytes:
        request = _read(m.RepositoryModelUnloadRequest, data)
        _refuse_repository_name(request)
        await self._control.unload(request.model_name)
        return _write(m.RepositoryModelUnloadResponse())


def decode(message: Any, call: Call) -> tuple[InferRequest, None]:
    """Reads a ModelInferRequest; arrays are views of the message's raw contents.

    Raises:
        ServingError: INVALID, naming what is wrong.
    """
    model = message.model_name
    request = InferRequest(model, {}, oip.parse_version(message.model_version), id=message.id)
    request.deadline = call.deadline
    if message.parameters:
        request.parameters = _parameters(message.parameters)
        timeout = oip.deadline_of(request.parameters)
        if timeout is not None:
            request.deadline = timeout if call.deadline is None else min(timeout, call.deadline)
    raw = message.raw_input_contents
    for i, tensor in enumerate(message.inputs):
        name = tensor.name
        dtype = oip.datatype(name, tensor.datatype)
        shape = tuple(tensor.shape)
        oip.check_shape(name, model, shape)
        if "shared_memory_region" in tensor.parameters:
            raise ServingError(ErrorKind.UNSUPPORTED, f"input '{name}': shared memory is not supported")
        if not raw:
            array = _from_contents(name, model, dtype, shape, tensor)
        elif tensor.HasField("contents"):
            raise invalid(
                f"contents field must not be specified when using raw_input_contents for '{name}' for model '{model}'"
            )
        elif i >= len(raw):
            raise invalid(f"unable to find data for input tensor '{name}' for model '{model}' in request.")
        else:
            array = oip.from_raw(name, model, dtype, shape, raw[i])
        oip.add_input(request, name, array)
    if message.outputs:
        request.outputs = _outputs(message.outputs)
    return request, None


def encode(response: InferResponse, _: None) -> bytes:
    """A ModelInferResponse; tensors always go into raw_output_contents, one entry per output in order."""
    message = m.ModelInferResponse(model_name=response.model, model_version=str(response.version), id=response.id)
    for name, array in response.outputs.items():
        message.outputs.add(name=name, datatype=oip.output_dtype(response, name).name, shape=array.shape)
        message.raw_output_contents.append(oip.to_raw(array))
    return _write(message)


def _from_contents(name: str, model: str, dtype: dtypes.DType, shape: tuple[int, ...], tensor: Any) -> np.ndarray:
    if not tensor.HasField("contents"):
        raise invalid(f"unable to find data for input tensor '{name}' for model '{model}' in request.")
    want = _CONTENTS.get(dtype)
    if want is None:
        raise invalid(f"input '{name}': {dtype.name} has no contents field; send it in raw_input_contents")
    contents = tensor.contents
    for descriptor, _ in contents.ListFields():
        if descriptor.name != want:
            raise invalid(
                f"unexpected explicit tensor data for input tensor '{name}' for model '{model}' "
                f"of type '{dtype.name}': expected {want}, got {descriptor.name}"
            )
    values = getattr(contents, want)
    size = prod(shape)
    if len(values) != size:
        raise invalid(
            f"input '{name}' for model '{model}' has shape {list(shape)} ({size} elements), got {len(values)} in {want}"
        )
    if dtype is dtypes.BYTES:
        array = np.empty(len(values), dtype=object)
        array[:] = list(values)
        return array.reshape(shape)
    try:
        return np.array(values, dtype=dtype.numpy).reshape(shape)
    except OverflowError:
        raise invalid(f"input '{name}' for model '{model}' holds values that {dtype.name} cannot") from None


def _parameters(message: Any) -> Parameters:
    found: Parameters = {}
    for key, parameter in message.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise invalid(f"parameter '{key}' has no value")
        found[key] = getattr(parameter, choice)
    oip.check_parameter_names(found)
    return found


def _outputs(outputs: Any) -> tuple[str, ...]:
    for tensor in outputs:
        for unsupported in ("classification", "shared_memory_region"):
            if unsupported in tensor.parameters:
                raise ServingError(ErrorKind.UNSUPPORTED, f"output '{tensor.name}': '{unsupported}' is not supported")
    return tuple(tensor.name for tensor in outputs)


def _refuse_repository_name(request: Any) -> None:
    if request.repository_name:
        raise ServingError(ErrorKind.UNSUPPORTED, "'repository_name' specification is not supported")


def _read(message_class: Any, data: bytes) -> Any:
    try:
        return message_class.FromString(data)
    except Exception:  # protobuf's DecodeError, or whatever its runtime raises on broken input
        raise invalid(f"the request is not a valid {message_class.DESCRIPTOR.full_name} message") from None


def _write(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
