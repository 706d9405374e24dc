"""The Open Inference Protocol over gRPC: message bytes in and out, without a socket."""

import asyncio
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, ServingError
from serving.protocols import messages as m
from serving.protocols import oip, oip_grpc
from serving.protocols.oip_grpc import Call, OipGrpc
from tests import models
from tests.protocols.build import (
    INTEGERS,
    answer_of,
    dtype_id,
    message,
    not_for_ever,
    read,
    refused,
    same,
    serving_engine,
    values_of,
)

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
WITH_FIELD = tuple(dtypes.BY_NAME[name] for name in FIELDS)


def tensor(name: Any = "x", datatype: Any = "FP32", shape: Any = (1, 2), **contents: Any) -> Any:
    made = m.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if contents:
        made.contents.SetInParent()
    for field, values in contents.items():
        getattr(made.contents, field).extend(values)
    return made


def parameters(**values: Any) -> dict[str, Any]:
    """Such as `parameters(k=("int64_param", 5))`."""
    return {key: {field: value} for key, (field, value) in values.items()}


class TestDecode:
    def test_a_plain_request(self) -> None:
        request = read(
            message(
                model_version="7",
                id="a1",
                inputs=[tensor(fp32_contents=[1, 2])],
                outputs=[{"name": "z"}, {"name": "y"}],
                parameters=parameters(k=("string_param", "v")),
            )
        )
        assert (request.model, request.version, request.id) == ("m", 7, "a1")
        assert same(request.inputs["x"], np.array([[1, 2]], np.float32))
        assert request.outputs == ("z", "y") and request.parameters == {"k": "v"} and request.deadline is None

    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_every_type_as_raw_bytes(self, dtype: DType) -> None:
        values = values_of(dtype).reshape(3, 1)
        request = read(message([oip.to_raw(values)], inputs=[tensor(datatype=dtype.name, shape=[3, 1])]))
        assert same(request.inputs["x"], values)

    @pytest.mark.parametrize("dtype", WITH_FIELD, ids=dtype_id)
    def test_every_type_in_its_field(self, dtype: DType) -> None:
        values = values_of(dtype)
        field = {FIELDS[dtype.name]: values.tolist()}
        request = read(message(inputs=[tensor(datatype=dtype.name, shape=[1, 3], **field)]))
        assert same(request.inputs["x"], values.reshape(1, 3))

    @pytest.mark.parametrize("dtype", WITH_FIELD, ids=dtype_id)
    def test_no_type_in_the_field_of_another(self, dtype: DType) -> None:
        for field in set(FIELDS.values()) - {FIELDS[dtype.name]}:
            value = b"1" if field == "bytes_contents" else 1
            assert f"of type '{dtype.name}': expected {FIELDS[dtype.name]}, got {field}" in refused(
                lambda field=field, value=value: read(  # type: ignore[misc]
                    message(inputs=[tensor(datatype=dtype.name, shape=[1], **{field: [value]})])
                )
            )

    @pytest.mark.parametrize("dtype", [dtypes.FP16, dtypes.BF16], ids=dtype_id)
    def test_half_floats_have_no_field(self, dtype: DType) -> None:
        assert "send it in raw_input_contents" in refused(
            lambda: read(message(inputs=[tensor(datatype=dtype.name, fp32_contents=[1, 2])]))
        )

    @pytest.mark.parametrize("dtype", [d for d in INTEGERS if d.itemsize < 4], ids=dtype_id)
    def test_narrow_integers_are_not_wrapped(self, dtype: DType) -> None:
        info = np.iinfo(dtype.numpy)
        for value in (int(info.max) + 1, *([int(info.min) - 1] if info.min else [])):
            assert f"values that {dtype.name} cannot" in refused(
                lambda value=value: read(  # type: ignore[misc]
                    message(inputs=[tensor(datatype=dtype.name, shape=[1], **{FIELDS[dtype.name]: [value]})])
                )
            )

    def test_neither_form(self) -> None:
        assert refused(lambda: read(message(inputs=[tensor()]))) == (
            "unable to find data for input tensor 'x' for model 'm' in request."
        )

    def test_both_forms(self) -> None:
        assert "contents field must not be specified when using raw_input_contents for 'x'" in refused(
            lambda: read(message([bytes(8)], inputs=[tensor(fp32_contents=[1, 2])]))
        )

    def test_raw_bytes_for_some_inputs_only(self) -> None:
        assert "unable to find data for input tensor 'b'" in refused(
            lambda: read(message([bytes(8)], inputs=[tensor("a"), tensor("b")]))
        )

    def test_surplus_raw_bytes_are_left_alone(self) -> None:
        request = read(message([bytes(8), b"more"], inputs=[tensor()]))
        assert same(request.inputs["x"], np.zeros((1, 2), np.float32))

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_as_many_elements_as_the_shape_has(self, count: int) -> None:
        request = message(inputs=[tensor(fp32_contents=[1.0] * count)])
        assert f"(2 elements), got {count} in fp32_contents" in refused(lambda: read(request))
        raw = message([bytes(4 * count)], inputs=[tensor()])
        assert f"Expected 8, got {4 * count}" in refused(lambda: read(raw))

    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_zero_elements(self, dtype: DType) -> None:
        requests = [message([b""], inputs=[tensor(datatype=dtype.name, shape=[2, 0])])]
        if dtype in WITH_FIELD:
            requests.append(message(inputs=[tensor(datatype=dtype.name, shape=[2, 0], **{FIELDS[dtype.name]: []})]))
        for request in requests:
            assert same(read(request).inputs["x"], np.empty((2, 0), dtype.numpy))

    def test_a_scalar(self) -> None:
        assert read(message(inputs=[tensor(shape=[], fp32_contents=[5])])).inputs["x"].shape == ()

    def test_an_input_comes_once(self) -> None:
        twice = message([bytes(8), bytes(8)], inputs=[tensor(), tensor()])
        assert refused(lambda: read(twice)) == "input 'x' already exists in request"

    @pytest.mark.parametrize("datatype", ["FLOAT", "int32", "STRING", ""])
    def test_unknown_datatypes(self, datatype: str) -> None:
        assert "invalid datatype for input x" in refused(
            lambda: read(message([bytes(8)], inputs=[tensor(datatype=datatype)]))
        )

    @pytest.mark.parametrize("version", ["abc", "-1", "0", str(2**63)])
    def test_a_version_is_a_number(self, version: str) -> None:
        assert "version should be an integral value > 0" in refused(lambda: read(message(model_version=version)))


