"""Models that no trainer here made: each becomes a version with its golden sample and manifest, in one call.

    publish_keras("mine", model, x_test)
    publish_torch("mine", module, x_test)
    publish_sklearn("mine", estimator, x_test)
    publish_onnx("mine", "model.onnx", x_test)

Nothing is published before ONNX Runtime has given the same answers as the framework. A framework is imported by the
function that needs it.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from serving.core.artifact import Golden, publish
from serving.core.dtypes import BY_ONNX, BYTES
from serving.core.types import Tensors
from trainers.contract import Trained, TrainingError
from trainers.publishing.check import Loaded, check, check_numbers, check_sample, describe, one_line
from trainers.quiet import quiet_import

TORCH_OPSET = 18  # the oldest that PyTorch's exporter writes
SKLEARN_OPSET = {"": 17, "ai.onnx.ml": 3}
KEPT_ROWS = 32  # of a sample that has more
CLOSE = 1e-4  # what an answer may differ by, if nothing is said

Sample = np.ndarray | Mapping[str, np.ndarray]


class About(TypedDict, total=False):
    """What may be said of a version, beside the model.

    Attributes:
        repo: the model repository; `model_repo` if nothing is said.
        metric: what was measured on held-out data.
        data: one line on what it was trained with.
        seed: of its training.
        atol, rtol: the exported model's answers may differ by `atol + rtol * |answer|`; 1e-4 each.
    """

    repo: Path | str
    metric: Mapping[str, float]
    data: str
    seed: int
    atol: float
    rtol: float


def publish_keras(
    name: str, model: Any, sample: Sample, *, outputs: tuple[str, ...] = ("y",), **about: Unpack[About]
) -> tuple[Path, Path]:
    """Publishes a Keras model twice: `<name>` is ONNX, `<name>_tf` a SavedModel. Keras has to run on TensorFlow.

    Args:
        sample: at least 3 rows for each input: one array where there is one, which clients will know as `x`, or arrays
            by the names that clients are to use, in the order of the model's inputs.
        outputs: names for the outputs, in their order.

    Raises:
        TrainingError: one line on why it cannot be published; nothing is.
        OSError: the repository cannot be written.
    """
    with quiet_import():
        import keras

        if keras.backend.backend() != "tensorflow":
            raise TrainingError("publish_keras needs Keras on TensorFlow: set KERAS_BACKEND=tensorflow")
        from trainers.publishing.export import export

    rows = _rows(sample)
    model = _with_inputs(model, rows)
    trained = Trained(
        model=model,
        outputs=outputs,
        sample={tensor.name: rows[tensor.name].astype(tensor.dtype) for tensor in model.inputs},
        metric=dict(about.get("metric", {})),
        data=about.get("data", ""),
        atol=about.get("atol", CLOSE),
        rtol=about.get("rtol", CLOSE),
    )
    return export(name, trained, repo=Path(about.get("repo", "model_repo")), seed=about.get("seed"))


def _with_inputs(model: Any, rows: Tensors) -> Any:
    """The model, or around it one whose inputs have the names of the rows, and where it has no inputs yet their shapes.

    Raises:
        TrainingError: it does not take the rows.
    """
    import keras

    own = {tensor.name: tensor for tensor in getattr(model, "inputs", None) or []}
    if own and len(own) != len(rows):
        raise TrainingError(f"the sample has {len(rows)} inputs, the model {len(own)}")
    inputs = own if own.keys() == rows.keys() else dict(zip(rows, own.values() or rows.values(), strict=True))
    for key, tensor in inputs.items():
        takes, given = list(tensor.shape[1:]), list(rows[key].shape[1:])
        if len(takes) != len(given) or any(length not in (None, got) for length, got in zip(takes, given, strict=True)):
            raise TrainingError(f"a row of '{key}' has the shape {given}, the model takes {takes}")
    if inputs is own:
        return model
    named = [keras.Input(t.shape[1:], dtype=str(t.dtype), name=key) for key, t in inputs.items()]
    try:
        return keras.Model(named, model(named[0] if len(named) == 1 else named))
    except Exception as error:
        raise TrainingError(f"the model does not take its sample: {one_line(error)}") from error


def publish_torch(
    name: str, module: Any, sample: Sample, *, outputs: tuple[str, ...] = ("y",), **about: Unpack[About]
) -> Path:
    """Publishes a PyTorch module, as it is in evaluation, in the form of ONNX. Axis 0 of each input becomes the batch.

    Args:
        sample: at least 3 rows for each input, of the type that the module takes: one array where there is one, which
            clients will know as `x`, or arrays by the names that clients are to use, in the order of `forward`.
        outputs: names for the tensors that `forward` returns, in their order.

    Raises:
        TrainingError: one line on why it cannot be published; nothing is.
        OSError: the repository cannot be written.
    """
    import torch

    rows = _rows(sample)
    check_sample(name, rows)
    module = copy.deepcopy(module).cpu().eval()  # the caller's stays where it is, and in training
    tensors = tuple(torch.from_numpy(array.copy()) for array in rows.values())
    try:
        with torch.no_grad():
            found = module(*tensors)
        found = list(found) if isinstance(found, (tuple, list)) else [found]
        arrays = [tensor.numpy() for tensor in found]
    except Exception as error:
        raise TrainingError(f"the module does not take its sample: {one_line(error)}") from error
    if len(arrays) != len(outputs):
        raise TrainingError(f"names for {len(outputs)} outputs of a module that has {len(arrays)}")
    try:
        with _quiet():
            model = torch.onnx.export(
                module,
                tensors,
                dynamo=True,
                input_names=list(rows),
                output_names=list(outputs),
                dynamic_shapes=tuple({0: "batch"} for _ in rows),
                opset_version=TORCH_OPSET,
                verbose=False,
            ).model_proto
        for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
            del node.metadata_props[:]  # where in which source file it comes from
        onnx_model = model.SerializeToString()
    except Exception as error:
        raise TrainingError(f"'{name}' cannot be converted to ONNX: {one_line(error)}") from error
    golden = Golden(rows, dict(zip(outputs, arrays, strict=True)))
    return _publish(name, onnx_model, golden, "PyTorch module", ("torch", "onnxscript"), about)


def publish_sklearn(name: str, estimator: Any, sample: np.ndarray, **about: Unpack[About]) -> Path:
    """Publishes a fitted scikit-learn classifier or regressor, or a pipeline that ends with one, in the form of ONNX.

    Clients send `x` float32 [batch, features]. A classifier answers with `label` [batch], numbers or text, and with
    `probabilities` float32 [batch, classes] where it has `predict_proba`; a regressor with `prediction` float32
    [batch, values].

    Args:
        sample: [rows, features], at least 3 rows.

    Raises:
        TrainingError: one line on why it cannot be published; nothing is.
        OSError: the repository cannot be written.
    """
    from sklearn.base import is_classifier, is_regressor

    if not (is_classifier(estimator) or is_regressor(estimator)):
        raise TrainingError(f"{type(estimator).__name__} is neither a classifier nor a regressor")
    rows = {"x": np.asarray(sample, np.float32)[:KEPT_ROWS]}
    if rows["x"].ndim != 2:
        raise TrainingError(f"the sample has the shape {list(rows['x'].shape)}, expected [rows, features]")
    check_sample(name, rows)
    x = rows["x"].astype(np.float64)  # the same numbers, in the precision that scikit-learn computes with
    try:
        if is_regressor(estimator):
            outputs = {"prediction": np.asarray(estimator.predict(x), np.float32).reshape(len(x), -1)}
        else:
            outputs = {"label": _labels(estimator.predict(x))}
            if hasattr(estimator, "predict_proba"):
                outputs["probabilities"] = np.asarray(estimator.predict_proba(x), np.float32)
    except Exception as error:  # not fitted, for instance
        raise TrainingError(f"the estimator does not take its sample: {one_line(error)}") from error
    onnx_model = _of_sklearn(name, estimator, rows["x"].shape[1:], list(outputs))
    return _publish(name, onnx_model, Golden(rows, outputs), "estimator", ("scikit-learn", "skl2onnx"), about)


def _labels(found: np.ndarray) -> np.ndarray:
    return found.astype(np.int64) if found.dtype.kind in "biuf" else _bytes(found)


def _of_sklearn(name: str, estimator: Any, features: tuple[int, ...], outputs: list[str]) -> bytes:
    try:
        model = _converted(name, estimator, features)
    except ModuleNotFoundError as error:
        raise TrainingError(f"{error.name} is not installed: pip install '.[cpu,sklearn]'") from None
    except Exception as error:
        raise TrainingError(f"'{name}' cannot be converted to ONNX: {one_line(error)}") from error
    for tensor in [tensor for tensor in model.graph.output if tensor.name not in outputs]:
        model.graph.output.remove(tensor)
    return bytes(model.SerializeToString())


def _converted(name: str, estimator: Any, features: tuple[int, ...]) -> Any:
    """A ModelProto that answers with `label` and `probabilities`, whatever these are, or with `prediction`."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier

    common: dict[str, Any] = {
        "initial_types": [("x", FloatTensorType([None, *features]))],
        "target_opset": SKLEARN_OPSET,
    }
    with _quiet():
        if not is_classifier(estimator):
            return convert_sklearn(estimator, name, final_types=[("prediction", None)], **common)
        common["final_types"] = [("label", None), ("probabilities", None)]
        try:  # a tensor, not a dictionary for each row
            return convert_sklearn(estimator, name, options={id(estimator): {"zipmap": False}}, **common)
        except NameError:  # some classifiers know no dictionaries, and not the option either
            return convert_sklearn(estimator, name, **common)


