"""Length-prefixed BYTES."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.strings import pack, unpack


def elements(*values: bytes) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_layout_is_length_then_bytes() -> None:
    assert pack(elements(b"ab", b"", b"\xff\0")) == b"\2\0\0\0ab\0\0\0\0\2\0\0\0\xff\0"


def test_elements_of_any_shape_are_packed_row_by_row() -> None:
    assert pack(elements(b"a", b"b", b"c", b"d").reshape(2, 2)) == pack(elements(b"a", b"b", b"c", b"d"))


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_what_was_packed_can_be_unpacked(values: list[bytes]) -> None:
    packed = pack(elements(*values))
    for data in (packed, memoryview(packed)):
        got = unpack(data)
        assert got.dtype == object and got.shape == (len(values),)
        assert got.tolist() == values
        assert all(type(element) is bytes for element in got)


@pytest.mark.parametrize("there", [1, 2, 3])
@pytest.mark.parametrize("before", [b"", b"\2\0\0\0ab"], ids=["first", "second"])
def test_bytes_that_end_inside_a_length_are_refused(before: bytes, there: int) -> None:
    with pytest.raises(ValueError, match=f"incomplete string length indicator, .* but only {there} bytes available"):
        unpack(before + b"\1\0\0"[:there])


@pytest.mark.parametrize(("data", "there"), [(b"\x14\0\0\0ab", 2), (b"\xff\xff\xff\xff", 0), (b"\1\0\0\0", 0)])
def test_bytes_that_end_inside_an_element_are_refused(data: bytes, there: int) -> None:
    length = int.from_bytes(data[:4], "little")
    with pytest.raises(ValueError, match=f"expecting string of length {length} but only {there} bytes available"):
        unpack(data)
