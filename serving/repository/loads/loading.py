"""Brings one version into memory: verify, load, prove, warm up. Blocking; runs in a loading thread, and before that in
the process of a trial."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from serving.backends import registry
from serving.backends.base import Session
from serving.backends.recorded import Recorded
from serving.batching import policies
from serving.batching.padding import prove_padding_unseen
from serving.batching.probe import prove_rows_apart, repeat_rows
from serving.core.artifact import GOLDEN, Golden, Tolerance, read_golden, read_manifest, verify
from serving.core.compare import difference
from serving.core.errors import LoadError, ServingError
from serving.core.generate import random_inputs
from serving.core.spec import ModelSpec
from serving.core.types import DEFAULT_SIGNATURE, InferRequest, Signature, Tensors
from serving.core.validate import Contract, why_no_batch_axis
from serving.repository.disk.layout import FoundVersion
from serving.repository.loads.calibration import Execution
from serving.repository.loads.samples import inputs_of

log = logging.getLogger(__name__)

# How closely a golden sample has to be reproduced where no manifest says so: wide enough for another processor's way to
# sum in single precision, far below what another set of weights does.
GOLDEN_TOLERANCE = Tolerance(atol=1e-3, rtol=1e-3)

_WARM_UP_BYTES = 256 * 1024 * 1024  # of inputs: a batch limit may be far beyond what ever comes
WARM_UP_S = 5.0  # for batch sizes beyond those that are run in any case

# Parts of texts, in lower case, by which runtimes tell that something ran out or cannot be read. The artifact is not to
# blame for that, and may well load later.
_SURROUNDINGS = (
    "bad_alloc",
    "bad allocation",
    "cannot allocate memory",
    "failed to allocate memory",
    "out of memory",
    "out_of_memory",
    "oom when allocating",
    "memoryerror",
    "no space left on device",
    "too many open files",
    "resource temporarily unavailable",
    "input/output error",
    "permission denied",
    "cannot be read: ",
)


@dataclass(frozen=True)
class Loaded:
    session: Session
    contracts: Mapping[str, Contract]  # by signature
    contract: Contract  # of the default signature
    sample: Tensors | None  # the smallest input that the default signature is known to take
    class_labels: Mapping[str, Sequence[str]]  # by output
    golden: Tensors | None = None  # the inputs of the golden sample
    execution: Execution = Execution()  # noqa: RUF009  (it is frozen)


def load(
    model: str, found: FoundVersion, spec: ModelSpec, scratch: Path | None = None, *, verified: bool = False
) -> Session:
    """
    Args:
        scratch: see `registry.load`.
        verified: the files that were found have been held against their manifest already, and are mere data.

    Raises:
        LoadError: the version does not match its manifest, its backend cannot serve it, or it is no longer the one that
            was found.
    """
    try:
        policies.find(spec.batching)
    except ValueError as error:
        raise LoadError(f"batching: {error}") from None
    try:
        if found.has_manifest and not verified:
            _verify(found)
        log.debug("%s/%d: loading from '%s'", model, found.number, found.path)
        session = registry.load(found.path, spec, scratch, checked=verified)
    except LoadError as error:
        raise fault(error) from error
    if changed := how_changed(found):
        session.close()
        raise LoadError(changed, retry=True)
    return session


def _verify(found: FoundVersion) -> None:
    try:
        manifest = read_manifest(found.path)
        problems = verify(found.path, manifest) if manifest else []
    except ValueError as error:
        raise LoadError(str(error)) from None
    if problems:
        raise LoadError(f"the files do not match the manifest: {'; '.join(problems)}")


def fault(error: LoadError) -> LoadError:
    """The error, with the surroundings to blame if its text tells that."""
    text = str(error)
    if not error.retry and any(part in text.lower() for part in _SURROUNDINGS):
        return LoadError(text, retry=True)
    return error


def how_changed(found: FoundVersion) -> str:
    """What has become of a version's files since they were found; empty: nothing."""
    for name, size, changed_ns, inode in found.fingerprint:
        try:
            info = Path(name).stat()
        except OSError:
            return "it was deleted while it loaded" if not found.path.exists() else "its files changed while it loaded"
        if (info.st_size, info.st_mtime_ns, info.st_ino) != (size, changed_ns, inode):
            return "its files changed while it loaded"
    return ""


