"""Whatever bytes come, both codecs give a request or a refusal: no other exception, no tensor that is not what it
claims to be, and no memory beyond what the bytes themselves account for."""

import json
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, InferResponse, Signature, TensorSpec
from serving.core.validate import Contract
from serving.protocols import grpc
from serving.protocols.messages import oip as m
from serving.protocols.oip import generate, grpc_codec, rest_codec
from serving.protocols.oip.outputs import Wants
from serving.protocols.oip.shared_memory import SharedMemory
from tests.protocols import build
from tests.protocols.build import body, not_for_ever, tensor

ALLOWED = (ErrorKind.INVALID, ErrorKind.UNSUPPORTED, ErrorKind.NOT_FOUND, ErrorKind.PRECONDITION)
FIXED_BYTES = 2_000_000  # caches and the like
PER_BYTE = 400  # the worst of JSON: one byte for an element of a list of Python objects, and its copies


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> SharedMemory:
    """With a region `r` of 64 bytes."""
    directory = tmp_path_factory.mktemp("shm")
    (directory / "object").write_bytes(bytes(64))
    memory = SharedMemory(True, directory)
    memory.register("r", "object", 0, 64)
    return memory


def decoded(size: int, decode: Callable[[], Any]) -> Any:
    """What `decode` gives, or None if it was refused."""
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


def decode_rest(memory: SharedMemory, data: bytes, header_length: bytes | None) -> InferRequest | None:
    found = decoded(len(data), lambda: build.decode(data, header_length, memory=memory))
    if found is None:
        return None
    request: InferRequest = found[0]
    written(found[1], rest_codec.encode)
    header = json.loads(data if header_length is None else data[: int(header_length)])
    check(request, [(i["name"], i["datatype"], i["shape"]) for i in header["inputs"]])
    return request


def decode_grpc(memory: SharedMemory, data: bytes) -> InferRequest | None:
    message = None

    def decode() -> tuple[InferRequest, Wants]:
        nonlocal message
        message = grpc.read(m.ModelInferRequest, data)
        return grpc_codec.decode(message, grpc.Call(), memory)

    found = decoded(len(data), decode)
    if found is None:
        return None
    request: InferRequest = found[0]
    assert message is not None
    check(request, [(t.name, t.datatype, list(t.shape)) for t in message.inputs])
    written(found[1], grpc_codec.encode)
    return request


ANSWERS = [
    build.answer_of({"y": (dtype, build.values_of(dtype).reshape(1, 3)), "": (dtype, build.values_of(dtype))})
    for dtype in (dtypes.FP32, dtypes.INT64, dtypes.BYTES, dtypes.FP16)
]


def written(wants: Wants, encode: Callable[[InferResponse, Wants], object]) -> None:
    """Writes answers in the form that was asked for."""
    for answer in ANSWERS:
        decoded(1000, lambda answer=answer: encode(answer, wants))  # type: ignore[misc]


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
    parameters={"timeout": 5, "k": "v", "binary_data_output": True, "priority": 1, "signature_name": "s"},
    outputs=[{"name": "y", "parameters": {"binary_data": True, "classification": 2}}],
)
REGION = {"shared_memory_region": "r", "shared_memory_byte_size": 32, "shared_memory_offset": 16}
GOOD_SHARED = body(tensor(shape=[8], parameters=REGION), outputs=[{"name": "y", "parameters": REGION}])
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


def test_the_undamaged_requests_are_taken(memory: SharedMemory) -> None:
    assert decode_rest(memory, GOOD_JSON, None) and decode_rest(memory, GOOD_SHARED, None)
    assert decode_rest(memory, GOOD_BINARY, b"%d" % len(GOOD_HEADER))
    assert decode_grpc(memory, good_message(True)) and decode_grpc(memory, good_message(False))


@settings(max_examples=300)
@given(damaged(GOOD_JSON) | damaged(GOOD_SHARED))
def test_damaged_json(memory: SharedMemory, data: bytes) -> None:
    decode_rest(memory, data, None)


@settings(max_examples=300)
@given(damaged(GOOD_BINARY), st.integers(-2, 3))
def test_damaged_binary(memory: SharedMemory, data: bytes, change: int) -> None:
    decode_rest(memory, data, b"%d" % (len(GOOD_HEADER) + change))


@settings(max_examples=300)
@given(st.booleans().flatmap(lambda raw: damaged(good_message(raw))))
def test_damaged_messages(memory: SharedMemory, data: bytes) -> None:
    decode_grpc(memory, data)


@given(st.binary(max_size=300), st.none() | st.integers(-3, 400).map(lambda n: b"%d" % n) | st.binary(max_size=8))
def test_any_bytes(memory: SharedMemory, data: bytes, header_length: bytes | None) -> None:
    decode_rest(memory, data, header_length)
    decode_grpc(memory, data)


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
PARAMETERS = (
    "timeout", "priority", "sequence_id", "sequence_start", "signature_name", "binary_data_output", "k", "triton_x",
)  # fmt: skip
OF_TENSORS = (
    "binary_data_size", "binary_data", "classification", "shared_memory_region", "shared_memory_byte_size",
    "shared_memory_offset",
)  # fmt: skip
SHAPES = st.lists(NUMBERS, max_size=4) | st.sampled_from([[1] * 33, [1] * 65, [0, 2**62, 2**62], [2**62] * 30])


