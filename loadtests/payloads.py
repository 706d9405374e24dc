"""Valid random requests for any model, made from its metadata, and what every answer to them must look like.

Pure. Takes metadata as OIP's `GET /v2/models/<name>` gives it; knows no transport.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtests import oip
from loadtests.oip import AnswerError
from serving.core import dtypes
from serving.core.generate import random_inputs
from serving.core.types import Signature, Tensors, TensorSpec


@dataclass(frozen=True)
class Payloads:
    """Requests for one model in all three forms, the same tensors in each; `rows` where axis 0 is open."""

    model: str
    signature: Signature
    rows: int
    tensors: tuple[Tensors, ...]
    json: tuple[bytes, ...]  # empty when an input or output has no JSON form
    binary: tuple[tuple[bytes, int], ...]  # body and length of its JSON
    grpc: tuple[bytes, ...]

    @classmethod
    def of(cls, metadata: Mapping[str, Any], rows: int, count: int = 16, seed: int = 0) -> "Payloads":
        """`count` random requests of `rows` rows. ValueError for metadata that names no known datatype."""
        signature = parse_signature(metadata)
        rng = np.random.default_rng(seed)
        tensors = tuple(random_inputs(signature, rows, rng) for _ in range(count))
        specs = [*signature.inputs.values(), *signature.outputs.values()]
        speaks_json = not any(spec.dtype in oip.BINARY_ONLY for spec in specs)
        return cls(
            metadata["name"],
            signature,
            rows,
            tensors,
            tuple(map(oip.encode_json, tensors)) if speaks_json else (),
            tuple(map(oip.encode_binary, tensors)),
            tuple(oip.encode_grpc(metadata["name"], inputs) for inputs in tensors),
        )

    def check(self, outputs: Tensors) -> None:
        """AnswerError unless `outputs` are the model's, with its datatypes and shapes and a row for each row sent.

        An open axis 0 of an output is taken for the batch if all inputs have one: metadata tells no more.
        """
        if outputs.keys() != self.signature.outputs.keys():
            raise AnswerError(f"outputs {sorted(outputs)}, not {sorted(self.signature.outputs)}")
        batched = all(map(_has_rows, self.signature.inputs.values()))
        for name, spec in self.signature.outputs.items():
            array = outputs[name]
            if array.dtype != spec.dtype.numpy:
                raise AnswerError(f"output '{name}' is {dtypes.BY_NUMPY[array.dtype]}, not {spec.dtype}")
            if not spec.accepts(array.shape):
                raise AnswerError(f"output '{name}' has shape {list(array.shape)}, not {list(spec.shape or ())}")
            if batched and _has_rows(spec) and array.shape[0] != self.rows:
                raise AnswerError(f"output '{name}' has {array.shape[0]} rows for {self.rows}")


def _has_rows(spec: TensorSpec) -> bool:
    return spec.shape is not None and spec.shape[:1] == (-1,)


def parse_signature(metadata: Mapping[str, Any]) -> Signature:
    """Inputs and outputs of OIP model metadata. ValueError for an unknown datatype."""
    return Signature(_specs(metadata["inputs"]), _specs(metadata["outputs"]))


def _specs(tensors: Iterable[Mapping[str, Any]]) -> dict[str, TensorSpec]:
    specs = {}
    for tensor in tensors:
        dtype = dtypes.BY_NAME.get(tensor["datatype"])
        if dtype is None:
            raise ValueError(f"tensor '{tensor['name']}' has the unknown datatype {tensor['datatype']!r}")
        specs[tensor["name"]] = TensorSpec(tensor["name"], dtype, tuple(tensor["shape"]))
    return specs
