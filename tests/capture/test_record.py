"""A record on disk is a record again, or seen to be none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.capture.record import HEAD_BYTES, DamagedError, Record, decode, encode, size_of
from tests.capture.build import every_dtype, record, same


def stored(one: Record) -> bytes:
    return b"".join(bytes(part) for part in encode(one))


def test_all_of_it_comes_back() -> None:
    one = record(
        version=3,
        id="ä 1",
        inputs=every_dtype(),
        outputs=("y", "z"),
        parameters={"signature_name": "s", "priority": 1, "ratio": 0.5, "flag": True},
        answer={"y": np.array([[np.nan, np.inf]], np.float32), "scalar": np.array(7, np.int64)},
        queue_s=0.001,
        compute_s=0.0005,
        batch_rows=16,
    )
    again = decode(stored(one))
    assert same(again.inputs, one.inputs)
    assert again.answer["y"].tobytes() == one.answer["y"].tobytes() and again.answer["scalar"] == 7
    plain = {k: v for k, v in vars(one).items() if k not in ("inputs", "answer")}
    assert {k: v for k, v in vars(again).items() if k not in ("inputs", "answer")} == plain


def test_a_failed_request_has_no_answer() -> None:
    again = decode(stored(record(answered_by=0, answer={}, error="model")))
    assert (again.answered_by, again.answer, again.error) == (0, {}, "model")


def test_arrays_that_are_views_are_stored_as_they_are() -> None:
    whole = np.arange(24, dtype=np.int32).reshape(4, 6)
    again = decode(stored(record(inputs={"x": whole[1:3, ::2], "empty": whole[:0]})))
    assert again.inputs["x"].tolist() == whole[1:3, ::2].tolist() and again.inputs["empty"].shape == (0, 6)


def test_large_arrays_are_not_copied() -> None:
    large = np.zeros((1, 100_000), np.float32)
    views = [part for part in encode(record(inputs={"x": large})) if isinstance(part, memoryview)]
    assert len(views) == 1 and np.shares_memory(np.frombuffer(views[0], np.uint8), large)


def test_what_follows_a_record_does_not_matter() -> None:
    data = stored(record())
    assert size_of(data[:HEAD_BYTES], len(data) + 9) == len(data)
    assert decode(data + b"the next").model == "m"


@given(st.data())
def test_damage_is_seen(data: st.DataObject) -> None:
    whole = stored(record(id="abc"))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedError):
        decode(bytes(damaged))


@given(st.integers(0, 100))
def test_a_part_is_no_record(percent: int) -> None:
    whole = stored(record())
    with pytest.raises(DamagedError) as caught:
        decode(whole[: len(whole) * percent // 101])
    assert caught.value.size == 0


def test_what_a_record_keeps_in_memory() -> None:
    whole = np.zeros((64, 100), np.float32)
    text = np.array([b"x" * 50_000], object)
    assert record(inputs={"x": whole[:1]}).nbytes() - record(inputs={}).nbytes() == whole.nbytes
    assert record(inputs={"t": text}).nbytes() - record(inputs={}).nbytes() == 50_008


@pytest.mark.parametrize(
    ("inputs", "rows", "lane"),
    [
        ({"x": np.zeros((5, 3), np.float32)}, 5, "x[3]"),
        ({"b": np.zeros((2,), np.int8), "a": np.zeros((2, 4), np.int8)}, 2, "a[4] b[]"),
        ({"x": np.array(1.0)}, 1, "x[]"),
    ],
)
def test_rows_and_lanes_for_the_simulator(inputs: dict[str, np.ndarray], rows: int, lane: str) -> None:
    one = record(inputs=inputs)
    assert (one.rows, one.lane) == (rows, lane)
    assert record(inputs=inputs, parameters={"signature_name": "s"}, outputs=("y",)).lane == f"s {lane} y"