def warm_up(model: str, found: FoundVersion, spec: ModelSpec, session: Session, budget_s: float = WARM_UP_S) -> Loaded:
    """Finds out which requests may be merged, holds the model against its golden sample, and runs it with every batch
    size that will be used, so that no client pays for first runs.

    Args:
        budget_s: how long that may take for sizes other than the largest, 1 and the powers of two.

    Raises:
        LoadError: the model is not what its settings say, it does not reproduce its golden sample, or it fails on a
            batch of a size that is allowed.
    """
    deadline = time.monotonic() + budget_s
    default = default_signature(session)
    _check_padding(spec, session)
    golden = _golden(found)
    contracts: dict[str, Contract] = {}
    sample = None
    try:
        for name, signature in session.signatures.items():
            run = _Runs(session, name, tuple(signature.outputs))
            known = None
            if name == default and golden is not None:
                _reproduce(run, spec, signature, golden, _tolerance(found))
                known = golden.inputs
            contracts[name], tried = _warm_signature(model, spec, run, signature, known, deadline)
            if name == default:
                sample = tried
                _run_samples(run, spec, found.path.parent, contracts[name])
            if because := contracts[name].unbatched_because:
                what = f"{model}/{found.number}" + (f" signature '{name}'" if len(session.signatures) > 1 else "")
                log.info("%s: requests run one at a time: %s", what, because)
        if spec.warmup:
            _run_recorded(session, registry.recorded(found.path, spec), contracts)
    except LoadError as error:
        raise fault(error) from error
    labels = _class_labels(found, spec, session)
    return Loaded(session, contracts, contracts[default], sample, labels, golden.inputs if golden else None)


def _check_padding(spec: ModelSpec, session: Session) -> None:
    """Raises: LoadError: it is of an input or output that is not there."""
    inputs = {name for signature in session.signatures.values() for name in signature.inputs}
    outputs = {name for signature in session.signatures.values() for name in signature.outputs}
    for name, rule in spec.padding.items():
        if name not in inputs:
            raise LoadError(f"padding: no input '{name}', the model takes {', '.join(sorted(inputs))}")
        if unknown := [output for output in rule.outputs if output not in outputs]:
            raise LoadError(f"padding: no output '{unknown[0]}', the model gives {', '.join(sorted(outputs))}")


def default_signature(session: Session) -> str:
    """The name of the signature that a request means if it names none."""
    return DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in session.signatures else next(iter(session.signatures))


@dataclass(frozen=True)
class _Runs:
    """Runs of one signature."""

    session: Session
    name: str
    outputs: tuple[str, ...]  # all that there are

    def __call__(self, inputs: Tensors, outputs: tuple[str, ...]) -> Tensors:
        return self.session.run(inputs, outputs, self.name)

    def must(self, inputs: Tensors, what: str) -> Tensors:
        """All outputs."""
        try:
            return self(inputs, self.outputs)
        except Exception as error:  # whatever the runtime raises
            raise LoadError(f"the model fails on {what}: {type(error).__name__}: {error}") from error


def _reproduce(run: _Runs, spec: ModelSpec, signature: Signature, golden: Golden, allowed: Tolerance) -> None:
    """Raises: LoadError: the model does not give the answers that it gave where it was made."""
    expected = golden.outputs
    if spec.outputs:  # those that settings leave out are not given
        expected = {name: array for name, array in expected.items() if name in signature.outputs}
    sides = (("input", golden.inputs, signature.inputs), ("output", expected, signature.outputs))
    for side, tensors, known in sides:
        if unknown := [name for name in tensors if name not in known]:
            there = ", ".join(known) or "none"
            raise LoadError(f"{GOLDEN}: {side} '{unknown[0]}' is not among those of the model, which are {there}")
    if missing := [s.name for s in signature.inputs.values() if not s.optional and s.name not in golden.inputs]:
        raise LoadError(f"{GOLDEN}: input '{missing[0]}' of the model is missing")
    answers = run.must(golden.inputs, "its golden sample")
    if problem := difference(answers, expected, atol=allowed.atol, rtol=allowed.rtol):
        raise LoadError(f"the model does not reproduce its golden sample: {problem}")


