"""TensorProto and arrays: exact both ways, and lies are refused."""

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ServingError
from serving.protocols import messages as m
from serving.protocols import wire
from serving.protocols.tfs import tensor_proto
from tests.protocols.build import dtype_id, refused, same, values_of
from tests.protocols.tfs.build import arrays, strings

EVERY = pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
NUMERIC = pytest.mark.parametrize("dtype", [d for d in dtypes.ALL if d is not dtypes.BYTES], ids=dtype_id)


def proto(dtype: DType, shape: tuple[int, ...], **data: Any) -> Any:
    tensor = m.tf.TensorProto(dtype=dtype.tensorflow, **data)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def decode(tensor: Any) -> np.ndarray:
    return tensor_proto.decode("x", tensor)


def decode_split(data: bytes) -> np.ndarray:
    return tensor_proto.decode("x", *tensor_proto.split(memoryview(data)))


@EVERY
@settings(max_examples=30)
@given(data=st.data())
def test_round_trip(dtype: DType, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype))
    message = tensor_proto.message(array, dtype)
    assert same(decode(message), array)
    assert not message.tensor_content
    assert same(decode_split(message.SerializeToString()), array)


@NUMERIC
@settings(max_examples=30)
@given(data=st.data())
def test_raw_bytes(dtype: DType, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype))
    message = proto(dtype, array.shape, tensor_content=array.tobytes())
    assert same(decode(message), array)
    assert same(decode_split(message.SerializeToString()), array)


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_raw_strings(values: list[bytes]) -> None:
    """TensorFlow's raw form: all lengths, then all bytes."""
    content = b"".join(map(wire.varint, map(len, values))) + b"".join(values)
    array = strings(values, (len(values), 1))
    assert same(decode(proto(dtypes.BYTES, array.shape, tensor_content=content)), array)


@pytest.mark.parametrize("dtype", [dtypes.FP32, dtypes.FP64], ids=dtype_id)
def test_floats_are_views_both_ways(dtype: DType) -> None:
    array = np.arange(6, dtype=dtype.numpy).reshape(2, 3)
    parts = tensor_proto.encode(array, dtype)
    data = bytearray(b"".join(parts))
    array[0, 0] = 7
    assert parts[-1] == array.tobytes()
    large = tensor_proto.split(memoryview(data))
    data[-1] ^= 0x80  # the sign of the last one
    assert tensor_proto.decode("x", *large)[1, 2] == -5
    assert same(decode_split(b"".join(tensor_proto.encode(array.T, dtype))), array.T)


@EVERY
def test_the_last_value_repeats(dtype: DType) -> None:
    values = values_of(dtype)
    few = tensor_proto.message(values[:2], dtype)
    del few.tensor_shape.dim[:]
    few.tensor_shape.dim.add(size=2)
    few.tensor_shape.dim.add(size=2)
    expected = np.array([values[0], values[1], values[1], values[1]], dtype.numpy).reshape(2, 2)
    assert same(decode(few), expected)
    assert same(decode_split(few.SerializeToString()), expected)


