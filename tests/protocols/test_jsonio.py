"""JSON for tensors: what is read, what is refused, and that numbers survive both ways."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ServingError
from serving.protocols import jsonio
from tests.protocols.build import IN_JSON, INTEGERS, NESTED, dtype_id, refused, same, values_of


def to_array(dtype: DType, data: Any, shape: tuple[int, ...] | None = None, may_hold_bools: bool = True) -> np.ndarray:
    return jsonio.to_array("x", dtype, (len(data),) if shape is None else shape, data, may_hold_bools)


class TestParse:
    @pytest.mark.parametrize("make", [bytes, memoryview])
    def test_reads_json(self, make: type) -> None:
        assert jsonio.parse(make(b' {"a": [1, 2.5, "x", true, null]} ')) == {"a": [1, 2.5, "x", True, None]}

    def test_bare_nan_and_infinity_are_numbers(self) -> None:
        nan, infinity, minus = jsonio.parse(b"[NaN, Infinity, -Infinity]")
        assert math.isnan(nan) and (infinity, minus) == (math.inf, -math.inf)

    @pytest.mark.parametrize("beside", ["", ", NaN"])
    def test_integers_never_pass_through_float(self, beside: str) -> None:
        numbers = [2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1]
        text = f"[{', '.join(map(str, numbers))}{beside}]"
        assert jsonio.parse(text.encode())[:4] == numbers

    @pytest.mark.parametrize("beside", ["", ", NaN"])
    @pytest.mark.parametrize(
        "text",
        [
            "[1, 2",
            '{"a" 1}',
            '{"a": 1,}',
            "[1] 2",
            "[nan]",
            "[Inf]",
            "[+1]",
            "[01]",
            "['a']",
            '["\x00"]',
            '["\\ud800"]',
            "[1e400]",
        ],
    )
    def test_what_is_not_json_is_refused_whichever_parser_reads_it(self, text: str, beside: str) -> None:
        text = f"[{text}{beside}]"
        assert refused(lambda: jsonio.parse(text.encode())).startswith("failed to parse the request JSON buffer: ")

    @pytest.mark.parametrize("data", [b"", b" ", b"\xff", b'"\xed\xa0\x80"', b"NaN\xff", b"\x00NaN"])
    def test_what_is_not_text_is_refused(self, data: bytes) -> None:
        assert refused(lambda: jsonio.parse(data)).startswith("failed to parse the request JSON buffer: ")

    @pytest.mark.parametrize("text", [NESTED, NESTED + "NaN", '{"a":' * 1_000_000, '{"a":' * 1_000_000 + "NaN"])
    def test_a_million_levels_are_refused(self, text: str) -> None:
        assert refused(lambda: jsonio.parse(text.encode())).startswith("failed to parse the request JSON buffer: ")


class TestDump:
    def test_keeps_the_order_of_keys_and_writes_no_spaces(self) -> None:
        assert jsonio.dump({"b": [1, "x y"], "a": {"d": True, "c": None}}) == b'{"b":[1,"x y"],"a":{"d":true,"c":null}}'

    def test_nan_and_infinity_are_bare(self) -> None:
        array = np.array([np.nan, 1.5, np.inf, -np.inf], np.float32)
        assert jsonio.dump({"s": (4,), "d": array}) == b'{"s":[4],"d":[NaN,1.5,Infinity,-Infinity]}'

    def test_the_word_null_in_text_changes_nothing(self) -> None:
        value = {"text": ["null", "grüße\u2028"], "d": np.array([0.1, 2**-149], np.float64)}
        assert jsonio.dump(value) == '{"text":["null","grüße\u2028"],"d":[0.1,1.401298464324817e-45]}'.encode()

    @pytest.mark.parametrize("dtype", [d for d in IN_JSON if d is not dtypes.BYTES], ids=dtype_id)
    def test_arrays_of_every_type_come_back_the_same(self, dtype: DType) -> None:
        array = values_of(dtype)
        assert same(to_array(dtype, jsonio.parse(jsonio.dump(array))), array)

    def test_an_empty_array_is_an_empty_list(self) -> None:
        assert jsonio.dump(np.empty((0,), np.float32)) == b"[]"

    @given(st.lists(st.floats(width=32, allow_nan=True), max_size=8))
    def test_every_single_precision_float_comes_back_the_same(self, values: list[float]) -> None:
        array = np.array(values, np.float32)
        back = to_array(dtypes.FP32, jsonio.parse(jsonio.dump(array)))
        assert np.array_equal(back, array, equal_nan=True)
        assert all(np.isnan(array) | (np.signbit(back) == np.signbit(array)))  # zero keeps its sign; NaN has none

    @given(st.lists(st.floats(allow_nan=True), max_size=8))
    def test_every_double_comes_back_the_same(self, values: list[float]) -> None:
        array = np.array(values, np.float64)
        back = to_array(dtypes.FP64, jsonio.parse(jsonio.dump(array)))
        assert np.array_equal(back, array, equal_nan=True)
        assert all(np.isnan(array) | (np.signbit(back) == np.signbit(array)))  # zero keeps its sign; NaN has none


class TestToArray:
    @pytest.mark.parametrize("dtype", IN_JSON, ids=dtype_id)
    def test_nested_flat_and_ragged_lists_are_the_same_tensor(self, dtype: DType) -> None:
        values = np.concatenate([values_of(dtype), values_of(dtype)])
        flat = [e.decode() for e in values] if dtype is dtypes.BYTES else values.tolist()
        for data in (flat, [flat[:3], flat[3:]], [flat[:1], flat[1:]], [[flat[:2]], [flat[2:]]]):
            assert same(to_array(dtype, data, (2, 3)), values.reshape(2, 3))

    @pytest.mark.parametrize("dtype", INTEGERS, ids=dtype_id)
    def test_integers_are_exact_up_to_their_limits_and_refused_behind_them(self, dtype: DType) -> None:
        info = np.iinfo(dtype.numpy)
        assert to_array(dtype, [int(info.min), int(info.max)]).tolist() == [info.min, info.max]
        for value in (int(info.min) - 1, int(info.max) + 1):
            assert f"expects {dtype.name} elements, got the integer {value}" in refused(
                lambda value=value: to_array(dtype, [0, value])  # type: ignore[misc]
            )

    @pytest.mark.parametrize("value", [1.0, 1e3, math.nan, math.inf, "1", None, True, {"a": 1}])
    @pytest.mark.parametrize("dtype", INTEGERS, ids=dtype_id)
    def test_an_integer_tensor_takes_nothing_but_integers(self, dtype: DType, value: object) -> None:
        assert f"input 'x' expects {dtype.name} elements, got " in refused(lambda: to_array(dtype, [0, value]))

    @pytest.mark.parametrize("value", ["1", "NaN", None, True, {"a": 1}])
    @pytest.mark.parametrize("dtype", [dtypes.FP32, dtypes.FP64], ids=dtype_id)
    def test_a_float_tensor_takes_nothing_but_numbers(self, dtype: DType, value: object) -> None:
        assert f"input 'x' expects {dtype.name} elements, got " in refused(lambda: to_array(dtype, [0, value]))

    @pytest.mark.parametrize("value", [0, 1, 1.0, "true", None])
    def test_a_bool_tensor_takes_nothing_but_true_and_false(self, value: object) -> None:
        assert "expects BOOL elements, got " in refused(lambda: to_array(dtypes.BOOL, [True, value]))

    @pytest.mark.parametrize("value", [1, None, True, {"a": 1}])
    def test_a_text_tensor_takes_nothing_but_text(self, value: object) -> None:
        assert "expects BYTES elements, got " in refused(lambda: to_array(dtypes.BYTES, ["a", value]))

    def test_what_is_wrong_is_named(self) -> None:
        assert refused(lambda: to_array(dtypes.INT8, [1, 2, "three", 4])).endswith("got the string 'three'")
        assert "got null" in refused(lambda: to_array(dtypes.INT8, [1, None]))
        assert len(refused(lambda: to_array(dtypes.INT8, ["long" * 1000]))) < 200

    @pytest.mark.parametrize("dtype", [dtypes.FP32, dtypes.FP64], ids=dtype_id)
    def test_nan_and_infinity_are_values_of_float_tensors(self, dtype: DType) -> None:
        expected = np.array([np.nan, np.inf, -np.inf, 1], dtype.numpy)
        assert same(to_array(dtype, [math.nan, math.inf, -math.inf, 1]), expected)

    def test_a_double_that_single_precision_cannot_hold_is_infinite(self) -> None:
        assert to_array(dtypes.FP32, [1e39, -1e39]).tolist() == [math.inf, -math.inf]

    @pytest.mark.parametrize("dtype", [dtypes.FP16, dtypes.BF16], ids=dtype_id)
    def test_half_floats_need_the_binary_form(self, dtype: DType) -> None:
        assert refused(lambda: to_array(dtype, [1])) == (
            f"receiving {dtype.name} data via JSON is not supported. Please use the binary data format for input x"
        )

    def test_text_is_utf_8(self) -> None:
        assert to_array(dtypes.BYTES, ["", "é\x00"]).tolist() == [b"", b"\xc3\xa9\x00"]
        assert "element 1 is not valid Unicode" in refused(lambda: to_array(dtypes.BYTES, ["a", "\ud800"]))

    @pytest.mark.parametrize(("shape", "data"), [((2,), [1]), ((2,), [1, 2, 3]), ((0,), [1]), ((), []), ((1,), [])])
    def test_as_many_elements_as_the_shape_has(self, shape: tuple[int, ...], data: list[int]) -> None:
        text = refused(lambda: to_array(dtypes.INT32, data, shape))
        assert "Shape does not match true shape of 'data' field" in text
        assert f"shape {list(shape)}" in text and f"got {len(data)}" in text

    @pytest.mark.parametrize(
        ("shape", "data"), [((0,), []), ((2, 0), [[], []]), ((0, 3), []), ((), [7]), ((1, 1), [[7]])]
    )
    @pytest.mark.parametrize("dtype", [dtypes.INT32, dtypes.BOOL, dtypes.FP64], ids=dtype_id)
    def test_zero_elements_and_scalars(self, dtype: DType, shape: tuple[int, ...], data: list[Any]) -> None:
        values = json.loads(json.dumps(data).replace("7", "true" if dtype is dtypes.BOOL else "7"))
        array = to_array(dtype, values, shape)
        assert array.shape == shape and array.dtype == dtype.numpy

    @pytest.mark.parametrize("data", [None, 1, "abc", {"a": 1}, True])
    def test_data_is_a_list(self, data: object) -> None:
        assert "attempt to access JSON non-array as array" in refused(
            lambda: jsonio.to_array("x", dtypes.FP32, (1,), data, True)
        )

    @pytest.mark.parametrize("data", [[[1], 2], [1, [2]], [[1], {"a": 2}], [[[1]], [2]]])
    def test_lists_and_values_on_one_level_are_refused(self, data: list[Any]) -> None:
        refused(lambda: to_array(dtypes.INT32, data, (2,)))

    @pytest.mark.parametrize("dtype", IN_JSON, ids=dtype_id)
    def test_an_element_may_be_nested_as_deep_as_the_parser_allows(self, dtype: DType) -> None:
        deep = jsonio.parse(b"[" * 1000 + b"]" * 1000)
        first = "a" if dtype is dtypes.BYTES else values_of(dtype).tolist()[0]
        assert "expects" in refused(lambda: to_array(dtype, [first, deep]))

    def test_a_promise_of_no_bools_saves_looking_for_them(self) -> None:
        assert to_array(dtypes.INT8, [1, 2], may_hold_bools=False).tolist() == [1, 2]

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=4),
            max_leaves=12,
        ),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from(dtypes.ALL),
    )
    def test_a_tensor_of_the_claimed_shape_and_type_or_a_refusal(
        self, data: object, shape: list[int], dtype: DType
    ) -> None:
        try:
            array = jsonio.to_array("x", dtype, tuple(shape), data, True)
        except ServingError:
            return
        assert array.shape == tuple(shape) and array.dtype == dtype.numpy