def _warm_signature(
    model: str, spec: ModelSpec, run: _Runs, signature: Signature, golden: Tensors | None, deadline: float
) -> tuple[Contract, Tensors | None]:
    """The contract of one signature, and the smallest input that it is known to take."""
    if golden is not None:  # where it brings what has no rows, the model has a value of its own
        rowless = Contract(model, signature, spec.max_batch_size).not_rows
        golden = {name: array for name, array in golden.items() if name not in rowless}
    because, sample = "", golden
    if spec.max_batch_size == 0:
        because = "max_batch_size is 0"
    elif (declared := why_no_batch_axis(signature)) is not None:
        because = declared
    elif spec.max_batch_size == 1:
        if golden is not None:  # and nothing to prove
            sample = {name: array[:1] for name, array in golden.items()}
            if spec.warmup:
                _run_sizes(run, sample, 1, deadline)
    else:
        proof = prove_rows_apart(run, signature, golden, spec.max_batch_size)
        because, sample = proof.reason, proof.sample
        if proof.mergeable and spec.warmup and proof.sample is not None:
            most = min(spec.max_batch_size, _rows_that_fit(proof.sample))
            _run_sizes(run, proof.sample, most, deadline, spec.allowed_batch_sizes)
    if sample is None:
        sample = _one_that_runs(run, signature)
    max_batch_size = 0 if because else spec.max_batch_size
    padding = {name: rule for name, rule in spec.padding.items() if name in signature.inputs} if max_batch_size else {}
    if padding and sample is not None and (why := prove_padding_unseen(run, sample, signature, padding)):
        raise LoadError(f"padding: {why}")
    most = spec.max_request_rows or 0
    return Contract(model, signature, max_batch_size, run.name, because, most, padding), sample


def _run_samples(run: _Runs, spec: ModelSpec, directory: Path, contract: Contract) -> None:
    for sample in spec.samples if spec.warmup else ():
        inputs = inputs_of(sample, directory, contract)
        for _ in range(sample.runs):
            run.must(inputs, f"the sample '{sample.name}'")


def _run_recorded(session: Session, recorded: Iterable[Recorded], contracts: Mapping[str, Contract]) -> None:
    """Raises: LoadError: a client that sent one of them would get an error."""
    for request in recorded:
        contract = contracts.get(request.signature)
        if contract is None:
            raise LoadError(f"{request.what}: there is no signature '{request.signature}'")
        inputs = request.inputs
        if request.examples is not None:
            if not contract.signature.takes_examples:
                raise LoadError(f"{request.what}: signature '{request.signature}' does not take tf.Examples")
            inputs = {contract.inputs[0].name: request.examples}
        try:
            contract.check(InferRequest(contract.model, inputs))
        except ServingError as error:
            raise LoadError(f"{request.what}: {error}") from None
        _Runs(session, request.signature, contract.outputs).must(inputs, request.what)


def _run_sizes(run: _Runs, row: Tensors, most: int, deadline: float, allowed: Sequence[int] = ()) -> None:
    """Runs batches of equal rows. The largest comes first, so that what the runtime takes for it serves the others."""
    batch = repeat_rows(row, most)
    sizes = [size for size in allowed if size <= most]
    needed = sorted(sizes or {most, *_powers_of_two(most)}, reverse=True)
    others = (rows for rows in range(1, most) if rows not in needed and not sizes)
    for rows in chain(needed, others):
        if rows not in needed and time.monotonic() >= deadline:
            log.debug("not all batch sizes are warm: no time was left for %d rows and more", rows)
            return
        run.must({name: array[:rows] for name, array in batch.items()}, f"a batch of {rows} rows")


def _powers_of_two(most: int) -> Iterator[int]:
    return (1 << i for i in range(most.bit_length()))


def _rows_that_fit(row: Tensors) -> int:
    return max(1, _WARM_UP_BYTES // max(1, sum(array.nbytes for array in row.values())))


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
            # It is not among the version's files, so only another attempt finds out that it is there.
            raise LoadError(f"class_labels: cannot read '{name}': {error}", retry=True) from None
    return labels


def _golden(found: FoundVersion) -> Golden | None:
    if not found.path.is_dir():
        return None
    try:
        return read_golden(found.path)
    except ValueError as error:
        raise LoadError(str(error)) from None


def _tolerance(found: FoundVersion) -> Tolerance:
    try:
        manifest = read_manifest(found.path)
    except ValueError as error:
        raise LoadError(str(error)) from None
    return manifest.golden if manifest and manifest.golden else GOLDEN_TOLERANCE


def _one_that_runs(run: _Runs, signature: Signature) -> Tensors | None:
    """Generated inputs, if the model takes them. Nobody promised that, so a failure here means nothing."""
    inputs = random_inputs(signature, 1, np.random.default_rng(0))
    try:
        run(inputs, run.outputs)
    except Exception as error:  # whatever the runtime raises
        log.debug("the model does not take generated inputs, so it is not warmed up: %s", error)
        return None
    return inputs
