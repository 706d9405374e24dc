"""Predict, classify and regress over gRPC, from bytes to bytes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, Signature, SignatureMethod
from serving.protocols import messages as m
from serving.protocols import wire
from serving.protocols.grpc import Call
from serving.protocols.tfs import grpc_codec, tensor_proto
from serving.protocols.tfs.servables import Target
from tests.protocols.build import dtype_id, refused, same
from tests.protocols.tfs.build import CLASSIFY, ONE, REGRESS, answered, arrays, features, loaded, spec, specs, strings

X = np.array([[1, 2]], np.float32)


def request(inputs: Mapping[str, tuple[DType, np.ndarray]], **fields: Any) -> Any:
    message = m.tfs.PredictRequest(**fields)
    message.model_spec.name = message.model_spec.name or "m"
    for name, (dtype, array) in inputs.items():
        message.inputs[name].CopyFrom(tensor_proto.message(array, dtype))
    return message


def predict(message: Any, signatures: Mapping[str, Signature] | None = None) -> InferRequest:
    read, sent = grpc_codec.read_predict(message.SerializeToString())
    found, _ = grpc_codec.decode_predict(read, sent, Call(12.5), loaded(signatures))
    return found


def test_a_request() -> None:
    fields = {"model_spec": {"name": "m", "signature_name": "two"}, "output_filter": ["d", "c"]}
    b = np.array([5], np.int32)
    made = predict(request({"a": (dtypes.FP32, X), "b": (dtypes.INT32, b)}, **fields))
    assert (made.model, made.version, made.signature, made.outputs) == ("m", 3, "two", ("d", "c"))
    assert (made.deadline, made.allow_empty) == (12.5, True)
    assert same(made.inputs["a"], X) and same(made.inputs["b"], b)


def test_an_optional_input() -> None:
    made = predict(request({"a": (dtypes.FP32, X)}, model_spec={"signature_name": "optional"}))
    assert list(made.inputs) == ["a"]


@pytest.mark.parametrize(
    ("inputs", "fields", "kind", "text"),
    [
        (
            {},
            {},
            ErrorKind.INVALID,
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
        ),
        (
            {"x": X, "z": X, "a": X},
            {},
            ErrorKind.INVALID,
            "input size does not match signature: 3!=1 len({a,x,z}) != len({x}). Sent extra: {a,z}. "
            "Missing but required: {}.",
        ),
        (
            {"z": X},
            {},
            ErrorKind.INVALID,
            "input size does not match signature: 1!=1 len({z}) != len({x}). Sent extra: {z}. "
            "Missing but required: {x}.",
        ),
        (
            {"b": X},
            {"model_spec": {"signature_name": "optional"}},
            ErrorKind.INVALID,
            "input size does not match signature: 1!=2 len({b}) != len({a,b}). Sent extra: {}. "
            "Missing but required: {a}.",
        ),
        (
            {"x": X.astype(np.int32)},
            {},
            ErrorKind.INVALID,
            "Expects arg[0] to be float but int32 is provided: input 'x'",
        ),
        (
            {"a": X, "b": np.zeros(1, np.int64)},
            {"model_spec": {"signature_name": "two"}},
            ErrorKind.INVALID,
            "Expects arg[1] to be int32 but int64 is provided: input 'b'",
        ),
        (
            {"x": X},
            {"output_filter": ["z"]},
            ErrorKind.INVALID,
            "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
        ),
        ({"x": X}, {"output_filter": ["y", "y"]}, ErrorKind.INVALID, "duplicate output tensor alias: y"),
        (
            {"x": X},
            {"model_spec": {"signature_name": "z"}},
            ErrorKind.PRECONDITION,
            'Serving signature key "z" not found.',
        ),
    ],
)
def test_refused(inputs: dict[str, np.ndarray], fields: dict[str, Any], kind: ErrorKind, text: str) -> None:
    message = request({name: (dtypes.BY_NUMPY[array.dtype], array) for name, array in inputs.items()}, **fields)
    assert refused(lambda: predict(message), kind) == text


def test_a_tensor_that_lies() -> None:
    message = request({"x": (dtypes.FP32, X)})
    message.inputs["x"].tensor_content = b"1"
    assert refused(lambda: predict(message)).startswith("tensor parsing error: x")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"name": "m"}, Target("m")),
        ({"name": "m", "version": {"value": 7}}, Target("m", 7)),
        ({"name": "m", "version": {}}, Target("m", 0)),
        ({"name": "m", "version_label": "stable"}, Target("m", label="stable")),
    ],
)
def test_targets(message: dict[str, Any], expected: Target) -> None:
    assert grpc_codec.target(m.tfs.PredictRequest(model_spec=message)) == expected


def test_no_model() -> None:
    assert refused(lambda: grpc_codec.target(m.tfs.PredictRequest())) == "Missing ModelSpec"
    empty = m.tfs.PredictRequest(model_spec={})
    assert refused(lambda: grpc_codec.target(empty)) == "ModelSpec has no name specified."


# The two ways to read a request


def outcome(data: bytes, split: bool) -> Any:
    """What a way of reading makes of the bytes; None if it leaves them to the other."""
    found = loaded({"serving_default": Signature(specs(spec("x", shape=None)), ONE.outputs)})
    try:
        if split:
            message, sent = grpc_codec._split(memoryview(data))
        else:
            message = m.tfs.PredictRequest.FromString(data)
            sent = {name: grpc_codec.Sent(tensor) for name, tensor in message.inputs.items()}
        made, _ = grpc_codec.decode_predict(message, sent, Call(), found)
    except wire.UnusualError:
        return None
    except ServingError as error:
        return error.message
    except Exception as error:  # protobuf's
        return f"not a message ({type(error).__name__})"
    array = made.inputs["x"]
    return made.outputs, array.dtype, array.shape, array.tobytes()


SHAPES = st.lists(st.integers(0, 3), max_size=2).map(lambda sizes: {"dim": [{"size": size} for size in sizes]})
TENSORS = st.builds(
    m.tf.TensorProto,
    dtype=st.sampled_from([1, 1, 1, 2, 3, 9]),
    tensor_shape=SHAPES,
    float_val=st.lists(st.floats(width=32, allow_nan=False), max_size=4),
    double_val=st.lists(st.floats(allow_nan=False), max_size=2),
    tensor_content=st.sampled_from([b"", bytes(8)]),
    version_number=st.integers(0, 2),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Messages of every kind: whole, in parts, with bytes changed, and cut."""
    names = draw(st.lists(st.sampled_from(["x", "x", "x", "", "ü"]), max_size=2))
    data = b""
    for name in names:
        message = m.tfs.PredictRequest(output_filter=draw(st.sampled_from([[], ["y"]])))
        message.inputs[name].CopyFrom(draw(TENSORS))
        data += message.SerializeToString()
    changed = bytearray(data)
    for at, byte in draw(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=2)):
        if at < len(changed):
            changed[at] = byte
    return bytes(changed[: draw(st.integers(max(len(changed) - 3, 0), len(changed)))])


