"""A model as its settings declare it."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.backends.shapes import declared
from serving.core import dtypes
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors, TensorSpec

Shape = tuple[int, ...] | None


class Model:
    """Gives back x as y, and its sum as z; notes what it was given."""

    platform = "test"

    def __init__(self, x: Shape, y: Shape) -> None:
        self.signatures = {
            DEFAULT_SIGNATURE: Signature(
                {"x": TensorSpec("x", dtypes.FP32, x)},
                {"y": TensorSpec("y", dtypes.FP32, y), "z": TensorSpec("z", dtypes.FP32, (-1,))},
            ),
            "other": Signature({"x": TensorSpec("x", dtypes.FP32, x)}, {"y": TensorSpec("y", dtypes.FP32, y)}),
        }
        self.notes = {"a": "b"}
        self.came: list[tuple[int, ...]] = []
        self.closed = False

    def run(self, inputs: Tensors, outputs: Sequence[str], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        self.came.append(inputs["x"].shape)
        results = {"y": inputs["x"], "z": np.array([inputs["x"].sum()], np.float32)}
        return {name: results[name] for name in outputs}

    def close(self) -> None:
        self.closed = True


def spec(x: Any = None, y: Any = None, **more: Any) -> ModelSpec:
    fields = {side: {name: {"datatype": "FP32", **said}} for side, name, said in
              (("inputs", "x", x), ("outputs", "y", y)) if said is not None}  # fmt: skip
    return ModelSpec.model_validate({**fields, **more})


def shapes(session: Any) -> tuple[Shape, Shape]:
    signature = session.signatures[DEFAULT_SIGNATURE]
    return signature.inputs["x"].shape, signature.outputs["y"].shape


def test_nothing_declared_is_the_model_itself() -> None:
    model = Model((-1, 4), (-1, 4))
    assert declared(model, ModelSpec()) is model


@pytest.mark.parametrize(
    ("own", "said", "seen"),
    [
        ((-1, 4), None, (-1, 4)),
        ((-1, 4), (-1, 4), (-1, 4)),
        ((-1, -1), (-1, 4), (-1, 4)),
        ((-1, 4), (-1, -1), (-1, 4)),
        ((1, 4), (-1, 4), (1, 4)),
        ((-1, -1, 3), (-1, 224, -1), (-1, 224, 3)),
        (None, (-1, 4), None),
        ((), (), ()),
    ],
)
def test_what_either_side_leaves_open_the_other_settles(own: Shape, said: Shape, seen: Shape) -> None:
    session = declared(Model(own, (-1,)), spec({"shape": said}))
    assert shapes(session)[0] == seen
    assert session.signatures["other"] == Model(own, (-1,)).signatures["other"]


def test_a_batch_of_one_is_a_batch() -> None:
    """Where the model fixes axis 0 to 1, its settings decide whether clients send that axis as rows."""
    said = spec({"shape": [-1, 4]}, {"shape": [-1, 4], "reshape": [-1, 4, 1]}, max_batch_size=1)
    assert shapes(declared(Model((1, 4), (1, 4, 1)), said)) == ((-1, 4), (-1, 4))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"inputs": {"x": "INT32"}}, "inputs: 'x' is declared as INT32, but the model has it as FP32"),
        ({"inputs": {"w": "FP32"}}, "inputs: 'w' is not among those of the model, which are x"),
        ({"outputs": {"x": "FP32"}}, "outputs: 'x' is not among those of the model, which are y, z"),
        (spec({"shape": [-1, 5]}), "inputs: 'x' is declared as [-1, 5], but the model has it as [-1, 4]"),
        (spec({"shape": [4]}), "inputs: 'x' is declared as [4], but the model has it as [-1, 4]"),
        (
            spec({"shape": [-1, 4], "reshape": [-1, 2, 2]}),
            "inputs: 'x' is reshaped to [-1, 2, 2], but the model has it as [-1, 4]",
        ),
    ],
    ids=str,
)
def test_a_contradiction_names_both(said: Any, told: str) -> None:
    with pytest.raises(LoadError) as error:
        declared(Model((-1, 4), (-1, 4)), ModelSpec.model_validate(said))
    assert str(error.value) == told


def test_outputs_that_are_not_declared_are_not_given() -> None:
    session = declared(Model((-1, 4), (-1, 4)), spec(y={}))
    assert list(session.signatures[DEFAULT_SIGNATURE].outputs) == ["y"]
    both = ModelSpec.model_validate({"outputs": {"z": "FP32", "y": "FP32"}})
    assert list(declared(Model((-1, 4), (-1, 4)), both).signatures[DEFAULT_SIGNATURE].outputs) == ["y", "z"]


def test_reshaped_both_ways() -> None:
    """As Triton's own example: clients see a vector where the network has trailing axes of one."""
    model = Model((-1, 4, 1, 1), (-1, 4, 1, 1))
    both = {"shape": [-1, 4], "reshape": [-1, 4, 1, 1]}
    session = declared(model, spec(both, both))
    assert shapes(session) == ((-1, 4), (-1, 4))
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(session.run({"x": x}, ["y"])["y"], x)
    assert session.run({"x": x[:0]}, ["y"])["y"].shape == (0, 4)
    assert model.came == [(2, 4, 1, 1), (0, 4, 1, 1)]
    session.run({"x": x}, ["y"], "other")
    assert model.came[-1] == (2, 4)  # what is declared concerns the default signature
    assert (session.platform, session.notes) == ("test", {"a": "b"})
    session.close()
    assert model.closed


