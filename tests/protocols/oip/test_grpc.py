"""The methods of `inference.GRPCInferenceService`: message bytes in and out, without a socket."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.errors import ErrorKind, ServingError
from serving.protocols.grpc import Call
from serving.protocols.messages import oip as m
from serving.protocols.oip import metadata
from serving.protocols.oip.grpc import PROTOCOL, OipGrpc
from serving.protocols.oip.shared_memory import SharedMemory
from tests import models
from tests.protocols.build import serving_engine, serving_oip


def tensor(name: Any = "x", datatype: Any = "FP32", shape: Any = (1, 2), **contents: Any) -> Any:
    made = m.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if contents:
        made.contents.SetInParent()
    for field, values in contents.items():
        getattr(made.contents, field).extend(values)
    return made


class TestMethods:
    """The methods of the service on an engine with a real model `copy` (version 2)."""

    def call(self, tmp_path: Path, method: str, request: Any, answer: Any) -> Any:
        models.save(models.identity(), tmp_path / "copy" / "2" / "model.onnx")

        async def ask() -> Any:
            async with serving_engine(tmp_path) as (engine, control):
                service = OipGrpc(engine, control, metadata.ServerIdentity("s", "0"))
                data = request if isinstance(request, bytes) else request.SerializeToString()
                self.scrape = engine.metrics
                return answer.FromString(await service.methods[method](data, Call()))

        return asyncio.run(ask())

    def test_infer(self, tmp_path: Path) -> None:
        request = m.ModelInferRequest(model_name="copy", id="a", inputs=[tensor(shape=[1, 4], fp32_contents=range(4))])
        answer = self.call(tmp_path, "ModelInfer", request, m.ModelInferResponse)
        assert (answer.model_version, answer.id) == ("2", "a")
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [0, 1, 2, 3]

    def test_readiness(self, tmp_path: Path) -> None:
        assert self.call(tmp_path, "ServerLive", m.ServerLiveRequest(), m.ServerLiveResponse).live
        assert self.call(tmp_path, "ServerReady", m.ServerReadyRequest(), m.ServerReadyResponse).ready
        for name, version, ready in (("copy", "", True), ("copy", "2", True), ("copy", "1", False), ("no", "", False)):
            request = m.ModelReadyRequest(name=name, version=version)
            assert self.call(tmp_path, "ModelReady", request, m.ModelReadyResponse).ready is ready

    def test_metadata(self, tmp_path: Path) -> None:
        server = self.call(tmp_path, "ServerMetadata", m.ServerMetadataRequest(), m.ServerMetadataResponse)
        assert (server.name, server.version) == ("s", "0") and "binary_tensor_data" in server.extensions
        model = self.call(tmp_path, "ModelMetadata", m.ModelMetadataRequest(name="copy"), m.ModelMetadataResponse)
        assert (model.name, list(model.versions), model.platform) == ("copy", ["2"], "onnxruntime_onnx")
        assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("x", "FP32", [-1, 4])]
        assert model.properties["max_batch_size"] == "64"

    def test_index(self, tmp_path: Path) -> None:
        for ready in (False, True):
            request = m.RepositoryIndexRequest(ready=ready)
            answer = self.call(tmp_path, "RepositoryIndex", request, m.RepositoryIndexResponse)
            assert [(e.name, e.version, e.state) for e in answer.models] == [("copy", "2", "READY")]

    def test_load_and_unload(self, tmp_path: Path) -> None:
        self.call(
            tmp_path,
            "RepositoryModelLoad",
            m.RepositoryModelLoadRequest(model_name="copy"),
            m.RepositoryModelLoadResponse,
        )
        self.call(
            tmp_path,
            "RepositoryModelUnload",
            m.RepositoryModelUnloadRequest(model_name="copy"),
            m.RepositoryModelUnloadResponse,
        )

    @pytest.mark.parametrize(
        ("method", "request_class"),
        [
            ("RepositoryIndex", m.RepositoryIndexRequest),
            ("RepositoryModelLoad", m.RepositoryModelLoadRequest),
            ("RepositoryModelUnload", m.RepositoryModelUnloadRequest),
        ],
    )
    def test_a_repository_has_no_name(self, tmp_path: Path, method: str, request_class: Any) -> None:
        with pytest.raises(ServingError, match="'repository_name' specification is not supported") as caught:
            self.call(tmp_path, method, request_class(repository_name="r"), m.RepositoryIndexResponse)
        assert caught.value.kind is ErrorKind.UNSUPPORTED

    @pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff", b"\x12" * 3])
    def test_broken_bytes_are_refused(self, tmp_path: Path, data: bytes) -> None:
        with pytest.raises(ServingError, match=r"is not a valid inference\.ModelInferRequest message") as caught:
            self.call(tmp_path, "ModelInfer", data, m.ModelInferResponse)
        assert caught.value.kind is ErrorKind.INVALID

    def test_broken_bytes_are_counted_as_over_rest(self, tmp_path: Path) -> None:
        with pytest.raises(ServingError):
            self.call(tmp_path, "ModelInfer", b"\xff", m.ModelInferResponse)
        assert self.scrape.requests("", "", PROTOCOL).outcomes == {"invalid": 1}


class TestSharedMemory:
    """The calls for it, with an object `/object` of 32 bytes."""

    def ask(self, tmp_path: Path, *calls: tuple[str, Any, Any], allowed: bool = True) -> list[Any]:
        """The answers to (method, request, class of the answer), one after the other."""
        models.save(models.identity(), tmp_path / "repo" / "copy" / "2" / "model.onnx")
        (tmp_path / "object").write_bytes(np.arange(1, 5, dtype=np.float32).tobytes() + bytes(16))

        async def main() -> list[Any]:
            async with serving_oip(tmp_path / "repo", SharedMemory(allowed, tmp_path)) as (_, service, _):
                return [
                    answer.FromString(await service.methods[method](request.SerializeToString(), Call()))
                    for method, request, answer in calls
                ]

        return asyncio.run(main())

    REGISTER = (
        "SystemSharedMemoryRegister",
        m.SystemSharedMemoryRegisterRequest(name="r", key="/object", byte_size=32),
        m.SystemSharedMemoryRegisterResponse,
    )

    def unregister(self, name: str) -> tuple[str, Any, Any]:
        request = m.SystemSharedMemoryUnregisterRequest(name=name)
        return "SystemSharedMemoryUnregister", request, m.SystemSharedMemoryUnregisterResponse

    def status(self, name: str) -> tuple[str, Any, Any]:
        request = m.SystemSharedMemoryStatusRequest(name=name)
        return "SystemSharedMemoryStatus", request, m.SystemSharedMemoryStatusResponse

    def test_regions_come_and_go(self, tmp_path: Path) -> None:
        _, one, all_, _, none = self.ask(
            tmp_path, self.REGISTER, self.status("r"), self.status(""), self.unregister(""), self.status("")
        )
        assert one == all_ and list(one.regions) == ["r"] and not none.regions
        region = one.regions["r"]
        assert (region.name, region.key, region.offset, region.byte_size) == ("r", "/object", 0, 32)

    def test_infer(self, tmp_path: Path) -> None:
        request = m.ModelInferRequest(model_name="copy")
        for place, offset in (
            (request.inputs.add(name="x", datatype="FP32", shape=[1, 4]), 0),
            (request.outputs.add(name="y"), 16),
        ):
            place.parameters["shared_memory_region"].string_param = "r"
            place.parameters["shared_memory_byte_size"].int64_param = 16
            place.parameters["shared_memory_offset"].int64_param = offset
        _, answer = self.ask(tmp_path, self.REGISTER, ("ModelInfer", request, m.ModelInferResponse))
        assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("y", "FP32", [1, 4])]
        assert list(answer.raw_output_contents) == [b""]
        assert (tmp_path / "object").read_bytes() == np.arange(1, 5, dtype=np.float32).tobytes() * 2

    @pytest.mark.parametrize(
        ("calls", "kind", "text"),
        [
            ([REGISTER, REGISTER], ErrorKind.EXISTS, "shared memory region 'r' already in manager"),
            (
                [
                    (
                        "SystemSharedMemoryStatus",
                        m.SystemSharedMemoryStatusRequest(name="zz"),
                        m.SystemSharedMemoryStatusResponse,
                    )
                ],
                ErrorKind.NOT_FOUND,
                "Unable to find system shared memory region: 'zz'",
            ),
            (
                [
                    (
                        "CudaSharedMemoryStatus",
                        m.CudaSharedMemoryStatusRequest(name="zz"),
                        m.CudaSharedMemoryStatusResponse,
                    )
                ],
                ErrorKind.NOT_FOUND,
                "Unable to find cuda shared memory region: 'zz'",
            ),
            (
                [
                    (
                        "CudaSharedMemoryRegister",
                        m.CudaSharedMemoryRegisterRequest(name="r"),
                        m.CudaSharedMemoryRegisterResponse,
                    )
                ],
                ErrorKind.UNSUPPORTED,
                "CUDA shared memory is not supported",
            ),
        ],
    )
    def test_refusals(self, tmp_path: Path, calls: list[tuple[str, Any, Any]], kind: ErrorKind, text: str) -> None:
        with pytest.raises(ServingError, match=text) as caught:
            self.ask(tmp_path, *calls)
        assert caught.value.kind is kind

    def test_memory_of_a_gpu(self, tmp_path: Path) -> None:
        status, _ = self.ask(
            tmp_path,
            ("CudaSharedMemoryStatus", m.CudaSharedMemoryStatusRequest(), m.CudaSharedMemoryStatusResponse),
            ("CudaSharedMemoryUnregister", m.CudaSharedMemoryUnregisterRequest(), m.CudaSharedMemoryUnregisterResponse),
        )
        assert not status.regions

    def test_unless_it_is_allowed(self, tmp_path: Path) -> None:
        assert not self.ask(tmp_path, self.status(""), allowed=False)[0].regions
        for call in (self.REGISTER, self.unregister("")):
            with pytest.raises(ServingError, match="Client shared memory is disabled") as caught:
                self.ask(tmp_path, call, allowed=False)
            assert caught.value.kind is ErrorKind.UNSUPPORTED

    @pytest.mark.parametrize("allowed", [False, True])
    def test_the_extension_is_named_if_it_works(self, tmp_path: Path, allowed: bool) -> None:
        call = ("ServerMetadata", m.ServerMetadataRequest(), m.ServerMetadataResponse)
        (server,) = self.ask(tmp_path, call, allowed=allowed)
        assert ("system_shared_memory" in server.extensions) is allowed
