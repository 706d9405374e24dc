"""Signatures as clients see them, and which of them answer classify and regress."""

import numpy as np
import pytest

from serving.core import dtypes
from serving.core.errors import ErrorKind
from serving.core.types import InferRequest, Signature, SignatureMethod
from serving.protocols.tfs import signatures, tensor_proto
from tests.protocols.build import refused
from tests.protocols.tfs.build import ALL, CLASSIFY, OPTIONAL, REGRESS, spec, specs

VECTOR = np.array([b"e"], object)


def ask(name: str, method: SignatureMethod, known: dict[str, Signature] | None = None) -> InferRequest:
    return signatures.examples_request("m", 3, ALL if known is None else known, name, method, VECTOR)


@pytest.mark.parametrize(
    ("name", "method", "outputs"),
    [
        ("classify", SignatureMethod.CLASSIFY, ("classes", "scores")),
        ("regress", SignatureMethod.REGRESS, ("outputs",)),
    ],
)
def test_a_request(name: str, method: SignatureMethod, outputs: tuple[str, ...]) -> None:
    request = ask(name, method)
    assert (request.model, request.version, request.signature, request.outputs) == ("m", 3, name, outputs)
    assert request.inputs == {"inputs": VECTOR} and request.allow_empty


@pytest.mark.parametrize(
    ("name", "method", "text"),
    [
        ("z", SignatureMethod.CLASSIFY, "No signature was found with the name: z"),
        ("z", SignatureMethod.REGRESS, "No signature was found with the name: z"),
        (
            "serving_default",
            SignatureMethod.CLASSIFY,
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
        (
            "classify",
            SignatureMethod.REGRESS,
            "Expected regression signature method_name to be tensorflow/serving/regress. "
            "Was: tensorflow/serving/classify",
        ),
        (
            "regress_tensor",
            SignatureMethod.REGRESS,
            "Expects arg[0] to be float but string is provided: signature 'regress_tensor' takes tensors, "
            "not examples; ask it with predict",
        ),
    ],
)
def test_the_wrong_signature(name: str, method: SignatureMethod, text: str) -> None:
    assert refused(lambda: ask(name, method)) == text


@pytest.mark.parametrize(
    ("signature", "kind", "text"),
    [
        (
            Signature(specs(spec("a", dtypes.BYTES), spec("b")), CLASSIFY.outputs, SignatureMethod.CLASSIFY),
            ErrorKind.INVALID,
            "Expected one input Tensor.",
        ),
        (
            Signature(CLASSIFY.inputs, specs(spec("a"), spec("b"), spec("c")), SignatureMethod.CLASSIFY),
            ErrorKind.INVALID,
            "Expected one or two output Tensors, found 3",
        ),
        (
            Signature(CLASSIFY.inputs, specs(spec("z"), spec("a")), SignatureMethod.CLASSIFY),
            ErrorKind.PRECONDITION,
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            "Signature was: outputs {a,z}",
        ),
        (
            Signature(REGRESS.inputs, specs(spec("outputs"), spec("b")), SignatureMethod.REGRESS),
            ErrorKind.INVALID,
            "Expected one output Tensor.",
        ),
        (
            Signature(REGRESS.inputs, specs(spec("y")), SignatureMethod.REGRESS),
            ErrorKind.PRECONDITION,
            "No regression outputs found in SignatureDef. Signature was: outputs {y}",
        ),
    ],
)
def test_a_signature_that_gives_something_else(signature: Signature, kind: ErrorKind, text: str) -> None:
    assert refused(lambda: ask("s", signature.method, {"s": signature}), kind) == text


def test_description() -> None:
    described = signatures.describe(
        {
            "s": Signature(
                specs(spec("x", shape=(-1, 4), graph_name="x:0"), spec("n", dtypes.INT64, ())),
                specs(spec("y", dtypes.BF16, None)),
                SignatureMethod.REGRESS,
            ),
            "o": OPTIONAL,
        }
    )
    assert set(described.signature_def) == {"s", "o"}
    definition = described.signature_def["s"]
    assert definition.method_name == "tensorflow/serving/regress"
    x, n, y = definition.inputs["x"], definition.inputs["n"], definition.outputs["y"]
    assert (x.name, n.name, y.name) == ("x:0", "n", "y")  # a model without names of its own: the tensor's
    assert [tensor.dtype for tensor in (x, n, y)] == [1, 9, 14]
    assert [dim.size for dim in x.tensor_shape.dim] == [-1, 4]
    assert [tensor.tensor_shape.unknown_rank for tensor in (x, n, y)] == [False, False, True]
    assert not n.tensor_shape.dim and not y.tensor_shape.dim
    assert not definition.defaults
    defaults = described.signature_def["o"].defaults
    assert set(defaults) == {"b"}
    assert np.array_equal(tensor_proto.decode("b", defaults["b"]), np.ones((1, 2), np.float32))
