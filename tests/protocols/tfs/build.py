"""Signatures, versions and answers for tests of TensorFlow Serving's API."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.core import dtypes
from serving.core.dtypes import DType
from serving.core.types import DEFAULT_SIGNATURE, InferRequest, InferResponse, Signature, SignatureMethod, TensorSpec
from serving.core.validate import Contract
from serving.protocols import messages as m
from serving.protocols.tfs import rest_codec
from serving.protocols.tfs.json_tensors import travels
from serving.repository.version import Version
from tests.repository.build import version

LIMIT = 1 << 20
IN_JSON = tuple(dtype for dtype in dtypes.ALL if travels(dtype))
NOT_IN_JSON = tuple(dtype for dtype in dtypes.ALL if not travels(dtype))

Shape = tuple[int, ...] | None


def spec(name: str, dtype: DType = dtypes.FP32, shape: Shape = (-1, 2), **more: Any) -> TensorSpec:
    return TensorSpec(name, dtype, shape, **more)


def specs(*made: TensorSpec) -> dict[str, TensorSpec]:
    return {one.name: one for one in made}


ONE = Signature(specs(spec("x")), specs(spec("y")))
TWO = Signature(specs(spec("a"), spec("b", dtypes.INT32, (-1,))), specs(spec("c"), spec("d")))
OPTIONAL = Signature(specs(spec("a"), spec("b", optional=True, default=np.ones((1, 2), np.float32))), specs(spec("c")))
CLASSIFY = Signature(
    specs(spec("inputs", dtypes.BYTES, None)),
    specs(spec("classes", dtypes.BYTES), spec("scores")),
    SignatureMethod.CLASSIFY,
)
SCORES_ONLY = Signature(CLASSIFY.inputs, specs(spec("scores")), SignatureMethod.CLASSIFY)
REGRESS = Signature(CLASSIFY.inputs, specs(spec("outputs", dtypes.FP32, (-1, 1))), SignatureMethod.REGRESS)
REGRESS_TENSOR = Signature(specs(spec("inputs")), REGRESS.outputs, SignatureMethod.REGRESS)

ALL = {
    DEFAULT_SIGNATURE: ONE,
    "two": TWO,
    "optional": OPTIONAL,
    "classify": CLASSIFY,
    "regress": REGRESS,
    "regress_tensor": REGRESS_TENSOR,
}


def loaded(signatures: Mapping[str, Signature] | None = None, number: int = 3) -> Version:
    """A version with contracts and nothing to run."""
    made = version(number)
    found = ALL if signatures is None else signatures
    made.contracts = {name: Contract("m", signature, 8, name) for name, signature in found.items()}
    return made


def answered(
    signature: Signature, outputs: Mapping[str, np.ndarray], class_labels: Mapping[str, list[str]] | None = None
) -> InferResponse:
    return InferResponse("m", 3, dict(outputs), signature, "", "sig", class_labels=class_labels or {})


# REST


def predict(
    document: Any, signature: Signature | Mapping[str, Signature] = ONE, encoding: bytes | None = None
) -> tuple[InferRequest, rest_codec.Wants]:
    """Decodes a predict request, given as text or as what is in it."""
    return rest_codec.decode_predict(_body(document, encoding), _asked(signature))


def classify(document: Any, signature: Signature | Mapping[str, Signature] = CLASSIFY) -> np.ndarray:
    """The examples of a classify request."""
    request, wants = rest_codec.decode_classify(_body(document), _asked(signature))
    (vector,) = request.inputs.values()
    assert wants.examples == len(vector)
    return vector


def _body(document: Any, encoding: bytes | None = None) -> rest_codec.Body:
    return rest_codec.Body(document if isinstance(document, bytes) else json.dumps(document).encode(), encoding, LIMIT)


def _asked(signature: Signature | Mapping[str, Signature]) -> rest_codec.Asked:
    found = {DEFAULT_SIGNATURE: signature} if isinstance(signature, Signature) else signature
    return rest_codec.Asked("m", 3, found)


def features(example: bytes) -> dict[str, list[Any]]:
    """What a serialized example holds, by feature."""
    found = {}
    for name, feature in m.tf.Example.FromString(example).features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


# Tensors of any type and shape


def strings(values: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


@st.composite
def arrays(draw: st.DrawFn, dtype: DType, text_only: bool = False) -> np.ndarray:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size = int(np.prod(shape))
    if dtype is dtypes.BYTES:
        element = st.text(max_size=5).map(str.encode) if text_only else st.binary(max_size=5)
        return strings(draw(st.lists(element, min_size=size, max_size=size)), shape)
    raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    if dtype is dtypes.BOOL:
        return (np.frombuffer(raw, np.uint8) & 1).astype(np.bool_).reshape(shape)
    array = np.frombuffer(raw, dtype.numpy).reshape(shape).copy()
    if dtype.is_float:
        array[np.isnan(array)] = np.nan  # Python's numbers do not keep the other bits of one
    return array
