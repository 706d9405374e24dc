"""Version and parameters of a request, as JSON and as messages."""

import json
import time
from typing import Any

import pytest

from serving.core.types import InferRequest
from serving.protocols.messages import oip
from serving.protocols.oip import parameters
from tests.protocols.build import refused


def messages(**values: Any) -> Any:
    """InferParameter messages, such as `messages(k=("int64_param", 5))`."""
    fields: Any = {key: {field: value} for key, (field, value) in values.items()}
    return oip.ModelInferRequest(parameters=fields).parameters


def applied(**values: Any) -> InferRequest:
    request = InferRequest("m", {})
    parameters.apply(parameters.from_json(values), request)
    return request


class TestParseVersion:
    @pytest.mark.parametrize("text", [None, ""])
    def test_none_leaves_the_choice_to_the_server(self, text: str | None) -> None:
        assert parameters.parse_version(text) is None

    @pytest.mark.parametrize(("text", "number"), [("1", 1), ("007", 7), (str(2**63 - 1), 2**63 - 1)])
    def test_digits_are_a_version(self, text: str, number: int) -> None:
        assert parameters.parse_version(text) == number

    @pytest.mark.parametrize(
        "text", ["abc", "+1", "--1", "1.0", " 1", "1 ", "1_0", "0x1", "٣", "latest", "1\n", str(2**63), "9" * 5000]
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        assert refused(lambda: parameters.parse_version(text)).startswith(
            "failed to get model version from specified version"
        )

    @pytest.mark.parametrize("text", ["0", "000", "0" * 5000, "-1", "-007"])
    def test_a_version_is_above_zero(self, text: str) -> None:
        assert refused(lambda: parameters.parse_version(text)).startswith("invalid model version specified '")

    def test_zeros_in_front_hide_nothing(self) -> None:
        assert "version should be an integral value > 0" in refused(
            lambda: parameters.parse_version("0" * 20 + "9" * 30)
        )


class TestFromJson:
    def test_simple_values_are_the_models(self) -> None:
        value = {"b": True, "i": -5, "s": "text", "f": 0.5, "max": 2**63 - 1, "min": -(2**63)}
        assert parameters.from_json(value) == value

    @pytest.mark.parametrize("value", [2**63, 2**64 - 1, -(2**63) - 1])
    def test_an_integer_beyond_64_bits_becomes_a_double(self, value: int) -> None:
        found = parameters.from_json({"k": value})["k"]
        assert type(found) is float and found == float(value)

    def test_a_number_beyond_all_types_is_refused(self) -> None:
        assert "parameter 'k' is an integer of more than 40 digits" in refused(
            lambda: parameters.from_json({"k": 10**400})
        )

    @pytest.mark.parametrize("value", [None, [1], {}])
    def test_a_parameter_is_a_simple_value(self, value: Any) -> None:
        assert refused(lambda: parameters.from_json({"k": value})) == (
            "parameter 'k' has invalid type. It should be either 'int', 'bool', or 'string'."
        )

    @pytest.mark.parametrize("value", [[1], "k", 1])
    def test_parameters_are_an_object(self, value: Any) -> None:
        assert refused(lambda: parameters.from_json(value)).startswith("Unable to parse 'parameters'")

    @pytest.mark.parametrize(
        ("key", "kind", "good", "bad"),
        [
            ("priority", "unsigned-integer", [0, 1, 2**64 - 1], [-1, 1.0, True, "1", None, 2**64, 10**400]),
            ("timeout", "unsigned-integer", [0, 1, 2**64 - 1], [-1, 1.5, True, "1", None, float("nan"), [1], 2**64]),
            ("sequence_id", "unsigned-integer", [0, 7, "seven", ""], [-1, 1.0, False, None, [1]]),
            ("sequence_start", "boolean", [True, False], [1, "true", None]),
            ("sequence_end", "boolean", [True, False], [0, "false", None]),
            ("signature_name", "string", ["", "classify"], [1, True, None, ["classify"]]),
            ("binary_data_output", "boolean", [True, False], [1, "true", None]),
        ],
    )
    def test_what_is_known_has_a_type(self, key: str, kind: str, good: list[Any], bad: list[Any]) -> None:
        for value in good:
            assert parameters.from_json({key: value}) == {key: value}
        for value in bad:
            text = refused(lambda value=value: parameters.from_json({key: value}))  # type: ignore[misc]
            assert text.startswith(f"Unable to parse '{key}': attempt to access JSON non-{kind} as {kind}")

    @pytest.mark.parametrize("key", ["triton_x", "triton_", "triton_enable_empty_final_response"])
    def test_names_that_triton_reserves(self, key: str) -> None:
        assert refused(lambda: parameters.from_json({"a": 1, key: True})) == (
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
        )
        assert parameters.from_json({f"my_{key}": 1}) == {f"my_{key}": 1}


class TestFromMessages:
    def test_simple_values_are_the_models(self) -> None:
        found = parameters.from_messages(
            messages(b=("bool_param", True), i=("int64_param", -5), s=("string_param", "v"), d=("double_param", 0.5))
        )
        assert found == {"b": True, "i": -5, "s": "v", "d": 0.5}

    def test_an_unsigned_integer_is_for_what_is_known(self) -> None:
        assert refused(lambda: parameters.from_messages(messages(k=("uint64_param", 1)))) == (
            "invalid value type for 'k' parameter, expected bool_param or int64_param or string_param or double_param."
        )

    def test_a_parameter_has_a_value(self) -> None:
        unset = oip.ModelInferRequest(parameters={"k": {}}).parameters
        assert refused(lambda: parameters.from_messages(unset)) == "parameter 'k' has no value"

    @pytest.mark.parametrize(
        ("key", "expected", "good", "bad"),
        [
            (
                "priority",
                "int64_param or uint64_param",
                [("int64_param", 3), ("uint64_param", 2**64 - 1)],
                [("string_param", "1"), ("bool_param", True), ("double_param", 1.0)],
            ),
            ("timeout", "int64_param", [("int64_param", 5)], [("uint64_param", 5), ("double_param", 5.0)]),
            (
                "sequence_id",
                "int64_param or string_param",
                [("int64_param", 5), ("string_param", "a")],
                [("uint64_param", 5), ("bool_param", True)],
            ),
            ("sequence_start", "bool_param", [("bool_param", True)], [("int64_param", 1)]),
            ("sequence_end", "bool_param", [("bool_param", False)], [("string_param", "true")]),
            ("signature_name", "string_param", [("string_param", "s")], [("int64_param", 1)]),
            ("triton_enable_empty_final_response", "bool_param", [("bool_param", True)], [("int64_param", 1)]),
        ],
    )
    def test_what_is_known_has_a_type(self, key: str, expected: str, good: list[Any], bad: list[Any]) -> None:
        for field, value in good:
            assert parameters.from_messages(messages(**{key: (field, value)})) == {key: value}
        for wrong in bad:
            text = refused(lambda wrong=wrong: parameters.from_messages(messages(**{key: wrong})))  # type: ignore[misc]
            assert text == f"invalid value type for '{key}' parameter, expected {expected}."

    @pytest.mark.parametrize("key", ["priority", "timeout"])
    def test_what_cannot_be_negative(self, key: str) -> None:
        assert f"invalid value for '{key}' parameter" in refused(
            lambda: parameters.from_messages(messages(**{key: ("int64_param", -1)}))
        )

    def test_names_that_triton_reserves(self) -> None:
        text = refused(lambda: parameters.from_messages(messages(triton_x=("bool_param", True))))
        assert text.startswith("parameter keys starting with 'triton_' are reserved for Triton usage")
        assert text.endswith("are allowed: triton_enable_empty_final_response")


class TestApply:
    def test_what_the_engine_knows_by_another_name(self) -> None:
        request = applied(signature_name="classify", priority=3, k="v")
        assert (request.signature, request.priority) == ("classify", 3)
        assert request.parameters == {"signature_name": "classify", "priority": 3, "k": "v"}

    def test_nothing_is_said(self) -> None:
        request = applied(k="v")
        assert (request.signature, request.priority, request.deadline) == ("", 0, None)

    def test_a_timeout_is_in_microseconds_from_now(self) -> None:
        before = time.monotonic()
        deadline = applied(timeout=2_000_000).deadline
        assert deadline is not None and before + 2 <= deadline <= time.monotonic() + 2

    def test_a_timeout_of_zero_is_none(self) -> None:
        assert applied(timeout=0).deadline is None

    @pytest.mark.parametrize(("ahead_s", "timeout_counts"), [(1.0, False), (1000.0, True)])
    def test_the_nearest_deadline_counts(self, ahead_s: float, timeout_counts: bool) -> None:
        deadline = time.monotonic() + ahead_s
        request = InferRequest("m", {}, deadline=deadline)
        parameters.apply({"timeout": 100_000_000}, request)
        assert request.deadline is not None and (request.deadline < deadline) is timeout_counts
        assert timeout_counts or request.deadline == deadline


def test_parameters_of_a_tensor_without_a_value_are_left_out() -> None:
    given = messages(region=("string_param", "r"), size=("int64_param", 5))
    given["empty"].SetInParent()
    assert parameters.plain(given) == {"region": "r", "size": 5}


def test_both_forms_say_the_same() -> None:
    value = {"b": True, "i": 5, "s": "v", "d": 0.5, "priority": 2, "timeout": 9, "sequence_id": "a"}
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    given = messages(**{key: (fields[type(v)], v) for key, v in value.items()})
    assert parameters.from_messages(given) == parameters.from_json(json.loads(json.dumps(value)))
