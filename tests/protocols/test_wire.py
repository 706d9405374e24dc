"""The little that is read and written without message classes agrees with them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.protocols import messages as m
from serving.protocols import wire

VALUES = st.integers(0, 2**64 - 1)


@given(VALUES)
def test_varints(value: int) -> None:
    data = wire.varint(value)
    assert m.tf.TensorProto(uint64_val=[value]).SerializeToString().endswith(data)
    assert wire.read_varint(memoryview(b"x" + data + b"y"), 1) == (value, 1 + len(data))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9, b"\x80" * 10 + b"\x01", b"\xff" * 100])
def test_what_is_no_varint(data: bytes) -> None:
    with pytest.raises(wire.UnusualError):
        wire.read_varint(memoryview(data), 0)


def test_a_field() -> None:
    content = bytes(300)
    assert wire.field(4, 300) + content == m.tf.TensorProto(tensor_content=content).SerializeToString()


TENSORS = st.builds(
    m.tf.TensorProto,
    dtype=st.integers(0, 300),
    tensor_content=st.binary(max_size=300),
    float_val=st.lists(st.floats(width=32, allow_nan=False), max_size=3),
    double_val=st.lists(st.floats(allow_nan=False), max_size=3),
    int_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
    string_val=st.lists(st.binary(max_size=3), max_size=3),
    version_number=st.integers(-1, 1),
)


@given(TENSORS, st.sets(st.integers(1, 17)))
def test_nothing_is_lost(tensor: Any, wanted: set[int]) -> None:
    data = tensor.SerializeToString()
    large, rest = wire.split(memoryview(data), wanted - {1, 3})  # these two are no length-delimited fields
    assert {number for number, _ in large} <= wanted
    together = b"".join(wire.field(number, len(part)) + bytes(part) for number, part in large)
    assert m.tf.TensorProto.FromString(rest + together) == tensor
    left = m.tf.TensorProto.FromString(rest)
    assert not {field.number for field, _ in left.ListFields()} & (wanted - {1, 3})


def test_views_not_copies() -> None:
    data = bytearray(m.tf.TensorProto(tensor_content=b"abc", dtype=7).SerializeToString())
    ((number, view),), _ = wire.split(memoryview(data), {4})
    assert (number, view) == (4, b"abc")
    data[data.index(b"b")] = ord("X")
    assert view == b"aXc"


@pytest.mark.parametrize(
    "data",
    [
        b"\x20\x01",  # a wanted field as a varint
        b"\x25\x00\x00\x00\x00",  # as four bytes
        b"\x22\x05abc",  # longer than the message
        b"\x0a\x05abc",  # the same with a field that is not wanted
        b"\x22",
        b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x09\x00",  # eight bytes, of which one is there
        b"\x0b\x0c",  # a group
        b"\x0f",  # a wire type that there is not
    ],
)
def test_unusual(data: bytes) -> None:
    with pytest.raises(wire.UnusualError):
        wire.split(memoryview(data), {4})


@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    try:
        large, rest = wire.split(memoryview(data), {4, 5, 6})
    except wire.UnusualError:
        return
    assert sum(len(part) for _, part in large) + len(rest) <= len(data)


def nested(*parts: bytes) -> bytes:
    """Fields of the number 2, each with a number 1 in it, beside fields of other types."""
    others = wire.varint(3 << 3) + wire.varint(300) + wire.varint(4 << 3 | 5) + bytes(4)
    return others + b"".join(wire.field(2, len(part)) + part for part in parts)


def test_the_place_of_a_field_in_a_field() -> None:
    inner = nested() + wire.field(1, 5) + b"12345" + nested()
    data = nested(inner)
    place = wire.place(data, (2, 1))
    assert place is not None and data[slice(*place)] == b"12345"
    assert wire.place(data, (2,)) == (len(data) - len(inner), len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        nested(),
        nested(b""),
        nested(wire.field(1, 1) + b"a", wire.field(1, 1) + b"b"),
        nested(wire.field(1, 1) + b"a" + wire.field(1, 1) + b"b"),
        nested(wire.field(1, 2) + b"a"),
        nested(wire.field(1, 1) + b"a") + b"\xff",
        nested(wire.varint(1 << 3) + b"\x01"),
        nested(wire.varint(5 << 3 | 3) + wire.field(1, 1) + b"a"),
    ],
    ids=["nothing", "none", "empty", "two outside", "two inside", "short", "broken", "a number", "a group"],
)
def test_no_such_place(data: bytes) -> None:
    assert wire.place(data, (2, 1)) is None
