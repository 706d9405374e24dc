"""Inputs that are run before the first request."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import dtypes, strings
from serving.core.declared import Sample
from serving.core.errors import LoadError
from serving.core.types import Signature, TensorSpec
from serving.core.validate import Contract
from serving.repository.loads.samples import inputs_of


def made(directory: Path, dtype: dtypes.DType = dtypes.FP32, **said: Any) -> np.ndarray:
    """The sample of a model of one input, x [-1, 2]."""
    contract = Contract("m", Signature({"x": TensorSpec("x", dtype, (-1, 2))}, {}), 8)
    tensor = {"datatype": dtype.name, "shape": [3, 2], **said}
    return inputs_of(Sample.model_validate({"name": "s", "inputs": {"x": tensor}}), directory, contract)["x"]


def refusal(directory: Path, dtype: dtypes.DType = dtypes.FP32, **said: Any) -> str:
    with pytest.raises(LoadError) as error:
        made(directory, dtype, **said)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=lambda d: d.name)
def test_generated(tmp_path: Path, dtype: dtypes.DType) -> None:
    zero = made(tmp_path, dtype, values="zero")
    assert (zero.shape, zero.dtype) == ((3, 2), dtype.numpy)
    assert set(zero.reshape(-1).tolist()) == {b"" if dtype is dtypes.BYTES else 0}
    drawn = made(tmp_path, dtype, values="random")
    assert (drawn.shape, drawn.dtype) == ((3, 2), dtype.numpy)
    assert np.array_equal(drawn, made(tmp_path, dtype))  # the same each time, as failures have to be


def test_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    rows = np.arange(4, dtype=np.float32)
    (tmp_path / "warmup/row").write_bytes(rows[:2].tobytes())
    assert made(tmp_path, file="warmup/row").tolist() == [[0, 1]] * 3
    (tmp_path / "warmup/more").write_bytes(np.arange(99, dtype=np.float32).tobytes() + b"x")
    assert made(tmp_path, file="warmup/more").tolist() == [[0, 1], [2, 3], [4, 5]]
    texts = np.empty(2, object)
    texts[:] = [b"a", b"\xff\x00"]
    (tmp_path / "warmup/texts").write_bytes(strings.pack(texts))
    assert made(tmp_path, dtypes.BYTES, file="warmup/texts").tolist() == [[b"a", b"\xff\x00"]] * 3


def test_what_cannot_be_run(tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(8))
    (inside / "empty").touch()
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "text").write_bytes(b"\x09\x00\x00\x00abc")
    assert "cannot read" in refusal(inside, file="nosuch")
    assert "cannot read" in refusal(inside, file=".")
    for name in ("../secret", str(tmp_path / "secret"), "link"):
        assert "is outside the model's directory" in refusal(inside, file=name)
    assert "'empty' holds no elements" in refusal(inside, file="empty")
    assert "incomplete string" in refusal(inside, dtypes.BYTES, file="text")
    assert "unexpected shape for input 'x'" in refusal(inside, shape=[3, 5])
    assert "batch-size must be <= 8" in refusal(inside, shape=[9, 2])
    assert "data-type is 'INT32'" in refusal(inside, datatype="INT32")
    assert "unable" in (text := refusal(inside, shape=[2**31 - 1] * 6).lower()) or "array" in text