@settings(max_examples=300)
@given(requests())
def test_both_ways_agree(data: bytes) -> None:
    fast, usual = outcome(data, split=True), outcome(data, split=False)
    if fast is None:
        return
    if isinstance(usual, str) and "not a message" in usual:
        assert isinstance(fast, str)
    else:
        assert fast == usual


def test_what_is_large_is_not_copied() -> None:
    array = np.zeros((1, 5000), np.float32)
    signature = {"serving_default": Signature(specs(spec("x", shape=(-1, 5000))), ONE.outputs)}
    for message in (
        request({"x": (dtypes.FP32, array)}),
        m.tfs.PredictRequest(
            model_spec={"name": "m"},
            inputs={
                "x": m.tf.TensorProto(
                    dtype=1, tensor_shape={"dim": [{"size": 1}, {"size": 5000}]}, tensor_content=array.tobytes()
                )
            },
        ),
    ):
        data = message.SerializeToString()
        read, sent = grpc_codec.read_predict(data)
        made, _ = grpc_codec.decode_predict(read, sent, Call(), loaded(signature))
        (x,) = made.inputs.values()
        assert np.shares_memory(x, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("size", [1, 2000])
def test_what_is_no_message(size: int) -> None:
    for data in (b"\xff" * size * 4, b"\x12\x05abc" * size):
        text = refused(lambda data=data: grpc_codec.read_predict(data))
        assert text == "the request is not a valid tensorflow.serving.PredictRequest message"


def entry(*fields: tuple[int, bytes]) -> bytes:
    """A large request whose one input is put together by hand."""
    data = b"".join(wire.field(number, len(content)) + content for number, content in fields)
    return b"\x0a\x03\x0a\x01m" + wire.field(2, len(data)) + data


TENSOR = tensor_proto.message(np.zeros(2000, np.float32), dtypes.FP32).SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        entry((1, b"z"), (2, TENSOR), (1, b"x")),
        entry((2, TENSOR), (1, b"x"), (2, b"")),
    ],
)
def test_rare_forms_are_for_the_message_class(data: bytes) -> None:
    with pytest.raises(wire.UnusualError):
        grpc_codec._split(memoryview(data))
    message, sent = grpc_codec.read_predict(data)
    assert message.model_spec.name == "m"
    assert tensor_proto.decode("x", sent["x"].tensor, sent["x"].large).shape == (2000,)


