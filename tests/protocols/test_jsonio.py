"""JSON for tensors: what is read, what is refused, and that numbers survive both ways."""

import json
import math
from collections import Counter
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

TOO_DEEP = "JSON nesting depth exceeds maximum allowed limit (100)"


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
            "[inf]",
            "[Infi]",
            "[xInf]",
            "[InfInf]",
            "[+1]",
            "[01]",
            "['a']",
            '["\x00"]',
            '["\\ud800"]',
            '["\\ud83d\\u0041"]',
            "[1e400]",
            "[-1e400]",
            f"[{'1' * 250}e60]",
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
        assert refused(lambda: jsonio.parse(text.encode())) == TOO_DEEP

    def test_infinity_may_be_short(self) -> None:
        text = rb'{"Inf": [Inf, -Inf, Infinity, -Infinity, "Inf", "\"-Inf", "a\\", Inf, "Infinity"]}'
        inf = math.inf
        assert jsonio.parse(text) == {"Inf": [inf, -inf, inf, -inf, "Inf", '"-Inf', "a\\", inf, "Infinity"]}

    @pytest.mark.parametrize("beside", ["", ", NaN"])
    def test_pairs_of_surrogates_are_one_character(self, beside: str) -> None:
        text = rf'["\ud83d\ude00", "\\ud800", "\\\uD83D\uDE00"{beside}]'
        assert jsonio.parse(text.encode())[:3] == ["\U0001f600", r"\ud800", "\\\U0001f600"]

    @pytest.mark.parametrize("beside", [b"", b", NaN"])
    @pytest.mark.parametrize("text", [b'"\xff"', b'"\xed\xa0\x80"', rb'"\ud800"', rb'"\udc00"', rb'"\ud83d\u0041"'])
    def test_what_is_no_unicode_is_sent_elsewhere(self, text: bytes, beside: bytes) -> None:
        body = b"[%b%b]" % (text, beside)
        assert "not valid Unicode" in refused(lambda: jsonio.parse(body))
        assert refused(lambda: jsonio.parse(body)).endswith("travel as binary tensor data")
        wording = jsonio.Wording("JSON Parse error: ", "base64")
        assert refused(lambda: jsonio.parse(body, wording)).endswith("travel as base64")
        assert refused(lambda: jsonio.parse(body, wording)).startswith("JSON Parse error: ")

    @pytest.mark.parametrize("beside", ["", ", NaN"])
    def test_an_integer_of_any_size_is_a_number(self, beside: str) -> None:
        value = jsonio.parse(f"[{10**30}{beside}]".encode())[0]
        assert to_array(dtypes.FP64, [value]).tolist() == [1e30]
        assert "expects INT64 elements" in refused(lambda: to_array(dtypes.INT64, [value]))


class TestWeight:
    def test_what_the_fast_parser_does_at_once_is_light(self) -> None:
        assert not jsonio.is_heavy_to_read(b"")
        assert not jsonio.is_heavy_to_read(b"[" + b"1.5," * 50_000 + b"1]")
        assert jsonio.is_heavy_to_read(b"[" + b"1.5," * 100_000 + b"1]")

    @pytest.mark.parametrize("slow", [b"NaN", b"-Infinity", b"Inf"])
    def test_what_the_careful_parser_has_to_read_weighs_more(self, slow: bytes) -> None:
        assert not jsonio.is_heavy_to_read(b"[1.5," + slow + b"]")
        assert jsonio.is_heavy_to_read(b"[" + b"1.5," * 50_000 + slow + b"]")

    def test_answers_weigh_what_their_elements_do(self) -> None:
        image, text = np.zeros((150, 1000), np.float32), np.array([b"a" * 1_000_000], object)
        assert not jsonio.is_heavy_to_write([])
        assert not jsonio.is_heavy_to_write([image[:1]] * 3 + [np.array([b"a"] * 1000, object)])
        assert jsonio.is_heavy_to_write([image])
        assert jsonio.is_heavy_to_write([image[:20], image[:20]])
        assert jsonio.is_heavy_to_write([text])