class TestShapes:
    @pytest.mark.parametrize("shape", [[-1], [1, -2], [-(2**63)]])
    def test_negative_dimensions(self, shape: list[int]) -> None:
        assert "unexpected shape for input 'x'" in refused(lambda: read(message([b""], inputs=[tensor(shape=shape)])))

    @pytest.mark.parametrize("shape", [[2**31], [2**62], [2**32, 2**32], [2**63 - 1, 2**63 - 1]])
    @pytest.mark.parametrize("dtype", [dtypes.FP32, dtypes.UINT8, dtypes.BYTES], ids=dtype_id)
    def test_a_claim_costs_no_memory(self, dtype: DType, shape: list[int]) -> None:
        value = b"1" if dtype is dtypes.BYTES else 1
        contents = {FIELDS[dtype.name]: [value]}
        requests = [
            message([b"\x00" * 8], inputs=[tensor(datatype=dtype.name, shape=shape)]),
            message(inputs=[tensor(datatype=dtype.name, shape=shape, **contents)]),
        ]
        tracemalloc.start()
        try:
            for request in requests:
                assert refused(lambda request=request: read(request))  # type: ignore[misc]
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**62, 0, 2**62], [0, 2**63 - 1]])
    @pytest.mark.parametrize("dtype", [dtypes.FP32, dtypes.BOOL, dtypes.BYTES], ids=dtype_id)
    def test_a_zero_hides_no_dimension_that_cannot_be(self, dtype: DType, shape: list[int]) -> None:
        raw = message([b""], inputs=[tensor(datatype=dtype.name, shape=shape)])
        typed = message(inputs=[tensor(datatype=dtype.name, shape=shape, **{FIELDS[dtype.name]: []})])
        assert refused(lambda: read(raw)) and refused(lambda: read(typed))

    def test_32_dimensions_are_possible_and_more_are_not(self) -> None:
        for data in ({"fp32_contents": [1]}, {}):
            raw = [] if data else [bytes(4)]
            assert read(message(raw, inputs=[tensor(shape=[1] * 32, **data)])).inputs["x"].shape == (1,) * 32
            for dimensions in (33, 65):
                many = message(raw, inputs=[tensor(shape=[1] * dimensions, **data)])
                assert refused(lambda many=many: read(many))  # type: ignore[misc]

    def test_a_million_dimensions_are_counted_and_not_multiplied(self) -> None:
        request = message([bytes(4)], inputs=[tensor(shape=[2**62] * 1_000_000)])
        with not_for_ever():
            assert refused(lambda: read(request))


