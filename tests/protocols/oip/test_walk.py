"""Requests taken apart without protobuf, held against protobuf: the same are read, with the same result."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.errors import ServingError
from serving.core.types import InferRequest
from serving.protocols import wire
from serving.protocols.grpc import Call
from serving.protocols.grpc import read as read_message
from serving.protocols.messages import oip as m
from serving.protocols.oip import grpc_codec
from serving.protocols.oip.grpc_codec import Reader
from serving.protocols.oip.outputs import Wants
from serving.protocols.oip.walk import walk
from tests.protocols.build import message, same

NUMBERS = {name: field.number for name, field in m.ModelInferRequest.DESCRIPTOR.fields_by_name.items()}
RAW, ID = NUMBERS["raw_input_contents"], NUMBERS["id"]


def field(number: int, data: bytes) -> bytes:
    return wire.field(number, len(data)) + data


Outcome = tuple[InferRequest, Wants] | str


def outcome(decode: Callable[[], tuple[InferRequest, Wants]]) -> Outcome:
    try:
        return decode()
    except ServingError as error:
        return f"{error.kind} {error.message}"


def by_protobuf(data: bytes) -> Outcome:
    return outcome(lambda: grpc_codec.decode(read_message(m.ModelInferRequest, data), Call()))


def by_reader(reader: Reader, data: bytes) -> Outcome:
    return outcome(lambda: reader.read(data, Call()).decode())


def agree(reader: Reader, data: bytes) -> None:
    """Thrice, for what is read once or twice may be kept."""
    expected = by_protobuf(data)
    for _ in range(3):
        found = by_reader(reader, data)
        if isinstance(expected, str) or isinstance(found, str):
            assert found == expected
            continue
        (request, wants), (right, right_wants) = found, expected
        assert wants == right_wants
        assert list(request.inputs) == list(right.inputs)
        assert all(same(request.inputs[name], array) for name, array in right.inputs.items())
        assert request.parameters.keys() == right.parameters.keys()
        for name in ("model", "version", "outputs", "id", "signature", "priority", "lent"):
            assert getattr(request, name) == getattr(right, name)
        assert (request.deadline is None) == (right.deadline is None)


# Requests in pieces, as encoders may write them and as none does

TEXTS = st.sampled_from(["", "m", "x", "FP32", "INT8", "BYTES", "12", "-1", "ü", "timeout", "classification"])
STRINGS = st.one_of(TEXTS.map(str.encode), st.sampled_from([b"\xff", b"\xed\xa0\x80"]))
SIZES = st.sampled_from([0, 1, 2, 3, 2**40, 2**64 - 1])


def varints(values: list[int]) -> bytes:
    return b"".join(map(wire.varint, values))


def any_of(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A message of these fields in any order, some missing, some twice."""
    return st.lists(st.one_of(*parts), max_size=5).map(b"".join)


UNKNOWN = st.one_of(
    STRINGS.map(lambda data: field(100, data)),
    st.just(wire.varint(101 << 3) + b"\x05"),
    st.just(wire.varint(102 << 3 | 5) + bytes(4)),
    st.just(wire.varint(103 << 3 | 3) + b"\x08\x01" + wire.varint(103 << 3 | 4)),
)
PARAMETER = any_of(
    st.sampled_from([0, 1, 7, 2**64 - 1]).map(lambda value: b"\x08" + wire.varint(value)),
    st.sampled_from([0, 1, 7, 2**64 - 1]).map(lambda value: b"\x10" + wire.varint(value)),
    STRINGS.map(lambda data: field(3, data)),
    st.floats().map(lambda value: b"\x21" + struct.pack("<d", value)),
    UNKNOWN,
)


def parameters(number: int) -> st.SearchStrategy[bytes]:
    entry = any_of(STRINGS.map(lambda key: field(1, key)), PARAMETER.map(lambda value: field(2, value)))
    return entry.map(lambda data: field(number, data))


SHAPE = st.one_of(
    st.lists(SIZES, max_size=3).map(lambda shape: field(3, varints(shape))),
    SIZES.map(lambda size: b"\x18" + wire.varint(size)),
)
TENSOR = any_of(
    st.sampled_from([b"x", b"y"]).map(lambda name: field(1, name)),
    STRINGS.map(lambda data: field(2, data)),
    SHAPE,
    parameters(4),
    st.sampled_from([b"", bytes([0x32, 4, 0, 0, 0, 0]), b"\x35\0\0\0\0"]).map(lambda data: field(5, data)),
    UNKNOWN,
)
USUAL_TENSOR = st.builds(
    lambda name, kind, rows: field(1, name) + field(2, kind) + field(3, varints([rows])),
    st.sampled_from([b"x", b"y"]),
    st.sampled_from([b"INT8", b"UINT16", b"BYTES"]),
    st.integers(0, 3),
)
TOP = st.one_of(
    st.just(field(NUMBERS["model_name"], b"m")),
    STRINGS.map(lambda data: field(NUMBERS["model_version"], data)),
    STRINGS.map(lambda data: field(ID, data)),
    parameters(NUMBERS["parameters"]),
    st.one_of(USUAL_TENSOR, USUAL_TENSOR, TENSOR).map(lambda data: field(NUMBERS["inputs"], data)),
    any_of(STRINGS.map(lambda name: field(1, name)), parameters(2)).map(lambda d: field(NUMBERS["outputs"], d)),
    st.binary(max_size=6).map(lambda data: field(RAW, data)),
    UNKNOWN,
)
REQUESTS = st.lists(TOP, max_size=8).map(b"".join)
USUAL = st.builds(
    lambda tensors, request_id, rest: b"".join(
        [
            field(NUMBERS["model_name"], b"m"),
            request_id,
            *[field(NUMBERS["inputs"], data) for data, _ in tensors],
            *[field(RAW, bytes(size)) for _, size in tensors],
            rest,
        ]
    ),
    st.sampled_from(
        [
            [(field(1, b"x") + field(2, b"INT8") + field(3, b"\x03"), 3)],
            [
                (field(1, b"x") + field(2, b"FP32") + field(3, b"\x01\x02"), 8),
                (field(1, b"y") + field(2, b"UINT16") + field(3, b"\x02"), 4),
            ],
            [(field(1, b"x") + field(2, b"BYTES") + field(3, b"\x01"), 4)],
        ]
    ),
    st.sampled_from([b"", field(ID, b"a1"), field(ID, b"\xff")]),
    st.sampled_from([b"", field(RAW, b"more"), field(NUMBERS["parameters"], field(1, b"k") + field(2, b"\x08\1"))]),
)