OUTPUTS = st.fixed_dictionaries(
    {"name": st.sampled_from(["y", "z"]) | WILD},
    optional={
        "parameters": st.dictionaries(
            st.sampled_from(OF_TENSORS), st.sampled_from([True, False, 0, 8, 64, "r"]) | NUMBERS | WILD
        )
    },
)


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
            entry["parameters"] = mostly(st.dictionaries(st.sampled_from(OF_TENSORS), NUMBERS | st.just("r") | WILD))
        for key in draw(st.lists(st.sampled_from(sorted(entry)), max_size=1)):
            del entry[key]
        inputs.append(entry)
    request = {"inputs": mostly(st.just(inputs)), "id": mostly(st.text(max_size=3))}
    if draw(st.booleans()):
        request["parameters"] = mostly(st.dictionaries(st.sampled_from(PARAMETERS), WILD | NUMBERS))
    if draw(st.booleans()):
        request["outputs"] = mostly(st.lists(OUTPUTS, max_size=3))
    return json.dumps(request).encode()


@settings(max_examples=500)
@given(nonsense(), st.none() | st.binary(max_size=20))
def test_nonsense_in_json(memory: SharedMemory, header: bytes, raw: bytes | None) -> None:
    decode_rest(memory, header + (raw or b""), None if raw is None else b"%d" % len(header))


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


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64_param": INT64 | st.sampled_from([8, 32, 64]),
    "uint64_param": CONTENTS["uint64_contents"],
    "double_param": st.floats(),
    "string_param": st.text(max_size=3) | st.just("r"),
    "bool_param": st.booleans(),
}


def parameters(draw: st.DrawFn, found: Any, names: tuple[str, ...]) -> None:
    """Fills a map of InferParameters."""
    for name in draw(st.lists(st.sampled_from(names), max_size=3, unique=True)):
        field = draw(st.sampled_from(["", *VALUES]))
        if field:
            setattr(found[name], field, draw(VALUES[field]))
        else:
            found[name].SetInParent()


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
        parameters(draw, one.parameters, OF_TENSORS)
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=16), max_size=3)))
    parameters(draw, message.parameters, PARAMETERS)
    for _ in range(draw(st.integers(0, 2))):
        parameters(draw, message.outputs.add(name=draw(st.sampled_from("yz"))).parameters, OF_TENSORS)
    data: bytes = message.SerializeToString()
    return data


@settings(max_examples=500)
@given(odd_messages())
def test_odd_messages(memory: SharedMemory, data: bytes) -> None:
    decode_grpc(memory, data)


SPECS = st.builds(
    TensorSpec,
    st.just("x"),
    st.sampled_from(dtypes.ALL),
    st.none() | st.lists(st.integers(-1, 4), max_size=4).map(tuple),
)


@settings(max_examples=300)
@given(SPECS, st.sampled_from([0, 8]), st.binary(max_size=64))
def test_raw_bodies(spec: TensorSpec, max_batch_size: int, data: bytes) -> None:
    """Contracts that batch have an open axis in front; of others nothing is known."""
    if max_batch_size and spec.shape is not None:
        spec = replace(spec, shape=(-1, *spec.shape))
    contract = Contract("m", Signature({"x": spec}, {}), max_batch_size)
    found = decoded(len(data), lambda: rest_codec.decode_raw(contract, None, data))
    if found is not None:
        (array,) = found[0].inputs.values()
        assert spec.accepts(array.shape) and array.dtype == spec.dtype.numpy
        assert (array.reshape(-1)[0] if spec.dtype is dtypes.BYTES else array.tobytes()) == data


@st.composite
def flat(draw: st.DrawFn) -> bytes:
    keys = st.sampled_from(["x", "y", "id", "parameters", *PARAMETERS])
    value = st.dictionaries(keys, WILD | NUMBERS | st.lists(NUMBERS, max_size=4) | st.text(max_size=3), max_size=4)
    found = draw(value)
    if draw(st.booleans()):
        found["parameters"] = draw(value)
    return json.dumps(found).encode()


GOOD_FLAT = b'{"x":[1,2],"id":"a","parameters":{"y":3,"k":true},"timeout":5}'


@settings(max_examples=300)
@given(flat() | damaged(GOOD_FLAT) | st.binary(max_size=50), SPECS, SPECS)
def test_flat_objects(data: bytes, x: TensorSpec, y: TensorSpec) -> None:
    specs = {"x": x, "y": replace(y, name="y")}
    signature = Signature(specs, {})
    found = decoded(len(data), lambda: generate.decode("m", None, data, {"": signature, "s": signature}))
    if found is not None:
        for name, array in found[0].inputs.items():
            assert array.dtype == specs[name].dtype.numpy and specs[name].accepts(array.shape)
        found[0].id.encode()


def test_what_is_taken_can_be_told_from_what_was_sent() -> None:
    """The checks above can fail: a tensor of another shape is noticed."""
    request = InferRequest("m", {"x": np.zeros((2, 1), np.float32)})
    check(request, [("x", "FP32", [2, 1])])
    for wrong in ([("x", "FP32", [1, 2])], [("x", "FP64", [2, 1])], []):
        with pytest.raises(AssertionError):
            check(request, wrong)