def test_a_vector_of_rows_that_clients_see_as_a_column() -> None:
    both = {"shape": [-1, 1], "reshape": [-1]}
    session = declared(Model((-1,), (-1,)), spec(both, both))
    assert session.run({"x": np.ones((3, 1), np.float32)}, ["y"])["y"].shape == (3, 1)


def test_a_scalar() -> None:
    both = {"shape": [1], "reshape": []}
    session = declared(Model((), ()), spec(both, both, max_batch_size=0))
    assert shapes(session) == ((1,), (1,))
    assert session.run({"x": np.ones(1, np.float32)}, ["y"])["y"].shape == (1,)


def test_a_model_whose_rank_is_open() -> None:
    session = declared(Model(None, None), spec({"shape": [-1, 4], "reshape": [-1, 2, 2]}, {"shape": [-1, 4]}))
    assert shapes(session) == ((-1, 4), None)


def test_an_output_that_is_not_what_was_said() -> None:
    session = declared(Model(None, None), spec(y={"shape": [-1, 4], "reshape": [-1, 4, 1]}))
    with pytest.raises(ValueError, match=r"declared as \[-1, 4, 1\] came as \[2, 4\]"):
        session.run({"x": np.ones((2, 4), np.float32)}, ["y"])


@given(st.lists(st.sampled_from([-1, 1, 2, 3, 4, 6]), max_size=4), st.lists(st.integers(0, 3), max_size=4), st.data())
def test_there_and_back(seen: list[int], sizes: list[int], data: st.DataObject) -> None:
    """Whatever the shapes: what the model is given has its elements in order, and comes back as it went."""
    fixed = prod(size for size in seen if size > 0)
    own = data.draw(st.permutations([*([-1] * seen.count(-1)), fixed, 1]))
    open_sizes = iter([*sizes, *([2] * 4)])
    x_shape = tuple(next(open_sizes) if size == -1 else size for size in seen)
    both = {"shape": seen, "reshape": own}
    model = Model(tuple(own), tuple(own))
    x = np.arange(prod(x_shape), dtype=np.float32).reshape(x_shape)
    y = declared(model, spec(both, both)).run({"x": x}, ["y"])["y"]
    assert np.array_equal(x, y)
    assert [size for size, said in zip(model.came[0], own, strict=True) if said == -1] == [
        size for size, said in zip(x_shape, seen, strict=True) if said == -1
    ]
