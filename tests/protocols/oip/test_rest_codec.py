"""The Open Inference Protocol over REST: bodies in, requests out; answers in, bodies out."""

import json
import pickle
import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import Signature, TensorSpec
from serving.core.validate import Contract
from serving.protocols.oip import rest_codec, tensors
from serving.protocols.oip.outputs import AS_BINARY, AS_JSON, Form, Wants
from serving.protocols.oip.shared_memory import SharedMemory
from tests.protocols.build import (
    IN_JSON,
    NESTED,
    answer_of,
    body,
    decode,
    decode_binary,
    dtype_id,
    not_for_ever,
    refused,
    same,
    split_answer,
    tensor,
    values_of,
)

X = tensor(data=[1, 2])
JSON_WANTED = Wants({}, AS_JSON)
BINARY_WANTED = Wants({}, AS_BINARY)
FP32_ROW = np.array([[1, 2]], np.float32)
DEEP = "as deep as the parser follows"  # stands for that in `deep_body`


def json_row(*values: Any) -> str:
    """A request as text, its one input of the given elements."""
    data = ",".join(map(str, values))
    return f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,{len(values)}],"data":[{data}]}}]}}'


def contract(*inputs: tuple[DType, tuple[int, ...] | None], max_batch_size: int = 4) -> Contract:
    """Of a model `m` with inputs `x0`, `x1`, ..."""
    specs = {f"x{i}": TensorSpec(f"x{i}", dtype, shape) for i, (dtype, shape) in enumerate(inputs)}
    return Contract("m", Signature(specs, {}), max_batch_size)


def region(size: Any, offset: Any = 0, name: Any = "r") -> dict[str, Any]:
    """The parameters of a tensor that lies in shared memory."""
    return {"shared_memory_region": name, "shared_memory_byte_size": size, "shared_memory_offset": offset}


def deep_body(entry: object, **top: Any) -> bytes:
    return body(entry, **top).replace(json.dumps(DEEP).encode(), b"[" * 1000 + b"]" * 1000)


