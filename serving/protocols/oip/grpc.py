"""`inference.GRPCInferenceService`: message bytes in, message bytes out. Free of any transport."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeVar

from serving.core.errors import ServingError
from serving.core.types import InferResponse
from serving.engine import Control, Engine
from serving.protocols.answer import answer
from serving.protocols.grpc import Call, Method, StreamMethod, read, route_key, write
from serving.protocols.messages import oip as m
from serving.protocols.oip import metadata, model_config, repository, settings, shared_memory, statistics, stream
from serving.protocols.oip.grpc_codec import Asked, Parts, Reader, Writer
from serving.protocols.oip.outputs import Wants
from serving.protocols.oip.parameters import parse_version
from serving.protocols.oip.settings import Logs
from serving.protocols.oip.shared_memory import SharedMemory
from serving.protocols.oip.trace import Tracer
from serving.protocols.status import Family

PROTOCOL = "oip_grpc"

Reply = TypeVar("Reply")


class OipGrpc:
    """The methods of `inference.GRPCInferenceService` by name. A `ServingError` that one raises becomes a status.

    Args:
        memory: regions that clients share with the server, the same for REST and gRPC; by default there are none.
        tracer: trace settings, the same for REST and gRPC; by default there is no file, so nothing can be traced.
        logs: log settings, the same for REST and gRPC; by default they change nothing.
    """

    service: str = m.GRPCInferenceService.full_name
    family = Family.OIP

    def __init__(
        self,
        engine: Engine,
        control: Control,
        identity: metadata.ServerIdentity,
        *,
        memory: SharedMemory | None = None,
        tracer: Tracer | None = None,
        logs: Logs | None = None,
    ) -> None:
        self._engine = engine
        self._control = control
        self._identity = identity
        self._memory = memory or SharedMemory(allowed=False)
        self._reader = Reader(self._memory)
        self._write = Writer().encode
        self._write_parts = Writer(triton_final_response=True).parts  # in a stream
        self._tracer = tracer or Tracer(engine)
        self._logs = logs or Logs()
        self.streams: dict[str, StreamMethod] = {"ModelStreamInfer": self.model_stream_infer}
        self.methods: dict[str, Method] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.repository_model_load,
            "RepositoryModelUnload": self.repository_model_unload,
            "SystemSharedMemoryStatus": self.system_shared_memory_status,
            "SystemSharedMemoryRegister": self.system_shared_memory_register,
            "SystemSharedMemoryUnregister": self.system_shared_memory_unregister,
            "CudaSharedMemoryStatus": self.cuda_shared_memory_status,
            "CudaSharedMemoryRegister": self.cuda_shared_memory_register,
            "CudaSharedMemoryUnregister": self.cuda_shared_memory_unregister,
            "TraceSetting": self.trace_setting,
            "LogSettings": self.log_settings,
        }

    async def model_infer(self, data: bytes, call: Call) -> bytes:
        started = time.perf_counter()
        return await self._answer(self._read(data, call), call, self._write, started)

    async def model_stream_infer(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """Answers each request in order; several are under way at the same time."""

        async def infer(asked: Asked) -> Parts:
            return await self._answer(asked, call, self._write_parts, time.perf_counter())

        async with aclosing(stream.answers(requests, call, self._read, infer)) as answers:
            async for data in answers:
                yield data

    async def _answer(
        self, asked: Asked, call: Call, encode: Callable[[InferResponse, Wants], Reply], started: float
    ) -> Reply:
        key = route_key(self._engine.catalog, asked.model, call)
        return await answer(
            self._engine, PROTOCOL, asked.model, asked.decode, encode, started, route_key=key, timed=call.timed
        )

    def _read(self, data: bytes, call: Call) -> Asked:
        try:
            return self._reader.read(data, call)
        except ServingError as error:
            self._engine.metrics.requests("", "", PROTOCOL).failed(error.kind.value)
            raise

    async def system_shared_memory_status(self, data: bytes, call: Call) -> bytes:
        regions = self._memory.status(read(m.SystemSharedMemoryStatusRequest, data).name)
        return write(m.SystemSharedMemoryStatusResponse(regions={region["name"]: region for region in regions}))

    async def system_shared_memory_register(self, data: bytes, call: Call) -> bytes:
        request = read(m.SystemSharedMemoryRegisterRequest, data)
        self._memory.register(request.name, request.key, request.offset, request.byte_size)
        return write(m.SystemSharedMemoryRegisterResponse())

    async def system_shared_memory_unregister(self, data: bytes, call: Call) -> bytes:
        self._memory.unregister(read(m.SystemSharedMemoryUnregisterRequest, data).name)
        return write(m.SystemSharedMemoryUnregisterResponse())

    async def cuda_shared_memory_status(self, data: bytes, call: Call) -> bytes:
        shared_memory.find_cuda(read(m.CudaSharedMemoryStatusRequest, data).name)
        return write(m.CudaSharedMemoryStatusResponse())

    async def cuda_shared_memory_register(self, data: bytes, call: Call) -> bytes:
        read(m.CudaSharedMemoryRegisterRequest, data)
        raise shared_memory.no_cuda(self._memory)

    async def cuda_shared_memory_unregister(self, data: bytes, call: Call) -> bytes:
        read(m.CudaSharedMemoryUnregisterRequest, data)
        self._memory.check_allowed()
        return write(m.CudaSharedMemoryUnregisterResponse())

    async def server_live(self, data: bytes, call: Call) -> bytes:
        read(m.ServerLiveRequest, data)
        return write(m.ServerLiveResponse(live=True))

    async def server_ready(self, data: bytes, call: Call) -> bytes:
        read(m.ServerReadyRequest, data)
        return write(m.ServerReadyResponse(ready=self._engine.ready))

    async def model_ready(self, data: bytes, call: Call) -> bytes:
        request = read(m.ModelReadyRequest, data)
        version = parse_version(request.version)
        return write(m.ModelReadyResponse(ready=metadata.model_ready(self._engine, request.name, version)))

    async def server_metadata(self, data: bytes, call: Call) -> bytes:
        read(m.ServerMetadataRequest, data)
        return write(m.ServerMetadataResponse(**metadata.server_metadata(self._identity, self._memory.allowed)))

    async def model_metadata(self, data: bytes, call: Call) -> bytes:
        request = read(m.ModelMetadataRequest, data)
        await self._engine.awake(request.name, call.deadline)
        number = parse_version(request.version)
        about = metadata.model_metadata(self._engine, request.name, number)
        version = self._engine.catalog.resolve(request.name, number)
        return write(m.ModelMetadataResponse(**about, properties=metadata.properties(version)))

    async def repository_index(self, data: bytes, call: Call) -> bytes:
        request = read(m.RepositoryIndexRequest, data)
        repository.check_repository(request.repository_name)
        return write(m.RepositoryIndexResponse(models=metadata.repository_index(self._engine, request.ready)))

    async def repository_model_load(self, data: bytes, call: Call) -> bytes:
        request = read(m.RepositoryModelLoadRequest, data)
        repository.check_repository(request.repository_name)
        await repository.load(self._control, request.model_name, repository.of_message(request.parameters))
        return write(m.RepositoryModelLoadResponse())

    async def repository_model_unload(self, data: bytes, call: Call) -> bytes:
        request = read(m.RepositoryModelUnloadRequest, data)
        repository.check_repository(request.repository_name)
        repository.check_unload(repository.of_message(request.parameters))
        await self._control.unload(request.model_name)
        return write(m.RepositoryModelUnloadResponse())

    async def model_config(self, data: bytes, call: Call) -> bytes:
        request = read(m.ModelConfigRequest, data)
        await self._engine.awake(request.name, call.deadline)
        version = self._engine.catalog.resolve(request.name, parse_version(request.version))
        return write(m.ModelConfigResponse(config=model_config.message(model_config.of_version(version))))

    async def model_statistics(self, data: bytes, call: Call) -> bytes:
        request = read(m.ModelStatisticsRequest, data)
        stats = statistics.model_statistics(self._engine, request.name, parse_version(request.version))
        return write(m.ModelStatisticsResponse(model_stats=stats))

    async def trace_setting(self, data: bytes, call: Call) -> bytes:
        request = read(m.TraceSettingRequest, data)
        values = self._tracer.change(request.model_name, settings.of_message(request.settings))
        return write(m.TraceSettingResponse(settings=settings.trace_message(values)))

    async def log_settings(self, data: bytes, call: Call) -> bytes:
        request = read(m.LogSettingsRequest, data)
        values = self._logs.change(repository.of_message(request.settings))
        return write(m.LogSettingsResponse(settings=settings.log_message(values)))
