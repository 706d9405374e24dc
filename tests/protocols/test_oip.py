"""What both forms of the Open Inference Protocol share."""

import time
from typing import Any

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.errors import ErrorKind
from serving.core.types import InferRequest
from serving.protocols import oip
from serving.repository.version import State
from tests.protocols.build import NUMERIC, dtype_id, refused, same, values_of

FRAMED = b"\x02\x00\x00\x00ab\x00\x00\x00\x00"  # "ab" and ""


class TestParseVersion:
    @pytest.mark.parametrize("text", [None, ""])
    def test_none_leaves_the_choice_to_the_server(self, text: str | None) -> None:
        assert oip.parse_version(text) is None

    @pytest.mark.parametrize(("text", "number"), [("1", 1), ("007", 7), (str(2**63 - 1), 2**63 - 1)])
    def test_digits_are_a_version(self, text: str, number: int) -> None:
        assert oip.parse_version(text) == number

    @pytest.mark.parametrize(
        "text", ["abc", "-1", "+1", "1.0", " 1", "1 ", "1_0", "0x1", "٣", "latest", "1\n", str(2**63), "9" * 5000]
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        assert refused(lambda: oip.parse_version(text)).startswith("failed to get model version from specified version")

    @pytest.mark.parametrize("text", ["0", "000"])
    def test_zero_is_no_version(self, text: str) -> None:
        assert "version should be an integral value > 0" in refused(lambda: oip.parse_version(text))

    @pytest.mark.parametrize("text", ["0" * 5000, "0" * 20 + "9" * 30])
    def test_zeros_in_front_hide_nothing(self, text: str) -> None:
        assert "version should be an integral value > 0" in refused(lambda: oip.parse_version(text))


class TestRawTensors:
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_bytes_and_back(self, dtype: DType) -> None:
        array = values_of(dtype).reshape(1, 3)
        raw = oip.to_raw(array)
        assert same(oip.from_raw("x", "m", dtype, (1, 3), raw), array)
        assert same(oip.from_raw("x", "m", dtype, (1, 3), memoryview(raw)), array)

    @pytest.mark.parametrize("dtype", NUMERIC, ids=dtype_id)
    def test_numbers_are_little_endian(self, dtype: DType) -> None:
        assert oip.to_raw(np.array([1]).astype(dtype.numpy)) == {
            "FP16": b"\x00\x3c",
            "BF16": b"\x80\x3f",
            "FP32": b"\x00\x00\x80\x3f",
            "FP64": b"\x00\x00\x00\x00\x00\x00\xf0\x3f",
        }.get(dtype.name, b"\x01".ljust(dtype.itemsize, b"\x00"))

    def test_text_has_its_length_before_it(self) -> None:
        assert oip.from_raw("x", "m", dtypes.BYTES, (2,), FRAMED).tolist() == [b"ab", b""]

    @pytest.mark.parametrize("dtype", NUMERIC, ids=dtype_id)
    def test_numbers_are_views_of_the_body(self, dtype: DType) -> None:
        data = bytearray(dtype.itemsize * 2)
        array = oip.from_raw("x", "m", dtype, (2,), memoryview(data))
        data[:] = b"\x01" * len(data)
        assert bytes(array.tobytes()) == bytes(data)

    def test_outputs_that_are_slices_are_written_in_row_major_order(self) -> None:
        array = np.arange(6, dtype=np.int8).reshape(2, 3)
        assert oip.to_raw(array[:, 1:]) == bytes([1, 2, 4, 5])
        assert oip.to_raw(array.T) == bytes([0, 3, 1, 4, 2, 5])

    @pytest.mark.parametrize("got", [0, 7, 9, 16])
    def test_exactly_the_bytes_of_the_shape(self, got: int) -> None:
        assert refused(lambda: oip.from_raw("x", "m", dtypes.FP32, (1, 2), bytes(got))) == (
            f"input byte size mismatch for input 'x' for model 'm'. Expected 8, got {got}"
        )

    @pytest.mark.parametrize(
        ("shape", "data", "why"),
        [
            ((2,), FRAMED[:3], "incomplete string length indicator"),
            ((2,), FRAMED[:9], "incomplete string length indicator"),
            ((2,), FRAMED[:5], "incomplete string data"),
            ((2,), b"\xff\xff\xff\xff" + bytes(100), "expecting string of length 4294967295 but only 100 bytes"),
            ((1,), FRAMED, "unexpected number of string elements 2"),
            ((3,), FRAMED, "expected 3 string elements"),
            ((1,), b"", "expected 1 string elements"),
        ],
    )
    def test_framing_that_does_not_add_up_is_refused(self, shape: tuple[int, ...], data: bytes, why: str) -> None:
        assert why in refused(lambda: oip.from_raw("x", "m", dtypes.BYTES, shape, data))

    @pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_zero_elements(self, dtype: DType, shape: tuple[int, ...]) -> None:
        array = oip.from_raw("x", "m", dtype, shape, b"")
        assert array.shape == shape and array.dtype == dtype.numpy

    @pytest.mark.parametrize("shape", [(2**31,), (2**62,), (2**40, 2**40)])
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_a_claim_of_more_than_came_is_refused(self, dtype: DType, shape: tuple[int, ...]) -> None:
        refused(lambda: oip.from_raw("x", "m", dtype, shape, bytes(16)))


class TestDeadline:
    def test_a_timeout_is_in_microseconds_from_now(self) -> None:
        before = time.monotonic()
        deadline = oip.deadline_of({"timeout": 2_000_000})
        assert deadline is not None and before + 2 <= deadline <= time.monotonic() + 2

    @pytest.mark.parametrize("parameters", [{}, {"timeout": 0}, {"other": 5}])
    def test_without_a_timeout_there_is_none(self, parameters: dict[str, Any]) -> None:
        assert oip.deadline_of(parameters) is None

    @pytest.mark.parametrize("timeout", [-1, 1.5, "1", True, float("nan")])
    def test_a_timeout_is_a_whole_number(self, timeout: Any) -> None:
        assert "parameter 'timeout' is the microseconds to wait" in refused(
            lambda: oip.deadline_of({"timeout": timeout})
        )

    def test_a_timeout_beyond_all_numbers_is_refused(self) -> None:
        assert "timeout" in refused(lambda: oip.deadline_of({"timeout": 10**400}))


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
def test_datatypes_by_their_protocol_names(dtype: DType) -> None:
    assert oip.datatype("x", dtype.name) is dtype


@pytest.mark.parametrize("text", ["FLOAT", "int32", "STRING", "", "TYPE_FP32", None, 1, ["FP32"], {"FP32": 1}])
def test_other_datatypes_are_refused(text: object) -> None:
    message = refused(lambda: oip.datatype("x", text))
    assert message.startswith("invalid datatype for input x: expected one of BOOL, ")


def test_a_name_comes_once() -> None:
    request = InferRequest("m", {})
    oip.add_input(request, "x", np.zeros(1))
    assert refused(lambda: oip.add_input(request, "x", np.zeros(1))) == "input 'x' already exists in request"


def test_names_that_triton_reserves_are_refused() -> None:
    oip.check_parameter_names({"my_triton_key": 1})
    assert "reserved" in refused(lambda: oip.check_parameter_names({"a": 1, "triton_x": 2}), ErrorKind.INVALID)


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_name_in_the_index(state: State) -> None:
    assert oip._INDEX_STATES[state] in ("READY", "UNAVAILABLE", "LOADING", "UNLOADING")
