"""A request held against a signature: the number of its rows, or the text that clients of the protocol know."""

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from serving.core import dtypes
from serving.core.errors import ErrorKind, ServingError
from serving.core.types import InferRequest, Signature, SignatureMethod, TensorSpec
from serving.core.validate import Contract, why_no_batch_axis

NOTE = "NOTE: axis 0 is the batch dimension of this model, so each input shape must begin with the number of rows."


def signature(*inputs: TensorSpec, outputs: tuple[str, ...] = ("OUTPUT0", "OUTPUT1")) -> Signature:
    specs = {spec.name: spec for spec in inputs}
    return Signature(specs, {name: TensorSpec(name, dtypes.INT32, (-1, 16)) for name in outputs})


SIMPLE = signature(TensorSpec("INPUT0", dtypes.INT32, (-1, 16)), TensorSpec("INPUT1", dtypes.INT32, (-1, 16)))
OPEN = signature(TensorSpec("text", dtypes.BYTES, (-1, -1)))
WHOLE = signature(TensorSpec("x", dtypes.FP32, (2, 3)), TensorSpec("scale", dtypes.FP32, ()))


def contract(of: Signature = SIMPLE, max_batch_size: int = 8) -> Contract:
    return Contract("simple", of, max_batch_size)


def ask(outputs: tuple[str, ...] = (), **inputs: np.ndarray) -> InferRequest:
    return InferRequest("simple", inputs, outputs=outputs)


def ints(*shape: int, dtype: Any = np.int32) -> np.ndarray:
    return np.zeros(shape, dtype)


def refusal(request: InferRequest, by: Contract) -> str:
    with pytest.raises(ServingError) as refused:
        by.check(request)
    assert refused.value.kind is ErrorKind.INVALID
    return refused.value.message


# Rows


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_a_valid_request_has_as_many_rows_as_axis_0(rows: int) -> None:
    assert contract().check(ask(INPUT0=ints(rows, 16), INPUT1=ints(rows, 16))) == rows


def test_requests_of_one_form_are_checked_once() -> None:
    by = contract()
    checked = replace(ask(INPUT0=ints(3, 16), INPUT1=ints(3, 16), outputs=("OUTPUT1",)), form="a")
    first = by.admit(checked)
    assert first == (3, ("OUTPUT1",), by.lane(checked, ("OUTPUT1",)))
    assert by.admit(replace(checked, inputs={})) is first  # not looked at: it says that it has the same form
    assert contract().admit(checked) == first  # what another contract has found does not count
    for form in ("b", None):
        with pytest.raises(ServingError, match="expected 2 inputs"):
            by.admit(replace(checked, inputs={}, form=form))
    assert by.admit(replace(checked, form="b")) == first  # what was refused is not kept


def test_the_order_in_which_inputs_come_does_not_matter() -> None:
    assert contract().check(ask(INPUT1=ints(2, 16), INPUT0=ints(2, 16))) == 2


@pytest.mark.parametrize("width", [0, 1, 7])
def test_an_open_axis_takes_any_size(width: int) -> None:
    assert contract(OPEN).check(ask(text=ints(2, width, dtype=object))) == 2


def test_without_a_batch_axis_a_request_is_one_row_of_any_size() -> None:
    by = contract(WHOLE, max_batch_size=0)
    assert by.check(ask(x=ints(2, 3, dtype=np.float32), scale=ints(dtype=np.float32))) == 1
    unbatched = contract(max_batch_size=0)
    assert unbatched.check(ask(INPUT0=ints(100, 16), INPUT1=ints(7, 16))) == 1
    assert unbatched.check(ask(INPUT0=ints(0, 16), INPUT1=ints(0, 16))) == 1


# Refusals


def test_a_missing_input() -> None:
    assert refusal(ask(INPUT0=ints(1, 16)), contract()) == (
        "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], "
        "but missing required input(s) ['INPUT1']. Please provide all required input(s)."
    )


def test_no_input_at_all() -> None:
    assert refusal(ask(), contract()) == (
        "expected 2 inputs but got 0 inputs for model 'simple'. Got input(s) [], "
        "but missing required input(s) ['INPUT0', 'INPUT1']. Please provide all required input(s)."
    )


@pytest.mark.parametrize("others", [("INPUT0",), ("INPUT0", "INPUT1")], ids=["instead", "besides"])
def test_an_unknown_input(others: tuple[str, ...]) -> None:
    request = InferRequest("simple", {name: ints(1, 16) for name in (*others, "X")})
    said = refusal(request, contract())
    assert said.startswith("unexpected inference input 'X' for model 'simple'")
    assert "['INPUT0', 'INPUT1']" in said


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(np.float32, "FP32"), (np.int64, "INT64"), (ml_dtypes.bfloat16, "BF16"), (object, "BYTES"), (">i4", ">i4")],
)
def test_the_wrong_data_type(dtype: Any, name: str) -> None:
    assert refusal(ask(INPUT0=ints(1, 16, dtype=dtype), INPUT1=ints(1, 16)), contract()) == (
        f"inference input 'INPUT0' data-type is '{name}', but model 'simple' expects 'INT32'"
    )