@given(REQUESTS)
def test_any_fields_in_any_order(data: bytes) -> None:
    agree(Reader(), data)


@given(st.lists(st.one_of(USUAL, REQUESTS), min_size=2, max_size=4))
def test_one_request_is_not_taken_for_another(requests: list[bytes]) -> None:
    reader = Reader()
    for data in requests:
        agree(reader, data)


@given(USUAL, st.data())
def test_what_was_right_and_is_damaged(good: bytes, data: st.DataObject) -> None:
    reader = Reader()
    agree(reader, good)
    begin = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(begin, min(begin + 4, len(good))))
    new = data.draw(st.sampled_from([b"", b"\x00", b"\x80", b"\xff", b"\x80\x00", b"\x80" * 11, b"\x3a\x01", b"\x1a"]))
    agree(reader, good[:begin] + new + good[end:])
    agree(reader, good[:begin])


@given(USUAL, st.data())
def test_the_reader_sees_what_protobuf_sees(good: bytes, data: st.DataObject) -> None:
    """A size that is written in more bytes than it needs, or a tag: rare, and protobuf's matter."""
    at = data.draw(st.integers(0, len(good) - 1))
    longer = good[:at] + bytes([good[at] | 0x80, *data.draw(st.sampled_from([(0,), (0x80, 0), (0x80,) * 9]))])
    agree(Reader(), longer + good[at + 1 :])


# What it is for


def plain(request_id: str = "", value: float = 1.0, **more: Any) -> bytes:
    x = np.full((1, 784), value, np.float32)
    inputs = [{"name": "x", "datatype": "FP32", "shape": x.shape}]
    data: bytes = message([x.tobytes()], id=request_id, inputs=inputs, **more).SerializeToString()
    return data


def test_where_things_are() -> None:
    data = plain("a1")
    head, request_id, ((begin, end),) = walk(data)
    assert request_id == "a1" and data[begin:end] == np.ones(784, np.float32).tobytes()
    rest = m.ModelInferRequest.FromString(head)
    assert rest.inputs[0].name == "x" and not rest.id and not rest.raw_input_contents


@pytest.mark.parametrize("times", [1, 3])
def test_tensors_are_views(times: int) -> None:
    reader = Reader()
    for n in range(times):
        data = plain("a" * n, n)
        request, _ = reader.read(data, Call()).decode()
        assert (request.inputs["x"] == n).all() and request.id == "a" * n
        assert np.shares_memory(request.inputs["x"], np.frombuffer(data, np.uint8))


def test_protobuf_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    reader.read(plain("a"), Call()).decode()
    monkeypatch.setattr(grpc_codec, "read", None)
    request, _ = reader.read(plain("b", 2.0), Call(5.0)).decode()
    assert request.id == "b" and request.deadline == 5.0 and request.inputs["x"][0, 0] == 2.0
    with pytest.raises(TypeError):
        reader.read(plain("b", parameters={"k": {"int64_param": 1}}), Call())


def test_requests_share_nothing_that_can_be_changed() -> None:
    reader = Reader()
    data = plain(parameters={"k": {"int64_param": 1}})
    for _ in range(3):
        request, _ = reader.read(data, Call()).decode()
        assert request.parameters == {"k": 1} and list(request.inputs) == ["x"]
        request.parameters["k"] = 2
        request.inputs.clear()


def test_a_timeout_counts_from_each_request() -> None:
    reader = Reader()
    data = plain(parameters={"timeout": {"int64_param": 10_000_000}})
    first, again = (reader.read(data, Call()).decode()[0].deadline for _ in range(2))
    assert first is not None and again is not None and again > first
    assert reader.read(data, Call(1.0)).decode()[0].deadline == 1.0


def test_little_is_kept() -> None:
    reader = Reader()
    for n in range(1000):
        reader.read(plain(parameters={f"k{n}": {"int64_param": n}}), Call()).decode()
        reader.read(plain(parameters={"k" * 2000: {"int64_param": n}}), Call()).decode()
    assert len(reader._heads) <= 256


def test_what_has_effects_is_read_each_time() -> None:
    """Typed contents and strings have no place or no fixed size."""
    reader = Reader()
    strings = dtypes.BYTES.name
    inputs = [{"name": "x", "datatype": strings, "shape": [1]}]
    for word in (b"ab", b"c"):
        data = message([struct.pack("<I", len(word)) + word], inputs=inputs).SerializeToString()
        assert reader.read(data, Call()).decode()[0].inputs["x"].tolist() == [word]
        inputs_ = [{"name": "x", "datatype": strings, "shape": [1], "contents": {"bytes_contents": [word]}}]
        data = message(inputs=inputs_).SerializeToString()
        assert reader.read(data, Call()).decode()[0].inputs["x"].tolist() == [word]
    assert len(reader._heads) == 0