def publish_onnx(
    name: str,
    model: bytes | Path | str,
    sample: Sample,
    *,
    answers: Mapping[str, np.ndarray] | None = None,
    **about: Unpack[About],
) -> Path:
    """Publishes a finished ONNX model.

    Args:
        model: the file, or what is in it.
        sample: at least 3 rows for each input: one array where there is one, or arrays by the names of the inputs.
        answers: what the model should give for the sample's rows, by the names of its outputs. None: what ONNX Runtime
            gives, so that at least another machine or runtime has to give the same.

    Raises:
        TrainingError: one line on why it cannot be published; nothing is.
        OSError: the file cannot be read or the repository cannot be written.
    """
    onnx_model = model if isinstance(model, bytes) else _read(Path(model))
    loaded = Loaded(onnx_model)
    if not isinstance(sample, Mapping) and len(loaded.inputs) > 1:
        raise TrainingError(f"the model has {len(loaded.inputs)} inputs: {', '.join(loaded.inputs)}")
    rows = _rows(sample, *loaded.inputs)
    check_sample(name, rows)
    for key, tensor in loaded.inputs.items():
        if tensor.shape and isinstance(tensor.shape[0], int):
            raise TrainingError(
                f"input '{key}' takes {tensor.shape[0]} rows, no more or less: export it with an open axis 0"
            )
        if key in rows and tensor.type in BY_ONNX:
            rows[key] = rows[key].astype(BY_ONNX[tensor.type].numpy)
    if answers is None:
        outputs, source = loaded.answers(rows, loaded.outputs), "same model with more rows"
    else:
        outputs, source = _rows(answers), "model that it was made from"
    return _publish(name, onnx_model, Golden(rows, outputs), source, (), about)


