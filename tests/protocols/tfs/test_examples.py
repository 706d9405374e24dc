"""Examples from JSON and from gRPC."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.errors import ServingError
from serving.protocols import messages as m
from serving.protocols.tfs.examples import from_input, from_json
from tests.protocols.build import refused
from tests.protocols.tfs.build import features


@pytest.mark.parametrize(
    ("given", "kind", "values"),
    [
        (2, "int64_list", [2]),
        (True, "int64_list", [1]),
        ([1, False, -(2**63), 2**63 - 1], "int64_list", [1, 0, -(2**63), 2**63 - 1]),
        (2.0, "float_list", [2.0]),
        ([2.5, 1e39, float("-inf")], "float_list", [2.5, float("inf"), float("-inf")]),
        ("ü", "bytes_list", ["ü".encode()]),
        (["a", {"b64": "/w=="}], "bytes_list", [b"a", b"\xff"]),
        ({"b64": "YQ"}, "bytes_list", [b"a"]),
        ([], None, []),
    ],
)
def test_features(given: Any, kind: str | None, values: list[Any]) -> None:
    example = m.tf.Example.FromString(from_json({"x": given, "other": 1}))
    assert set(example.features.feature) == {"x", "other"}
    assert example.features.feature["x"].WhichOneof("kind") == kind
    assert features(from_json({"x": given})) == {"x": values}


def test_no_features() -> None:
    assert features(from_json({})) == {}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "Example must be JSON object but got JSON Array"),
        (None, "Example must be JSON object but got JSON Null"),
        ("a", "Example must be JSON object but got JSON String"),
        ({"x": None}, "Feature: x has element with unexpected JSON type: Null"),
        ({"x": [1, None]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"x": [[1]]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"x": {"a": 1}}, "Feature: x has element with unexpected JSON type: Object"),
        ({"x": {"b64": 1}}, "Feature: x has element with unexpected JSON type: Object"),
        ({"x": {"b64": "Y"}}, "Unable to base64 decode"),
        ({"x": [1.5, 2]}, "Unexpected element type in feature: x expecting type: float"),
        ({"x": [1, 2.5]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"x": [True, "a"]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"x": ["a", 2]}, "Unexpected element type in feature: x expecting type: bytes"),
        ({"x": [1, 2**63]}, "Feature: x has uint64 element. Only int64 is supported."),
    ],
)
def test_what_is_no_example(given: Any, text: str) -> None:
    assert refused(lambda: from_json(given)) == text


def _input(**fields: Any) -> Any:
    def example(**values: float) -> Any:
        made = m.tf.Example()
        for name, value in values.items():
            made.features.feature[name].float_list.value.append(value)
        return made

    return m.tfs.Input(**{key: value(example) for key, value in fields.items()})


def test_a_list_of_examples() -> None:
    vector = from_input(_input(example_list=lambda example: {"examples": [example(x=1), example(x=2)]}))
    assert vector.shape == (2,) and [features(one) for one in vector] == [{"x": [1]}, {"x": [2]}]


def test_a_context_is_in_every_example_and_gives_way_to_it() -> None:
    vector = from_input(
        _input(
            example_list_with_context=lambda example: {
                "context": example(x=1, shared=7),
                "examples": [example(x=2), example()],
            }
        )
    )
    assert [features(one) for one in vector] == [{"x": [2], "shared": [7]}, {"x": [1], "shared": [7]}]


@pytest.mark.parametrize(
    "message",
    [
        m.tfs.Input(),
        m.tfs.Input(example_list={}),
        m.tfs.Input(example_list_with_context={"context": {}}),
    ],
)
def test_no_examples(message: Any) -> None:
    assert refused(lambda: from_input(message)) == "Input is empty."


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["b64", "x"]), inner, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=2), ANY, max_size=3) | ANY)
def test_any_json(value: Any) -> None:
    try:
        example = from_json(value)
    except ServingError:
        return
    assert set(features(example)) == set(value)