class TestParameters:
    def test_every_choice(self) -> None:
        values: dict[str, Any] = {
            "b": ("bool_param", True),
            "i": ("int64_param", -5),
            "s": ("string_param", "text"),
            "d": ("double_param", 0.5),
            "u": ("uint64_param", 2**64 - 1),
        }
        request = read(message(parameters=parameters(**values)))
        assert request.parameters == {key: value for key, (_, value) in values.items()}

    def test_a_parameter_has_a_value(self) -> None:
        assert refused(lambda: read(message(parameters={"k": {}}))) == "parameter 'k' has no value"

    def test_names_that_triton_reserves(self) -> None:
        assert "reserved" in refused(lambda: read(message(parameters=parameters(triton_k=("bool_param", True)))))

    @pytest.mark.parametrize("field", ["int64_param", "uint64_param"])
    def test_a_timeout_becomes_a_deadline(self, field: str) -> None:
        request = message(parameters=parameters(timeout=(field, 5_000_000)))
        deadline = read(request).deadline
        assert deadline is not None and 4 < deadline - time.monotonic() <= 5

    @pytest.mark.parametrize("value", [("int64_param", -1), ("double_param", 1.0), ("string_param", "1")])
    def test_a_timeout_is_a_whole_number(self, value: tuple[str, Any]) -> None:
        assert "parameter 'timeout'" in refused(lambda: read(message(parameters=parameters(timeout=value))))

    def test_the_smallest_of_timeout_and_deadline_counts(self) -> None:
        soon, late = time.monotonic() + 1, time.monotonic() + 1000
        timeout = message(parameters=parameters(timeout=("int64_param", 100_000_000)))
        assert read(message(), soon).deadline == soon
        assert read(timeout, soon).deadline == soon
        assert (read(timeout, late).deadline or late) < late

    @pytest.mark.parametrize("name", ["classification", "shared_memory_region"])
    def test_what_is_not_offered_is_said(self, name: str) -> None:
        output = {"name": "y", "parameters": parameters(**{name: ("int64_param", 1)})}
        assert "is not supported" in refused(lambda: read(message(outputs=[output])), ErrorKind.UNSUPPORTED)

    def test_shared_memory_is_not_offered(self) -> None:
        one = tensor()
        one.parameters["shared_memory_region"].string_param = "r"
        assert "is not supported" in refused(lambda: read(message(inputs=[one])), ErrorKind.UNSUPPORTED)


class TestEncode:
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_every_type_goes_into_raw_contents(self, dtype: DType) -> None:
        values = values_of(dtype).reshape(1, 3)
        answer = m.ModelInferResponse.FromString(oip_grpc.encode(answer_of({"y": (dtype, values)}, "a1"), None))
        assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "a1")
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("y", dtype.name, [1, 3])
        assert not output.HasField("contents")
        assert same(oip.from_raw("y", "m", dtype, (1, 3), answer.raw_output_contents[0]), values)

    def test_one_entry_per_output_in_order(self) -> None:
        outputs = {n: (dtypes.UINT8, np.array([i], np.uint8)) for i, n in enumerate("cab")}
        outputs["e"] = (dtypes.UINT8, np.empty(0, np.uint8))
        answer = m.ModelInferResponse.FromString(oip_grpc.encode(answer_of(outputs), None))
        assert [o.name for o in answer.outputs] == ["c", "a", "b", "e"]
        assert list(answer.raw_output_contents) == [b"\x00", b"\x01", b"\x02", b""]


class TestMethods:
    """The methods of the service on an engine with a real model `copy` (version 2)."""

    def call(self, tmp_path: Path, method: str, request: Any, answer: Any) -> Any:
        models.save(models.identity(), tmp_path / "copy" / "2" / "model.onnx")

        async def ask() -> Any:
            async with serving_engine(tmp_path) as (engine, control):
                service = OipGrpc(engine, control, oip.ServerIdentity("s", "0"))
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

    def test_load_parameters_are_not_supported(self, tmp_path: Path) -> None:
        request = m.RepositoryModelLoadRequest(model_name="copy")
        request.parameters["config"].string_param = "{}"
        with pytest.raises(ServingError, match="load parameters are not supported") as caught:
            self.call(tmp_path, "RepositoryModelLoad", request, m.RepositoryModelLoadResponse)
        assert caught.value.kind is ErrorKind.UNSUPPORTED

    @pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff", b"\x12" * 3])
    def test_broken_bytes_are_refused(self, tmp_path: Path, data: bytes) -> None:
        with pytest.raises(ServingError, match=r"is not a valid inference\.ModelInferRequest message") as caught:
            self.call(tmp_path, "ModelInfer", data, m.ModelInferResponse)
        assert caught.value.kind is ErrorKind.INVALID

    def test_broken_bytes_are_counted_as_over_rest(self, tmp_path: Path) -> None:
        with pytest.raises(ServingError):
            self.call(tmp_path, "ModelInfer", b"\xff", m.ModelInferResponse)
        assert self.scrape.requests("", "", oip_grpc.PROTOCOL).outcomes == {"invalid": 1}