class TestDecodeJson:
    def test_a_plain_request(self) -> None:
        request, wants = decode(body(X, id="a1", outputs=[{"name": "y"}], parameters={"k": "v"}), version="7")
        assert (request.model, request.version, request.id) == ("m", 7, "a1")
        assert same(request.inputs["x"], FP32_ROW)
        assert request.outputs == ("y",) and request.parameters == {"k": "v"} and request.deadline is None
        assert wants == Wants({"y": AS_JSON}, AS_JSON)

    @pytest.mark.parametrize("dtype", IN_JSON, ids=dtype_id)
    def test_every_type(self, dtype: DType) -> None:
        values = values_of(dtype)
        data = [e.decode() for e in values] if dtype is dtypes.BYTES else values.tolist()
        request, _ = decode(body(tensor(datatype=dtype.name, shape=[3, 1], data=data)))
        assert same(request.inputs["x"], values.reshape(3, 1))

    def test_inputs_keep_their_order(self) -> None:
        request, _ = decode(body(tensor("b", data=[1, 2]), tensor("a", data=[3, 4])))
        assert list(request.inputs) == ["b", "a"]

    def test_nan_and_infinity(self) -> None:
        request, _ = decode(json_row("NaN", "Infinity", "-Infinity").encode())
        assert same(request.inputs["x"], np.array([[np.nan, np.inf, -np.inf]], np.float32))

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "true", "1.0"])
    def test_an_integer_tensor_takes_no_nan(self, value: str) -> None:
        assert "expects INT64 elements" in refused(lambda: decode(json_row(value).replace("FP32", "INT64").encode()))

    @pytest.mark.parametrize("value", ["true", "false"])
    def test_bools_are_no_numbers(self, value: str) -> None:
        assert "expects FP32 elements, got a boolean" in refused(lambda: decode(json_row(1, value).encode()))

    def test_unknown_keys_are_left_alone(self) -> None:
        request, _ = decode(body({**X, "extra": [1]}, model_name="other", more={"a": None}))
        assert request.model == "m" and list(request.inputs) == ["x"]

    @pytest.mark.parametrize("data", [b"[]", b'"text"', b"null", b"1", b"NaN"])
    def test_the_body_is_an_object(self, data: bytes) -> None:
        assert "the request JSON must be an object" in refused(lambda: decode(data))

    @pytest.mark.parametrize("data", [b"", b"{", b'{"inputs":[', b"\xff"])
    def test_the_body_is_json(self, data: bytes) -> None:
        assert refused(lambda: decode(data)).startswith("failed to parse the request JSON buffer")

    @pytest.mark.parametrize("data", [NESTED.encode(), NESTED.encode() + b"NaN"])
    def test_lists_in_lists_have_an_end(self, data: bytes) -> None:
        assert refused(lambda: decode(data)) == "JSON nesting depth exceeds maximum allowed limit (100)"

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"{}", "attempt to access non-existing object member 'inputs'"),
            (b'{"inputs":{}}', "Unable to parse 'inputs': expected an array, got an object"),
            (b'{"inputs":null}', "Unable to parse 'inputs'"),
            (b'{"inputs":[1]}', "Unable to parse 'inputs': expected objects"),
            (body({"datatype": "FP32", "shape": [1], "data": [1]}), "non-existing object member 'name'"),
            (body(tensor(name=5, data=[1, 2])), "Unable to parse 'name': expected a string"),  # type: ignore[arg-type]
            (body({"name": "x", "shape": [1], "data": [1]}), "invalid datatype for input x"),
            (body(tensor(datatype="FLOAT", data=[1, 2])), "invalid datatype for input x"),
            (body({"name": "x", "datatype": "FP32", "data": [1]}), "non-existing object member 'shape'"),
            (body(tensor(shape="2", data=[1, 2])), "Unable to parse 'shape': expected an array of integers"),
            (body(tensor(parameters=[1], data=[1, 2])), "Unable to parse 'parameters'"),
            (body(X, id=5), "Unable to parse 'id'"),
            (body(X, parameters=[1]), "Unable to parse 'parameters'"),
            (body(X, parameters=[]), "Unable to parse 'parameters'"),
            (body(X, parameters=False), "Unable to parse 'parameters'"),
            (body(X, outputs={}), "Unable to parse 'outputs': expected an array"),
            (body(X, parameters={"k": [1]}), "parameter 'k' has invalid type"),
            (body(X, parameters={"k": None}), "parameter 'k' has invalid type"),
            (body(X, parameters={"triton_k": 1}), "reserved"),
            (body(X, parameters={"timeout": "1"}), "Unable to parse 'timeout': attempt to access JSON non-unsigned"),
            (body(X, parameters={"signature_name": 1}), "Unable to parse 'signature_name'"),
            (body(X, parameters={"binary_data_output": 1}), "Unable to parse 'binary_data_output'"),
            (body(X, outputs={"name": "y"}), "Unable to parse 'outputs': expected an array"),
            (body(X, outputs=["y"]), "Unable to parse 'outputs': expected objects"),
            (body(X, outputs=[{}]), "non-existing object member 'name'"),
            (body(X, outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), "Unable to parse 'binary_data'"),
            (body(X, outputs=[{"name": "y", "parameters": [1]}]), "Unable to parse 'parameters': output 'y' expects"),
            (
                body(X, outputs=[{"name": "y", "parameters": {"classification": -1}}]),
                "Unable to parse 'classification'",
            ),
            (body(X, outputs=[{"name": "y", "parameters": {"classification": 1.0}}]), "got the number 1.0"),
            (body(X, outputs=[{"name": "y", "parameters": {"classification": True}}]), "got a boolean"),
            (body(X, X), "input 'x' already exists in request"),
            (body(tensor()), "But no field is set"),
            (body(tensor(data=[1, 2], parameters={"binary_data_size": 8})), "But set 'data' 'binary_data_size'"),
            (body(tensor(parameters={"binary_data_size": 8})), "expecting 8 additional bytes"),
            (body(tensor(parameters={"binary_data_size": -8})), "Unable to parse 'binary_data_size'"),
            (body(tensor(parameters={"binary_data_size": "8"})), "Unable to parse 'binary_data_size'"),
            (body(tensor(parameters={"binary_data_size": True})), "Unable to parse 'binary_data_size'"),
        ],
    )
    def test_what_is_wrong_is_named(self, data: bytes, why: str) -> None:
        assert why in refused(lambda: decode(data))

    def test_signature_and_priority(self) -> None:
        request, _ = decode(body(X, parameters={"signature_name": "classify", "priority": 2}))
        assert (request.signature, request.priority) == ("classify", 2)

    def test_a_timeout_becomes_a_deadline(self) -> None:
        request, _ = decode(body(X, parameters={"timeout": 5_000_000}))
        assert request.deadline is not None and 4 < request.deadline - time.monotonic() <= 5

    @pytest.mark.parametrize("version", ["abc", "-1", "0", str(2**63)])
    def test_a_version_is_a_number(self, version: str) -> None:
        assert "version should be an integral value > 0" in refused(lambda: decode(body(X), version=version))

    # A request as deep as the parser allows, wherever a value is shown in a message.
    @pytest.mark.parametrize(
        "data",
        [
            deep_body(X, id=DEEP),
            deep_body(X, parameters={"timeout": DEEP}),
            deep_body(tensor(shape=DEEP, data=[1])),
            deep_body(tensor(shape=[DEEP], data=[1])),
            deep_body(tensor(datatype=DEEP, data=[1])),
            deep_body(tensor(data=[1, DEEP])),
            deep_body(tensor(datatype="BYTES", data=["a", DEEP])),
            deep_body(tensor(parameters={"binary_data_size": DEEP})),
        ],
    )
    def test_a_value_of_any_depth_is_refused(self, data: bytes) -> None:
        assert refused(lambda: decode(data))

    # Bare NaN calls for the second parser, which must be no more lenient than the first.
    @pytest.mark.parametrize(
        "data",
        [
            body(X, id="\ud800", more=float("nan")),
            body(tensor("\ud800", data=[1, 2]), more=float("nan")),
            body(X, outputs=[{"name": "\ud800"}], more=float("nan")),
            body(X, parameters={"timeout": 10**400}, more=float("nan")),
            body(tensor(shape=[0, 10**30], data=[]), more=float("nan")),
        ],
    )
    def test_the_second_parser_takes_nothing_that_the_first_refuses(self, data: bytes) -> None:
        assert refused(lambda: decode(data))