class TestMayHoldBools:
    @pytest.mark.parametrize("filler", [b"", b"1.5," * 1000, b'"fully",' * 1000])
    def test_finds_the_words(self, filler: bytes) -> None:
        assert jsonio.may_hold_bools(b"[" + filler + b"true]")
        assert jsonio.may_hold_bools(b"[" + filler + b"false]")
        assert not jsonio.may_hold_bools(b"[" + filler + b"1]")

    @given(st.lists(st.sampled_from([b"true", b"u", b"rue", b"tr", b"false", b"l", b"fa", b" " * 500]), max_size=300))
    def test_as_a_plain_search_does(self, pieces: list[bytes]) -> None:
        text = b"".join(pieces)
        assert jsonio.may_hold_bools(text) == (b"true" in text or b"false" in text)


KEYS = ("x", "ü", "a/b", 'q"', "")
SPELLED = (
    "x",
    r"\u0078",
    "ü",
    r"\u00fc",
    r"\u00FC",
    "a/b",
    r"a\/b",
    r"\u0061/b",
    r"q\"",
    r"\u0071\u0022",
    "",
    "n",
    r"\n",
)


def objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(st.sampled_from(SPELLED), inner).map(lambda pair: f'"{pair[0]}": {pair[1]}')
    return st.lists(pairs, max_size=3).map(lambda pairs: f"{{{', '.join(pairs)}}}")


JSON_TEXTS = st.recursive(
    st.sampled_from(["1", "1.5", "NaN", "null", *(f'"{text}"' for text in SPELLED)]),
    lambda inner: objects(inner) | st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]"),
    max_leaves=12,
)


def held_keys(value: Any) -> Counter[str]:
    """How many objects of a parsed value hold each of KEYS."""
    found: Counter[str] = Counter()
    if isinstance(value, dict):
        found.update(key for key in value if key in KEYS)
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            found += held_keys(inner)
    return found


class TestRefuseDuplicates:
    @pytest.mark.parametrize(
        "text",
        [
            '{"x": 1, "x": 1}',
            r'{"x": 1, "\u0078": 1}',
            r'{"\u0078": 1, "x": 1}',
            '[{"x": 1}, {"x": 1, "y": 2, "x" : 3}]',
            '{"x": 1, "y": {"x": 1, "x": NaN}}',
            '{"x": Inf, "x": "x"}',
        ],
    )
    @pytest.mark.parametrize("filler", ["", '"", ' * 1000])
    def test_a_key_twice_in_one_object(self, text: str, filler: str) -> None:
        body = f"[{filler}{text}]".encode()
        held = {"x": held_keys(jsonio.parse(body))["x"]}
        assert refused(lambda: jsonio.refuse_duplicates(body, held)) == "input 'x' already exists in request"

    @pytest.mark.parametrize(
        "text",
        [
            '{"x": 1, "y": 2, "y": 3}',
            '[{"x": 1}, {"x": 1}]',
            '{"x": "x"}',
            '{"x": ["x", "x"]}',
            r'{"\u0078": 1}',
            r'{"x": "\u0078"}',
            r'{"x": "a\"x\"", "y": "\"x"}',
            '{"x": {"x": 1}}',
            "{}",
        ],
    )
    @pytest.mark.parametrize("filler", ["", '"", ' * 1000])
    def test_anything_else(self, text: str, filler: str) -> None:
        body = f"[{filler}{text}]".encode()
        jsonio.refuse_duplicates(body, {"x": held_keys(jsonio.parse(body))["x"]})

    @pytest.mark.parametrize(
        ("key", "body"),
        [
            ("ü", r'{"ü": 1, "\u00fc": 1}'),
            ("ü", r'{"\u00fc": 1, "\u00FC": 1}'),
            ("a/b", r'{"a/b": 1, "a\/b": 1}'),
            ('q"', r'{"q\"": 1, "q\"": 1}'),
            ("\n", r'{"\n": 1, "\u000a": 1}'),
            ("", '{"": 1, "": 1}'),
        ],
    )
    def test_however_it_is_spelled(self, key: str, body: str) -> None:
        text = refused(lambda: jsonio.refuse_duplicates(body.encode(), {key: 1}))
        assert text == f"input '{key}' already exists in request"

    def test_the_nesting_of_another_parser(self) -> None:
        deep = b"[" * 1000 + b"]" * 1000
        body = b'{"x": "x", "y": %b}' % deep
        jsonio.parse(body)
        assert refused(lambda: jsonio.refuse_duplicates(body, {"x": 1})) == TOO_DEEP

    @given(JSON_TEXTS)
    def test_as_a_look_at_each_pair_does(self, text: str) -> None:
        repeated = False

        def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal repeated
            counts = Counter(key for key, _ in pairs)
            repeated = repeated or any(counts[key] > 1 for key in KEYS)
            return dict(pairs)

        json.loads(text, object_pairs_hook=look)
        body = text.encode()
        found = held_keys(jsonio.parse(body))
        held = {key: found[key] for key in KEYS}
        if repeated:
            assert "already exists in request" in refused(lambda: jsonio.refuse_duplicates(body, held))
        else:
            jsonio.refuse_duplicates(body, held)


