"""Requests made from metadata, and the check of their answers."""

import json
from typing import Any

import numpy as np
import pytest

from loadtests.oip import AnswerError
from loadtests.payloads import Payloads, parse_signature
from serving.core import dtypes


def tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def metadata(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "m", "versions": ["1"], "platform": "onnx", "inputs": inputs, "outputs": outputs}


@pytest.mark.parametrize("name", dtypes.BY_NAME)
def test_every_datatype_makes_requests_in_each_form_it_has(name: str) -> None:
    payloads = Payloads.of(metadata([tensor("x", name, -1, 2)], [tensor("y", "FP32", -1)]), rows=3, count=5)
    assert len(payloads.tensors) == len(payloads.binary) == len(payloads.grpc) == 5
    assert len(payloads.json) == (0 if name in ("FP16", "BF16") else 5)
    for inputs in payloads.tensors:
        assert inputs["x"].shape == (3, 2)
        assert inputs["x"].dtype == dtypes.BY_NAME[name].numpy
    for body in payloads.json:
        assert json.loads(body)["inputs"][0]["shape"] == [3, 2]


def test_a_half_precision_output_leaves_no_json_either() -> None:
    payloads = Payloads.of(metadata([tensor("x", "FP32", -1)], [tensor("y", "FP16", -1)]), rows=1)
    assert payloads.json == ()


def test_open_dimensions_get_the_rows_in_front_and_one_behind() -> None:
    inputs = [tensor("batched", "FP32", -1, 4, -1), tensor("fixed", "INT8", 2, -1), tensor("scalar", "BOOL")]
    payloads = Payloads.of(metadata(inputs, [tensor("y", "FP32", -1)]), rows=7)
    assert {name: array.shape for name, array in payloads.tensors[0].items()} == {
        "batched": (7, 4, 1),
        "fixed": (2, 1),
        "scalar": (),
    }


def test_requests_differ_and_a_seed_repeats_them() -> None:
    description = metadata([tensor("x", "FP32", -1, 4)], [tensor("y", "FP32", -1)])
    first, again, other = (Payloads.of(description, rows=1, seed=seed) for seed in (0, 0, 1))
    assert first.grpc == again.grpc != other.grpc
    assert len(set(first.grpc)) == len(first.grpc)


def test_an_unknown_datatype_is_named() -> None:
    with pytest.raises(ValueError, match=r"'x' has the unknown datatype 'FP8'"):
        parse_signature(metadata([tensor("x", "FP8", 1)], []))


BATCHED = Payloads.of(
    metadata([tensor("x", "FP32", -1, 4)], [tensor("y", "FP32", -1, 2), tensor("label", "BYTES", -1)]), rows=3
)


def outputs(y: np.ndarray, labels: int = 3) -> dict[str, np.ndarray]:
    return {"y": y, "label": np.array([b"a"] * labels, object)}


def test_a_right_answer_passes() -> None:
    BATCHED.check(outputs(np.zeros((3, 2), np.float32)))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"y": np.zeros((3, 2), np.float32)}, r"outputs \['y'\]"),
        ({**outputs(np.zeros((3, 2), np.float32)), "more": np.zeros(3)}, "outputs"),
        (outputs(np.zeros((3, 2), np.float64)), "'y' is FP64, not FP32"),
        (outputs(np.zeros((3, 3), np.float32)), r"'y' has shape \[3, 3\], not \[-1, 2\]"),
        (outputs(np.zeros(6, np.float32)), "'y' has shape"),
        (outputs(np.zeros((2, 2), np.float32)), "'y' has 2 rows for 3"),
        (outputs(np.zeros((3, 2), np.float32), labels=4), "'label' has 4 rows for 3"),
    ],
)
def test_a_wrong_answer_is_told_apart(answer: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        BATCHED.check(answer)


def test_rows_are_not_counted_where_the_model_has_no_batch() -> None:
    payloads = Payloads.of(metadata([tensor("x", "FP32", 4)], [tensor("y", "INT64", -1)]), rows=3)
    payloads.check({"y": np.zeros(9, np.int64)})
