"""One version of one model as the server holds it: a state machine, leases, and the batcher that runs it.

Lives on the event loop; only `Session.run` is called elsewhere (by the batcher's instances).
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from enum import Enum

from serving.backends.base import Session
from serving.batching.batcher import Batcher, Ran
from serving.batching.fair import Device
from serving.batching.settings import BatchSettings
from serving.core.errors import ErrorKind, ServingError
from serving.core.metrics import Metrics, ShadowMetrics
from serving.core.spec import ModelSpec
from serving.core.statistics import Statistics
from serving.core.types import Tensors
from serving.core.validate import Contract
from serving.repository.disk.layout import FoundVersion
from serving.repository.loads.calibration import Execution
from serving.repository.loads.loading import Loaded
from serving.repository.policy import made_of

log = logging.getLogger(__name__)


class State(Enum):
    NEW = "NEW"
    LOADING = "LOADING"
    WARMING = "WARMING"
    READY = "READY"
    DRAINING = "DRAINING"
    UNLOADING = "UNLOADING"
    END = "END"
    FAILED = "FAILED"


_ARROWS = {
    State.NEW: {State.LOADING},
    State.LOADING: {State.WARMING, State.FAILED},
    State.WARMING: {State.READY, State.FAILED},
    State.READY: {State.DRAINING},
    State.DRAINING: {State.UNLOADING},
    State.UNLOADING: {State.END},
    State.FAILED: {State.END},
    State.END: set(),
}


class Version:
    """A retry or a reload is a new object; this one only ever moves forward.

    `session`, `contracts` and `batcher` are set from READY until END.
    """

    def __init__(self, model: str, found: FoundVersion, spec: ModelSpec) -> None:
        self.model = model
        self.number = found.number
        self.found = found
        self.spec = spec
        self.made_of = made_of(found, spec)
        limits_ms = [ms for ms in (spec.queue_timeout_ms, spec.slo_ms) if ms is not None]
        self.limit_s = min(limits_ms) / 1000 if limits_ms else None  # how long a request may take, at most
        self.state = State.NEW
        self.reason = ""
        self.session: Session | None = None
        self.contracts: Mapping[str, Contract] = {}  # by signature
        self.contract: Contract  # of the signature that a request means if it names none
        self.batcher: Batcher
        self.statistics = Statistics()
        self.platform = ""
        self.notes: Mapping[str, str] = {}
        self.execution = Execution()  # what it is run with
        self.class_labels: Mapping[str, Sequence[str]] = {}
        self.sample: Tensors | None = None  # the smallest input that the model is known to take
        self.trying = False  # LOADING, and for now in a process of its own
        self.memory_bytes: int | None = None  # what it takes; None: not known
        self.load_s: float | None = None  # how long it took to load, once it is READY
        self.retry_at: float | None = None  # when it is tried again after FAILED (monotonic); None: not by itself
        self.attempts = 0  # that failed in a row, this one included
        self.quarantined = False  # FAILED, and not tried again before its content changes
        self.no_room = False  # FAILED, since there was no memory for it
        self.used_at = 0.0  # when it was last asked for an inference, or READY (monotonic)
        self.copying = 0  # leases that are for copies of requests
        self.shadowed: ShadowMetrics | None = None  # what came of these copies; None: there were none
        self._leases = 0
        self._unleased = asyncio.Event()
        self._unleased.set()

    def __repr__(self) -> str:
        return f"<Version {self} {self.state.value} leases={self._leases}>"

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"

    def to(self, state: State, reason: str = "") -> None:
        """Moves to `state`.

        Raises:
            RuntimeError: there is no such arrow.
        """
        if state not in _ARROWS[self.state]:
            raise RuntimeError(f"{self}: no arrow from {self.state.value} to {state.value}")
        self.state = state
        self.reason = reason
        log.debug("%s is %s%s", self, state.value, f": {reason}" if reason else "")

    def equip(
        self, loaded: Loaded, metrics: Metrics, loop: asyncio.AbstractEventLoop, device: Device | None = None
    ) -> None:
        """Takes what was loaded, with a batcher for it: all that requests need.

        Args:
            device: what its runs share with those of other models, if that is to be fair.

        Raises:
            RuntimeError: no threads can be had; nothing has begun.
        """
        spec, session = self.spec, loaded.session
        observed = metrics.batches(self.model, str(self.number))
        statistics = self.statistics  # with `self`, this would be a cycle: when it ends, it would wait to be collected
        settings = BatchSettings.of(spec, loaded.contracts.values(), loaded.execution.setting.instances)

        def on_run(ran: Ran) -> None:
            observed.observe(ran.rows)
            statistics.ran(ran.rows, ran.input_s, ran.run_s, ran.output_s)

        self.batcher = Batcher(str(self), session.run, settings, loop, on_run, device=device)
        self.used_at = time.monotonic()
        self.session = session
        self.contracts = loaded.contracts
        self.contract = loaded.contract
        self.notes = {**session.notes, **loaded.execution.note}
        self.execution = loaded.execution
        self.class_labels = loaded.class_labels
        self.platform = session.platform
        self.sample = loaded.sample

    def contract_of(self, signature: str) -> Contract:
        """Raises: ServingError: PRECONDITION: this version has no such signature."""
        found = self.contracts.get(signature)
        if found is None:
            names = ", ".join(f'"{name}"' for name in self.contracts)
            raise ServingError(
                ErrorKind.PRECONDITION, f"Serving signature key \"{signature}\" not found; '{self}' has {names}"
            )
        return found

    @property
    def leases(self) -> int:
        """Requests that use this version now, copies not counted; it is not unloaded under either."""
        return self._leases - self.copying

    def lease(self) -> None:
        if not self._leases:
            self._unleased.clear()
        self._leases += 1

    def release(self) -> None:
        self._leases -= 1
        if not self._leases:
            self._unleased.set()

    async def unleased(self) -> None:
        """Returns when no request uses this version."""
        await self._unleased.wait()