@pytest.mark.parametrize("shape", [(1, 15), (16,), (1, 16, 1), (1, 0)])
def test_the_wrong_shape(shape: tuple[int, ...]) -> None:
    got = ",".join(map(str, shape))
    assert refusal(ask(INPUT0=ints(*shape), INPUT1=ints(1, 16)), contract()) == (
        f"unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got [{got}]. {NOTE}"
    )


def test_the_wrong_shape_for_a_model_without_a_batch_axis() -> None:
    request = ask(x=ints(3, 3, dtype=np.float32), scale=ints(dtype=np.float32))
    assert refusal(request, contract(WHOLE, max_batch_size=0)).rstrip() == (
        "unexpected shape for input 'x' for model 'simple'. Expected [2,3], got [3,3]."
    )


def test_no_shape_where_a_batch_is_needed() -> None:
    assert refusal(ask(INPUT0=ints(), INPUT1=ints(1, 16)), contract()) == (
        "input 'INPUT0' has no shape but model requires batch dimension for 'simple'"
    )


def test_inputs_of_different_batch_sizes() -> None:
    assert refusal(ask(INPUT0=ints(2, 16), INPUT1=ints(3, 16)), contract()) == (
        "input 'INPUT1' batch size does not match other inputs for 'simple'"
    )


def test_more_rows_than_one_run_holds() -> None:
    said = refusal(ask(INPUT0=ints(9, 16), INPUT1=ints(9, 16)), contract())
    assert said == "inference request batch-size must be <= 8 for 'simple', got 9 rows"


def test_an_empty_batch() -> None:
    said = refusal(ask(INPUT0=ints(0, 16), INPUT1=ints(0, 16)), contract())
    assert said.startswith("input byte size mismatch for input 'INPUT0' for model 'simple'. Expected 64, got 0")


def test_an_unknown_output() -> None:
    said = refusal(ask(("OUTPUT0", "NOPE"), INPUT0=ints(1, 16), INPUT1=ints(1, 16)), contract())
    assert said.startswith("unexpected inference output 'NOPE' for model 'simple'")
    assert "['OUTPUT0', 'OUTPUT1']" in said


def test_an_output_asked_for_twice() -> None:
    said = refusal(ask(("OUTPUT0", "OUTPUT0"), INPUT0=ints(1, 16), INPUT1=ints(1, 16)), contract())
    assert said == "output 'OUTPUT0' already exists in request"


