"""One run out of several requests, and their own rows back."""

import numpy as np
import pytest

from serving.batching.item import Item
from serving.batching.merge import merge, split
from serving.core.errors import ErrorKind, ServingError
from serving.core.padding import Padding
from serving.core.types import Tensors


def item(rows: int, **inputs: np.ndarray) -> Item:
    return Item(dict(inputs), ("y",), rows)


def numbers(start: int, rows: int) -> np.ndarray:
    return np.arange(start, start + rows * 2, dtype=np.float32).reshape(rows, 2)


def test_rows_are_joined_in_order_input_by_input() -> None:
    a, b = numbers(0, 1), numbers(10, 3)
    merged = merge([item(1, x=a, z=a + 100), item(3, x=b, z=b + 100)])
    np.testing.assert_array_equal(merged["x"], np.concatenate([a, b]))
    np.testing.assert_array_equal(merged["z"], np.concatenate([a, b]) + 100)


def test_bytes_are_joined_too() -> None:
    merged = merge([item(1, x=np.array([[b"a"]], object)), item(1, x=np.array([[b"bc"]], object))])
    assert merged["x"].tolist() == [[b"a"], [b"bc"]]


def test_one_item_is_not_copied() -> None:
    x = numbers(0, 2)
    assert merge([item(2, x=x)])["x"] is x


def test_one_item_in_the_middle_of_a_body_is_copied_to_where_its_type_may_be_read() -> None:
    body = b"{" + numbers(0, 2).tobytes()
    x = np.frombuffer(body, np.float32, offset=1).reshape(2, 2)
    assert not x.flags.aligned
    merged = merge([item(2, x=x)])["x"]
    assert merged.flags.aligned
    np.testing.assert_array_equal(merged, x)


@pytest.mark.parametrize("rows", [[1], [3], [1, 1], [2, 1, 3]])
def test_each_item_gets_its_own_rows_as_views(rows: list[int]) -> None:
    items = [item(n) for n in rows]
    y = numbers(0, sum(rows))
    parts = split(items, {"y": y, "z": y + 1})
    assert [len(part["y"]) for part in parts] == rows
    np.testing.assert_array_equal(np.concatenate([part["y"] for part in parts]), y)
    np.testing.assert_array_equal(np.concatenate([part["z"] for part in parts]), y + 1)
    assert all(np.shares_memory(part["y"], y) for part in parts)


@pytest.mark.parametrize(
    ("outputs", "shape"),
    [
        ({"y": np.zeros((2, 4))}, [2, 4]),
        ({"y": np.zeros((4, 4))}, [4, 4]),
        ({"y": np.zeros(())}, []),
        ({"ok": np.zeros((3, 1)), "y": np.zeros((0, 1))}, [0, 1]),
    ],
)
@pytest.mark.parametrize("rows", [[3], [1, 2]], ids=["one request", "two requests"])
def test_a_wrong_number_of_rows_is_the_models_error(rows: list[int], outputs: Tensors, shape: list[int]) -> None:
    with pytest.raises(ServingError) as error:
        split([item(n) for n in rows], outputs)
    assert error.value.kind is ErrorKind.MODEL
    assert error.value.message == f"the model gave output 'y' of shape {shape} for a batch of 3 rows"


# Padding


def test_rows_that_are_missing_repeat_the_last_one_and_are_cut_off() -> None:
    items = [item(1, x=numbers(0, 1)), item(2, x=numbers(10, 2))]
    merged = merge(items, 5)["x"]
    assert merged.tolist() == [[0, 1], [10, 11], [12, 13], [12, 13], [12, 13]]
    parts = split(items, {"y": merged * 2}, 5)
    assert [part["y"].tolist() for part in parts] == [[[0, 2]], [[20, 22], [24, 26]]]


def test_one_item_is_padded_too() -> None:
    (only,) = items = [item(1, x=numbers(0, 1))]
    assert merge(items, 2)["x"].tolist() == [[0, 1], [0, 1]]
    (part,) = split([only], {"y": np.ones((2, 3))}, 2)
    assert part["y"].shape == (1, 3)


TOKENS = {"x": Padding(sizes=(4, 8), value=9, outputs={"y": 1})}


def test_lengths_are_padded_to_one_that_is_allowed_and_cut_back() -> None:
    items = [item(1, x=np.array([[1, 2, 3]])), item(2, x=np.array([[4, 5], [6, 7]]))]
    merged = merge(items, 4, TOKENS)["x"]
    assert merged.tolist() == [[1, 2, 3, 9], [4, 5, 9, 9], [6, 7, 9, 9], [6, 7, 9, 9]]
    first, second = split(items, {"y": merged, "z": merged.sum(axis=1)}, 4, TOKENS)
    assert first["y"].tolist() == [[1, 2, 3]] and first["z"].tolist() == [15]
    assert second["y"].tolist() == [[4, 5], [6, 7]] and second["z"].tolist() == [27, 31]


def test_longer_ones_are_left_as_they_are() -> None:
    items = [item(1, x=np.arange(9).reshape(1, 9))]
    merged = merge(items, 1, TOKENS)["x"]
    assert merged.shape == (1, 9)
    assert split(items, {"y": merged}, 1, TOKENS)[0]["y"].shape == (1, 9)


def test_texts_are_padded_with_texts() -> None:
    rule = {"x": Padding(sizes=(2,), value="-")}
    assert merge([item(1, x=np.array([[b"a"]], object))], 1, rule)["x"].tolist() == [[b"a", b"-"]]
    rule = {"x": Padding(sizes=(2,))}
    assert merge([item(1, x=np.array([[b"a"]], object))], 1, rule)["x"].tolist() == [[b"a", b""]]
