"""Brings one version into memory: verify, load, prove, warm up. Blocking; runs in a loading thread."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.backends import registry
from serving.backends.base import Session
from serving.batching.probe import Proof, prove_rows_apart, repeat_rows
from serving.core.artifact import read_golden, read_manifest, verify
from serving.core.errors import LoadError
from serving.core.generate import random_inputs
from serving.core.spec import ModelSpec
from serving.core.types import Tensors
from serving.core.validate import Contract
from serving.repository.layout import FoundVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    session: Session
    contract: Contract
    unbatched_because: str  # empty if requests are merged
    sample: Tensors | None  # the smallest input that the model is known to take


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
    """Finds out whether requests may be merged and runs the model once or more, so that no client pays for first runs.

    Raises:
        LoadError: the model fails on its own golden sample, or on a batch of the size that is allowed.
    """
    golden = _golden_inputs(found)
    outputs = tuple(session.signature.outputs)
    if golden is not None:
        _must_run(session, golden, outputs, "its golden sample")
    because, sample = "", golden
    if spec.max_batch_size == 0:
        because = "max_batch_size is 0"
    elif session.batch_axis_declared is not None:
        because = session.batch_axis_declared
    elif spec.max_batch_size == 1:
        sample = None if golden is None else {name: a[:1] for name, a in golden.items()}  # nothing to prove
    else:
        proof = prove_rows_apart(session.run, session.signature, golden, spec.max_batch_size)
        because, sample = proof.reason, proof.sample
        if proof.mergeable and spec.warmup and proof.sample is not None:
            _warm_largest(session, proof, spec.max_batch_size, outputs)
    if because:
        log.info("%s/%d: requests run one at a time: %s", model, found.number, because)
    if sample is None:
        sample = _one_that_runs(session, outputs)
    max_batch_size = 0 if because else spec.max_batch_size
    return Loaded(session, Contract(model, session.signature, max_batch_size), because, sample)


def _golden_inputs(found: FoundVersion) -> Tensors | None:
    if not found.path.is_dir():
        return None
    try:
        golden = read_golden(found.path)
    except ValueError as error:
        raise LoadError(str(error)) from None
    return golden.inputs if golden else None


def _must_run(session: Session, inputs: Tensors, outputs: Sequence[str], what: str) -> None:
    try:
        session.run(inputs, outputs)
    except Exception as error:  # whatever the runtime raises
        raise LoadError(f"the model fails on {what}: {type(error).__name__}: {error}") from error


def _warm_largest(session: Session, proof: Proof, rows: int, outputs: Sequence[str]) -> None:
    assert proof.sample is not None
    _must_run(session, repeat_rows(proof.sample, rows), outputs, f"a batch of max_batch_size ({rows}) rows")


def _one_that_runs(session: Session, outputs: Sequence[str]) -> Tensors | None:
    """Generated inputs, if the model takes them. Nobody promised that, so a failure here means nothing."""
    inputs = random_inputs(session.signature, 1, np.random.default_rng(0))
    try:
        session.run(inputs, outputs)
    except Exception as error:  # whatever the runtime raises
        log.debug("the model does not take generated inputs, so it is not warmed up: %s", error)
        return None
    return inputs