# Outputs and lanes


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ((), ("OUTPUT0", "OUTPUT1")),
        (("OUTPUT1",), ("OUTPUT1",)),
        (("OUTPUT1", "OUTPUT0"), ("OUTPUT0", "OUTPUT1")),
    ],
)
def test_outputs_come_in_the_order_of_the_model(asked: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    assert contract().wanted(ask(asked)) == wanted


def lane(by: Contract, request: InferRequest) -> tuple[object, ...]:
    return by.lane(request, by.wanted(request))


def test_requests_for_the_same_outputs_share_a_lane_whatever_their_rows() -> None:
    by = contract()
    one, many = (ask(INPUT0=ints(n, 16), INPUT1=ints(n, 16)) for n in (1, 5))
    chosen = ask(("OUTPUT1",), INPUT0=ints(1, 16), INPUT1=ints(1, 16))
    assert lane(by, one) == lane(by, many)
    assert lane(by, one) != lane(by, chosen)


def test_rows_of_different_shapes_do_not_share_a_lane() -> None:
    by = contract(OPEN)
    wide, narrow, also_wide = (ask(text=ints(rows, width, dtype=object)) for rows, width in ((1, 4), (1, 2), (3, 4)))
    assert lane(by, wide) == lane(by, also_wide) != lane(by, narrow)


# Optional inputs, open ranks, empty batches

OPTIONAL = signature(
    TensorSpec("x", dtypes.FP32, (-1, 2)),
    TensorSpec("mask", dtypes.BOOL, (-1,), optional=True),
    TensorSpec("scale", dtypes.FP32, (), optional=True),
)


def floats(*shape: int) -> np.ndarray:
    return ints(*shape, dtype=np.float32)


def test_an_optional_input_may_be_missing_and_is_checked_if_it_is_there() -> None:
    by = contract(OPTIONAL)
    assert by.check(ask(x=floats(3, 2))) == 3
    assert by.check(ask(x=floats(3, 2), mask=ints(3, dtype=np.bool_))) == 3
    assert by.check(ask(x=floats(3, 2), scale=floats())) == 3
    assert "batch size does not match" in refusal(ask(x=floats(3, 2), mask=ints(2, dtype=np.bool_)), by)
    assert "data-type is 'FP32', but model 'simple' expects 'BOOL'" in refusal(ask(x=floats(3, 2), mask=floats(3)), by)


def test_the_text_for_missing_inputs_tells_how_many_are_needed() -> None:
    assert refusal(ask(mask=ints(1, dtype=np.bool_)), contract(OPTIONAL)).startswith(
        "expected number of inputs between 1 and 3 but got 1 inputs for model 'simple'. Got input(s) ['mask'], "
        "but missing required input(s) ['x']."
    )


def test_an_unknown_input_beside_all_that_are_needed() -> None:
    by = contract(OPTIONAL)
    assert refusal(ask(x=floats(1, 2), nosuch=floats(1)), by).startswith("unexpected inference input 'nosuch'")


def test_requests_share_a_run_only_with_the_same_optional_inputs() -> None:
    by = contract(OPTIONAL)
    plain, masked = ask(x=floats(1, 2)), ask(x=floats(1, 2), mask=ints(1, dtype=np.bool_))
    assert by.lane(plain, by.outputs) == by.lane(ask(x=floats(4, 2)), by.outputs)
    assert by.lane(plain, by.outputs) != by.lane(masked, by.outputs)
    assert by.lane(ask(x=floats(1, 2), scale=floats()), by.outputs) is None  # its value is not a row's


def test_lanes_of_two_signatures_are_apart() -> None:
    one, other = (Contract("m", SIMPLE, 8, name) for name in ("a", "b"))
    request = ask(INPUT0=ints(1, 16), INPUT1=ints(1, 16))
    assert one.lane(request, one.outputs) != other.lane(request, other.outputs)


def test_an_input_of_open_rank_takes_any_shape() -> None:
    by = contract(signature(TensorSpec("x", dtypes.FP32, None)), 0)
    for shape in ((), (3,), (2, 0, 5)):
        assert by.check(ask(x=floats(*shape))) == 1
    assert by.lane(ask(x=floats()), by.outputs) is None


def test_an_empty_batch_passes_only_where_the_protocol_answers_it() -> None:
    request = ask(INPUT0=ints(0, 16), INPUT1=ints(0, 16))
    assert "the batch is empty" in refusal(request, contract())
    request.allow_empty = True
    assert contract().check(request) == 0


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (SIMPLE, None),
        (OPTIONAL, None),
        (signature(), "it has no inputs"),
        (signature(TensorSpec("x", dtypes.FP32, (-1,), optional=True)), "all of its inputs are optional"),
        (signature(TensorSpec("x", dtypes.FP32, None)), "the number of dimensions of input 'x' is open"),
        (signature(TensorSpec("x", dtypes.FP32, ())), "input 'x' is a scalar"),
        (signature(TensorSpec("x", dtypes.FP32, (2, -1))), "axis 0 of input 'x' is fixed to 2"),
        (
            Signature({"x": TensorSpec("x", dtypes.FP32, (-1,))}, {"y": TensorSpec("y", dtypes.FP32, ())}),
            "output 'y' is a scalar",
        ),
    ],
)
def test_why_a_signature_has_no_batch_axis(of: Signature, why: str | None) -> None:
    assert why_no_batch_axis(of) == why


def test_a_vector_of_examples_is_a_batch_whatever_rank_is_declared() -> None:
    inputs = {"inputs": TensorSpec("inputs", dtypes.BYTES, None)}
    outputs = {"scores": TensorSpec("scores", dtypes.FP32, (-1, 1))}
    assert why_no_batch_axis(Signature(inputs, outputs)) is not None
    assert why_no_batch_axis(Signature(inputs, outputs, SignatureMethod.CLASSIFY)) is None
    by = Contract("m", Signature(inputs, outputs, SignatureMethod.CLASSIFY), 8)
    assert by.check(ask(inputs=ints(3, dtype=object))) == 3
    assert "has no shape but model requires batch dimension" in refusal(ask(inputs=ints(dtype=object)), by)


X, N = TensorSpec("x", dtypes.FP32, (-1, 4)), TensorSpec("n", dtypes.INT32, (-1,))
OUT = {"y": TensorSpec("y", dtypes.FP32, (-1, 4)), "z": TensorSpec("z", dtypes.INT64, (-1,))}


@pytest.mark.parametrize(
    ("inputs", "outputs", "replaces"),
    [
        ((X,), OUT, True),
        ((TensorSpec("x", dtypes.FP32, (-1, 9)),), OUT, True),  # shapes are for each request to tell
        ((X, TensorSpec("n", dtypes.INT32, (-1,), optional=True)), OUT, True),
        ((X,), {**OUT, "more": OUT["y"]}, True),
        ((X, N), OUT, False),
        ((N,), OUT, False),
        ((TensorSpec("x", dtypes.FP64, (-1, 4)),), OUT, False),
        ((X,), {"y": OUT["y"]}, False),
        ((X,), {**OUT, "z": TensorSpec("z", dtypes.INT32, (-1,))}, False),
    ],
)
def test_whether_a_contract_replaces_another(
    inputs: tuple[TensorSpec, ...], outputs: dict[str, TensorSpec], replaces: bool
) -> None:
    other = Contract("m", Signature({"x": X}, OUT), 8)
    assert Contract("m", Signature({s.name: s for s in inputs}, outputs), 8).replaces(other) is replaces
