"""REST bodies: the rows and columns of predict, the examples of classify and regress, the words of every refusal."""

import gzip
import json
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferResponse, Signature, SignatureMethod
from serving.protocols.tfs import rest_codec
from serving.protocols.tfs.rest_codec import Asked, Body, Wants
from tests.protocols.build import NESTED, dtype_id, refused, same
from tests.protocols.tfs.build import (
    ALL,
    CLASSIFY,
    IN_JSON,
    LIMIT,
    ONE,
    OPTIONAL,
    REGRESS,
    TWO,
    answered,
    arrays,
    classify,
    features,
    predict,
    spec,
    specs,
    strings,
)

WORDS = Signature(specs(spec("s", dtypes.BYTES, (-1,))), specs(spec("t", dtypes.BYTES, (-1,))))
FREE = Signature(specs(spec("x", shape=None)), specs(spec("y", shape=None)))


def inputs(document: Any, signature: Signature = ONE) -> Mapping[str, Any]:
    return {name: array.tolist() for name, array in predict(document, signature)[0].inputs.items()}


def reply(response: InferResponse, by_row: bool) -> Any:
    made = rest_codec.encode_predict(response, Wants(by_row))
    assert made.status == 200
    return json.loads(made.body)


class TestRows:
    @pytest.mark.parametrize(
        ("document", "signature", "expected"),
        [
            ({"instances": [[1, 2], [3, 4]]}, ONE, {"x": [[1, 2], [3, 4]]}),
            ({"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}, ONE, {"x": [[1, 2], [3, 4]]}),
            ({"instances": [1, 2]}, FREE, {"x": [1, 2]}),
            ({"instances": ["a", {"b64": "/w=="}]}, WORDS, {"s": [b"a", b"\xff"]}),
            ({"instances": [{"b64": "YQ=="}, "b"]}, WORDS, {"s": [b"a", b"b"]}),
            ({"instances": [{"s": {"b64": "YQ=="}}]}, WORDS, {"s": [b"a"]}),
            (
                {"instances": [{"a": [1, 2], "b": 3}, {"b": 4, "a": [5, 6]}]},
                TWO,
                {"a": [[1, 2], [5, 6]], "b": [3, 4]},
            ),
            ({"instances": [{"a": [1, 2]}, {"a": [3, 4]}]}, OPTIONAL, {"a": [[1, 2], [3, 4]]}),
            (
                {"instances": [{"a": [1, 2], "b": [0, 0]}]},
                OPTIONAL,
                {"a": [[1, 2]], "b": [[0, 0]]},
            ),
        ],
    )
    def test_read(self, document: Any, signature: Signature, expected: Any) -> None:
        request, wants = predict(document, signature)
        assert wants == Wants(by_row=True)
        assert (request.model, request.version, request.signature, request.allow_empty) == (
            "m",
            3,
            "serving_default",
            True,
        )
        assert inputs(document, signature) == expected

    @pytest.mark.parametrize(
        ("instances", "signature", "text"),
        [
            (5, ONE, "JSON Value: {\"instances\":5} Expecting 'instances' to be an list/array"),
            ({"x": 1}, ONE, 'JSON Value: {"instances":{"x":1}} Expecting \'instances\' to be an list/array'),
            ([], ONE, "JSON Value: {\"instances\":[]} No values in 'instances' array"),
            (
                [[1, 2]],
                TWO,
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                "tensorinfo_map",
            ),
            (
                [[1, 2], {"x": [1, 2]}],
                ONE,
                "Expecting value/list but got object at item 1 of input list",
            ),
            ([{"x": [1, 2]}, [1, 2]], ONE, "Expecting object but got list at item 1 of input list"),
            ([{"x": [1, 2]}, 3], ONE, "Expecting object but got value at item 1 of input list"),
            (
                ["x"],
                ONE,
                "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
                'JSON Value: "x" Type: String is not of expected type: float',
            ),
            (
                [[1, 2], [3, 4, 5]],
                ONE,
                "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
                "Expecting tensor size: 2 but got: 3",
            ),
            (
                [{"x": [1, 2]}, {"x": [[3, 4]]}],
                ONE,
                "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: "
                "Expecting shape [2] but got: [1,2]",
            ),
            (
                [{"x": [1, 2], "z": 1}],
                ONE,
                "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
                "JSON object: does not have named input: z",
            ),
            (
                [{"a": [1, 2], "b": 1}, {"a": [1, 2]}],
                TWO,
                "Failed to process element: 1 of 'instances' list. JSON object: {\"a\":[1,2]} keys must be equal to: "
                "a,b",
            ),
            (
                [{"a": [1, 2], "b": [1, 2]}, {"a": [1, 2]}],
                OPTIONAL,
                "Failed to process element: 1 of 'instances' list. JSON object: {\"a\":[1,2]} keys must be equal to: "
                "a,b",
            ),
            (
                [{"b": [1, 2]}],
                OPTIONAL,
                "Failed to process element: 0 of 'instances' list. JSON object: {\"b\":[1,2]} keys must be equal to: "
                "a,b",
            ),
            ([{}], ONE, "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x"),
        ],
    )
    def test_refused(self, instances: Any, signature: Signature, text: str) -> None:
        assert refused(lambda: predict({"instances": instances}, signature)) == text

    @pytest.mark.parametrize(
        ("outputs", "expected"),
        [
            ({"y": np.array([[1, 2], [3, 4]], np.float32)}, [[1.0, 2.0], [3.0, 4.0]]),
            ({"y": np.array([0.1], np.float32)}, [0.1]),
            ({"y": np.empty((0, 2), np.float32)}, []),
            (
                {"c": np.array([[1], [2]], np.float32), "d": np.array([3, 4], np.float32)},
                [{"c": [1.0], "d": 3.0}, {"c": [2.0], "d": 4.0}],
            ),
            ({"c": np.empty((0, 1), np.float32), "d": np.empty(0, np.float32)}, []),
        ],
    )
    def test_written(self, outputs: dict[str, np.ndarray], expected: Any) -> None:
        signature = ONE if "y" in outputs else TWO
        assert reply(answered(signature, outputs), by_row=True) == {"predictions": expected}

    def test_not_finite(self) -> None:
        values = np.array([np.nan, np.inf], np.float32)
        made = rest_codec.encode_predict(answered(TWO, {"c": values, "d": -values}), Wants(by_row=True))
        assert made.body == b'{"predictions":[{"c":NaN,"d":NaN},{"c":Infinity,"d":-Infinity}]}'

    @pytest.mark.parametrize(
        ("outputs", "text"),
        [
            ({"y": np.array(1, np.float32)}, "Tensor name: y has no shape information "),
            (
                {"c": np.zeros(3, np.float32), "d": np.zeros(2, np.float32)},
                "Tensor name: d has inconsistent batch size: 2 expecting: 3",
            ),
        ],
    )
    def test_outputs_without_rows(self, outputs: dict[str, np.ndarray], text: str) -> None:
        signature = ONE if "y" in outputs else TWO
        assert refused(lambda: reply(answered(signature, outputs), by_row=True)) == text


class TestColumns:
    @pytest.mark.parametrize(
        ("value", "signature", "expected"),
        [
            ([[1, 2], [3, 4]], ONE, {"x": [[1, 2], [3, 4]]}),
            ({"x": [[1, 2]]}, ONE, {"x": [[1, 2]]}),
            ({"x": [[1, 2]], "more": "ignored"}, ONE, {"x": [[1, 2]]}),
            (5, FREE, {"x": 5}),
            ({"x": 5}, FREE, {"x": 5}),
            ({"b64": "YQ=="}, Signature(specs(spec("s", dtypes.BYTES, ())), WORDS.outputs), {"s": b"a"}),
            ({"a": [[1, 2]], "b": [3]}, TWO, {"a": [[1, 2]], "b": [3]}),
            ({"a": [[1, 2]]}, OPTIONAL, {"a": [[1, 2]]}),
            ([], ONE, {"x": []}),
            ({"a": [], "b": []}, TWO, {"a": [], "b": []}),
        ],
    )
    def test_read(self, value: Any, signature: Signature, expected: Any) -> None:
        assert inputs({"inputs": value}, signature) == expected
        assert predict({"inputs": value}, signature)[1] == Wants(by_row=False)

    def test_no_rows(self) -> None:
        assert predict({"inputs": []})[0].inputs["x"].shape == (0, 2)

    @pytest.mark.parametrize(
        ("value", "signature", "text"),
        [
            ({"a": [[1, 2]]}, TWO, "Missing named input: b in 'inputs' object."),
            ({}, ONE, "Missing named input: x in 'inputs' object."),
            (
                [[1, 2]],
                TWO,
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map",
            ),
            ([[1, 2], [3]], ONE, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
            (["x"], ONE, 'JSON Value: "x" Type: String is not of expected type: float'),
        ],
    )
    def test_refused(self, value: Any, signature: Signature, text: str) -> None:
        assert refused(lambda: predict({"inputs": value}, signature)) == text

    @pytest.mark.parametrize(
        ("signature", "outputs", "expected"),
        [
            (ONE, {"y": np.array([[1.5]], np.float32)}, [[1.5]]),
            (ONE, {"y": np.array(1.5, np.float32)}, 1.5),
            (ONE, {"y": np.empty((0, 2), np.float32)}, []),
            (
                TWO,
                {"c": np.zeros(3, np.float32), "d": np.array(2, np.float32)},
                {"c": [0.0, 0.0, 0.0], "d": 2.0},
            ),
            (WORDS, {"t": strings([b"a", "ü".encode()], (2, 1))}, [["a"], ["ü"]]),
        ],
    )
    def test_written(self, signature: Signature, outputs: dict[str, np.ndarray], expected: Any) -> None:
        assert reply(answered(signature, outputs), by_row=False) == {"outputs": expected}


def test_bytes_go_as_base64_by_the_outputs_name() -> None:
    signature = Signature(
        ONE.inputs, specs(spec("image_bytes", dtypes.BYTES), spec("n_bytes"), spec("t", dtypes.BYTES))
    )
    outputs = {
        "image_bytes": strings([b"\xff", b""], (2, 1)),
        "n_bytes": np.zeros(2, np.float32),
        "t": strings([b"a", b"b"], (2,)),
    }
    assert reply(answered(signature, outputs), by_row=True) == {
        "predictions": [
            {"image_bytes": [{"b64": "/w=="}], "n_bytes": 0.0, "t": "a"},
            {"image_bytes": [{"b64": ""}], "n_bytes": 0.0, "t": "b"},
        ]
    }


class TestDocument:
    """What is checked before the tensors, in the order of the checks."""

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (b"", "JSON Parse error: The document is empty"),
            (b" \n", "JSON Parse error: The document is empty"),
            (b"x", "JSON Parse error: Invalid value. at offset: 0: "),
            (b'{"instances":[1', "JSON Parse error: Invalid value. at offset: 15: "),
            (b'{"instances":[1]} more', "JSON Parse error: Invalid value. at offset: 18: "),
            (b'{"instances":[1e400]}', "JSON Parse error: Invalid value. "),
            (b'{"instances":["\xff"]}', "JSON Parse error: Invalid value. "),
            (NESTED.encode(), "JSON nesting depth exceeds"),
            (b"[1]", "JSON Value: [1] Is not object"),
            (b'"a"', 'JSON Value: "a" Is not object'),
            (b"NaN", "JSON Value: NaN Is not object"),
            (
                b'{"signature_name":5}',
                'JSON Value: {"signature_name":5} not formatted correctly. '
                "'signature_name' key must be a string value.",
            ),
            (b"{}", "Missing 'inputs' or 'instances' key"),
            (
                b'{"inputs":1,"instances":[1]}',
                'JSON Value: {"inputs":1,"instances":[1]} Not formatted correctly expecting only one of '
                "'inputs' or 'instances' keys to exist ",
            ),
            (b'{"signature_name":"z","inputs":1}', 'Serving signature name: "z" not found in signature def'),
        ],
    )
    def test_refused(self, text: bytes, error: str) -> None:
        told = refused(lambda: predict(text))
        assert told.startswith(error) if error.startswith(("JSON Parse", "JSON nest")) else told == error

    def test_a_signature_by_name(self) -> None:
        request, _ = predict({"signature_name": "two", "inputs": {"a": [[1, 2]], "b": [1]}}, ALL)
        assert request.signature == "two"
        assert predict({"signature_name": "", "inputs": [[1, 2]]}, ALL)[0].signature == "serving_default"
        assert "serving_default" in refused(lambda: predict({"inputs": [[1, 2]]}, {"other": ONE}))

    def test_no_inputs(self) -> None:
        text = refused(lambda: predict({"inputs": {}}, Signature({}, ONE.outputs)))
        assert text == "Failed to get input map for signature: serving_default"

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            (b"{", ErrorKind.INVALID),
            (b'{"signature_name":5}', ErrorKind.INVALID),
            (b"{}", ErrorKind.NOT_FOUND),
            (b'{"signature_name":"z"}', ErrorKind.NOT_FOUND),
        ],
    )
    def test_a_model_that_is_not_there(self, text: bytes, kind: ErrorKind) -> None:
        nowhere = ServingError(ErrorKind.NOT_FOUND, "Servable not found for request: Latest(m)")
        asked = Asked("m", None, nowhere)
        told = refused(lambda: rest_codec.decode_predict(Body(text, None, LIMIT), asked), kind)
        assert (told == nowhere.message) == (kind is ErrorKind.NOT_FOUND)

    @pytest.mark.parametrize(
        ("text", "signature", "name"),
        [
            (b'{"instances":[[1,2]],"instances":[[3,4]]}', ONE, "instances"),
            (b'{"inputs":[[1,2]],"inputs":[[3,4]]}', ONE, "inputs"),
            (b'{"inputs":{"x":[[1,2]],"x":[[3,4]]}}', ONE, "x"),
            (b'{"instances":[{"x":[1,2]},{"x":[1,2],"x":[3,4]}]}', ONE, "x"),
            (b'{"inputs":{"a":[[1,2]],"b":[1],"\\u0061":[[3,4]]}}', TWO, "a"),
        ],
    )
    def test_a_name_that_is_there_twice(self, text: bytes, signature: Signature, name: str) -> None:
        assert refused(lambda: predict(text, signature)) == f"input '{name}' already exists in request"

    def test_a_name_that_is_a_value_too(self) -> None:
        signature = Signature(specs(spec("s", dtypes.BYTES, (-1,)), spec("instances", dtypes.BYTES)), WORDS.outputs)
        rows = [{"s": "s", "instances": "instances"}] * 2
        assert inputs({"instances": rows}, signature) == {"s": [b"s"] * 2, "instances": [b"instances"] * 2}

    def test_gzip(self) -> None:
        text = b'{"inputs":[[1,2]]}'
        assert predict(gzip.compress(text), encoding=b"gzip")[0].inputs["x"].tolist() == [[1, 2]]
        assert "not valid gzip" in refused(lambda: predict(text, encoding=b"gzip"))
        assert refused(lambda: predict(text, encoding=b"br"), ErrorKind.UNSUPPORTED) == "Unsupported compression type"
        bomb = gzip.compress(bytes(10 * LIMIT))
        assert "exceeds the maximum allowed" in refused(lambda: predict(bomb, encoding=b"gzip"))


