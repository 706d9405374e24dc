"""Converts the signatures of a SavedModel to ONNX, in a process of its own.

Conversion holds the GIL for long, takes much memory and may crash, so none of it happens in the server: `convert`
starts `python -m serving.backends.convert`, which imports TensorFlow and tf2onnx and can be ended. Along with each ONNX
file come inputs and the answers that TensorFlow gives to them.
"""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serving.core import dtypes, processes
from serving.core.artifact import read_golden
from serving.core.errors import LoadError
from serving.core.generate import random_inputs
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, SignatureMethod, Tensors

OPSET = 17  # what every supported ONNX Runtime reads
time_limit_s = 900.0  # of one conversion; a process that has less time itself sets it lower
_ROWS = (1, 5)  # a form that is made for one row must not pass, nor one that takes all rows for one
_OPEN_SIZES = (4, 7, 1, 16, 32, 224)  # to try for the other open axes
_SIZES_WANTED = 2  # of those that the model takes
_REPORT = "report.pickle"
_LOADED = "loaded"
_FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """Inputs by name and TensorFlow's answer to them."""

    inputs: Tensors
    outputs: Tensors


@dataclass
class Conversion:
    """One signature. `file` is in the report's directory, its tensors are named by place: `input_0`, `output_0`."""

    signature: Signature
    file: str = ""
    trials: list[Trial] = field(default_factory=list)
    problem: str = ""  # why there is no file


@dataclass(frozen=True)
class Report:
    conversions: Mapping[str, Conversion]  # by signature
    notes: Mapping[str, str]  # of the TensorFlow session
    load_error: str = ""  # what TensorFlow cannot serve, nobody can


class ConversionError(Exception):
    """The process did not do its work; the message says how it ended."""


def convert(artifact: Path, spec: ModelSpec, directory: Path, limit_s: float | None = None) -> Report:
    """Converts every signature for which there is an ONNX form. The files are put into `directory`. Blocks for long.

    Args:
        directory: if it holds the outcome of an earlier call for the same version, that is the outcome.
        limit_s: how long it may take; None: `time_limit_s`.

    Raises:
        ConversionError: it crashed or took too long, after TensorFlow had loaded the model.
        LoadError: before that, so that loading it here would do the same to the server.
    """
    done, failed = directory / _REPORT, directory / _FAILED
    if failed.exists():
        raise ConversionError(failed.read_text())
    if not done.exists():
        ended, by_the_system = _convert(artifact, spec, directory, time_limit_s if limit_s is None else limit_s)
        if ended and not (directory / _LOADED).exists():
            raise LoadError(
                f"TensorFlow, in a process of its own, {ended} while it loaded the model", retry=by_the_system
            )
        if ended:
            failed.write_text(f"the conversion to ONNX {ended}")
            raise ConversionError(failed.read_text())
    report = pickle.loads(done.read_bytes())
    assert isinstance(report, Report)
    return report


def _convert(artifact: Path, spec: ModelSpec, directory: Path, limit_s: float) -> tuple[str, bool]:
    """How it ended, empty if well; and whether the system ended it, as it does when memory runs out."""
    command = [sys.executable, "-m", "serving.backends.convert", str(artifact), spec.model_dump_json(), str(directory)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    (directory / _LOADED).unlink(missing_ok=True)
    said = directory / "stderr"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr, env=environment
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"took more than {limit_s:g} s", False
        finally:
            process.kill()
            process.communicate()
    if code == 0:
        return "", False
    return processes.how_it_ended(code, said.read_text(errors="replace")), code == -signal.SIGKILL


# From here on: in the process that converts.


def main(artifact: Path, spec: ModelSpec, directory: Path) -> None:
    processes.give_way()
    processes.be_the_first_to_go()
    processes.end_with_parent()
    threading.Thread(target=_end_with_server, args=(directory,), daemon=True).start()
    unfinished = directory / f".{_REPORT}"
    unfinished.write_bytes(pickle.dumps(report(artifact, spec, directory)))
    unfinished.rename(directory / _REPORT)


def _end_with_server(directory: Path) -> None:
    os.read(0, 1)  # nothing is ever sent, so this is the end of the pipe
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(1)


def report(artifact: Path, spec: ModelSpec, directory: Path) -> Report:
    """Does what `convert` promises, in this process."""
    try:
        from serving.backends import tensorflow as backend

        session = backend.load(artifact, spec)
        golden = read_golden(artifact.parent if artifact.name == "model.savedmodel" else artifact)
    except (LoadError, ValueError) as error:
        return Report({}, {}, str(error))
    (directory / _LOADED).touch()
    default = default_signature(session.signatures)
    functions = _Functions(artifact, spec)
    conversions: dict[str, Conversion] = {}
    for number, (name, signature) in enumerate(session.signatures.items()):
        conversion = conversions[name] = Conversion(signature, problem=why_not(signature))
        if conversion.problem:
            continue

        def run(inputs: Tensors, name: str = name, outputs: tuple[str, ...] = tuple(signature.outputs)) -> Tensors:
            return session.run(inputs, outputs, name)

        conversion.trials = trials(run, signature, golden.inputs if golden and name == default else None)
        if not conversion.trials:
            conversion.problem = "TensorFlow takes none of the inputs that were generated to compare answers"
            continue
        try:
            model = functions.to_onnx(name, signature)
        except Exception as error:  # whatever TensorFlow, tf2onnx or protobuf raise
            conversion.problem = f"it cannot be converted: {_first_line(error)}"
            continue
        conversion.file = f"{number}.onnx"
        (directory / conversion.file).write_bytes(model)
    return Report(conversions, session.notes)


def default_signature(signatures: Mapping[str, Signature]) -> str:
    return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures))