@EVERY
def test_no_value_means_zeros(dtype: DType) -> None:
    expected = strings([b""] * 3, (3,)) if dtype is dtypes.BYTES else np.zeros(3, dtype.numpy)
    assert same(decode(proto(dtype, (3,))), expected)


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (proto(dtypes.FP32, (3,), tensor_content=b"12345678"), "shape [3] takes 12 bytes of float, got 8"),
        (proto(dtypes.FP32, (1,), tensor_content=b"12345678"), "shape [1] takes 4 bytes of float, got 8"),
        (proto(dtypes.FP32, (0,), tensor_content=b"1234"), "shape [0] takes 0 bytes of float, got 4"),
        (proto(dtypes.FP32, (2,), float_val=[1, 2, 3]), "shape [2] takes 2 values, got 3"),
        (proto(dtypes.FP32, (0,), float_val=[1]), "shape [0] takes 0 values, got 1"),
        (proto(dtypes.BYTES, (1,), string_val=[b"a", b"b"]), "shape [1] takes 1 values, got 2"),
        (proto(dtypes.UINT8, (1,), int_val=[256]), "int_val holds values that uint8 cannot"),
        (proto(dtypes.INT8, (1,), int_val=[-129]), "int_val holds values that int8 cannot"),
        (proto(dtypes.FP16, (1,), half_val=[65536]), "half_val holds values that half cannot"),
        (proto(dtypes.BF16, (1,), half_val=[-1]), "half_val holds values that bfloat16 cannot"),
        (proto(dtypes.FP32, (-1,)), "its shape is not known: [-1]"),
        (m.tf.TensorProto(dtype=1, tensor_shape={"unknown_rank": True}), "its shape is not known: []"),
        (proto(dtypes.FP32, (1,) * 33), "it has 33 dimensions, at most 32 are possible"),
        (proto(dtypes.FP32, (2**40, 2**40)), f"no tensor can have the shape [{2**40}, {2**40}]"),
        (proto(dtypes.FP32, (2**62, 0)), f"no tensor can have the shape [{2**62}, 0]"),
        (m.tf.TensorProto(), "DT_INVALID is not supported"),
        (m.tf.TensorProto(dtype="DT_COMPLEX64", scomplex_val=[1, 2]), "DT_COMPLEX64 is not supported"),
        (m.tf.TensorProto(dtype=4711), "4711 is not supported"),
        (proto(dtypes.BYTES, (1,), tensor_content=b"\x05ab"), "expected 5 bytes of strings, got 2"),
        (proto(dtypes.BYTES, (1,), tensor_content=b"\x01ab"), "expected 1 bytes of strings, got 2"),
        (proto(dtypes.BYTES, (9,), tensor_content=b"\x01ab"), "expected 9 strings in 3 bytes"),
        (proto(dtypes.BYTES, (2,), tensor_content=b"\x80\x80"), "its strings have no lengths"),
    ],
)
def test_lies(tensor: Any, text: str) -> None:
    assert refused(lambda: decode(tensor)) == f"tensor parsing error: x: {text}"
    assert refused(lambda: decode_split(tensor.SerializeToString())) == f"tensor parsing error: x: {text}"


@pytest.mark.parametrize("values", [{}, {"float_val": [1.0]}])
def test_few_bytes_do_not_ask_for_much_memory(values: dict[str, Any]) -> None:
    text = refused(lambda: decode(proto(dtypes.FP32, (2**34,), **values)))
    assert text.startswith("tensor parsing error: x: ") and text.endswith("too few to repeat")
    fits = tensor_proto.MAX_REPEATED_BYTES // 4
    assert decode(proto(dtypes.FP32, (fits,), **values)).shape == (fits,)


def test_half_a_float() -> None:
    data = proto(dtypes.FP32, (1,)).SerializeToString() + wire.field(5, 3) + b"abc"
    text = "tensor parsing error: x: 3 bytes are no whole number of values"
    assert refused(lambda: decode_split(data)) == text


def test_a_list_in_parts_is_for_the_message_class() -> None:
    one, two = (proto(dtypes.FP32, (), float_val=[value]).SerializeToString() for value in (1, 2))
    with pytest.raises(wire.UnusualError):
        tensor_proto.split(memoryview(one + two))
    unpacked = b"\x2d\x00\x00\x80\x3f"
    with pytest.raises(wire.UnusualError):
        tensor_proto.split(memoryview(unpacked))


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    with suppress(ServingError, wire.UnusualError):
        decode_split(data)


@given(
    st.builds(
        m.tf.TensorProto,
        dtype=st.integers(0, 24),
        tensor_shape=st.fixed_dictionaries(
            {"dim": st.lists(st.fixed_dictionaries({"size": st.integers(-1, 5)}), max_size=3)}
        ),
        tensor_content=st.binary(max_size=16),
        float_val=st.lists(st.just(1.5), max_size=3),
        int_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
        half_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
        bool_val=st.lists(st.booleans(), max_size=3),
        uint64_val=st.lists(st.integers(0, 2**64 - 1), max_size=3),
        string_val=st.lists(st.binary(max_size=3), max_size=3),
    )
)
def test_any_message_the_two_ways(tensor: Any) -> None:
    def outcome(way: Any, given: Any) -> tuple[Any, ...]:
        try:
            array = way(given)
        except ServingError as error:
            return "refused", error.message
        return array.dtype, array.shape, array.tolist() if array.dtype == object else array.tobytes()

    try:
        split = outcome(decode_split, tensor.SerializeToString())
    except wire.UnusualError:
        return
    assert split == outcome(decode, tensor)
