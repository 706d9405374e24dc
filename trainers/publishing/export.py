"""The one way from a trained Keras model to published versions: `<name>` is ONNX, `<name>_tf` a SavedModel.

Both are made from the same function with the same tensor names, and nothing is published before ONNX Runtime
has given the same answers as Keras.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from serving.core.artifact import Golden, publish
from trainers.contract import Trained, TrainingError
from trainers.publishing.check import check, check_numbers, check_sample, describe, one_line
from trainers.quiet import reason

OPSET = 17  # fixed, so that retraining after an upgrade of the converter does not ask for a newer runtime
BATCH = "batch"


def export(
    name: str, trained: Trained, *, repo: Path, seed: int | None, settings: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Path, Path]:
    """Publishes `<name>` and `<name>_tf` in `repo` and returns their version directories.

    Args:
        settings: what it was trained with, for the manifest.

    Raises:
        TrainingError: too few rows in the sample, answers that are no numbers, no conversion to ONNX, or one whose
            answers differ from those of Keras; nothing is published.
        OSError: the repository cannot be written.
    """
    check_sample(name, trained.sample)
    function = as_function(trained)
    tf.config.experimental.enable_tensor_float_32_execution(False)  # a GPU's short cut, coarser than `atol`
    answers = function(*(trained.sample[spec.name] for spec in function.input_signature))
    golden = Golden(trained.sample, {output: answers[output].numpy() for output in trained.outputs})
    check_numbers(golden)
    onnx_model = to_onnx(name, function)
    check(onnx_model, golden, atol=trained.atol, rtol=trained.rtol)

    about: dict[str, Any] = {
        "golden": golden,
        "signature": describe(onnx_model, golden),
        "metric": None if trained.generated or not trained.metric else trained.metric,
        "training": {"data": trained.data, "settings": dict(settings)} if trained.data or settings else None,
        "seed": seed,
        "atol": trained.atol,
        "rtol": trained.rtol,
    }

    def onnx_file(directory: Path) -> None:
        write(directory, {"model.onnx": onnx_model, **trained.files})

    def saved_model(directory: Path) -> None:
        save(trained.model, function, directory)
        write(directory, trained.files)

    common = {"keras": keras.__version__, "numpy": np.__version__, "tensorflow": tf.__version__}
    converter = {"onnx": onnx.__version__, "tf2onnx": tf2onnx.__version__}
    return (
        publish(repo, name, onnx_file, libraries={**common, **converter, **trained.libraries}, **about),
        publish(repo, f"{name}_tf", saved_model, libraries={**common, **trained.libraries}, **about),
    )


def as_function(trained: Trained) -> Any:
    """The model as a tf.function from its named inputs to its named outputs, with an open axis 0."""
    model = trained.model
    if len(model.outputs) != len(trained.outputs):
        raise TrainingError(f"names for {len(trained.outputs)} outputs of a model that has {len(model.outputs)}")

    def predict(*inputs: Any) -> dict[str, Any]:
        outputs = model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
        return dict(zip(trained.outputs, tf.nest.flatten(outputs), strict=True))

    specs = [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, tensor.name) for tensor in model.inputs]
    return tf.function(predict, input_signature=specs)


def to_onnx(name: str, function: Any) -> bytes:
    try:
        model, _ = tf2onnx.convert.from_function(function, input_signature=function.input_signature, opset=OPSET)
    except Exception as error:  # the converter and TensorFlow have many
        raise TrainingError(f"'{name}' cannot be converted to ONNX: {one_line(error)}") from error
    model.graph.name = name
    model.graph.doc_string = ""
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = BATCH  # the converter invents another name for each
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).write_bytes(content)


def save(model: Any, function: Any, directory: Path) -> None:
    holder = tf.Module()  # a SavedModel keeps the variables that it finds here: the model's, not the optimizer's
    holder.weights = [variable.value for variable in model.variables]
    try:
        tf.saved_model.save(holder, str(directory), signatures=function)
    except tf.errors.OpError as error:  # a full disk, for instance
        raise TrainingError(f"{directory.parent}: cannot be written: {reason(error)}") from None