class TestExamples:
    @pytest.mark.parametrize(
        ("document", "expected"),
        [
            ({"examples": [{"x": 2.5}, {"x": [1], "n": "a"}]}, [{"x": [2.5]}, {"x": [1], "n": [b"a"]}]),
            (
                {"context": {"c": 1}, "examples": [{"x": 2}, {"c": 3}]},
                [{"c": [1], "x": [2]}, {"c": [3]}],
            ),
            ({"signature_name": "serving_default", "examples": [{}]}, [{}]),
        ],
    )
    def test_read(self, document: Any, expected: Any) -> None:
        assert [features(example) for example in classify(document)] == expected

    @pytest.mark.parametrize(
        ("document", "text"),
        [
            (
                {"e": 1},
                "JSON Value: {\"e\":1} When method is classify, key 'examples' is expected and was not found",
            ),
            ({"examples": 1}, "JSON Value: {\"examples\":1} Expecting 'examples' value to be an list/array"),
            ({"examples": []}, "JSON Value: {\"examples\":[]} 'examples' value is an empty array"),
            ({"examples": [[]]}, "Example must be JSON object but got JSON Array"),
            ({"examples": [{}], "context": None}, "Example must be JSON object but got JSON Null"),
            ({"examples": [{"x": [1, 1.5]}]}, "Unexpected element type in feature: x expecting type: int64"),
            (b'{"examples":[{"x":1,"x":2}]}', "input 'x' already exists in request"),
            (b'{"examples":[{}],"context":{"x":1,"x":2}}', "input 'x' already exists in request"),
            ({"signature_name": "z", "examples": [{}]}, "No signature was found with the name: z"),
        ],
    )
    def test_refused(self, document: Any, text: str) -> None:
        assert refused(lambda: classify(document)) == text

    def test_regress_says_the_same(self) -> None:
        asked = Asked("m", 3, {"serving_default": REGRESS})
        told = refused(lambda: rest_codec.decode_regress(Body(b"{}", None, LIMIT), asked))
        assert told == "JSON Value: {} When method is classify, key 'examples' is expected and was not found"
        request, wants = rest_codec.decode_regress(Body(b'{"examples":[{"x":1}]}', None, LIMIT), asked)
        assert (request.outputs, wants) == (("outputs",), Wants(examples=1))

    def test_a_model_that_is_not_there(self) -> None:
        asked = Asked("m", None, ServingError(ErrorKind.NOT_FOUND, "nowhere"))
        for text, kind in ((b"{}", ErrorKind.INVALID), (b'{"examples":[{}]}', ErrorKind.NOT_FOUND)):
            refused(lambda text=text: rest_codec.decode_classify(Body(text, None, LIMIT), asked), kind)

    def test_classes(self) -> None:
        outputs = {"classes": strings([b"a", b"b"], (1, 2)), "scores": np.array([[0.1, np.nan]], np.float32)}
        made = rest_codec.encode_classify(answered(CLASSIFY, outputs), Wants(examples=1))
        assert made.body == b'{"results":[[["a",0.1],["b",NaN]]]}'

    def test_values(self) -> None:
        outputs = {"outputs": np.array([[3], [0.1]], np.float32)}
        made = rest_codec.encode_regress(answered(REGRESS, outputs), Wants(examples=2))
        assert made.body == b'{"results":[3.0,0.1]}'


