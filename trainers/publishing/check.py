"""ONNX models held against what they were made from, and described for the manifest.

Knows ONNX and its runtime, and no framework that models are trained with.
"""

from typing import Any

import numpy as np
import onnx
import onnxruntime

from serving.core.artifact import Golden
from serving.core.compare import difference
from serving.core.dtypes import BY_NUMPY, BYTES
from serving.core.types import Tensors
from trainers.contract import TrainingError

SAMPLE_ROWS = 3

_decoded = np.vectorize(bytes.decode, otypes=[object])  # ONNX Runtime's strings are text
_encoded = np.vectorize(str.encode, otypes=[object])


def check_sample(name: str, sample: Tensors) -> None:
    """Raises TrainingError unless every input has the same number of rows, and enough of them."""
    rows = {array.shape[0] if array.ndim else 0 for array in sample.values()}
    if len(rows) > 1:
        raise TrainingError(f"'{name}' has a sample with {sorted(rows)} rows, expected the same for every input")
    if (count := min(rows, default=0)) < SAMPLE_ROWS:
        raise TrainingError(f"'{name}' has a sample of {count} rows, expected at least {SAMPLE_ROWS}")


def check_numbers(golden: Golden) -> None:
    """Raises TrainingError where an output is NaN or infinite."""
    for name, array in golden.outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise TrainingError(f"the model gives no numbers: output '{name}' has NaN or infinity")


def check(onnx_model: bytes, golden: Golden, *, atol: float, rtol: float, source: str = "Keras model") -> None:
    """Raises TrainingError unless ONNX Runtime gives the golden outputs, all rows together and one alone.

    Args:
        source: what gave the golden outputs, for the message.
    """
    model = Loaded(onnx_model)
    for rows in (slice(None), slice(1)):
        got = model.answers({name: array[rows] for name, array in golden.inputs.items()}, list(golden.outputs))
        expected = {name: array[rows] for name, array in golden.outputs.items()}
        if problem := difference(got, expected, atol=atol, rtol=rtol):
            raise TrainingError(f"the ONNX model does not answer as the {source} does: {problem}")


class Loaded:
    """An ONNX model in ONNX Runtime, on the CPU. Raises TrainingError where it cannot be loaded."""

    def __init__(self, onnx_model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is in the exception
        try:
            self._session = onnxruntime.InferenceSession(onnx_model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # those of ONNX Runtime have no class of their own in common
            raise TrainingError(f"ONNX Runtime cannot load the model: {one_line(error)}") from error
        self.inputs: dict[str, Any] = {tensor.name: tensor for tensor in self._session.get_inputs()}
        self.outputs: list[str] = [tensor.name for tensor in self._session.get_outputs()]

    def answers(self, inputs: Tensors, outputs: list[str]) -> Tensors:
        """What it gives for these inputs. Raises TrainingError where it cannot run."""
        feed = {name: _decoded(array) if array.dtype == BYTES.numpy else array for name, array in inputs.items()}
        try:
            found = self._session.run(outputs, feed)
        except Exception as error:
            rows = " and ".join(sorted({str(len(array)) for array in inputs.values()}))
            raise TrainingError(f"ONNX Runtime cannot run the model with {rows} rows: {one_line(error)}") from error
        return {
            name: _encoded(array) if array.dtype == BYTES.numpy else array
            for name, array in zip(outputs, found, strict=True)
        }


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, or its kind where it says nothing: of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def describe(onnx_model: bytes, golden: Golden) -> dict[str, Any]:
    """Names, Open Inference Protocol datatypes and shapes (-1: open) of inputs and outputs."""
    graph = onnx.load_from_string(onnx_model).graph
    return {
        side: [
            {"name": name, "datatype": BY_NUMPY[array.dtype].name, "shape": _shape(tensors, name, array.ndim)}
            for name, array in arrays.items()
        ]
        for side, arrays, tensors in (
            ("inputs", golden.inputs, graph.input),
            ("outputs", golden.outputs, graph.output),
        )
    }


def _shape(tensors: Any, name: str, rank: int) -> list[int]:
    """As the graph has it, with axis 0 open; all of it is open where the graph says nothing of it."""
    shapes = {tensor.name: tensor.type.tensor_type.shape.dim for tensor in tensors}
    lengths = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in shapes[name]] or [-1] * rank
    return [-1, *lengths[1:]]
