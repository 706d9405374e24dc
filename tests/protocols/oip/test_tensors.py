"""What both forms of the Open Inference Protocol share."""

import numpy as np
import pytest

from serving.core import dtypes, strings
from serving.core.dtypes import DType
from serving.core.types import InferRequest
from serving.protocols.oip import metadata, tensors
from serving.repository.version import State
from tests.protocols.build import NUMERIC, dtype_id, refused, same, values_of

FRAMED = b"\x02\x00\x00\x00ab\x00\x00\x00\x00"  # "ab" and ""


class TestRawTensors:
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_bytes_and_back(self, dtype: DType) -> None:
        array = values_of(dtype).reshape(1, 3)
        raw = tensors.to_raw(array)
        assert same(tensors.from_raw("x", "m", dtype, (1, 3), raw), array)
        assert same(tensors.from_raw("x", "m", dtype, (1, 3), memoryview(raw)), array)

    @pytest.mark.parametrize("dtype", NUMERIC, ids=dtype_id)
    def test_numbers_are_little_endian(self, dtype: DType) -> None:
        assert tensors.to_raw(np.array([1]).astype(dtype.numpy)) == {
            "FP16": b"\x00\x3c",
            "BF16": b"\x80\x3f",
            "FP32": b"\x00\x00\x80\x3f",
            "FP64": b"\x00\x00\x00\x00\x00\x00\xf0\x3f",
        }.get(dtype.name, b"\x01".ljust(dtype.itemsize, b"\x00"))

    def test_text_has_its_length_before_it(self) -> None:
        assert tensors.from_raw("x", "m", dtypes.BYTES, (2,), FRAMED).tolist() == [b"ab", b""]

    @pytest.mark.parametrize("dtype", NUMERIC, ids=dtype_id)
    def test_numbers_are_views_of_the_body(self, dtype: DType) -> None:
        data = bytearray(dtype.itemsize * 2)
        array = tensors.from_raw("x", "m", dtype, (2,), memoryview(data))
        data[:] = b"\x01" * len(data)
        assert bytes(array.tobytes()) == bytes(data)

    def test_outputs_that_are_slices_are_written_in_row_major_order(self) -> None:
        array = np.arange(6, dtype=np.int8).reshape(2, 3)
        assert tensors.to_raw(array[:, 1:]) == bytes([1, 2, 4, 5])
        assert tensors.to_raw(array.T) == bytes([0, 3, 1, 4, 2, 5])

    def test_outputs_are_not_copied(self) -> None:
        array = np.arange(8192, dtype=np.int16).reshape(2, 4096)
        for part in (array, array[1:]):
            assert np.shares_memory(np.frombuffer(tensors.raw_view(part), np.uint8), array)

    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_a_view_has_the_bytes(self, dtype: DType) -> None:
        values = values_of(dtype)
        for array in (
            values,
            values[:0],
            values[:1].reshape(()),
            np.tile(values, (2, 8192)),
            np.tile(values, 16384)[::2],
        ):
            view = tensors.raw_view(array)
            expected = strings.pack(array) if dtype is dtypes.BYTES else array.tobytes()
            assert bytes(view) == expected == tensors.to_raw(array) and len(view) == len(expected)

    @pytest.mark.parametrize("got", [0, 7, 9, 16])
    def test_exactly_the_bytes_of_the_shape(self, got: int) -> None:
        assert refused(lambda: tensors.from_raw("x", "m", dtypes.FP32, (1, 2), bytes(got))) == (
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
        assert why in refused(lambda: tensors.from_raw("x", "m", dtypes.BYTES, shape, data))

    @pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_zero_elements(self, dtype: DType, shape: tuple[int, ...]) -> None:
        array = tensors.from_raw("x", "m", dtype, shape, b"")
        assert array.shape == shape and array.dtype == dtype.numpy

    @pytest.mark.parametrize("shape", [(2**31,), (2**62,), (2**40, 2**40)])
    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_a_claim_of_more_than_came_is_refused(self, dtype: DType, shape: tuple[int, ...]) -> None:
        refused(lambda: tensors.from_raw("x", "m", dtype, shape, bytes(16)))


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
def test_datatypes_by_their_protocol_names(dtype: DType) -> None:
    assert tensors.datatype("x", dtype.name) is dtype


@pytest.mark.parametrize("text", ["FLOAT", "int32", "STRING", "", "TYPE_FP32", None, 1, ["FP32"], {"FP32": 1}])
def test_other_datatypes_are_refused(text: object) -> None:
    message = refused(lambda: tensors.datatype("x", text))
    assert message.startswith("invalid datatype for input x: expected one of BOOL, ")


def test_a_name_comes_once() -> None:
    request = InferRequest("m", {})
    tensors.add_input(request, "x", np.zeros(1))
    assert refused(lambda: tensors.add_input(request, "x", np.zeros(1))) == "input 'x' already exists in request"


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_name_in_the_index(state: State) -> None:
    assert metadata._INDEX_STATES[state] in ("READY", "UNAVAILABLE", "LOADING", "UNLOADING")