@pytest.mark.parametrize("dtype", IN_JSON, ids=dtype_id)
@settings(max_examples=30)
@given(data=st.data())
def test_round_trip_through_both_forms(dtype: dtypes.DType, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype, text_only=True))
    signature = Signature(specs(spec("x", dtype, array.shape)), specs(spec("x", dtype, array.shape)))
    for by_row in (False, *([True] if array.ndim and len(array) else [])):
        made = rest_codec.encode_predict(answered(signature, {"x": array}), Wants(by_row))
        body = made.body.replace(b'{"predictions":', b'{"instances":', 1).replace(b'{"outputs":', b'{"inputs":', 1)
        back = predict(body, signature)[0].inputs["x"]
        if dtype.is_float:
            assert np.array_equal(back, array, equal_nan=True) and back.dtype == array.dtype
        else:
            assert same(back, array)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "x", "b64", "inputs", "instances"]), inner, max_size=3)
    ),
    max_leaves=10,
)
KEYS = st.sampled_from(["inputs", "instances", "examples", "context", "signature_name"])


@given(
    st.binary(max_size=60)
    | st.dictionaries(KEYS, ANY, max_size=2).map(lambda document: json.dumps(document).encode())
    | ANY.map(lambda value: json.dumps({"instances": value}).encode()),
    st.sampled_from([ONE, TWO, OPTIONAL, FREE, WORDS, CLASSIFY]),
)
def test_any_body(body: bytes, signature: Signature) -> None:
    asked = Asked("m", 3, {"serving_default": signature})
    for decode in (rest_codec.decode_predict, rest_codec.decode_classify, rest_codec.decode_regress):
        try:
            request, _ = decode(Body(body, None, LIMIT), asked)
        except ServingError:
            continue
        assert request.inputs.keys() <= signature.inputs.keys()


def test_everything_can_go_to_another_process() -> None:
    """And comes back: what is decoded, what is encoded, and what is refused."""
    asked = pickle.loads(pickle.dumps(Asked("m", 3, ALL)))
    body = pickle.loads(pickle.dumps(Body(b'{"instances":[[1,2]]}', None, LIMIT)))
    request, wants = pickle.loads(pickle.dumps(rest_codec.decode_predict(body, asked)))
    assert request.inputs["x"].tolist() == [[1, 2]] and wants == Wants(by_row=True)
    response = pickle.loads(pickle.dumps(answered(ONE, {"y": np.ones((1, 2), np.float32)})))
    assert response.signature.method is SignatureMethod.PREDICT
    assert pickle.loads(pickle.dumps(rest_codec.encode_predict(response, wants))).body == b'{"predictions":[[1.0,1.0]]}'