class TestShapes:
    @pytest.mark.parametrize(
        "shape", [[-1], [1, -2], [1.0, 2], ["1", 2], [None], [True, 2], [[1], 2], [2**64, 1], [-(2**63)]]
    )
    def test_dimensions_are_integers_from_zero(self, shape: list[Any]) -> None:
        assert "Unable to parse 'shape'" in refused(lambda: decode(body(tensor(shape=shape, data=[1, 2]))))

    @pytest.mark.parametrize(
        "shape", [[2**31], [2**62], [2**32, 2**32], [2**63 - 1, 2**63 - 1], [2**31, 2**31, 2**31, 2**31]]
    )
    @pytest.mark.parametrize("datatype", ["FP32", "UINT8", "BYTES"])
    def test_a_claim_costs_no_memory(self, shape: list[int], datatype: str) -> None:
        data = "a" if datatype == "BYTES" else 1
        requests = [
            (body(tensor(datatype=datatype, shape=shape, data=[data])), None),
            (header := body(tensor(datatype=datatype, shape=shape, parameters={"binary_data_size": 0})), len(header)),
        ]
        tracemalloc.start()
        try:
            for request, length in requests:
                assert refused(lambda request=request, length=length: decode(request, length))  # type: ignore[misc]
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [2**62, 0, 2**62], [0, 2**63 - 1], [0] + [2**40] * 20])
    @pytest.mark.parametrize("datatype", ["FP32", "BOOL", "BYTES"])
    @pytest.mark.parametrize("binary", [False, True])
    def test_a_zero_hides_no_dimension_that_cannot_be(self, shape: list[int], datatype: str, binary: bool) -> None:
        if binary:
            assert refused(lambda: decode_binary((tensor(datatype=datatype, shape=shape), b"")))
        else:
            assert refused(lambda: decode(body(tensor(datatype=datatype, shape=shape, data=[]))))

    def test_32_dimensions_are_possible_and_more_are_not(self) -> None:
        request, _ = decode(body(tensor(shape=[1] * 32, data=[1])))
        assert request.inputs["x"].shape == (1,) * 32
        assert "33 dimensions" in refused(lambda: decode(body(tensor(shape=[1] * 33, data=[1]))))

    def test_a_million_dimensions_are_counted_and_not_multiplied(self) -> None:
        # Multiplied out they would be a number of 60 million bits, and hours of work.
        with not_for_ever():
            assert "dimensions" in refused(lambda: decode(body(tensor(shape=[2**62] * 1_000_000, data=[1]))))


class TestDecodeBinary:
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_every_type(self, dtype: DType) -> None:
        values = values_of(dtype)
        request, _ = decode_binary((tensor(datatype=dtype.name, shape=[3]), tensors.to_raw(values)))
        assert same(request.inputs["x"], values)

    def test_tensors_are_views_of_the_body(self) -> None:
        header = body(tensor(parameters={"binary_data_size": 8}))
        data = header + FP32_ROW.tobytes()
        request, _ = decode(data, len(header))
        assert np.shares_memory(request.inputs["x"], np.frombuffer(data, np.uint8))

    def test_tensors_follow_in_the_order_of_the_inputs(self) -> None:
        request, _ = decode_binary(
            (tensor("b", "UINT8", [2]), b"\x01\x02"),
            (tensor("e", "UINT8", [0]), b""),
            (tensor("a", "UINT16", [1]), b"\x03\x04"),
        )
        assert {k: v.tolist() for k, v in request.inputs.items()} == {"b": [1, 2], "e": [], "a": [0x403]}

    def test_json_and_binary_inputs_may_be_mixed(self) -> None:
        header = body(
            tensor("j", "INT8", [1], data=[5]),
            tensor("b", "INT8", [2], parameters={"binary_data_size": 2}),
            tensor("k", "INT8", [1], data=[6]),
        )
        request, _ = decode(header + b"\x07\x08", len(header))
        assert {k: v.tolist() for k, v in request.inputs.items()} == {"j": [5], "b": [7, 8], "k": [6]}

    def test_the_word_true_among_raw_bytes_makes_no_bools(self) -> None:
        header = body(tensor("j", "INT8", [1], data=[5]), tensor("b", "UINT8", [4], parameters={"binary_data_size": 4}))
        request, _ = decode(header + b"true", len(header))
        assert request.inputs["j"].tolist() == [5] and request.inputs["b"].tobytes() == b"true"

    @pytest.mark.parametrize("missing", [1, 7, 8])
    def test_a_body_that_is_too_short(self, missing: int) -> None:
        header = body(tensor(parameters={"binary_data_size": 8}))
        assert refused(lambda: decode(header + bytes(8 - missing), len(header))) == (
            f"unexpected size for input 'x', expecting {missing} additional bytes for model 'm'"
        )

    def test_a_body_that_is_too_long(self) -> None:
        header = body(tensor(parameters={"binary_data_size": 8}))
        assert refused(lambda: decode(header + bytes(11), len(header))) == (
            "unexpected additional input data for model 'm': 3 bytes that no input claims"
        )

    @pytest.mark.parametrize("size", [4, 12])
    def test_a_claim_that_is_not_the_size_of_the_shape(self, size: int) -> None:
        header = body(tensor(parameters={"binary_data_size": size}))
        assert "input byte size mismatch for input 'x' for model 'm'. Expected 8" in refused(
            lambda: decode(header + bytes(size), len(header))
        )

    def test_the_header_may_be_the_whole_body(self) -> None:
        data = body(X)
        assert same(decode(data, len(data))[0].inputs["x"], FP32_ROW)

    @pytest.mark.parametrize("length", [-1, 10_000, 2**31 - 1, -(2**31)])
    def test_a_header_length_out_of_the_body(self, length: int) -> None:
        data = body(X)
        assert refused(lambda: decode(data, length)) == (
            f"inference header size should be in range (0, {len(data)}), got: {length}"
        )

    @pytest.mark.parametrize("length", [2**31, 99999999999, -(2**31) - 1])
    def test_a_header_length_out_of_all_range(self, length: int) -> None:
        assert "value is out of range [ -2147483648, 2147483647 ], got: " in refused(lambda: decode(body(X), length))

    @pytest.mark.parametrize("text", [b"abc", b"", b"1.0", b"0x10", b"\xff", b"9" * 5000, b"1 2", b"1_0"])
    def test_a_header_length_that_is_no_number(self, text: bytes) -> None:
        assert refused(lambda: decode(body(X), text)).startswith("Unable to parse Inference-Header-Content-Length")

    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_header_length_that_cuts_the_json_or_takes_too_much(self, change: int) -> None:
        header = body(tensor(parameters={"binary_data_size": 8}))
        assert refused(lambda: decode(header + FP32_ROW.tobytes(), len(header) + change))

    def test_raw_tensors_alone_are_refused(self) -> None:
        assert "failed to parse the request JSON buffer" in refused(lambda: decode(FP32_ROW.tobytes(), 0))