def _read(path: Path) -> bytes:
    """One file's worth of a model, also where its weights are in files beside it. Raises TrainingError, OSError."""
    import onnx

    try:
        return bytes(onnx.load(path).SerializeToString())
    except OSError:
        raise
    except Exception as error:
        raise TrainingError(f"{path}: not an ONNX model: {one_line(error)}") from error


def _rows(sample: Sample, name: str = "x", *_: str) -> Tensors:
    """Arrays of the first rows by the name of their input; text as BYTES."""
    named = sample if isinstance(sample, Mapping) else {name: sample}
    arrays = {key: np.asarray(array)[:KEPT_ROWS] for key, array in named.items()}
    return {key: _bytes(array) if array.dtype.kind in "USO" else array for key, array in arrays.items()}


def _bytes(array: np.ndarray) -> np.ndarray:
    elements = [element if isinstance(element, bytes) else str(element).encode() for element in array.flat]
    filled = np.empty(array.size, BYTES.numpy)
    filled[:] = elements
    return filled.reshape(array.shape)


def _publish(
    name: str, onnx_model: bytes, golden: Golden, source: str, libraries: tuple[str, ...], about: About
) -> Path:
    atol, rtol = about.get("atol", CLOSE), about.get("rtol", CLOSE)
    check_numbers(golden)
    check(onnx_model, golden, atol=atol, rtol=rtol, source=source)
    return publish(
        Path(about.get("repo", "model_repo")),
        name,
        lambda directory: (directory / "model.onnx").write_bytes(onnx_model),
        golden=golden,
        signature=describe(onnx_model, golden),
        metric=dict(about["metric"]) if "metric" in about else None,
        seed=about.get("seed"),
        libraries={library: version(library) for library in ("numpy", "onnx", "onnxruntime", *libraries)},
        atol=atol,
        rtol=rtol,
        training={"data": about["data"]} if "data" in about else None,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what converters say about themselves; what goes wrong is in their exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
