"""Loads the model into this process and measures it behind a batcher, as the server runs it; no network, no protocol.

Blocking; each measurement has a batcher of its own, on an event loop that lives as long as the bench. A model is loaded
once for each number of threads and stays loaded.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import uvloop

from serving.backends.base import Session
from serving.batching.batcher import Batcher
from serving.batching.item import Item
from serving.batching.probe import repeat_rows
from serving.batching.settings import BatchSettings
from serving.core.errors import LoadError
from serving.core.types import Tensors
from serving.repository.loads import loading
from serving.tuning.offered import Submit, offer, saturate
from serving.tuning.setting import Setting, Trial
from serving.tuning.source import Subject

_ROUNDS_IN_FLIGHT = 2  # full batches for each instance: one that runs and one that waits
_WARM_UP_S = 1.0

T = TypeVar("T")


class Bench:
    """Loads and proves the model, as a server would. A context, which ends with the sessions closed.

    Args:
        threads: of the first load.
        rows: of one request.
        bound_s: of latencies; a trial that is far beyond it is ended.
        seed: of the times of arrival, which are the same for all settings.

    Attributes:
        contract: of the signature that is measured, the default one.

    Raises:
        LoadError: it cannot be served, nothing is known that it takes, or a request has more rows than a batch may.
    """

    def __init__(self, subject: Subject, threads: int, rows: int, bound_s: float, seed: int = 0) -> None:
        self._subject = subject
        self._bound_s = bound_s
        self._seed = seed
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        spec = subject.spec.model_copy(update={"threads": threads, "instances": 1})
        session = loading.load(subject.name, subject.version, spec)
        self._sessions = {threads: session}
        self._warm: set[tuple[int, int]] = set()
        try:
            self._loaded = loading.warm_up(subject.name, subject.version, spec, session, _WARM_UP_S)
            self.contract = self._loaded.contract
            if self._loaded.sample is None:
                raise LoadError("no input is known that it takes: publish it with a golden sample")
            self._row = self._loaded.sample
            self._rows = rows if self.contract.max_batch_size else 1
            if rows > max(self.contract.max_batch_size, 1):
                raise LoadError(f"a request may have {max(self.contract.max_batch_size, 1)} rows, not {rows}")
            self._request = self._batch(rows)
            gc.collect()
            gc.freeze()  # as the server does: looking through all of it again would stall what is measured
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        gc.unfreeze()
        self._runner.close()
        for session in self._sessions.values():
            session.close()

    def capacity(self, setting: Setting, seconds: float) -> float:
        per_run = max(1, setting.max_batch_size // self._rows)
        in_flight = min(
            _ROUNDS_IN_FLIGHT * setting.instances * per_run, self._subject.spec.max_queue_rows // self._rows
        )
        return self._measure(setting, lambda _batcher, submit: saturate(submit, max(1, in_flight), seconds))

    def trial(self, setting: Setting, rate: float, seconds: float) -> Trial:
        rng = np.random.default_rng(self._seed)  # the same times of arrival for all
        return self._measure(setting, lambda batcher, submit: offer(batcher, submit, rate, seconds, self._bound_s, rng))

    def _measure(self, setting: Setting, work: Callable[[Batcher, Submit], Awaitable[T]]) -> T:
        session = self._session(setting)
        return self._runner.run(self._with_batcher(session, setting, work))

    async def _with_batcher(
        self, session: Session, setting: Setting, work: Callable[[Batcher, Submit], Awaitable[T]]
    ) -> T:
        contract = self.contract
        settings = replace(
            BatchSettings.of(self._subject.spec, self._loaded.contracts.values(), setting.instances),
            max_batch_size=setting.max_batch_size,
            max_queue_delay_s=setting.max_queue_delay_ms / 1000,
        )
        batcher = Batcher(self._subject.name, session.run, settings, asyncio.get_running_loop())
        lane = () if contract.max_batch_size else None

        def submit() -> Item:
            return batcher.submit(self._request, contract.outputs, self._rows, lane, signature=contract.signature_name)

        try:
            return await work(batcher, submit)
        finally:
            await batcher.close()

    def _session(self, setting: Setting) -> Session:
        """Loaded with these threads, and warm for these batches."""
        session = self._sessions.get(setting.threads)
        if session is None:
            subject = self._subject
            spec = subject.spec.model_copy(update={"threads": setting.threads, "instances": 1})
            session = self._sessions[setting.threads] = loading.load(subject.name, subject.version, spec, verified=True)
        warm = (setting.threads, setting.max_batch_size)
        if warm not in self._warm:
            self._warm.add(warm)
            session.run(self._batch(setting.max_batch_size), self.contract.outputs, self.contract.signature_name)
        return session

    def _batch(self, rows: int) -> Tensors:
        if not self.contract.max_batch_size:
            return self._row
        return repeat_rows({name: array[:1] for name, array in self._row.items()}, rows)
