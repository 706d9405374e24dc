"""SavedModels served by ONNX Runtime where that gives TensorFlow's answers: `accelerate: onnx` in model.yaml.

Each signature is converted by `convert` and held against TensorFlow's answers here. Those that agree are served by ONNX
Runtime, the others by TensorFlow, which is not even imported if all agree. What a signature takes and gives, and what
its tensors are called, stays the SavedModel's.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving.backends.base import Session
from serving.backends.convert import Conversion, ConversionError, convert, default_signature
from serving.core.compare import difference, largest_difference
from serving.core.errors import LoadError
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors

log = logging.getLogger(__name__)


def load(artifact: Path, spec: ModelSpec, scratch: Path | None = None) -> Session:
    """Loads the directory of a SavedModel. May block for a minute or more, without holding the GIL for long.

    Args:
        scratch: a conversion that an earlier load of this version left there is not done again.

    Raises:
        LoadError: TensorFlow cannot load it.
    """
    if missing := [name for name in ("tf2onnx", "onnx") if find_spec(name) is None]:
        what = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed"
        return _tensorflow_alone(artifact, spec, f"{what}: pip install 'serving[accelerate]'")
    with _workplace(scratch) as directory, ExitStack() as undo:
        try:
            report = convert(artifact, spec, directory)
        except ConversionError as error:
            return _tensorflow_alone(artifact, spec, str(error))
        if report.load_error:
            raise LoadError(report.load_error)
        forms: dict[str, _Form] = {}
        gaps: dict[str, float] = {}
        problems: dict[str, str] = {}
        for name, conversion in report.conversions.items():
            if conversion.problem:
                problems[name] = conversion.problem
                continue
            try:
                form = _Form(directory / conversion.file, conversion.signature, spec)
            except LoadError as error:
                problems[name] = str(error).replace(f"{directory}/", "")
                continue
            undo.callback(form.close)
            gap = _gap(form, conversion, spec.accelerate_tolerance)
            if isinstance(gap, str):
                problems[name] = gap
                form.close()
            else:
                forms[name], gaps[name] = form, gap
        rest = _tensorflow(artifact, spec) if problems else None
        undo.pop_all()
    note = _note(gaps, problems, spec.accelerate_tolerance)
    log.info("%s: accelerate: %s", artifact, note)
    signatures = {name: conversion.signature for name, conversion in report.conversions.items()}
    return AcceleratedSession(signatures, forms, rest, {**report.notes, "accelerate": note})


@contextmanager
def _workplace(scratch: Path | None) -> Iterator[Path]:
    """A directory for the conversion; one of its own in `scratch`, or one that is removed afterwards."""
    if scratch is None:
        with TemporaryDirectory(prefix="serving-accelerate-") as made:
            yield Path(made)
    else:
        directory = scratch / "accelerate"
        directory.mkdir(exist_ok=True)
        yield directory


def _tensorflow(artifact: Path, spec: ModelSpec) -> Session:
    from serving.backends import tensorflow  # only now: it takes seconds and hundreds of megabytes

    return tensorflow.load(artifact, spec)


def _tensorflow_alone(artifact: Path, spec: ModelSpec, because: str) -> Session:
    session = _tensorflow(artifact, spec)
    note = f"tensorflow: {because}"
    log.warning("%s: accelerate: %s", artifact, note)
    return AcceleratedSession(session.signatures, {}, session, {**session.notes, "accelerate": note})


def _gap(form: "_Form", conversion: Conversion, tolerance: float) -> float | str:
    """The largest difference to TensorFlow's answers, or what is wrong with the ONNX form."""
    largest = 0.0
    for trial in conversion.trials:
        try:
            got = form.run(trial.inputs, tuple(trial.outputs))
        except Exception as error:  # whatever ONNX Runtime raises
            return f"its ONNX form fails where TensorFlow does not: {' '.join(str(error).split())}"
        if problem := difference(got, trial.outputs, atol=tolerance, rtol=tolerance):
            return f"its ONNX form answers otherwise: {problem}"
        largest = max(largest, largest_difference(got, trial.outputs))
    return largest


def _note(gaps: Mapping[str, float], problems: Mapping[str, str], tolerance: float) -> str:
    parts = []
    if gaps:
        verb = "agrees" if len(gaps) == 1 else "agree"
        parts.append(
            f"onnx: {', '.join(gaps)} {verb} within {tolerance:g} (largest difference {max(gaps.values()):.2g})"
        )
    if problems:
        parts.append(f"tensorflow: {', '.join(f'{name} ({problem})' for name, problem in problems.items())}")
    return "; ".join(parts)


class _Form:
    """One signature in ONNX Runtime, whose tensors are named by place (`convert.Conversion`)."""

    def __init__(self, file: Path, signature: Signature, spec: ModelSpec) -> None:
        from serving.backends import onnx

        self._session = onnx.load(file, spec)
        self.platform = self._session.platform
        (form,) = self._session.signatures.values()
        inputs = {f"input_{i}": each for i, each in enumerate(signature.inputs.values())}
        outputs = {f"output_{i}": each for i, each in enumerate(signature.outputs.values())}
        for place, tensor in (*form.inputs.items(), *form.outputs.items()):
            want = inputs.get(place) or outputs.get(place)
            if want is None or tensor.dtype is not want.dtype:
                self._session.close()
                instead = "of its own" if want is None else f"where '{want.name}' is {want.dtype}"
                raise LoadError(f"its ONNX form has {tensor.dtype} tensor '{place}' {instead}")
        # What does not change the answer may be no input of the form.
        self._inputs: list[tuple[str, str, Any]] = [
            (p, s.name, s.default) for p, s in inputs.items() if p in form.inputs
        ]
        self._outputs = {each.name: place for place, each in outputs.items()}

    def run(self, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        answers = self._session.run(
            {place: inputs.get(name, default) for place, name, default in self._inputs},
            [self._outputs[name] for name in outputs],
        )
        return dict(zip(outputs, answers.values(), strict=True))

    def close(self) -> None:
        self._session.close()


class AcceleratedSession:
    """Some signatures, or all or none, in ONNX Runtime and the rest in TensorFlow. See `backends.base.Session`.

    `platform` tells which of them answers for the default signature.
    """

    def __init__(
        self,
        signatures: Mapping[str, Signature],
        forms: Mapping[str, _Form],
        rest: Session | None,
        notes: Mapping[str, str],
    ) -> None:
        self.signatures = signatures
        self.notes = notes
        self._forms = forms
        self._rest = rest
        answering = forms.get(default_signature(signatures)) or rest
        assert answering is not None
        self.platform: str = answering.platform

    def run(self, inputs: Tensors, outputs: Sequence[str], signature: str = DEFAULT_SIGNATURE) -> Tensors:
        form = self._forms.get(signature)
        if form is not None:
            return form.run(inputs, outputs)
        assert self._rest is not None
        return self._rest.run(inputs, outputs, signature)

    def close(self) -> None:
        for form in self._forms.values():
            form.close()
        if self._rest is not None:
            self._rest.close()
