"""What `serving predict` reads out of files."""

import io
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from serving.cli.ask import InputError, read_inputs
from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.types import Signature, Tensors
from tests.cli.build import ROWS, signature_of
from tests.protocols.build import INTEGERS, dtype_id

ONE = signature_of(ROWS)
TWO = signature_of(("a", dtypes.INT32, (-1, 2)), ("b", dtypes.BYTES, (-1,)))


def read(tmp_path: Path, name: str, content: bytes | str | object, signature: Signature = ONE) -> Tensors:
    """Reads a file of this content; what is neither bytes nor text is written as JSON."""
    file = tmp_path / name
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_inputs(file, signature)


def refused(tmp_path: Path, name: str, content: object, signature: Signature = ONE) -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, content, signature)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: ") and "\n" not in message
    return message


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def equal(tensors: Tensors, **expected: np.ndarray) -> bool:
    return {k: (v.dtype, v.shape, v.tolist()) for k, v in tensors.items()} == {
        k: (v.dtype, v.shape, v.tolist()) for k, v in expected.items()
    }


def text(*elements: bytes) -> np.ndarray:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


X = np.array([[1, 2], [3, 4]], np.float32)
AB = {"a": np.array([[1, 2]], np.int32), "b": text(b"one")}


class TestForms:
    def test_npy(self, tmp_path: Path) -> None:
        assert equal(read(tmp_path, "x.npy", npy(X)), x=X)

    def test_npz(self, tmp_path: Path) -> None:
        assert equal(read(tmp_path, "x.npz", npz(a=AB["a"], b=np.array(["one"])), TWO), **AB)
        assert equal(read(tmp_path, "y.npz", npz(b=np.array([b"one"]), a=AB["a"]), TWO), **AB)

    @pytest.mark.parametrize("name", ["x.json", "x", "x.txt"])
    @pytest.mark.parametrize(
        "content",
        [
            [[1, 2], [3, 4]],
            {"x": [[1, 2], [3, 4]]},
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]},
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]]}]},
            {"inputs": [{"name": "x", "data": [[1, 2], [3, 4]]}], "id": "left alone"},
        ],
    )
    def test_json(self, tmp_path: Path, content: object, name: str) -> None:
        assert equal(read(tmp_path, name, content), x=X)

    @pytest.mark.parametrize(
        "content",
        [
            {"b": ["one"], "a": [[1, 2]]},
            {"inputs": [{"name": "b", "shape": [1], "data": ["one"]}, {"name": "a", "shape": [1, 2], "data": [1, 2]}]},
        ],
    )
    def test_json_for_several_inputs(self, tmp_path: Path, content: object) -> None:
        tensors = read(tmp_path, "x.json", content, TWO)
        assert list(tensors) == ["a", "b"] and equal(tensors, **AB)

    @pytest.mark.parametrize("content", [[1, 2], {"x": [1, 2]}])
    def test_one_row_needs_no_batch_axis(self, tmp_path: Path, content: object) -> None:
        assert equal(read(tmp_path, "x.json", content), x=X[:1])
        assert equal(read(tmp_path, "x.npy", npy(X[0])), x=X[:1])

    def test_a_fixed_first_axis_is_no_batch_axis(self, tmp_path: Path) -> None:
        fixed = signature_of(("x", dtypes.FP32, (1, 2)))
        assert read(tmp_path, "x.json", [1, 2], fixed)["x"].shape == (2,)  # the server says what is wrong with it

    def test_an_input_that_is_called_inputs(self, tmp_path: Path) -> None:
        signature = signature_of(("inputs", dtypes.FP32, (-1, 2)))
        assert equal(read(tmp_path, "x.json", {"inputs": [[1, 2], [3, 4]]}, signature), inputs=X)

    def test_nan_and_infinity(self, tmp_path: Path) -> None:
        array = read(tmp_path, "x.json", "[[NaN, -Infinity]]")["x"]
        assert np.isnan(array[0, 0]) and array[0, 1] == -np.inf


