"""Tensors as nested lists: exact both ways, and the words for what is none."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind
from serving.protocols import jsonio
from serving.protocols.tfs import json_faults
from serving.protocols.tfs.json_tensors import from_base64, text_of, to_array, to_json, with_all_axes
from tests.protocols.build import dtype_id, refused, same
from tests.protocols.tfs.build import NOT_IN_JSON, arrays, spec, strings

NAN, INF = float("nan"), float("inf")


def decode(value: Any, dtype: DType = dtypes.FP32) -> np.ndarray:
    array = to_array(value, dtype, True)
    assert array is not None
    return array


def fault(value: Any, dtype: DType = dtypes.FP32) -> tuple[ErrorKind, str]:
    assert to_array(value, dtype, True) is None
    error = json_faults.in_tensor(value, dtype)
    return error.kind, error.message


@given(arrays(dtypes.BYTES))
def test_bytes_that_are_no_text(array: np.ndarray) -> None:
    value = jsonio.parse(jsonio.dump(to_json("y_bytes", dtypes.BYTES, array)))
    assert same(with_all_axes(decode(value, dtypes.BYTES), spec("x", dtypes.BYTES, array.shape)), array)


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1, dtypes.FP32, np.float32(1)),
        ([[1, 2.5], [NAN, -INF]], dtypes.FP64, np.array([[1, 2.5], [NAN, -INF]])),
        ([1e39], dtypes.FP32, np.array([INF], np.float32)),
        ([2**63 - 1, -(2**63)], dtypes.INT64, np.array([2**63 - 1, -(2**63)])),
        ([2**64 - 1], dtypes.UINT64, np.array([2**64 - 1], np.uint64)),
        ([2**32 - 1], dtypes.UINT32, np.array([2**32 - 1], np.uint32)),
        ([[True], [False]], dtypes.BOOL, np.array([[True], [False]])),
        ("a", dtypes.BYTES, strings([b"a"], ())),
        (["ü", {"b64": "/w=="}], dtypes.BYTES, strings(["ü".encode(), b"\xff"], (2,))),
        ([], dtypes.FP16, np.empty(0, np.float16)),
        ([[], []], dtypes.INT8, np.empty((2, 0), np.int8)),
    ],
)
def test_values(value: Any, dtype: DType, expected: np.ndarray) -> None:
    assert same(decode(value, dtype), np.asarray(expected))


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        ("x", dtypes.FP32, 'JSON Value: "x" Type: String is not of expected type: float'),
        (None, dtypes.FP32, "JSON Value: null Type: Null is not of expected type: float"),
        ([True], dtypes.FP32, "JSON Value: true Type: True is not of expected type: float"),
        ([False], dtypes.FP64, "JSON Value: false Type: False is not of expected type: double"),
        ({"a": 1}, dtypes.FP32, 'JSON Value: {"a":1} Type: Object is not of expected type: float'),
        ({"b64": "YQ=="}, dtypes.FP16, 'JSON Value: {"b64":"YQ=="} Type: Object is not of expected type: half'),
        ([1, 1.0], dtypes.INT32, "JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ([1e3], dtypes.INT64, "JSON Value: 1000.0 Type: Number is not of expected type: int64"),
        ([2**31], dtypes.INT32, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ([2**31], dtypes.INT8, "JSON Value: 2147483648 Type: Number is not of expected type: int8"),
        ([300], dtypes.UINT8, "JSON Value: 300 Type: Number is not of expected type: uint8"),
        ([-1], dtypes.UINT32, "JSON Value: -1 Type: Number is not of expected type: uint32"),
        ([2**63], dtypes.INT64, "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64"),
        ([NAN], dtypes.INT64, "JSON Value: NaN Type: Number is not of expected type: int64"),
        ([1], dtypes.BOOL, "JSON Value: 1 Type: Number is not of expected type: bool"),
        ([1], dtypes.BYTES, "JSON Value: 1 Type: Number is not of expected type: string"),
        (["a", None], dtypes.BYTES, "JSON Value: null Type: Null is not of expected type: string"),
        ([{"b64": 1}], dtypes.BYTES, 'JSON Value: {"b64":1} not formatted correctly for base64 data'),
        ([{"b64": "", "a": ""}], dtypes.BYTES, 'JSON Value: {"b64":"","a":""} not formatted correctly for base64 data'),
        ([{"b64": "Y"}], dtypes.BYTES, "Unable to base64 decode"),
        ([[1, 2], [3]], dtypes.FP32, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ([[1, 2, 3], [4, 5]], dtypes.FP32, "Encountered list at unexpected size: 2 at level: 1 expected size: 3"),
        ([[], [1]], dtypes.FP32, "Encountered list at unexpected size: 1 at level: 1 expected size: 0"),
        ([[1], 2], dtypes.FP32, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ([1, [2]], dtypes.FP32, "Encountered list at unexpected level: 1 expected < 1"),
        ([[1, "a"], [2]], dtypes.FP32, 'JSON Value: "a" Type: String is not of expected type: float'),
        ([[1], ["a", 2]], dtypes.FP32, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        (["a" * 999], dtypes.FP32, f'JSON Value: "{"a" * 199}... Type: String is not of expected type: float'),
    ],
)
def test_what_is_no_tensor(value: Any, dtype: DType, text: str) -> None:
    assert fault(value, dtype) == (ErrorKind.INVALID, text)


@pytest.mark.parametrize("dtype", NOT_IN_JSON, ids=dtype_id)
def test_types_without_a_json_form(dtype: DType) -> None:
    name = dtype.tensorflow.removeprefix("DT_").lower()
    assert fault([1.5], dtype) == (ErrorKind.UNSUPPORTED, f"Conversion of JSON Value: 1.5 to type: {name}")
    text = refused(lambda: to_json("y", dtype, np.zeros(1, dtype.numpy)), ErrorKind.UNSUPPORTED)
    assert text == f"Failed to write JSON value for tensor type: {name}: output 'y' needs gRPC"


def test_depth() -> None:
    deep: Any = 1
    for _ in range(32):
        deep = [deep]
    assert decode(deep).ndim == 32
    for _ in range(900):
        deep = [deep]
    assert fault(deep) == (ErrorKind.INVALID, "Lists are nested 932 deep, a tensor has at most 32 dimensions")


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[1, 2, 3], [4, 5]], "1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 3 but got: 2"),
        (
            [[[1], [2]], [[1, 2]]],
            "1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2,1] but got: [1,2]",
        ),
        (
            ["x"],
            "0 of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "x" Type: String is not of expected type: float',
        ),
        (
            [[1], [[1, 2], [3]]],
            "1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
    ],
)
def test_rows_of_which_one_is_wrong(rows: list[Any], text: str) -> None:
    assert to_array(rows, dtypes.FP32, True) is None
    assert json_faults.in_rows(rows, spec("x")).message == f"Failed to process element: {text}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["b64", "x"]), inner, max_size=2)
        | st.builds(lambda element, n: [element] * n, inner, st.integers(0, 3))
    ),
    max_leaves=8,
)


@given(JSON, st.sampled_from(dtypes.ALL))
def test_any_json_is_a_tensor_or_has_a_fault_that_can_be_named(value: Any, dtype: DType) -> None:
    array = to_array(value, dtype, True)
    if array is None:
        text = json_faults.in_tensor(value, dtype).message
        assert "is no tensor" not in text  # the words for what the fast way refuses and the slow way takes
    else:
        assert array.dtype == dtype.numpy
        assert "is no tensor" in json_faults.in_tensor(value, dtype).message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", b""),
        ("YQ==", b"a"),
        ("YQ", b"a"),
        (" Y\nQ= =", b"a"),
        ("YWI=", b"ab"),
        ("/+8=", b"\xff\xef"),
        ("_-8=", None),
        ("YQ=", None),
        ("Y", None),
        ("YQ==YQ==", None),
        ("Ü", None),
    ],
)
def test_base64(text: str, expected: bytes | None) -> None:
    assert from_base64({"b64": text}) == expected


def test_text_that_is_no_text() -> None:
    assert text_of("y", "ü".encode()) == "ü"
    text = refused(lambda: to_json("y", dtypes.BYTES, strings([b"a", b"\xff"], (2,))))
    assert text.startswith("output 'y' holds bytes that are not UTF-8") and "_bytes" in text


@pytest.mark.parametrize(
    ("shape", "declared", "expected"),
    [
        ((0,), (-1, 4), (0, 4)),
        ((0,), (-1, -1, 3), (0, 0, 3)),
        ((2, 0), (-1, -1, 3), (2, 0, 3)),
        ((0,), None, (0,)),
        ((0, 2), (-1, 4), (0, 2)),
        ((2,), (-1, 4), (2,)),
    ],
)
def test_axes_that_empty_lists_cannot_show(
    shape: tuple[int, ...], declared: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert with_all_axes(np.empty(shape), spec("x", dtypes.FP64, declared)).shape == expected


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([0.1, 3, 9e6, 16777216], np.float32), b"[0.1,3.0,9000000.0,16777216.0]"),
        (np.array(0.1, np.float32), b"0.1"),
        (np.array(NAN, np.float32), b"NaN"),
        (np.array([[1, NAN], [INF, -INF]]), b"[[1.0,NaN],[Infinity,-Infinity]]"),
        (np.array([2**63 - 1]), b"[9223372036854775807]"),
        (np.array([[True]]), b"[[true]]"),
        (np.arange(6, dtype=np.int32).reshape(2, 3).T, b"[[0,3],[1,4],[2,5]]"),
        (np.empty((2, 0), np.int8), b"[[],[]]"),
    ],
)
def test_how_numbers_are_written(array: np.ndarray, text: bytes) -> None:
    assert jsonio.dump(to_json("y", dtypes.BY_NUMPY[array.dtype], array)) == text