class TestDump:
    def test_keeps_the_order_of_keys_and_writes_no_spaces(self) -> None:
        assert jsonio.dump({"b": [1, "x y"], "a": {"d": True, "c": None}}) == b'{"b":[1,"x y"],"a":{"d":true,"c":null}}'

    def test_nan_and_infinity_are_bare(self) -> None:
        array = np.array([np.nan, 1.5, np.inf, -np.inf], np.float32)
        assert jsonio.dump({"s": (4,), "d": array}) == b'{"s":[4],"d":[NaN,1.5,Infinity,-Infinity]}'

    def test_of_a_large_array_too(self) -> None:
        array = np.linspace(-1, 1, 10_000, dtype=np.float32).reshape(100, 100)
        array[3, 5], array[99, 99], array[0, 0] = np.nan, np.inf, -np.inf
        assert same(np.array(jsonio.parse(jsonio.dump({"s": "null", "d": array}))["d"], np.float32), array)

    def test_wherever_they_are(self) -> None:
        value = {"a": math.nan, "b": [1, {"c": (-math.inf, None, "null", [math.inf])}], "d": [np.array([[np.nan]])]}
        assert jsonio.dump(value) == b'{"a":NaN,"b":[1,{"c":[-Infinity,null,"null",[Infinity]]}],"d":[[[NaN]]]}'

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.sampled_from(["null", "NaN", "é\n"]),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=12,
        )
    )
    def test_as_the_standard_library_does(self, value: Any) -> None:
        assert repr(json.loads(jsonio.dump(value))) == repr(json.loads(json.dumps(value)))

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
        assert "got the string '\\ud800'" in refused(lambda: to_array(dtypes.BYTES, ["a", "\ud800"]))

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

    def test_a_tensor_is_not_nested_deeper_than_a_hundred_levels(self) -> None:
        def nested(levels: int) -> list[Any]:
            return jsonio.parse(b"[" * levels + b"1" + b"]" * levels)  # type: ignore[no-any-return]

        assert to_array(dtypes.INT8, nested(100)).tolist() == [1]
        assert refused(lambda: to_array(dtypes.INT8, nested(101))) == TOO_DEEP

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


class TestElements:
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_half_floats_do_not_travel(self, dtype: DType) -> None:
        assert jsonio.travels(dtype) == (dtype in IN_JSON)

    @pytest.mark.parametrize("dtype", IN_JSON, ids=dtype_id)
    @pytest.mark.parametrize("at", [0, 1, 499, 500, 999])
    def test_the_first_wrong_one_is_told(self, dtype: DType, at: int) -> None:
        good = "a" if dtype is dtypes.BYTES else values_of(dtype).tolist()[0]
        flat: list[Any] = [good] * 1000
        flat[at:] = [None] + [{"b64": ""}] * (999 - at)
        with pytest.raises(jsonio.WrongElementError) as caught:
            jsonio.elements(dtype, flat)
        assert (caught.value.index, caught.value.value) == (at, None)

    def test_bytes_may_be_written_otherwise(self) -> None:
        def read(value: Any) -> bytes | None:
            return bytes(value["raw"]) if isinstance(value, dict) else None

        array = jsonio.elements(dtypes.BYTES, ["é", {"raw": [255]}, {"raw": []}], bytes_of=read)
        assert array.tolist() == ["é".encode(), b"\xff", b""]
        with pytest.raises(jsonio.WrongElementError) as caught:
            jsonio.elements(dtypes.BYTES, ["a", {"raw": []}, 5], bytes_of=read)
        assert (caught.value.index, caught.value.value) == (2, 5)
