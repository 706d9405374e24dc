"""One inference over gRPC: messages in, requests out; answers in, bytes out."""

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind
from serving.protocols.grpc import Call
from serving.protocols.messages import oip as m
from serving.protocols.oip import grpc_codec, tensors
from serving.protocols.oip.outputs import AS_BINARY, Wants
from serving.protocols.oip.shared_memory import SharedMemory
from tests.protocols.build import (
    INTEGERS,
    answer_of,
    dtype_id,
    message,
    not_for_ever,
    read,
    refused,
    same,
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
PLAIN = Wants({}, AS_BINARY)
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
        request = read(message([tensors.to_raw(values)], inputs=[tensor(datatype=dtype.name, shape=[3, 1])]))
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
        }
        request = read(message(parameters=parameters(**values)))
        assert request.parameters == {key: value for key, (_, value) in values.items()}

    def test_the_smallest_of_timeout_and_deadline_counts(self) -> None:
        soon, late = time.monotonic() + 1, time.monotonic() + 1000
        timeout = message(parameters=parameters(timeout=("int64_param", 100_000_000)))
        assert read(message(), soon).deadline == soon
        assert read(timeout, soon).deadline == soon
        assert (read(timeout, late).deadline or late) < late

    def test_signature_and_priority(self) -> None:
        given = parameters(signature_name=("string_param", "classify"), priority=("uint64_param", 2))
        request = read(message(parameters=given))
        assert (request.signature, request.priority) == ("classify", 2)


def output(name: str = "y", **values: Any) -> Any:
    return {"name": name, "parameters": parameters(**values)}


def wants(*outputs: Any, memory: SharedMemory | None = None) -> Wants:
    return grpc_codec.decode(message(outputs=outputs), Call(), memory)[1]


class TestOutputs:
    def test_all_by_default(self) -> None:
        request, found = grpc_codec.decode(message(), Call())
        assert request.outputs == () and found == PLAIN

    def test_by_name(self) -> None:
        request, _ = grpc_codec.decode(message(outputs=[output("z"), output("y"), output("z")]), Call())
        assert request.outputs == ("z", "y", "z")  # that a name comes twice is for the model's contract to refuse

    def test_classes(self) -> None:
        assert wants(output(classification=("int64_param", 3))).named["y"].classes == 3

    @pytest.mark.parametrize("value", [("int64_param", -1), ("string_param", "3"), ("double_param", 1.0)])
    def test_classes_are_counted_from_one(self, value: Any) -> None:
        assert "'classification'" in refused(lambda: wants(output(classification=value)))

    def test_no_classes_at_all(self) -> None:
        assert refused(lambda: wants(output(classification=("int64_param", 0)))) == (
            "invalid value for 'classification' parameter, expected >= 0"
        )


class TestSharedMemory:
    """Of a region `r` that holds 0 to 31."""

    @pytest.fixture
    def memory(self, tmp_path: Path) -> SharedMemory:
        (tmp_path / "object").write_bytes(bytes(range(32)))
        memory = SharedMemory(True, tmp_path)
        memory.register("r", "/object", 0, 32)
        return memory

    def region(self, size: int = 8, **more: Any) -> dict[str, Any]:
        name, length = ("string_param", "r"), ("int64_param", size)
        return parameters(shared_memory_region=name, shared_memory_byte_size=length, **more)

    def test_an_input_is_there(self, memory: SharedMemory) -> None:
        one = tensor(datatype="UINT8", shape=[4])
        for key, value in self.region(4, shared_memory_offset=("int64_param", 5)).items():
            ((field, number),) = value.items()
            setattr(one.parameters[key], field, number)
        for request in (message(inputs=[one]), message([b"ab"], inputs=[one, tensor("z", "UINT8", [2])])):
            found = read(request, memory=memory).inputs  # inputs in shared memory have no entry in the raw contents
            assert found["x"].tolist() == [5, 6, 7, 8]
            assert "z" not in found or found["z"].tobytes() == b"ab"

    def test_an_input_is_in_one_place(self, memory: SharedMemory) -> None:
        one = tensor(fp32_contents=[1, 2])
        one.parameters["shared_memory_region"].string_param = "r"
        one.parameters["shared_memory_byte_size"].int64_param = 8
        assert "unexpected 'content' provided when using shared memory" in refused(
            lambda: read(message(inputs=[one]), memory=memory)
        )

    def test_an_output_goes_there(self, memory: SharedMemory, tmp_path: Path) -> None:
        values = np.array([[1, 2]], np.float32)
        answer = answer_of({"y": (dtypes.FP32, values), "z": (dtypes.FP32, values)})
        found = wants({"name": "y", "parameters": self.region()}, memory=memory)
        message = m.ModelInferResponse.FromString(grpc_codec.encode(answer, found))
        assert [o.name for o in message.outputs] == ["y", "z"]
        assert list(message.raw_output_contents) == [b"", values.tobytes()]
        assert (tmp_path / "object").read_bytes()[:10] == values.tobytes() + bytes([8, 9])

    def test_a_region_has_a_size(self, memory: SharedMemory) -> None:
        assert refused(lambda: wants(output("OUTPUT0", shared_memory_region=("string_param", "r")), memory=memory)) == (
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor "
            "'OUTPUT0'"
        )

    def test_no_region(self) -> None:
        text = refused(lambda: wants({"name": "y", "parameters": self.region()}), ErrorKind.NOT_FOUND)
        assert text == "Unable to find shared memory region: 'r'"


