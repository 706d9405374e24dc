"""Brings one version into memory: verify, load, prove, warm up. Blocking; runs in a loading thread."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serving.backends import registry
from serving.backends.base import Session
from serving.batching.probe import Run, prove_rows_apart, repeat_rows
from serving.core.artifact import read_golden, read_manifest, verify
from serving.core.errors import LoadError
from serving.core.generate import random_inputs
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, Signature, Tensors, TensorSpec
from serving.core.validate import Contract, why_no_batch_axis
from serving.repository.layout import FoundVersion

log = logging.getLogger(__name__)

_WARM_UP_BYTES = 256 * 1024 * 1024  # of inputs: a batch limit may be far beyond what ever comes


@dataclass(frozen=True)
class Loaded:
    session: Session
    contracts: Mapping[str, Contract]  # by signature
    contract: Contract  # of the default signature
    sample: Tensors | None  # the smallest input that the default signature is known to take
    class_labels: Mapping[str, Sequence[str]]  # by output


def load(model: str, found: FoundVersion, spec: ModelSpec) -> Session:
    """Raises:
    LoadError: the version does not match its manifest, or its backend cannot serve it.
    """
    if found.has_manifest:
        try:
            manifest = read_manifest(found.path)
            problems = verify(found.path, manifest) if manifest else []
        except ValueError as error:
            raise LoadError(str(error)) from None
        if problems:
            raise LoadError(f"the files do not match the manifest: {'; '.join(problems)}")
    log.debug("%s/%d: loading from '%s'", model, found.number, found.path)
    return registry.load(found.path, spec)


def warm_up(model: str, found: FoundVersion, spec: ModelSpec, session: Session) -> Loaded:
    """Finds out which requests may be merged and runs the model once or more, so that no client pays for first runs.

    Raises:
        LoadError: the model is not what its settings say, or it fails on its own golden sample, or on a batch of the
            size that is allowed.
    """
    default = default_signature(session)
    _check_tensors("inputs", spec.inputs, session.signatures[default].inputs)
    _check_tensors("outputs", spec.outputs, session.signatures[default].outputs)
    golden = _golden_inputs(found)
    contracts: dict[str, Contract] = {}
    sample = None
    for name, signature in session.signatures.items():
        known = golden if name == default else None
        contracts[name], tried = _warm_signature(model, spec, session, name, signature, known)
        if name == default:
            sample = tried
        if because := contracts[name].unbatched_because:
            what = f"{model}/{found.number}" + (f" signature '{name}'" if len(session.signatures) > 1 else "")
            log.info("%s: requests run one at a time: %s", what, because)
    return Loaded(session, contracts, contracts[default], sample, _class_labels(found, spec, session))


def default_signature(session: Session) -> str:
    """The name of the signature that a request means if it names none."""
    return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in session.signatures else next(iter(session.signatures))


def _warm_signature(
    model: str, spec: ModelSpec, session: Session, name: str, signature: Signature, golden: Tensors | None
) -> tuple[Contract, Tensors | None]:
    """The contract of one signature, and the smallest input that it is known to take."""
    outputs = tuple(signature.outputs)

    def run(inputs: Tensors, wanted: tuple[str, ...]) -> Tensors:
        return session.run(inputs, wanted, name)

    if golden is not None:
        _must_run(run, golden, outputs, "its golden sample")
    because, sample = "", golden
    if spec.max_batch_size == 0:
        because = "max_batch_size is 0"
    elif (declared := why_no_batch_axis(signature)) is not None:
        because = declared
    elif spec.max_batch_size == 1:
        sample = None if golden is None else {name: a[:1] for name, a in golden.items()}  # nothing to prove
    else:
        proof = prove_rows_apart(run, signature, golden, spec.max_batch_size)
        because, sample = proof.reason, proof.sample
        if proof.mergeable and spec.warmup and proof.sample is not None:
            rows = min(spec.max_batch_size, _rows_that_fit(proof.sample))
            _must_run(run, repeat_rows(proof.sample, rows), outputs, f"a batch of {rows} rows")
    if sample is None:
        sample = _one_that_runs(run, signature, outputs)
    max_batch_size = 0 if because else spec.max_batch_size
    return Contract(model, signature, max_batch_size, name, because), sample


def _rows_that_fit(row: Tensors) -> int:
    return max(1, _WARM_UP_BYTES // max(1, sum(array.nbytes for array in row.values())))


def _check_tensors(which: str, declared: Mapping[str, str], tensors: Mapping[str, TensorSpec]) -> None:
    for name, datatype in declared.items():
        spec = tensors.get(name)
        if spec is None:
            raise LoadError(f"{which}: '{name}' is not among those of the model, which are {', '.join(tensors)}")
        if spec.dtype.name != datatype:
            raise LoadError(f"{which}: '{name}' is declared as {datatype}, but the model has it as {spec.dtype.name}")


def _class_labels(found: FoundVersion, spec: ModelSpec, session: Session) -> dict[str, tuple[str, ...]]:
    """Raises: LoadError: a file that is not there, or for an output that is not there."""
    labels = {}
    outputs = session.signatures[default_signature(session)].outputs
    for output, name in spec.class_labels.items():
        if output not in outputs:
            raise LoadError(f"class_labels: no output '{output}', the model gives {', '.join(outputs)}")
        path = found.path.parent / name
        if not path.resolve().is_relative_to(found.path.parent.resolve()):
            raise LoadError(f"class_labels: '{name}' is outside the model's directory")
        try:
            labels[output] = tuple(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise LoadError(f"class_labels: cannot read '{name}': {error}") from None
    return labels


def _golden_inputs(found: FoundVersion) -> Tensors | None:
    if not found.path.is_dir():
        return None
    try:
        golden = read_golden(found.path)
    except ValueError as error:
        raise LoadError(str(error)) from None
    return golden.inputs if golden else None


def _must_run(run: Run, inputs: Tensors, outputs: tuple[str, ...], what: str) -> None:
    try:
        run(inputs, outputs)
    except Exception as error:  # whatever the runtime raises
        raise LoadError(f"the model fails on {what}: {type(error).__name__}: {error}") from error


def _one_that_runs(run: Run, signature: Signature, outputs: tuple[str, ...]) -> Tensors | None:
    """Generated inputs, if the model takes them. Nobody promised that, so a failure here means nothing."""
    inputs = random_inputs(signature, 1, np.random.default_rng(0))
    try:
        run(inputs, outputs)
    except Exception as error:  # whatever the runtime raises
        log.debug("the model does not take generated inputs, so it is not warmed up: %s", error)
        return None
    return inputs