SIX = bytes(range(1, 7))


class TestDecodeRaw:
    """A body that is nothing but the one input."""

    @pytest.mark.parametrize(
        ("shape", "max_batch_size", "expected"),
        [
            ((-1, 6), 4, (1, 6)),
            ((-1, 2, -1), 4, (1, 2, 3)),
            ((-1, -1, 3), 4, (1, 2, 3)),
            ((-1, 2, 3), 0, (1, 2, 3)),
            ((-1,), 0, (6,)),
            ((6,), 0, (6,)),
            ((2, 3), 0, (2, 3)),
        ],
    )
    def test_the_size_makes_the_shape(
        self, shape: tuple[int, ...], max_batch_size: int, expected: tuple[int, ...]
    ) -> None:
        request, wants = rest_codec.decode_raw(contract((dtypes.UINT8, shape), max_batch_size=max_batch_size), "7", SIX)
        assert (request.model, request.version, request.outputs) == ("m", 7, ())
        assert same(request.inputs["x0"], np.frombuffer(SIX, np.uint8).reshape(expected))
        assert wants == BINARY_WANTED
        assert np.shares_memory(request.inputs["x0"], np.frombuffer(SIX, np.uint8))

    def test_wider_elements(self) -> None:
        request, _ = rest_codec.decode_raw(contract((dtypes.INT16, (-1, -1))), None, SIX)
        assert request.inputs["x0"].tolist() == [[0x201, 0x403, 0x605]]

    @pytest.mark.parametrize("shape", [(-1, 4), (-1, 5), (-1, 7), (-1, 0), (-1,), (-1, 4, -1), (-1, -1, 0)])
    def test_a_size_that_makes_no_shape(self, shape: tuple[int, ...]) -> None:
        assert "input byte size mismatch for input 'x0' for model 'm'" in refused(
            lambda: rest_codec.decode_raw(contract((dtypes.UINT8, shape)), None, SIX)
        )

    @pytest.mark.parametrize("shape", [(-1, 1), (-1,), (-1, 1, 1)])
    def test_text_has_no_length_before_it(self, shape: tuple[int, ...]) -> None:
        for data in (b"", b"\xff text"):
            request, _ = rest_codec.decode_raw(contract((dtypes.BYTES, shape)), None, data)
            assert request.inputs["x0"].shape == (1, *shape[1:])
            assert request.inputs["x0"].reshape(-1).tolist() == [data]

    @pytest.mark.parametrize("shape", [(-1, 2), (-1, -1)])
    def test_text_is_one_element(self, shape: tuple[int, ...]) -> None:
        assert refused(lambda: rest_codec.decode_raw(contract((dtypes.BYTES, shape)), None, b"a")) == (
            "For BYTE datatype raw input 'x0', the model must have input shape [1]"
        )

    @pytest.mark.parametrize(("shape", "max_batch_size"), [((-1, -1, -1), 4), ((-1, -1), 0), (None, 4)])
    def test_a_shape_that_is_not_certain(self, shape: tuple[int, ...] | None, max_batch_size: int) -> None:
        made = contract((dtypes.UINT8, shape), max_batch_size=max_batch_size)
        assert refused(lambda: rest_codec.decode_raw(made, None, SIX)) == (
            "The shape of the raw input 'x0' can not be deduced because there are more than one variable-sized "
            "dimension"
        )

    @pytest.mark.parametrize("count", [0, 2, 3])
    def test_of_several_inputs_none_is_meant(self, count: int) -> None:
        made = contract(*[(dtypes.UINT8, (-1, 6))] * count)
        assert refused(lambda: rest_codec.decode_raw(made, None, SIX)) == (
            f"Raw request must only have 1 input (found 1) to be deduced but got {count} inputs in 'm' model "
            "configuration"
        )


