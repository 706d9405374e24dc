"""A model whose answers depend on the padding is found out at load."""

import numpy as np

from serving.batching.padding import prove_padding_unseen
from serving.core import dtypes
from serving.core.padding import Padding
from serving.core.types import Signature, Tensors, TensorSpec

SIGNATURE = Signature(
    {"x": TensorSpec("x", dtypes.FP32, (-1, -1))},
    {"y": TensorSpec("y", dtypes.FP32, (-1, -1)), "z": TensorSpec("z", dtypes.FP32, (-1,))},
)
RULES = {"x": Padding(sizes=(4, 8), outputs={"y": 1})}
SAMPLE = {"x": np.array([[1, 2, 3]], np.float32)}


def masked(inputs: Tensors, outputs: tuple[str, ...]) -> Tensors:
    """Zeros do not count."""
    return {"y": inputs["x"] * 2, "z": inputs["x"].sum(axis=1)}


def unmasked(inputs: Tensors, outputs: tuple[str, ...]) -> Tensors:
    return {"y": inputs["x"] * 2, "z": inputs["x"].mean(axis=1)}


def test_padding_that_the_model_does_not_see() -> None:
    assert prove_padding_unseen(masked, SAMPLE, SIGNATURE, RULES) == ""


def test_padding_that_changes_an_answer() -> None:
    why = prove_padding_unseen(unmasked, SAMPLE, SIGNATURE, RULES)
    assert why.startswith("it changes the answers: ") and "'z'" in why


def test_output_that_would_have_to_be_cut_back() -> None:
    why = prove_padding_unseen(masked, SAMPLE, SIGNATURE, {"x": Padding(sizes=(4, 8))})
    assert why.startswith("it changes the answers: ") and "'y'" in why


def test_wrong_axis() -> None:
    assert prove_padding_unseen(masked, SAMPLE, SIGNATURE, {"x": Padding(axis=2, sizes=(4,))}) == (
        "input 'x' has no axis 2"
    )


def test_model_that_takes_one_length_only() -> None:
    def strict(inputs: Tensors, outputs: tuple[str, ...]) -> Tensors:
        if inputs["x"].shape[1] != 3:
            raise RuntimeError("three, please")
        return masked(inputs, outputs)

    why = prove_padding_unseen(strict, SAMPLE, SIGNATURE, RULES)
    assert why == "the model does not take padded inputs: three, please"