def test_a_name_that_is_no_text() -> None:
    text = refused(lambda: grpc_codec.read_predict(entry((1, b"\xff"), (2, TENSOR))))
    assert text == "the request is not a valid tensorflow.serving.PredictRequest message"


def test_an_input_without_a_name() -> None:
    assert list(grpc_codec.read_predict(entry((2, TENSOR)))[1]) == [""]


@pytest.mark.parametrize("data", [entry((1, b"x"), (2, TENSOR), (3, b"")), entry((1, b"x"), (9, TENSOR))])
def test_more_or_less_than_a_name_and_a_value(data: bytes) -> None:
    with pytest.raises(wire.UnusualError):
        grpc_codec._split(memoryview(data))


# Answers


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
@settings(max_examples=20)
@given(data=st.data())
def test_an_answer(dtype: DType, data: st.DataObject) -> None:
    first, second = data.draw(arrays(dtype)), data.draw(arrays(dtypes.FP32))
    signature = Signature({}, specs(spec("ü", dtype, first.shape), spec("z", dtypes.FP32, second.shape)))
    written = grpc_codec.encode_predict(answered(signature, {"ü": first, "z": second}), 0)
    message = m.tfs.PredictResponse.FromString(written)
    assert set(message.outputs) == {"ü", "z"}
    for name, array in (("ü", first), ("z", second)):
        assert not message.outputs[name].tensor_content
        assert same(tensor_proto.decode(name, message.outputs[name]), array)
    found = message.model_spec
    assert (found.name, found.version.value, found.signature_name) == ("m", 3, "sig")
    assert message == m.tfs.PredictResponse.FromString(message.SerializeToString())


def test_examples() -> None:
    message = m.tfs.ClassificationRequest(
        model_spec={"name": "m", "signature_name": "classify"}, input={"example_list": {"examples": [{}, {}]}}
    )
    made, n = grpc_codec.decode_examples(message, SignatureMethod.CLASSIFY, Call(1.5), loaded())
    assert (made.signature, made.version, made.outputs, made.deadline, n) == (
        "classify",
        3,
        ("classes", "scores"),
        1.5,
        2,
    )
    assert [features(one) for one in made.inputs["inputs"]] == [{}, {}]
    message.model_spec.signature_name = ""
    text = refused(lambda: grpc_codec.decode_examples(message, SignatureMethod.CLASSIFY, Call(), loaded()))
    assert text.startswith("Expected classification signature method_name to be tensorflow/serving/classify.")
    message.ClearField("input")
    text = refused(lambda: grpc_codec.decode_examples(message, SignatureMethod.CLASSIFY, Call(), loaded()))
    assert text == "Input is empty."


def test_what_was_not_found_is_told() -> None:
    reason = ServingError(ErrorKind.NOT_FOUND, "nowhere")
    message = m.tfs.PredictRequest()
    assert refused(lambda: grpc_codec.decode_predict(message, {}, Call(), reason), ErrorKind.NOT_FOUND) == "nowhere"
    other = m.tfs.RegressionRequest()
    told = refused(
        lambda: grpc_codec.decode_examples(other, SignatureMethod.REGRESS, Call(), reason), ErrorKind.NOT_FOUND
    )
    assert told == "nowhere"


def test_classes() -> None:
    scores = np.array([[0.25, 0.75]], np.float32)
    response = answered(CLASSIFY, {"classes": strings([b"a", b"b"], (1, 2)), "scores": scores})
    message = m.tfs.ClassificationResponse.FromString(grpc_codec.encode_classify(response, 1))
    (row,) = message.result.classifications
    assert [(one.label, one.score) for one in row.classes] == [("a", 0.25), ("b", 0.75)]
    assert (message.model_spec.name, message.model_spec.version.value) == ("m", 3)


def test_values() -> None:
    response = answered(REGRESS, {"outputs": np.array([[1.5], [2]], np.float32)})
    message = m.tfs.RegressionResponse.FromString(grpc_codec.encode_regress(response, 2))
    assert [one.value for one in message.result.regressions] == [1.5, 2]
    assert message.model_spec.signature_name == "sig"
