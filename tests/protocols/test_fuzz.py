"""Whatever bytes come, both codecs give a request or a refusal: no other exception, no tensor that is not what it
claims to be, and no memory beyond what the bytes themselves account for."""

import json
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest
from serving.protocols import messages as m
from serving.protocols import oip_grpc, oip_rest
from serving.protocols.oip_grpc import Call
from tests.protocols.build import body, not_for_ever, tensor

ALLOWED = (ErrorKind.INVALID, ErrorKind.UNSUPPORTED, ErrorKind.NOT_FOUND)
FIXED_BYTES = 2_000_000  # caches and the like
PER_BYTE = 400  # the worst of JSON: one byte for an element of a list of Python objects, and its copies


def decoded(size: int, decode: Callable[[], InferRequest]) -> InferRequest | None:
    """The request, or None if it was refused."""
    request = refusal = None
    tracemalloc.start()
    try:
        with not_for_ever():
            request = decode()
    except ServingError as error:
        refusal = error
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < FIXED_BYTES + PER_BYTE * size
    if refusal is not None:
        assert refusal.kind in ALLOWED
        refusal.message.encode()  # it must be possible to send it
    return request


def check(request: InferRequest, claims: Iterable[tuple[str, str, list[int]]]) -> None:
    """Each tensor is of the type and shape that the sender claimed."""
    assert {name: (a.dtype, list(a.shape)) for name, a in request.inputs.items()} == {
        name: (dtypes.BY_NAME[datatype].numpy, shape) for name, datatype, shape in claims
    }
    request.id.encode()  # it must be possible to send it back


def decode_rest(data: bytes, header_length: bytes | None) -> InferRequest | None:
    request = decoded(len(data), lambda: oip_rest.decode("m", None, data, header_length)[0])
    if request is not None:
        header = json.loads(data if header_length is None else data[: int(header_length)])
        check(request, [(i["name"], i["datatype"], i["shape"]) for i in header["inputs"]])
    return request


def decode_grpc(data: bytes) -> InferRequest | None:
    message = None

    def decode() -> InferRequest:
        nonlocal message
        message = oip_grpc._read(m.ModelInferRequest, data)
        return oip_grpc.decode(message, Call())[0]

    request = decoded(len(data), decode)
    if request is not None:
        assert message is not None
        check(request, [(t.name, t.datatype, list(t.shape)) for t in message.inputs])
    return request


# Bytes that were right, and are not any more

