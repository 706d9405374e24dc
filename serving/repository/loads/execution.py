"""How many runs of a version are under way at once, and with how many threads: as set, as remembered, as measured in
its trial, as the version that serves has it, or one of each. Blocking; in the process of a trial, but for `settled`.
"""

from collections.abc import Callable

from serving.backends.base import Session
from serving.batching.probe import repeat_rows
from serving.core.spec import ModelSpec
from serving.core.types import Tensors
from serving.repository.disk.layout import FoundVersion
from serving.repository.loads import cores
from serving.repository.loads.calibration import Execution, Runs, by_hand, calibrate, may_gain
from serving.repository.loads.loading import Loaded
from serving.repository.loads.remembered import Remembered

LIMIT_S = 10.0  # for a calibration; models whose runs take so long are served with one run on one core


def settled(spec: ModelSpec, measured: Execution | None, serving: Execution | None) -> Execution:
    """What a version is served with.

    Args:
        measured: what its trial came to; None: there was none, or nothing to choose.
        serving: what another version of the model serves with at present, measured when there was more time.
    """
    if (set_by_hand := by_hand(spec)) is not None:
        return set_by_hand
    if measured is None or measured.sure or serving is None:
        return measured or Execution()
    return serving


def with_execution(spec: ModelSpec, execution: Execution) -> ModelSpec:
    """Settings for a load, with nothing left to choose."""
    instances, threads = execution.setting
    return spec.model_copy(update={"instances": instances, "threads": threads})


def chosen(
    found: FoundVersion,
    spec: ModelSpec,
    loaded: Loaded,
    load: Callable[[ModelSpec], Session],
    remembered: Remembered | None,
) -> Execution:
    """
    Args:
        loaded: the version with one thread, warm.
        load: loads it with other settings. What it gives stays open.

    Raises:
        Exception: whatever the runtime raises.
    """
    known = remembered.find(found, spec) if remembered else None
    if known is not None:
        return known
    if (sample := loaded.sample) is None:
        return Execution()

    def runs(threads: int) -> Runs:
        session = loaded.session if threads == 1 else load(spec.model_copy(update={"threads": threads}))
        return _runs(session, loaded, sample)

    rows = loaded.contract.max_batch_size or 1
    found_out = calibrate(runs, rows, cores.usable(), ran_and_waited=cores.ran_and_waited)
    if remembered and found_out.sure:
        remembered.keep(found, spec, found_out)
    return found_out


def worth_choosing(spec: ModelSpec, loaded: Loaded) -> bool:
    return may_gain(spec, loaded.session.platform) and loaded.sample is not None


def _runs(session: Session, loaded: Loaded, sample: Tensors) -> Runs:
    name = loaded.contract.signature_name
    outputs = tuple(session.signatures[name].outputs)
    batches: dict[int, Tensors] = {}

    def run(rows: int) -> object:
        if rows not in batches:
            batches[rows] = repeat_rows(sample, rows) if loaded.contract.max_batch_size else sample
        return session.run(batches[rows], outputs, name)

    return run