class TestSharedMemory:
    """Of a region `r` that holds 0 to 31."""

    @pytest.fixture
    def memory(self, tmp_path: Path) -> SharedMemory:
        (tmp_path / "object").write_bytes(bytes(range(32)))
        memory = SharedMemory(True, tmp_path)
        memory.register("r", "/object", 0, 32)
        return memory

    def test_an_input_is_there(self, memory: SharedMemory) -> None:
        header = body(
            tensor("a", "UINT8", [2], parameters=region(2, 5)),
            tensor("b", "UINT8", [1], parameters={"binary_data_size": 1}),
            tensor("c", "UINT8", [1], data=[9]),
        )
        request, _ = decode(header + b"\x08", len(header), memory=memory)
        assert {k: v.tolist() for k, v in request.inputs.items()} == {"a": [5, 6], "b": [8], "c": [9]}

    def test_a_request_may_be_all_json(self, memory: SharedMemory) -> None:
        request, _ = decode(body(tensor("a", "UINT16", [2], parameters=region(4))), memory=memory)
        assert request.inputs["a"].tolist() == [0x100, 0x302]

    @pytest.mark.parametrize(
        ("parameters", "kind", "why"),
        [
            (region(8, name="zz"), ErrorKind.NOT_FOUND, "Unable to find shared memory region: 'zz'"),
            (region(4), ErrorKind.INVALID, "input byte size mismatch for input 'x' for model 'm'. Expected 8, got 4"),
            (region(8, 33), ErrorKind.INVALID, "Invalid offset for shared memory region: 'r'"),
            (region(8, 25), ErrorKind.INVALID, "Invalid offset + byte size for shared memory region: 'r'"),
            (region(2**64 - 1), ErrorKind.INVALID, "Invalid offset + byte size for shared memory region: 'r'"),
            (region(-1), ErrorKind.INVALID, "Unable to parse 'shared_memory_byte_size'"),
            (region("8"), ErrorKind.INVALID, "Unable to parse 'shared_memory_byte_size'"),
            (region(8, True), ErrorKind.INVALID, "Unable to parse 'shared_memory_offset'"),
            (region(8, name=["r"]), ErrorKind.INVALID, "Unable to parse 'shared_memory_region'"),
            ({"shared_memory_region": "r"}, ErrorKind.INVALID, "'shared_memory_byte_size' must be specified along"),
            (
                {**region(8), "binary_data_size": 8},
                ErrorKind.INVALID,
                "But set 'binary_data_size' 'shared_memory_region'",
            ),
        ],
    )
    def test_what_is_wrong_is_named(
        self, memory: SharedMemory, parameters: dict[str, Any], kind: ErrorKind, why: str
    ) -> None:
        assert why in refused(lambda: decode(body(tensor(parameters=parameters)), memory=memory), kind)

    def test_without_any_there_is_no_region(self) -> None:
        for data in (
            body(tensor(parameters=region(8))),
            body(X, outputs=[{"name": "y", "parameters": region(8)}]),
        ):
            text = refused(lambda data=data: decode(data), ErrorKind.NOT_FOUND)  # type: ignore[misc]
            assert text == "Unable to find shared memory region: 'r'"

    def test_an_output_goes_there(self, memory: SharedMemory, tmp_path: Path) -> None:
        outputs = [{"name": "y", "parameters": region(4, 2)}, {"name": "z", "parameters": {"binary_data": True}}]
        _, wants = decode(body(X, outputs=outputs), memory=memory)
        answer = answer_of({n: (dtypes.UINT16, np.array([i], np.uint16)) for i, n in enumerate("yz", 0xABCD)})
        value, raw = split_answer(rest_codec.encode(answer, wants))
        assert value["outputs"][0] == {"name": "y", "datatype": "UINT16", "shape": [1]}
        assert raw == b"\xce\xab"
        assert (tmp_path / "object").read_bytes()[:6] == b"\x00\x01\xcd\xab\x04\x05"

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ({"binary_data": True}, "Output can't set both 'shared_memory_region' and 'binary_data'"),
            ({"classification": 1}, "Output can't set both 'shared_memory_region' and 'classification'"),
        ],
    )
    def test_an_output_goes_to_one_place(self, memory: SharedMemory, more: dict[str, Any], why: str) -> None:
        outputs = [{"name": "y", "parameters": {**region(8), **more}}]
        assert why in refused(lambda: decode(body(X, outputs=outputs), memory=memory))

    def test_binary_data_may_be_off(self, memory: SharedMemory) -> None:  # as tritonclient says it
        outputs = [{"name": "y", "parameters": {**region(8), "binary_data": False}}]
        _, wants = decode(body(X, outputs=outputs), memory=memory)
        assert wants.named["y"].slot is not None

    def test_an_output_that_is_too_large(self, memory: SharedMemory) -> None:
        _, wants = decode(body(X, outputs=[{"name": "y", "parameters": region(7)}]), memory=memory)
        answer = answer_of({"y": (dtypes.FP64, np.ones(1))})
        assert refused(lambda: rest_codec.encode(answer, wants)) == (
            "shared memory size specified with the request for output 'y' (7 bytes) should be at least 8 bytes to hold "
            "the results"
        )

    def test_large_text_that_names_a_region_stays_in_this_process(self) -> None:
        plain = body(tensor(shape=[300_000], data=[0] * 300_000))
        assert rest_codec.is_heavy_to_read(plain, None)
        assert not rest_codec.is_heavy_to_read(plain, 100)
        assert not rest_codec.is_heavy_to_read(plain.replace(b'"x"', b'"shared_memory_region"'), None)