class TestTypes:
    @pytest.mark.parametrize("dtype", INTEGERS, ids=dtype_id)
    def test_integers_are_exact(self, tmp_path: Path, dtype: DType) -> None:
        info = np.iinfo(dtype.numpy)
        signature = signature_of(("x", dtype, (-1,)))
        values = [int(info.min), int(info.max), 1]
        assert read(tmp_path, "x.json", values, signature)["x"].tolist() == values
        assert (
            read(tmp_path, "x.json", {"inputs": [{"name": "x", "shape": [3], "data": values}]}, signature)["x"].tolist()
            == values
        )
        for value in (int(info.min) - 1, int(info.max) + 1):
            assert f"is no {dtype.name} tensor" in refused(tmp_path, "x.json", [0, value], signature)

    @pytest.mark.parametrize("content", ["[1.5]", "[NaN]", "[1e300]", '["1"]', "[null]", '[{"a":1}]', '["one"]'])
    @pytest.mark.parametrize("dtype", [dtypes.INT8, dtypes.INT64, dtypes.UINT64], ids=dtype_id)
    def test_what_is_no_integer_is_refused(self, tmp_path: Path, dtype: DType, content: str) -> None:
        assert "input 'x'" in refused(tmp_path, "x.json", content, signature_of(("x", dtype, (-1,))))

    @pytest.mark.parametrize("content", ['["1"]', "[null]", '[{"a":1}]', '["one"]', '["NaN"]'])
    @pytest.mark.parametrize("dtype", [dtypes.FP16, dtypes.BF16, dtypes.FP32, dtypes.FP64], ids=dtype_id)
    def test_what_is_no_number_is_refused(self, tmp_path: Path, dtype: DType, content: str) -> None:
        assert "input 'x'" in refused(tmp_path, "x.json", content, signature_of(("x", dtype, (-1,))))

    @pytest.mark.parametrize(
        ("dtype", "given"),
        [
            (dtypes.INT8, np.array([300], np.int64)),
            (dtypes.UINT8, np.array([-1], np.int64)),
            (dtypes.INT32, np.array([0.5], np.float32)),
            (dtypes.INT32, np.array([np.nan], np.float32)),
            (dtypes.BOOL, np.array([2], np.int32)),
            (dtypes.FP32, np.array(["a"])),
        ],
    )
    def test_arrays_that_would_change_are_refused(self, tmp_path: Path, dtype: DType, given: np.ndarray) -> None:
        assert "input 'x'" in refused(tmp_path, "x.npy", npy(given), signature_of(("x", dtype, (-1,))))

    @pytest.mark.parametrize(
        ("dtype", "given"),
        [
            (dtypes.INT64, np.array([3], np.int8)),
            (dtypes.INT8, np.array([3], np.float64)),
            (dtypes.FP32, np.array([3], np.int64)),
            (dtypes.FP16, np.array([3], np.float64)),
            (dtypes.BF16, np.array([3], np.float32)),
        ],
    )
    def test_arrays_that_fit_are_cast(self, tmp_path: Path, dtype: DType, given: np.ndarray) -> None:
        array = read(tmp_path, "x.npy", npy(given), signature_of(("x", dtype, (-1,))))["x"]
        assert array.dtype == dtype.numpy and array.tolist() == [3]

    def test_floats_are_rounded(self, tmp_path: Path) -> None:
        assert read(tmp_path, "x.json", [[0.1, 16777217]])["x"].tolist() == [[np.float32(0.1), 16777216.0]]
        array = read(tmp_path, "y.json", [0.1], signature_of(("x", dtypes.BF16, (-1,))))["x"]
        assert array.tolist() == [ml_dtypes.bfloat16(0.1)]

    def test_bools(self, tmp_path: Path) -> None:
        signature = signature_of(("x", dtypes.BOOL, (-1,)))
        assert read(tmp_path, "x.json", [True, False], signature)["x"].tolist() == [True, False]

    @pytest.mark.parametrize("shape", [(-1,), (-1, 1), (2, -1)])
    def test_text(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        content = np.array(["é", ""]).reshape([2] if len(shape) == 1 else [2, 1])
        array = read(tmp_path, "x.json", content.tolist(), signature_of(("x", dtypes.BYTES, shape)))["x"]
        assert array.dtype == object and array.reshape(-1).tolist() == ["é".encode(), b""]

    def test_text_that_cannot_be_sent(self, tmp_path: Path) -> None:
        signature = signature_of(("x", dtypes.BYTES, (-1,)))
        assert refused(tmp_path, "x.json", '["\\ud800"]', signature)
        assert refused(tmp_path, "y.json", '["\\ud800", NaN]', signature)

    @pytest.mark.parametrize("content", ["[null]", "[1]", "[true]", '[["a"], {"b": 1}]'])
    def test_what_is_no_text_is_refused(self, tmp_path: Path, content: str) -> None:
        """A null that became the text `None` would be a wrong answer without a word."""
        assert "input 'x'" in refused(tmp_path, "x.json", content, signature_of(("x", dtypes.BYTES, (-1,))))


class TestErrors:
    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        for name in ("x.json", "x.npy", "x.npz"):
            with pytest.raises(InputError, match=rf"{name}: No such file or directory"):
                read_inputs(tmp_path / name, ONE)

    def test_a_directory(self, tmp_path: Path) -> None:
        for name in ("x.json", "x.npy", "x.npz"):
            (tmp_path / name).mkdir()
            with pytest.raises(InputError, match="Is a directory"):
                read_inputs(tmp_path / name, ONE)

    @pytest.mark.parametrize("name", ["x.json", "x.npy", "x.npz"])
    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"\xff" * 100, b"PK\x03\x04" + b"x" * 100, npy(X)[:-3], npy(X)[:20], npz(x=X)[:-30]],
        ids=["empty", "json", "noise", "zip", "npy without end", "npy without header", "npz without end"],
    )
    def test_content_that_is_something_else(self, tmp_path: Path, name: str, content: bytes) -> None:
        assert refused(tmp_path, name, content)

    def test_a_form_under_the_name_of_another(self, tmp_path: Path) -> None:
        assert refused(tmp_path, "x.npz", npy(X))
        assert refused(tmp_path, "x.npy", npz(x=X))

    def test_pickles_are_never_read(self, tmp_path: Path) -> None:
        objects = np.array([{"a": 1}], dtype=object)
        assert refused(tmp_path, "x.npy", npy(objects))
        assert refused(tmp_path, "x.npz", npz(x=objects))

    def test_one_array_for_several_inputs(self, tmp_path: Path) -> None:
        for name, content in (("x.json", [[1, 2]]), ("x.npy", npy(X))):
            assert refused(tmp_path, name, content, TWO).endswith("holds one array, but the model takes a, b")

    @pytest.mark.parametrize(
        ("content", "got"),
        [
            ({}, "none"),
            ({"z": [1]}, "z"),
            ({"a": [1]}, "a"),
            ({"a": [1], "b": ["x"], "c": [1]}, "a, b, c"),
            ({"inputs": []}, "none"),
            ({"inputs": [{"name": "a", "data": [1]}]}, "a"),
        ],
    )
    def test_inputs_that_are_not_the_models(self, tmp_path: Path, content: object, got: str) -> None:
        assert refused(tmp_path, "x.json", content, TWO).endswith(f"expected inputs a, b, got {got}")

    @pytest.mark.parametrize(
        "entry",
        [
            {"name": "x", "shape": [3], "data": [1, 2]},
            {"name": "x", "shape": [2, 2], "data": [[1, 2], [3]]},
            {"name": "x", "shape": [-5], "data": [1, 2]},
            {"name": "x", "shape": "2", "data": [1, 2]},
            {"name": "x", "shape": [1.5], "data": [1]},
            {"name": "x", "shape": [2**70], "data": [1]},
            {"name": "x", "shape": [1, 2]},
            {"name": ["x"], "data": [1]},
            {"data": [1]},
            5,
        ],
    )
    def test_requests_that_do_not_add_up(self, tmp_path: Path, entry: object) -> None:
        assert refused(tmp_path, "x.json", {"inputs": [entry]})

    @pytest.mark.parametrize("content", ["[[1, 2], [3]]", "[[1, 2], 3]", "5", "null", '"text"', '{"x": null}'])
    def test_values_that_are_no_array(self, tmp_path: Path, content: str) -> None:
        signature = signature_of(("x", dtypes.FP32, (-1, -1, -1)))
        try:
            array = read(tmp_path, "x.json", content, signature)["x"]
        except InputError:
            return
        assert content == "5" and array.shape == ()  # a number is an array without axes; the server says what it wants

    @pytest.mark.parametrize("dtype", dtypes.ALL, ids=dtype_id)
    def test_rows_of_different_lengths(self, tmp_path: Path, dtype: DType) -> None:
        value = {"BYTES": '"a"', "BOOL": "true"}.get(dtype.name, "1")
        content = f"[[{value},{value}],[{value}]]"
        assert refused(tmp_path, "x.json", content, signature_of(("x", dtype, (-1, -1))))