class TestEncode:
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_every_type_goes_into_raw_contents(self, dtype: DType) -> None:
        values = values_of(dtype).reshape(1, 3)
        answer = m.ModelInferResponse.FromString(grpc_codec.encode(answer_of({"y": (dtype, values)}, "a1"), PLAIN))
        assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "a1")
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("y", dtype.name, [1, 3])
        assert not output.HasField("contents")
        assert same(tensors.from_raw("y", "m", dtype, (1, 3), answer.raw_output_contents[0]), values)

    def test_one_entry_per_output_in_order(self) -> None:
        outputs = {n: (dtypes.UINT8, np.array([i], np.uint8)) for i, n in enumerate("cab")}
        outputs["e"] = (dtypes.UINT8, np.empty(0, np.uint8))
        answer = m.ModelInferResponse.FromString(grpc_codec.encode(answer_of(outputs), PLAIN))
        assert [o.name for o in answer.outputs] == ["c", "a", "b", "e"]
        assert list(answer.raw_output_contents) == [b"\x00", b"\x01", b"\x02", b""]

    def test_classes_are_text(self) -> None:
        answer = answer_of({"y": (dtypes.FP32, np.array([[1, 3, 2]], np.float32))})
        found = wants(output(classification=("int64_param", 2)))
        message = m.ModelInferResponse.FromString(grpc_codec.encode(answer, found))
        assert (message.outputs[0].datatype, list(message.outputs[0].shape)) == ("BYTES", [2])  # one row, not batched
        assert message.raw_output_contents[0] == b"\x0a\0\0\x003.000000:1\x0a\0\0\x002.000000:2"

    def test_flags_are_parameters_of_the_answer(self) -> None:
        answer = answer_of({"y": (dtypes.UINT8, np.zeros(1, np.uint8))})
        message = m.ModelInferResponse.FromString(grpc_codec.joined(grpc_codec.parts(answer, PLAIN, final=True)))
        assert message.parameters["final"].bool_param is True

    @pytest.mark.parametrize("size", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**21])
    def test_fields_of_any_size(self, size: int) -> None:
        values = np.full(size, 7, np.uint8)
        message = m.ModelInferResponse.FromString(grpc_codec.encode(answer_of({"y": (dtypes.UINT8, values)}), PLAIN))
        assert message.raw_output_contents[0] == values.tobytes()

    @pytest.mark.parametrize("flags", [{}, {"triton_final_response": True}])
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_a_writer_writes_the_same(self, dtype: DType, flags: dict[str, bool]) -> None:
        """Whatever it wrote before, and byte for byte what protobuf would write."""
        writer = grpc_codec.Writer(**flags)
        values = values_of(dtype)
        shapes = [(3,), (1, 3), (3, 1)]
        answers = [
            answer_of({"y": (dtype, values.reshape(s)), "z": (dtype, values)}, i) for s in shapes for i in ("", "ü")
        ]
        answers += [answer_of({"y": (dtype, values[:1])}), answer_of({"y": (dtype, values[:0])}), answer_of({})]
        answers += [answer_of({"y": (dtypes.UINT8, np.zeros(3, np.uint8))}, version=4)]
        labelled = wants(output("y", classification=("int64_param", 1)))
        for answer in (*answers, *answers):
            for wanted in (PLAIN, labelled) if dtype is dtypes.FP32 else (PLAIN,):
                expected = grpc_codec.joined(grpc_codec.parts(answer, wanted, **flags))
                assert writer.encode(answer, wanted) == expected
                assert m.ModelInferResponse.FromString(expected).SerializeToString() == expected

    def test_a_model_of_the_same_name_is_another(self) -> None:
        writer = grpc_codec.Writer()
        for dtype in (dtypes.INT8, dtypes.UINT8, dtypes.BOOL):
            answer = answer_of({"y": (dtype, np.ones(2, dtype.numpy))})
            assert writer.encode(answer, PLAIN) == grpc_codec.encode(answer, PLAIN)

    def test_no_message_is_larger_than_grpc_takes(self) -> None:
        class Claims(bytes):
            def __len__(self) -> int:
                return 2**31

        assert refused(lambda: grpc_codec.joined([b"a", Claims()])) == (
            "Response has byte size 2147483649 which exceeds gRPC's byte size limit 2147483647."
        )