def why_not(signature: Signature) -> str:
    """What keeps a signature from being converted at all; empty if nothing is known."""
    if signature.method is not SignatureMethod.PREDICT:
        return f"it is for {signature.method.name.lower()}"
    for spec in (*signature.inputs.values(), *signature.outputs.values()):
        if spec.dtype is dtypes.BYTES:
            return f"'{spec.name}' is BYTES, and ONNX strings hold nothing but UTF-8"
    for spec in signature.inputs.values():
        if spec.shape is None:
            return f"the number of dimensions of input '{spec.name}' is open"
    return ""


def trials(run: Callable[[Tensors], Tensors], signature: Signature, golden: Tensors | None) -> list[Trial]:
    """TensorFlow's answers to the golden sample, its first row, and generated inputs of several sizes.

    Empty if it takes nothing, or if it is not known to take several rows although axis 0 is open.
    """
    done: list[Trial] = []
    if golden is not None:
        done += _tried(run, golden)
        done += _tried(run, {name: array[:1] for name, array in golden.items()})
    specs = [spec for spec in signature.inputs.values() if not spec.optional]
    sizes = 0
    for size in _OPEN_SIZES if any(-1 in spec.row_shape for spec in specs) else (1,):
        answers = [
            trial
            for rows in _ROWS
            for trial in _tried(run, random_inputs(signature, rows, np.random.default_rng(rows), size))
        ]
        done += answers
        sizes += len(answers) == len(_ROWS)
        if sizes == _SIZES_WANTED:
            break
    return done if sizes or golden is not None else []


def _tried(run: Callable[[Tensors], Tensors], inputs: Tensors) -> list[Trial]:
    try:
        return [Trial(inputs, run(inputs))]
    except Exception:  # whatever TensorFlow raises: other inputs may do
        return []


class _Functions:
    """The signatures as TensorFlow 2 functions, which is what tf2onnx converts best. Loaded when first needed."""

    def __init__(self, artifact: Path, spec: ModelSpec) -> None:
        self._artifact, self._tags = artifact, list(spec.tags)
        self._loaded: Any = None

    def to_onnx(self, name: str, signature: Signature) -> bytes:
        import tensorflow as tf
        import tf2onnx

        if self._loaded is None:
            self._loaded = tf.saved_model.load(str(self._artifact), tags=self._tags)
        function = self._loaded.signatures[name]

        def call(*inputs: Any) -> dict[str, Any]:
            outputs = function(**dict(zip(signature.inputs, inputs, strict=True)))
            return {f"output_{i}": outputs[output] for i, output in enumerate(signature.outputs)}

        specs = [
            tf.TensorSpec(_open(spec.shape), spec.dtype.tensorflow.removeprefix("DT_").lower(), f"input_{i}")
            for i, spec in enumerate(signature.inputs.values())
        ]
        model, _ = tf2onnx.convert.from_function(
            tf.function(call, input_signature=specs), input_signature=specs, opset=OPSET
        )
        return bytes(model.SerializeToString())


def _open(shape: tuple[int, ...] | None) -> list[int | None] | None:
    return None if shape is None else [None if length == -1 else length for length in shape]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


if __name__ == "__main__":
    from serving.backends import convert as this  # or the report's classes would be __main__'s

    this.main(Path(sys.argv[1]), ModelSpec.model_validate_json(sys.argv[2]), Path(sys.argv[3]))
