"""What is sent, and what is expected of its answer: made from metadata, or read from a file.

Pure, apart from reading the file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.oip import AnswerError
from loadtests.payloads import Payloads
from serving.core import dtypes
from serving.core.artifact import GOLDEN, read_golden
from serving.core.compare import difference
from serving.core.generate import random_inputs
from serving.core.types import Signature, Tensors, TensorSpec

COUNT = 16  # of random samples


@dataclass(frozen=True, eq=False)
class Sample:
    """`expected`: None until it is known."""

    inputs: Tensors
    expected: Tensors | None = None

    @property
    def rows(self) -> int:
        return next((array.shape[0] for array in self.inputs.values() if array.ndim), 0)


def random_samples(signature: Signature, rows: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [Sample(random_inputs(signature, rows, rng)) for _ in range(COUNT)]


def read(file: Path, signature: Signature) -> list[Sample]:
    """Of a .npz: one sample, with arrays by the names of inputs; of a version's golden.npz: its sample, with outputs.
    Of a .json: one request as `/infer` takes it, `{"inputs": [{"name", "shape", "data"}], "outputs": [...]}`, or a list
    of them; what stands in `outputs` with its data is expected.

    Raises:
        ValueError: one line that says what is wrong with the file.
        OSError.
    """
    if file.suffix == ".npz":
        return [_of_npz(file, signature)]
    if file.suffix != ".json":
        raise ValueError(f"{file}: expected a name that ends in .npz or .json")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        requests = value if isinstance(value, list) else [value]
        found = [_of_json(request, signature) for request in requests]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not requests in JSON: {type(error).__name__}: {error}") from error
    if not found:
        raise ValueError(f"{file}: no request in it")
    return found


def _of_npz(file: Path, signature: Signature) -> Sample:
    if file.name == GOLDEN:
        golden = read_golden(file.parent)
        if golden is None:
            raise ValueError(f"{file}: there is no such file")
        return Sample(golden.inputs, golden.outputs)
    with np.load(file, allow_pickle=False) as archive:
        stored = {key: archive[key] for key in archive.files}
    if unknown := stored.keys() - signature.inputs.keys():
        raise ValueError(f"{file}: '{min(unknown)}' is none of the inputs {sorted(signature.inputs)}")
    return Sample({name: array.astype(signature.inputs[name].dtype.numpy) for name, array in stored.items()})


def _of_json(request: Mapping[str, Any], signature: Signature) -> Sample:
    inputs = {entry["name"]: _array(entry, signature.inputs) for entry in request["inputs"]}
    outputs = {
        entry["name"]: _array(entry, signature.outputs) for entry in request.get("outputs", []) if "data" in entry
    }
    return Sample(inputs, outputs or None)


def _array(entry: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> np.ndarray:
    spec = specs.get(entry["name"])
    if spec is None:
        raise ValueError(f"'{entry['name']}' is none of {sorted(specs)}")
    data = entry["data"]
    if spec.dtype is dtypes.BYTES:
        data = [text.encode() for text in np.asarray(data, object).reshape(-1)]
    array = np.array(data, spec.dtype.numpy)
    return array.reshape(entry["shape"]) if "shape" in entry else array


@dataclass(frozen=True)
class Check:
    """What an answer has to be like: see `options.CHECKS`."""

    kind: str
    signature: Signature
    atol: float
    rtol: float

    def answer(self, sample: Sample, outputs: Tensors) -> None:
        """AnswerError for an answer that is not as it should be."""
        Payloads("", self.signature, sample.rows, (), (), (), ()).check(outputs)
        if self.kind == "shape":
            return
        assert sample.expected is not None
        if self.kind == "argmax":
            for name, expected in sample.expected.items():
                if not np.array_equal(_largest(outputs[name]), _largest(expected)):
                    raise AnswerError(f"output '{name}' has its largest elements elsewhere")
        elif differs := difference(outputs, sample.expected, atol=self.atol, rtol=self.rtol):
            raise AnswerError(f"not the answer that is expected: {differs}")


def _largest(array: np.ndarray) -> Any:
    return array.argmax(axis=-1) if array.ndim else array
