"""The signatures of a model as TensorFlow Serving sees them: found by name, checked for a method, and described.

An ONNX model has one, `serving_default`, for predict. Pure.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.core import dtypes
from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.types import InferRequest, Signature, SignatureMethod, TensorSpec
from serving.protocols import messages as m
from serving.protocols.tfs import tensor_proto
from serving.repository.version import Version

SCORES, CLASSES, VALUES = "scores", "classes", "outputs"

_KINDS = {SignatureMethod.CLASSIFY: "classification", SignatureMethod.REGRESS: "regression"}


def of(version: Version) -> dict[str, Signature]:
    """By name."""
    return {name: contract.signature for name, contract in version.contracts.items()}


def examples_request(
    model: str,
    version: int | None,
    signatures: Mapping[str, Signature],
    name: str,
    method: SignatureMethod,
    examples: np.ndarray,
) -> InferRequest:
    """What classify or regress asks of a model: serialized examples in, the outputs that make its answer.

    Raises:
        ServingError: INVALID or PRECONDITION: there is no signature of that name, or it is not for this method.
    """
    signature = signatures.get(name)
    if signature is None:
        raise invalid(f"No signature was found with the name: {name}")
    if signature.method is not method:
        raise invalid(
            f"Expected {_KINDS[method]} signature method_name to be {method.value}. Was: {signature.method.value}"
        )
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    (spec,) = signature.inputs.values()
    if spec.dtype is not dtypes.BYTES:
        raise invalid(
            f"Expects arg[0] to be {tensor_proto.type_name(spec.dtype)} but string is provided: "
            f"signature '{name}' takes tensors, not examples; ask it with predict"
        )
    outputs = _result_outputs(signature, method)
    return InferRequest(model, {spec.name: examples}, version, outputs, signature=name, allow_empty=True)


def _result_outputs(signature: Signature, method: SignatureMethod) -> tuple[str, ...]:
    names = tuple(signature.outputs)
    found = f"Signature was: outputs {{{','.join(sorted(names))}}}"
    if method is SignatureMethod.REGRESS:
        if len(names) != 1:
            raise invalid("Expected one output Tensor.")
        if names != (VALUES,):
            raise ServingError(ErrorKind.PRECONDITION, f"No regression outputs found in SignatureDef. {found}")
        return names
    if len(names) > 2:
        raise invalid(f"Expected one or two output Tensors, found {len(names)}")
    known = tuple(name for name in names if name in (CLASSES, SCORES))
    if not known:
        raise ServingError(
            ErrorKind.PRECONDITION,
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". {found}',
        )
    return known


def describe(signatures: Mapping[str, Signature]) -> Any:
    """A SignatureDefMap."""
    described = m.tfs.SignatureDefMap()
    for name, signature in signatures.items():
        definition = described.signature_def[name]
        definition.method_name = signature.method.value
        for where, specs in ((definition.inputs, signature.inputs), (definition.outputs, signature.outputs)):
            for alias, spec in specs.items():
                where[alias].CopyFrom(_tensor_info(spec))
        for alias, spec in signature.inputs.items():
            if spec.default is not None:
                definition.defaults[alias].CopyFrom(tensor_proto.message(np.asarray(spec.default), spec.dtype))
    return described


def _tensor_info(spec: TensorSpec) -> Any:
    shape = m.tf.TensorShapeProto(unknown_rank=spec.shape is None)
    for size in spec.shape or ():
        shape.dim.add(size=size)
    return m.tf.TensorInfo(name=spec.graph_name or spec.name, dtype=spec.dtype.tensorflow, tensor_shape=shape)
