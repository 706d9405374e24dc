"""The client's codec: what is sent in each form, and answers that do not hold together."""

import json
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from loadtests import oip
from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.generate import random_array
from serving.core.types import Tensors
from serving.protocols.messages import oip as m


def sample(dtype: DType, shape: tuple[int, ...] = (2, 3)) -> np.ndarray:
    return random_array(dtype, shape, np.random.default_rng(0))


def parse_binary(body: bytes, json_bytes: int) -> dict[str, bytes]:
    raws, at = {}, json_bytes
    for tensor in json.loads(body[:json_bytes])["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        raws[tensor["name"]] = body[at : at + size]
        at += size
    assert at == len(body)
    return raws


@pytest.mark.parametrize("dtype", [d for d in dtypes.ALL if d not in oip.BINARY_ONLY], ids=str)
def test_json_carries_the_values(dtype: DType) -> None:
    array = sample(dtype)
    (tensor,) = json.loads(oip.encode_json({"x": array}))["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("x", dtype.name, [2, 3])
    want = [element.decode() for element in array.flat] if dtype is dtypes.BYTES else array.reshape(-1).tolist()
    # float32 travels in its own shortest digits, which are those of another double
    assert np.array(tensor["data"], array.dtype if dtype is dtypes.FP32 else None).tolist() == want
    assert all(type(value) is type(want[0]) for value in tensor["data"])


@pytest.mark.parametrize("dtype", oip.BINARY_ONLY, ids=str)
def test_json_refuses_what_it_cannot_carry(dtype: DType) -> None:
    with pytest.raises(ValueError, match=f"'x' is {dtype}"):
        oip.encode_json({"x": sample(dtype)})


def test_json_keeps_decimals_short() -> None:
    body = oip.encode_json({"x": np.array([[0.1, 0.5137]], np.float32)})
    assert json.loads(body)["inputs"][0]["data"] == [0.1, 0.5137]


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_binary_and_grpc_carry_the_same_little_endian_bytes(dtype: DType) -> None:
    inputs = {"x": sample(dtype), "tail": np.array([258], np.int32)}
    body, json_bytes = oip.encode_binary(inputs)
    raws = parse_binary(body, json_bytes)
    assert json.loads(body[:json_bytes])["parameters"] == {"binary_data_output": True}
    assert raws["tail"] == b"\x02\x01\0\0"
    if dtype is dtypes.BYTES:
        want = b"".join(len(element).to_bytes(4, "little") + element for element in inputs["x"].flat)
    else:
        want = inputs["x"].tobytes()
    assert raws["x"] == want

    message = m.ModelInferRequest.FromString(oip.encode_grpc("m", inputs))
    assert message.model_name == "m"
    assert [(one.name, one.datatype, list(one.shape)) for one in message.inputs] == [
        ("x", dtype.name, [2, 3]),
        ("tail", "INT32", [1]),
    ]
    assert list(message.raw_input_contents) == [want, b"\x02\x01\0\0"]


def binary_answer(outputs: Tensors) -> tuple[dict[str, str], bytes]:
    # Requests and answers name their tensors alike but for one word.
    body, json_bytes = oip.encode_binary(outputs)
    head = body[:json_bytes].replace(b'"inputs"', b'"outputs"')
    return {oip.JSON_LENGTH: str(len(head))}, head + body[json_bytes:]


def json_answer(outputs: Tensors) -> tuple[dict[str, str], bytes]:
    return {}, oip.encode_json(outputs).replace(b'"inputs"', b'"outputs"')


def grpc_answer(outputs: Tensors) -> bytes:
    request = m.ModelInferRequest.FromString(oip.encode_grpc("m", outputs))
    answer = m.ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return bytes(answer.SerializeToString())


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_answers_are_read_back_in_every_form(dtype: DType) -> None:
    outputs = {"y": sample(dtype, (2, 2)), "z": np.array([[1.5], [2.5]])}
    readings = [oip.decode_rest(*binary_answer(outputs)), oip.decode_grpc(grpc_answer(outputs))]
    if dtype not in oip.BINARY_ONLY:
        readings.append(oip.decode_rest(*json_answer(outputs)))
    for reading in readings:
        assert list(reading) == ["y", "z"]
        for name, array in outputs.items():
            assert reading[name].dtype == array.dtype
            np.testing.assert_array_equal(reading[name], array)


def test_bare_nan_and_infinity_are_read() -> None:
    body = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[3],"data":[NaN,Infinity,-Infinity]}]}'
    np.testing.assert_array_equal(oip.decode_rest({}, body)["y"], np.array([np.nan, np.inf, -np.inf], np.float32))


def longer(body: bytes) -> bytes:
    return body + b"\0\0\0\0"


def shorter(body: bytes) -> bytes:
    return body[:-4]


@pytest.mark.parametrize("change", [longer, shorter])
def test_too_many_or_too_few_bytes_are_an_error(change: Callable[[bytes], bytes]) -> None:
    headers, body = binary_answer({"y": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match=r"bytes more|values"):
        oip.decode_rest(headers, change(body))


def test_a_shape_that_the_values_do_not_fill_is_an_error() -> None:
    body = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2,2],"data":[1,2,3]}]}'
    with pytest.raises(ValueError, match="'y' of shape"):
        oip.decode_rest({}, body)


def test_an_output_that_comes_twice_is_an_error() -> None:
    one = '{"name":"y","datatype":"FP32","shape":[1],"data":[1]}'
    with pytest.raises(ValueError, match="'y' comes twice"):
        oip.decode_rest({}, f'{{"outputs":[{one},{one}]}}'.encode())


def test_grpc_outputs_without_raw_contents_are_an_error() -> None:
    answer = m.ModelInferResponse.FromString(grpc_answer({"y": np.zeros(2, ml_dtypes.bfloat16)}))
    answer.raw_output_contents.pop()
    with pytest.raises(ValueError, match="0 raw contents for 1"):
        oip.decode_grpc(answer.SerializeToString())
