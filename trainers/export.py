"""The one way from a trained Keras model to published versions: `<name>` is ONNX, `<name>_tf` a SavedModel.

Both are made from the same function with the same tensor names, and nothing is published before ONNX Runtime
has given the same answers as Keras.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx

from serving.core.artifact import Golden, publish
from serving.core.compare import difference
from serving.core.dtypes import BY_NUMPY
from serving.core.types import Tensors
from trainers.contract import Trained

OPSET = 17  # fixed, so that retraining after an upgrade of the converter does not ask for a newer runtime
BATCH = "batch"
SAMPLE_ROWS = 3


def export(name: str, trained: Trained, *, repo: Path, seed: int) -> tuple[Path, Path]:
    """Publishes `<name>` and `<name>_tf` in `repo` and returns their version directories.

    Raises:
        ValueError: too few rows in the sample, or ONNX answers differ from Keras; nothing is published.
        OSError: the repository cannot be written.
    """
    rows = min(len(array) for array in trained.sample.values())
    if rows < SAMPLE_ROWS:
        raise ValueError(f"'{name}' has a sample of {rows} rows, expected at least {SAMPLE_ROWS}")
    function = as_function(trained)
    tf.config.experimental.enable_tensor_float_32_execution(False)  # a GPU's short cut, coarser than `atol`
    answers = function(*(trained.sample[spec.name] for spec in function.input_signature))
    golden = Golden(trained.sample, {output: answers[output].numpy() for output in trained.outputs})
    onnx_model = to_onnx(name, function)
    check(onnx_model, golden, atol=trained.atol, rtol=trained.rtol)

    about: dict[str, Any] = {
        "golden": golden,
        "signature": describe(function),
        "metric": trained.metric,
        "seed": seed,
        "atol": trained.atol,
        "rtol": trained.rtol,
    }
    common = {"keras": keras.__version__, "numpy": np.__version__, "tensorflow": tf.__version__}
    converter = {"onnx": onnx.__version__, "tf2onnx": tf2onnx.__version__}
    return (
        publish(
            repo,
            name,
            lambda directory: (directory / "model.onnx").write_bytes(onnx_model),
            libraries=common | converter | trained.libraries,
            **about,
        ),
        publish(
            repo,
            f"{name}_tf",
            lambda directory: save(trained.model, function, directory),
            libraries=common | trained.libraries,
            **about,
        ),
    )


def as_function(trained: Trained) -> Any:
    """The model as a tf.function from its named inputs to its named outputs, with an open axis 0."""
    model = trained.model

    def predict(*inputs: Any) -> dict[str, Any]:
        outputs = model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
        return dict(zip(trained.outputs, tf.nest.flatten(outputs), strict=True))

    specs = [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, tensor.name) for tensor in model.inputs]
    return tf.function(predict, input_signature=specs)


def to_onnx(name: str, function: Any) -> bytes:
    model, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)
    model.graph.name = name
    model.graph.doc_string = ""
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = BATCH  # the converter invents another name for each
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def check(onnx_model: bytes, golden: Golden, *, atol: float, rtol: float) -> None:
    """Raises ValueError unless ONNX Runtime gives the golden outputs, all rows together and one alone."""
    session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
    names = list(golden.outputs)
    for rows in (slice(None), slice(1)):
        inputs = {name: array[rows] for name, array in golden.inputs.items()}
        got: Tensors = dict(zip(names, session.run(names, inputs), strict=True))
        expected = {name: array[rows] for name, array in golden.outputs.items()}
        if problem := difference(got, expected, atol=atol, rtol=rtol):
            raise ValueError(f"the ONNX model does not answer as the Keras model does: {problem}")


def save(model: Any, function: Any, directory: Path) -> None:
    holder = tf.Module()  # a SavedModel keeps the variables that it finds here: the model's, not the optimizer's
    holder.weights = [variable.value for variable in model.variables]
    tf.saved_model.save(holder, str(directory), signatures=function)


def describe(function: Any) -> dict[str, Any]:
    """Names, Open Inference Protocol datatypes and shapes (-1: open) of inputs and outputs."""
    concrete = function.get_concrete_function()
    inputs = {spec.name: spec for spec in function.input_signature}
    return {
        side: [
            {
                "name": name,
                "datatype": BY_NUMPY[np.dtype(tensor.dtype.as_numpy_dtype)].name,
                "shape": [-1 if length is None else length for length in tensor.shape],
            }
            for name, tensor in tensors.items()
        ]
        for side, tensors in (("inputs", inputs), ("outputs", concrete.structured_outputs))
    }