class TestOutputSelection:
    @pytest.mark.parametrize(
        ("top", "y", "z"),
        [
            ({}, False, False),
            ({"outputs": []}, False, False),
            ({"outputs": [], "parameters": {"binary_data_output": True}}, True, True),
            ({"outputs": None, "parameters": None}, False, False),
            ({"parameters": {"binary_data_output": True}}, True, True),
            ({"outputs": [{"name": "y"}]}, False, False),
            ({"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}, True, False),
            # The choice for all is only for outputs that are not listed.
            ({"outputs": [{"name": "y"}], "parameters": {"binary_data_output": True}}, False, True),
            (
                {
                    "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
                    "parameters": {"binary_data_output": True},
                },
                False,
                True,
            ),
        ],
    )
    def test_which_outputs_come_as_binary(self, top: dict[str, Any], y: bool, z: bool) -> None:
        _, wants = decode(body(X, **top))
        answer = answer_of({n: (dtypes.UINT8, np.array([65], np.uint8)) for n in ("y", "z")})
        outputs = {o["name"]: o for o in split_answer(rest_codec.encode(answer, wants))[0]["outputs"]}
        for name, binary in (("y", y), ("z", z)):
            assert ("data" not in outputs[name]) is binary
            assert (outputs[name].get("parameters") == {"binary_data_size": 1}) is binary

    def test_outputs_are_asked_for_by_name(self) -> None:
        request, _ = decode(body(X, outputs=[{"name": "z"}, {"name": "y"}, {"name": "z"}]))
        assert request.outputs == ("z", "y", "z")  # that a name comes twice is for the model's contract to refuse


class TestEncode:
    def test_the_order_of_keys(self) -> None:
        answer = answer_of({"y": (dtypes.INT32, np.array([[1, 2]], np.int32))}, request_id="a")
        assert rest_codec.encode(answer, JSON_WANTED).body == (
            b'{"id":"a","model_name":"m","model_version":"3",'
            b'"outputs":[{"name":"y","datatype":"INT32","shape":[1,2],"data":[1,2]}]}'
        )

    def test_without_an_id_there_is_none_in_the_answer(self) -> None:
        answer = answer_of({"y": (dtypes.INT32, np.array([1], np.int32))})
        assert rest_codec.encode(answer, JSON_WANTED).body.startswith(b'{"model_name":"m",')

    @pytest.mark.parametrize("dtype", IN_JSON, ids=dtype_id)
    def test_every_type_as_json(self, dtype: DType) -> None:
        values = values_of(dtype).reshape(3, 1)
        reply = rest_codec.encode(answer_of({"y": (dtype, values)}), JSON_WANTED)
        assert reply.status == 200 and reply.headers == [(b"content-type", b"application/json")]
        (output,) = split_answer(reply)[0]["outputs"]
        assert (output["datatype"], output["shape"]) == (dtype.name, [3, 1])
        again, _ = decode(body(tensor(datatype=dtype.name, shape=[3, 1], data=output["data"])))
        assert same(again.inputs["x"], values)

    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_every_type_as_binary(self, dtype: DType) -> None:
        values = values_of(dtype)
        reply = rest_codec.encode(answer_of({"y": (dtype, values)}), BINARY_WANTED)
        value, raw = split_answer(reply)
        assert dict(reply.headers)[b"content-type"] == b"application/octet-stream"
        assert value["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}
        assert same(tensors.from_raw("y", "m", dtype, (3,), raw), values)

    def test_json_and_binary_outputs_may_be_mixed(self) -> None:
        one = (dtypes.UINT8, np.array([1], np.uint8))
        two = (dtypes.UINT8, np.array([2], np.uint8))
        answer = answer_of({"a": one, "b": two, "c": one})
        value, raw = split_answer(rest_codec.encode(answer, Wants({"b": AS_JSON}, AS_BINARY)))
        assert [("data" in o) for o in value["outputs"]] == [False, True, False] and raw == b"\x01\x01"

    def test_a_binary_output_of_no_bytes_needs_no_header(self) -> None:
        reply = rest_codec.encode(answer_of({"y": (dtypes.FP32, np.empty((0, 2), np.float32))}), BINARY_WANTED)
        assert reply.headers == [(b"content-type", b"application/json")]
        assert json.loads(reply.body)["outputs"][0] == {
            "name": "y", "datatype": "FP32", "shape": [0, 2], "parameters": {"binary_data_size": 0},
        }  # fmt: skip

    def test_no_elements_as_json(self) -> None:
        for dtype in IN_JSON:
            reply = rest_codec.encode(answer_of({"y": (dtype, np.empty((2, 0), dtype.numpy))}), JSON_WANTED)
            assert json.loads(reply.body)["outputs"][0]["data"] == []

    def test_a_scalar_is_a_list_of_one(self) -> None:
        reply = rest_codec.encode(answer_of({"y": (dtypes.FP32, np.array(1.5, np.float32))}), JSON_WANTED)
        assert json.loads(reply.body)["outputs"][0]["data"] == [1.5]
        assert json.loads(reply.body)["outputs"][0]["shape"] == []

    def test_slices_of_a_batch_are_written_in_row_major_order(self) -> None:
        array = np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2].T
        for wants, read in ((JSON_WANTED, lambda v, r: v["outputs"][0]["data"]), (BINARY_WANTED, _int64)):
            assert read(*split_answer(rest_codec.encode(answer_of({"y": (dtypes.INT64, array)}), wants))) == [
                0, 4, 8, 2, 6, 10,
            ]  # fmt: skip

    def test_nan_and_infinity_are_bare(self) -> None:
        reply = rest_codec.encode(answer_of({"y": (dtypes.FP32, np.array([np.nan, -np.inf], np.float32))}), JSON_WANTED)
        assert b'"data":[NaN,-Infinity]' in reply.body

    def test_text_is_not_escaped_beyond_need(self) -> None:
        texts = np.array(['é"\n'.encode()], dtype=object)
        assert '["é\\"\\n"]'.encode() in rest_codec.encode(answer_of({"y": (dtypes.BYTES, texts)}), JSON_WANTED).body

    def test_bytes_that_are_no_text_need_the_binary_form(self) -> None:
        answer = answer_of({"y": (dtypes.BYTES, np.array([b"\xff"], dtype=object))})
        assert "ask for it with binary_data in an infer request" in refused(
            lambda: rest_codec.encode(answer, JSON_WANTED)
        )
        assert split_answer(rest_codec.encode(answer, BINARY_WANTED))[1] == b"\x01\x00\x00\x00\xff"

    @pytest.mark.parametrize("dtype", [dtypes.FP16, dtypes.BF16], ids=dtype_id)
    def test_half_floats_need_the_binary_form(self, dtype: DType) -> None:
        answer = answer_of({"y": (dtype, np.ones(1, dtype.numpy))})
        assert refused(lambda: rest_codec.encode(answer, JSON_WANTED)) == (
            f"sending {dtype.name} data via JSON is not supported. Please use the binary data format for output y"
        )

    @pytest.mark.parametrize(("binary", "form"), [(False, "data"), (True, "parameters")])
    def test_classes_are_text(self, binary: bool, form: str) -> None:
        outputs = [{"name": "y", "parameters": {"classification": 2, "binary_data": binary}}]
        _, wants = decode(body(X, outputs=outputs))
        answer = answer_of({"y": (dtypes.FP32, np.array([[1, 3, 2]], np.float32))}, axis_0=-1)
        answer.class_labels = {"y": ("cat", "dog")}
        value, raw = split_answer(rest_codec.encode(answer, wants))
        (output,) = value["outputs"]
        assert (output["datatype"], output["shape"], form in output) == ("BYTES", [1, 2], True)
        texts = ["3.000000:1:dog", "2.000000:2"]
        if binary:
            assert tensors.from_raw("y", "m", dtypes.BYTES, (2,), raw).tolist() == [t.encode() for t in texts]
        else:
            assert output["data"] == texts

    @pytest.mark.parametrize("binary", [JSON_WANTED, BINARY_WANTED])
    @pytest.mark.parametrize(("coding", "bits"), [("gzip", 31), ("deflate", 15)])
    def test_compressed(self, binary: Wants, coding: str, bits: int) -> None:
        answer = answer_of({"y": (dtypes.FP32, np.arange(100, dtype=np.float32))})
        plain = rest_codec.encode(answer, binary)
        reply = rest_codec.encode(answer, binary, coding)
        assert zlib.decompress(reply.body, bits) == plain.body  # the length in the header is of this, too
        assert reply.headers == [*plain.headers, (b"content-encoding", coding.encode())]

    def test_small_answers_are_not_compressed(self) -> None:
        answer = answer_of({"y": (dtypes.FP32, np.arange(10, dtype=np.float32))})
        assert rest_codec.encode(answer, JSON_WANTED, "gzip") == rest_codec.encode(answer, JSON_WANTED)

    @pytest.mark.parametrize(
        ("coding", "wants", "size", "heavy"),
        [
            (None, JSON_WANTED, 100, False),
            (None, JSON_WANTED, 100_000, True),
            (None, BINARY_WANTED, 100_000, False),
            ("gzip", BINARY_WANTED, 100_000, True),
            ("gzip", BINARY_WANTED, 100, False),
            (None, Wants({"y": Form(classes=1)}, AS_JSON), 100_000, False),
        ],
    )
    def test_what_is_heavy(self, coding: str | None, wants: Wants, size: int, heavy: bool) -> None:
        answer = answer_of({"y": (dtypes.FP32, np.zeros(size, np.float32))})
        assert rest_codec.is_heavy_to_write(coding, answer, wants) is heavy


def _int64(_value: Any, raw: bytes) -> Any:
    return np.frombuffer(raw, np.int64).tolist()


class TestReader:
    """What a reader makes of a body is what `decode` makes of it, whatever it has read before."""

    BODIES: tuple[list[tuple[dict[str, Any], bytes]], ...] = (
        [(tensor(shape=[1, 2]), bytes(8))],
        [(tensor(shape=[1, 2]), bytes(8)), (tensor("y", "INT8", shape=[3]), b"\1\2\3")],
        [(tensor(shape=[0, 2]), b"")],
        [(tensor(datatype="BYTES", shape=[1]), b"\1\0\0\0a")],
        [],
    )

    @staticmethod
    def outcome(call: Callable[[], Any]) -> Any:
        try:
            request, wants = call()
        except ServingError as error:
            return error.kind, error.message
        found = {name: (a.dtype, a.shape, a.tolist()) for name, a in request.inputs.items()}
        return found, request.id, request.parameters, request.outputs, request.version, request.model, wants

    @pytest.mark.parametrize("top", [{}, {"id": "a1"}, {"parameters": {"k": 1}}, {"outputs": [{"name": "z"}]}])
    def test_it_reads_the_same(self, top: dict[str, Any]) -> None:
        reader = rest_codec.Reader()
        for inputs in (*self.BODIES, *self.BODIES):
            entries = [{**entry, "parameters": {"binary_data_size": len(raw)}} for entry, raw in inputs]
            header, raw = body(*entries, **top), b"".join(raw for _, raw in inputs)
            for data, version in ((header + raw, None), (header + raw, "2"), (header + raw + b"1", None)):
                for cut in (data, data[:-1]):
                    size = min(len(header), len(cut))
                    expected = self.outcome(partial(rest_codec.decode, "m", version, cut, size))
                    assert self.outcome(partial(reader.decode, "m", version, cut, size)) == expected

    def test_json_in_between_is_read_each_time(self) -> None:
        reader = rest_codec.Reader()
        for value in (1.0, 2.0):
            entry = {**tensor("y", shape=[1]), "parameters": {"binary_data_size": 4}}
            header = body(tensor("x", shape=[1], data=[value]), entry)
            request, _ = reader.decode("m", None, header + np.float32(value + 1).tobytes(), len(header))
            assert request.inputs["x"].tolist() == [value] and request.inputs["y"].tolist() == [value + 1]

    def test_json_is_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reader = rest_codec.Reader()
        header = body({**tensor(shape=[1, 2]), "parameters": {"binary_data_size": 8}}, parameters={"k": 1})
        for value in (1, 2, 3):
            data = header + np.full(2, value, np.float32).tobytes()
            request, _ = reader.decode("m", None, data, len(header))
            assert request.inputs["x"].tolist() == [[value, value]] and request.parameters == {"k": 1}
            assert np.shares_memory(request.inputs["x"], np.frombuffer(data, np.uint8))
            request.parameters.clear()
            monkeypatch.setattr(rest_codec, "decode", None)
        with pytest.raises(TypeError):
            reader.decode("other", None, data, len(header))

    def test_shared_memory_is_read_each_time(self, tmp_path: Path) -> None:
        (tmp_path / "object").write_bytes(bytes(8))
        memory = SharedMemory(True, tmp_path)
        memory.register("r", "object", 0, 8)
        reader = rest_codec.Reader(memory)
        region = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
        header = body({**tensor(shape=[1, 2]), "parameters": region})
        for value in (1, 2):
            (tmp_path / "object").write_bytes(np.full(2, value, np.float32).tobytes())
            request, _ = reader.decode("m", None, header, len(header))
            assert request.lent and request.inputs["x"].tolist() == [[value, value]]


class TestWriter:
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_it_writes_the_same_whatever_it_wrote_before(self, dtype: DType) -> None:
        writer = rest_codec.Writer()
        values = values_of(dtype)
        outputs = [{"y": (dtype, values.reshape(s)), "z": (dtype, values)} for s in [(3,), (1, 3), (3, 1)]]
        outputs += [{"y": (dtype, values[:1])}, {"y": (dtype, values[:0])}, {}]
        answers = [answer_of(each, i) for each in outputs for i in ("", "ü")]
        answers += [answer_of({"y": (dtypes.UINT8, np.zeros(3, np.uint8))}, version=4)]
        wanted = [BINARY_WANTED, Wants({"y": AS_BINARY}, AS_BINARY)]
        if dtype in IN_JSON:
            wanted += [JSON_WANTED, Wants({"y": AS_BINARY}, AS_JSON), Wants({"y": AS_JSON}, AS_BINARY)]
        if dtype is dtypes.FP32:
            wanted.append(Wants({"y": Form(binary=True, classes=1)}, AS_BINARY))
        for answer in (*answers, *answers):
            for wants in wanted:
                for coding in (None, "gzip"):
                    assert writer.encode(answer, wants, coding) == rest_codec.encode(answer, wants, coding)

    def test_a_model_of_the_same_name_is_another(self) -> None:
        writer = rest_codec.Writer()
        for dtype in (dtypes.INT8, dtypes.UINT8, dtypes.BOOL):
            answer = answer_of({"y": (dtype, np.ones(2, dtype.numpy))})
            assert writer.encode(answer, BINARY_WANTED) == rest_codec.encode(answer, BINARY_WANTED)

    def test_a_helper_process_gets_one_of_its_own(self) -> None:
        answer = answer_of({"y": (dtypes.INT8, np.ones(2, np.int8))})
        writer = rest_codec.Writer()
        writer.encode(answer, BINARY_WANTED)
        other = pickle.loads(pickle.dumps(writer.encode))
        assert other(answer, BINARY_WANTED) == writer.encode(answer, BINARY_WANTED)
