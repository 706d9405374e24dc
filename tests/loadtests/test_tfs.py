"""The client's codec for TensorFlow Serving: what is sent in each form, and answers that do not hold together."""

import base64
import json

import numpy as np
import pytest

from loadtests import tfs
from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.generate import random_array
from serving.protocols.messages import tfs as m


def sample(dtype: DType, shape: tuple[int, ...] = (2, 3)) -> np.ndarray:
    return random_array(dtype, shape, np.random.default_rng(0))


def plain(array: np.ndarray) -> list[object]:
    """As JSON should hold it."""
    if array.dtype != object:
        return list(array.tolist())
    return [[{"b64": base64.b64encode(element).decode()} for element in row] for row in array]


JSON_DTYPES = [dtype for dtype in dtypes.ALL if dtype not in tfs.NOT_IN_JSON]


@pytest.mark.parametrize("dtype", JSON_DTYPES, ids=str)
def test_one_input_is_a_list_of_rows(dtype: DType) -> None:
    array = sample(dtype)
    read = json.loads(tfs.encode_rows({"x": array}))
    assert read.keys() == {"instances"}
    rows = read["instances"]
    # float32 travels in its own shortest digits, which are those of another double
    assert (np.array(rows, np.float32).tolist() if dtype is dtypes.FP32 else rows) == plain(array)


@pytest.mark.parametrize("dtype", JSON_DTYPES, ids=str)
def test_several_inputs_are_an_object_for_each_row(dtype: DType) -> None:
    array, flat = sample(dtype), np.array([1.5, 2.5])
    first, second = json.loads(tfs.encode_rows({"x": array, "scale": flat, "same": array[:, 0]}))["instances"]
    assert (first["scale"], second["scale"]) == (1.5, 2.5)
    for row, want in ((first, array[0]), (second, array[1])):
        assert list(row) == ["x", "scale", "same"]
        assert row["same"] == row["x"][0]
        if dtype is not dtypes.BYTES:
            np.testing.assert_array_equal(np.array(row["x"], dtype.numpy), want)


@pytest.mark.parametrize("dtype", tfs.NOT_IN_JSON, ids=str)
def test_json_refuses_what_it_cannot_carry(dtype: DType) -> None:
    with pytest.raises(ValueError, match=f"'x' is {dtype}"):
        tfs.encode_rows({"x": sample(dtype)})


def test_json_keeps_decimals_short() -> None:
    body = tfs.encode_rows({"x": np.array([[0.1, 0.5137]], np.float32)})
    assert body == b'{"instances":[[0.1,0.5137]]}'


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_messages_carry_every_type_in_both_forms(dtype: DType, typed: bool) -> None:
    array = sample(dtype)
    request = m.PredictRequest.FromString(tfs.encode_predict("m", {"x": array, "one": np.int32(7)[None]}, typed=typed))
    assert request.model_spec.name == "m"
    tensor = request.inputs["x"]
    assert [dim.size for dim in tensor.tensor_shape.dim] == [2, 3]
    if typed or dtype is dtypes.BYTES:
        assert tensor.tensor_content == b""
    else:
        assert tensor.tensor_content == array.tobytes()
        assert not tensor.float_val
    if typed and dtype is dtypes.FP32:
        assert list(tensor.float_val) == array.reshape(-1).tolist()
    # Requests and answers hold their tensors alike.
    answer = m.PredictResponse(outputs=request.inputs)
    read = tfs.decode_predict(answer.SerializeToString())
    assert read.keys() == {"x", "one"}
    assert read["x"].dtype == array.dtype
    np.testing.assert_array_equal(read["x"], array)
    assert read["one"].tolist() == [7]


@pytest.mark.parametrize("typed", [False, True])
def test_values_that_do_not_fill_the_shape_are_an_error(typed: bool) -> None:
    message = tfs.encode_predict("m", {"x": np.zeros((2, 2), np.float32)}, typed=typed)
    answer = m.PredictResponse(outputs=m.PredictRequest.FromString(message).inputs)
    answer.outputs["x"].tensor_shape.dim[0].size = 3
    with pytest.raises(ValueError, match="'x' of shape"):
        tfs.decode_predict(answer.SerializeToString())


def test_a_single_output_has_no_name() -> None:
    read = tfs.decode_rows(b'{"predictions":[[0.5,NaN],[-Infinity,2]]}', {"y": dtypes.FP32})
    np.testing.assert_array_equal(read["y"], np.array([[0.5, np.nan], [-np.inf, 2]], np.float32))
    assert read["y"].dtype == np.float32


def test_several_outputs_come_by_row_and_name() -> None:
    body = b'{"predictions":[{"y":1,"t":["a",{"b64":"//8="}]},{"t":["b","c"],"y":2}]}'
    read = tfs.decode_rows(body, {"y": dtypes.INT64, "t": dtypes.BYTES})
    assert read["y"].tolist() == [1, 2] and read["y"].dtype == np.int64
    assert read["t"].tolist() == [[b"a", b"\xff\xff"], [b"b", b"c"]]


@pytest.mark.parametrize("body", [b'{"predictions":[{"y":1,"z":2}]}', b'{"predictions":[{"y":1}]}'])
def test_rows_with_other_outputs_are_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="without exactly"):
        tfs.decode_rows(body, {"y": dtypes.INT64, "t": dtypes.BYTES})


def test_an_error_is_no_answer() -> None:
    with pytest.raises(KeyError):
        tfs.decode_rows(b'{"error":"no"}', {"y": dtypes.FP32})