SNIPPETS = (
    b"NaN", b"-Infinity", b"null", b"true", b"-1", b"1.5", b"1e999", b"1" * 30, b"9" * 5000, b"[", b"]", b"{", b"}",
    b'"', b",", b":", b"\\ud800", b'"shape":', b'"data":[1],', b'"inputs":[],', b"[" * 1000, b"[" * 100_000,
    b"2147483648", b"4611686018427387904", b"\x00", b"\xff\xff\xff\xff", b"\x80" * 11,
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        what = draw(st.integers(0, 4))
        if what == 0 and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == 1:
            del data[at:]
        elif what == 2:
            data[at:at] = draw(st.sampled_from(SNIPPETS))
        elif what == 3:
            end = min(at + draw(st.integers(1, 40)), len(data))
            data[at:at] = data[at:end]
        else:
            del data[at : at + draw(st.integers(1, 8))]
    return bytes(data)


GOOD_JSON = body(
    tensor(data=[1, 2]),
    tensor("n", "INT64", [2, 1], data=[[1], [-5]]),
    tensor("t", "BYTES", [1], data=["é"]),
    id="a1",
    parameters={"timeout": 5, "k": "v", "binary_data_output": True},
    outputs=[{"name": "y", "parameters": {"binary_data": True}}],
)
GOOD_HEADER = body(
    tensor(parameters={"binary_data_size": 8}),
    tensor("t", "BYTES", [2], parameters={"binary_data_size": 10}),
)
GOOD_BINARY = GOOD_HEADER + bytes(8) + b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


def good_message(raw: bool) -> bytes:
    message = m.ModelInferRequest(model_name="m", model_version="3", id="a", outputs=[{"name": "y"}])
    message.parameters["timeout"].int64_param = 5
    x = message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    t = message.inputs.add(name="t", datatype="BYTES", shape=[1])
    if raw:
        message.raw_input_contents.extend([bytes(8), b"\x02\x00\x00\x00ab"])
    else:
        x.contents.fp32_contents.extend([1, 2])
        t.contents.bytes_contents.append(b"ab")
    data: bytes = message.SerializeToString()
    return data


def test_the_undamaged_requests_are_taken() -> None:
    assert decode_rest(GOOD_JSON, None)
    assert decode_rest(GOOD_BINARY, b"%d" % len(GOOD_HEADER))
    assert decode_grpc(good_message(True)) and decode_grpc(good_message(False))


@settings(max_examples=300)
@given(damaged(GOOD_JSON))
def test_damaged_json(data: bytes) -> None:
    decode_rest(data, None)


@settings(max_examples=300)
@given(damaged(GOOD_BINARY), st.integers(-2, 3))
def test_damaged_binary(data: bytes, change: int) -> None:
    decode_rest(data, b"%d" % (len(GOOD_HEADER) + change))


@settings(max_examples=300)
@given(st.booleans().flatmap(lambda raw: damaged(good_message(raw))))
def test_damaged_messages(data: bytes) -> None:
    decode_grpc(data)


@given(st.binary(max_size=300), st.none() | st.integers(-3, 400).map(lambda n: b"%d" % n) | st.binary(max_size=8))
def test_any_bytes(data: bytes, header_length: bytes | None) -> None:
    decode_rest(data, header_length)
    decode_grpc(data)


# Requests that are well formed and make no sense

NUMBERS = (
    st.integers(-3, 5)
    | st.sampled_from([2**31, 2**31 - 1, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400])
    | st.floats()
)
WILD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | st.sampled_from(["FP32", "\ud800", "NaN", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
SHAPES = st.lists(NUMBERS, max_size=4) | st.sampled_from([[1] * 33, [1] * 65, [0, 2**62, 2**62], [2**62] * 30])


@st.composite
def nonsense(draw: st.DrawFn) -> bytes:
    def mostly(usual: st.SearchStrategy[Any]) -> Any:
        return draw(usual if draw(st.integers(0, 9)) else WILD)

    inputs = []
    for _ in range(draw(st.integers(0, 3))):
        entry = {
            "name": mostly(st.sampled_from("xyz")),
            "datatype": mostly(st.sampled_from([d.name for d in dtypes.ALL])),
            "shape": mostly(SHAPES),
        }
        if draw(st.booleans()):
            entry["data"] = mostly(st.lists(WILD | NUMBERS, max_size=6))
        if draw(st.booleans()):
            entry["parameters"] = mostly(st.fixed_dictionaries({"binary_data_size": NUMBERS | WILD}))
        for key in draw(st.lists(st.sampled_from(sorted(entry)), max_size=1)):
            del entry[key]
        inputs.append(entry)
    request = {"inputs": mostly(st.just(inputs)), "id": mostly(st.text(max_size=3))}
    if draw(st.booleans()):
        request["parameters"] = mostly(st.dictionaries(st.sampled_from(["timeout", "k", "triton_x"]), WILD | NUMBERS))
    if draw(st.booleans()):
        request["outputs"] = mostly(st.lists(st.fixed_dictionaries({"name": st.text(max_size=2) | WILD}), max_size=3))
    return json.dumps(request).encode()


@settings(max_examples=500)
@given(nonsense(), st.none() | st.binary(max_size=20))
def test_nonsense_in_json(header: bytes, raw: bytes | None) -> None:
    decode_rest(header + (raw or b""), None if raw is None else b"%d" % len(header))


INT64 = st.integers(-2, 4) | st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)])
CONTENTS: dict[str, st.SearchStrategy[Any]] = {
    "bool_contents": st.booleans(),
    "int_contents": st.sampled_from([0, 1, 127, 128, 300, -129, 2**31 - 1, -(2**31)]),
    "int64_contents": INT64,
    "uint_contents": st.sampled_from([0, 255, 256, 65536, 2**32 - 1]),
    "uint64_contents": st.sampled_from([0, 2**64 - 1]),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=4),
}


@st.composite
def odd_messages(draw: st.DrawFn) -> bytes:
    message = m.ModelInferRequest(model_name="m", model_version=draw(st.sampled_from(["", "1", "0", "x", "0" * 5000])))
    for _ in range(draw(st.integers(0, 3))):
        one = message.inputs.add(
            name=draw(st.sampled_from("xyz")),
            datatype=draw(st.sampled_from([d.name for d in dtypes.ALL] + ["", "FLOAT"])),
            shape=draw(st.lists(INT64, max_size=4) | st.sampled_from([[1] * 33, [1] * 65, [0, 2**62, 2**62]])),
        )
        for field in draw(st.lists(st.sampled_from(sorted(CONTENTS)), max_size=2)):
            one.contents.SetInParent()
            getattr(one.contents, field).extend(draw(st.lists(CONTENTS[field], max_size=4)))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=16), max_size=3)))
    if draw(st.booleans()):
        parameter = message.parameters[draw(st.sampled_from(["timeout", "k"]))]
        field, values = draw(
            st.sampled_from(
                [
                    ("int64_param", INT64),
                    ("uint64_param", CONTENTS["uint64_contents"]),
                    ("double_param", st.floats()),
                    ("string_param", st.text(max_size=3)),
                    ("bool_param", st.booleans()),
                ]
            )
        )
        setattr(parameter, field, draw(values))
    data: bytes = message.SerializeToString()
    return data


@settings(max_examples=500)
@given(odd_messages())
def test_odd_messages(data: bytes) -> None:
    decode_grpc(data)


def test_what_is_taken_can_be_told_from_what_was_sent() -> None:
    """The checks above can fail: a tensor of another shape is noticed."""
    request = InferRequest("m", {"x": np.zeros((2, 1), np.float32)})
    check(request, [("x", "FP32", [2, 1])])
    for wrong in ([("x", "FP32", [1, 2])], [("x", "FP64", [2, 1])], []):
        with pytest.raises(AssertionError):
            check(request, wrong)
