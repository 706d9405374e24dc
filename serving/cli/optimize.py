"""`serving optimize`: adds a version with smaller weights to a model, if it still answers as the original does."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table

from serving.backends import lighter, registry
from serving.backends.base import Session
from serving.batching.probe import repeat_rows
from serving.cli.agreement import Agreement, agreement, refusal
from serving.cli.describe import fail, size
from serving.core.artifact import Golden, publish, read_golden, read_manifest
from serving.core.errors import LoadError
from serving.core.generate import random_inputs
from serving.core.spec import ModelSpec
from serving.core.types import Signature, Tensors
from serving.repository.disk.layout import Kind, kind_of
from serving.repository.loads.loading import default_signature
from serving.tuning.source import SourceError, find

TOLERANCES = {"fp16": 0.01, "int8": 0.1}  # against the largest element of an output
_GENERATED_ROWS = 32
_ROWS = (1, 32)  # whose runs are timed
_TIMED_S = 0.3
_LEAST_RUNS = 3
_SMALLER = 0.9  # of its size, at most: what is left of it after a conversion


@dataclass(frozen=True)
class _Form:
    """A form of the model: the bytes of its files, and seconds of a run by rows."""

    file_bytes: int
    run_s: dict[int, float]


def run(path: Path, number: int | None, way: str, out: Path | None, tolerance: float | None, least_top1: float) -> int:
    """Exit code 1: nothing was published, since that cannot be done or the answers differ too much.

    Args:
        number: the version; None: the one that is served.
        way: of `lighter.WAYS`.
        out: the directory of the model that gets the version; None: that of `path`.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        subject = find(path, number)
        model_dir = _model_dir(path, subject.version.path) if out is None else out.absolute()
        module, artifact = registry.module_for(subject.version.path, subject.spec)
        if not module.endswith(".onnx"):
            raise LoadError(f"'{artifact}' is no ONNX model, and only those can be made smaller")
        spec = ModelSpec(threads=subject.spec.threads)  # the graph's own tensors, on the processor
        allowed = TOLERANCES[way] if tolerance is None else tolerance
        with TemporaryDirectory(prefix="serving-optimize-") as scratch, _opened(artifact, spec) as original:
            golden, told = _golden(subject.version.path, original)
            smaller = Path(scratch) / "model.onnx"
            console.print(f"{subject.name}/{subject.version.number}: {way}")
            lighter.WAYS[way](artifact, smaller)
            with _opened(smaller, spec) as session:
                found = agreement(_answers(session, golden), golden.outputs)
                before, after = _form(original, artifact, golden), _form(session, smaller, golden)
                _show(console, found, told, before, after)
            if after.file_bytes > _SMALLER * before.file_bytes:
                raise LoadError("not published: it did not get smaller, so there was nothing to convert")
            if why := refusal(found, allowed, least_top1):
                raise LoadError(f"not published: {why}")
            version = publish(
                model_dir.parent,
                model_dir.name,
                lambda directory: _copy(Path(scratch), directory),
                golden=golden,
                signature=_described(original, subject.version.path),
                metric=None,  # it was not measured
                seed=None,
                libraries=lighter.versions(),
                atol=allowed * _largest(golden.outputs),
                rtol=allowed,
                training={"made_from": str(subject.version.number), "way": way, "difference": found.relative},
            )
    except (SourceError, LoadError, OSError, ValueError) as error:
        return fail(str(error))
    console.print(f"published {version}")
    return 0


def _model_dir(path: Path, version_path: Path) -> Path:
    if version_path.is_file() or kind_of(path) is Kind.VERSION:
        raise LoadError(f"'{path}' is no model's directory: say with --out which one gets the version")
    return version_path.absolute().parent


@contextmanager
def _opened(artifact: Path, spec: ModelSpec) -> Iterator[Session]:
    session = registry.load(artifact, spec)
    try:
        yield session
    finally:
        session.close()


def _golden(version_path: Path, original: Session) -> tuple[Golden, str]:
    """Inputs, the original's answers to them, and where they come from."""
    found = read_golden(version_path) if version_path.is_dir() else None
    signature = _signature(original)
    if found is not None:
        inputs, told = found.inputs, "rows of the golden sample"
    else:
        inputs, told = random_inputs(signature, _GENERATED_ROWS, np.random.default_rng(0)), "generated rows"
    return Golden(inputs, _run(original, inputs)), told


def _answers(session: Session, golden: Golden) -> Tensors:
    return _run(session, golden.inputs)


def _run(session: Session, inputs: Tensors) -> Tensors:
    """Raises: LoadError: the model does not take them."""
    name = default_signature(session)
    try:
        return session.run(inputs, tuple(session.signatures[name].outputs), name)
    except Exception as error:  # whatever the runtime raises
        raise LoadError(f"the model fails on its sample: {' '.join(str(error).split())}") from error


def _signature(session: Session) -> Signature:
    return session.signatures[default_signature(session)]


def _form(session: Session, artifact: Path, golden: Golden) -> _Form:
    files = [artifact, *(path for path in artifact.parent.iterdir() if path.name.startswith(f"{artifact.name}.data"))]
    row = {name: array[:1] for name, array in golden.inputs.items()}
    run_s: dict[int, float] = {}
    for rows in _ROWS:
        try:
            run_s[rows] = _timed(session, repeat_rows(row, rows))
        except LoadError:  # its first axis is not open
            break
    return _Form(sum(path.stat().st_size for path in files), run_s)


def _timed(session: Session, inputs: Tensors) -> float:
    _run(session, inputs)  # the first one takes longer
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < _LEAST_RUNS or time.perf_counter() - began < _TIMED_S:
        before = time.perf_counter()
        _run(session, inputs)
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def _show(console: Console, found: Agreement, told: str, before: _Form, after: _Form) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("files", size(before.file_bytes), size(after.file_bytes))
    for rows in sorted(before.run_s.keys() & after.run_s.keys()):
        what = "a run of 1 row" if rows == 1 else f"a run of {rows} rows"
        table.add_row(what, *(f"{1000 * form.run_s[rows]:.3g} ms" for form in (before, after)))
    console.print(table)
    same = "" if found.top1 is None else f", the highest class is the same in {found.top1:.1%}"
    console.print(
        f"on {found.rows} {told}: answers differ by up to {found.absolute:.2g}, "
        f"{found.relative:.2g} of the largest value{same}"
    )


def _copy(source: Path, directory: Path) -> None:
    for path in source.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())


def _described(session: Session, version_path: Path) -> dict[str, object]:
    manifest = read_manifest(version_path) if version_path.is_dir() else None
    if manifest is not None and manifest.signature:
        return manifest.signature
    signature = _signature(session)
    return {
        side: [{"name": s.name, "datatype": s.dtype.name, "shape": list(s.shape or ())} for s in specs.values()]
        for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }


def _largest(outputs: Tensors) -> float:
    sizes = (float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) for a in outputs.values() if a.dtype.kind == "f")
    return max(sizes, default=0.0)
