"""Copies of requests for another version of the model, whose answers are compared and thrown away.

On the event loop; the copies run in a thread of their own, and their answers are compared in another. Nobody waits for
them, and they give way: a request is copied when it has been answered; copies are run in groups, and when a group is
done its model rests for many times as long as that took, the more if the server has much else to do. So copies cost it
a tenth of a processor, a fortieth when it is busy; those that come faster are dropped, and counted. They have their own
batcher, with a thread of low priority, so they never share a run with requests, nor appear in the numbers of the
version that they are run on.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serving.batching.batcher import Batcher
from serving.batching.item import Item
from serving.batching.settings import BatchSettings
from serving.core.compare import Distance, distance
from serving.core.errors import ErrorKind, ServingError
from serving.core.metrics import Metrics
from serving.core.traffic import Shadow
from serving.core.types import InferRequest, Tensors, Timing
from serving.repository.catalog import Catalog
from serving.repository.routing.judge import Judge
from serving.repository.routing.route import Routing
from serving.repository.version import State, Version

_MAX_COPIES = 64  # of one model, that wait
_MAX_BYTES = 64 * 1024 * 1024  # of these; if there is none, one is taken of any size
_MAX_LENT_BYTES = 1024 * 1024  # duplicating more would keep the client waiting
_PAUSE_S = 0.01  # between groups, at least
_REST = 9.0  # times as long as the last group took
_REST_IF_BUSY = 39.0
_BUSY = 0.5  # of a processor, that the server needs for all else
_LIMIT_S = 10.0  # how long a copy may wait
_NOT_RUN = frozenset((ErrorKind.EXPIRED, ErrorKind.QUEUE_FULL, ErrorKind.UNAVAILABLE))  # no fault of the version


class Shadows:
    """The shadows of all models."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._copiers: dict[str, _Copier] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def follow(self, catalog: Catalog) -> None:
        """Begins and ends what a new catalog asks for."""
        for name, copier in list(self._copiers.items()):
            model = catalog.models.get(name)
            if model is None or model.routing is None or not copier.serves(model.routing):
                del self._copiers[name]
                task = asyncio.create_task(copier.end())
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
        for name, model in catalog.models.items():
            if model.routing is not None and model.routing.shadow is not None and name not in self._copiers:
                self._copiers[name] = _Copier(model.routing, *model.routing.shadow, self._metrics)

    def offer(self, routing: Routing, request: InferRequest, outputs: Tensors) -> None:
        """Copies a request that the default version has answered, if the model has a shadow and it is this one's turn.
        The arrays are not to be written to afterwards."""
        copier = self._copiers.get(routing.model)
        if copier is not None and copier.serves(routing):
            copier.take(request, outputs, routing.judge)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A request that was answered, and its answer."""

    request: InferRequest
    outputs: Tensors
    deadline: float
    judge: Judge | None


class _Copier:
    """Runs the copies of one model on one version, for as long as the model's routing says so."""

    def __init__(self, routing: Routing, version: Version, settings: Shadow, metrics: Metrics) -> None:
        self._default = routing.default
        self._version = version
        self._settings = settings
        self._seen = version.shadowed = metrics.shadow(version.model, str(version.number))
        self._waiting: list[_Copy] = []
        self._nbytes = 0  # of these
        self._worker: asyncio.Task[None] | None = None
        self._batcher: Batcher | None = None
        self._ended = False

    def serves(self, routing: Routing) -> bool:
        if routing.shadow is None or routing.default is not self._default:
            return False
        version, settings = routing.shadow
        return version is self._version and (settings is self._settings or settings == self._settings)

    def take(self, request: InferRequest, outputs: Tensors, judge: Judge | None) -> None:
        if random.random() * 100 >= self._settings.percent:
            return
        if len(self._waiting) >= _MAX_COPIES:
            self._seen.dropped += 1
            return
        nbytes = sum(array.nbytes for arrays in (request.inputs, outputs) for array in arrays.values())
        too_many = self._waiting and self._nbytes + nbytes > _MAX_BYTES
        if too_many or (request.lent and nbytes > _MAX_LENT_BYTES):
            self._seen.dropped += 1
            return
        if request.lent:
            request = replace(request, inputs={name: array.copy() for name, array in request.inputs.items()})
        self._waiting.append(_Copy(request, outputs, time.monotonic() + _LIMIT_S, judge))
        self._nbytes += nbytes
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name=f"copies for {self._version}")

    async def end(self) -> None:
        """Begins nothing more; returns when what was being run has ended."""
        self._ended = True
        self._waiting.clear()
        if self._batcher is not None:
            await self._batcher.close()

    async def _work(self) -> None:
        """Runs group after group, and ends when there is none."""
        took_s, rest = 0.0, 0.0
        while True:
            began_s, used_s = time.monotonic(), time.process_time()
            await asyncio.sleep(max(_PAUSE_S, took_s * rest))  # requests go first, and copies gather
            if not self._waiting:
                break
            copies, self._waiting, self._nbytes = self._waiting, [], 0
            started_s = time.monotonic()
            busy = time.process_time() - used_s > (started_s - began_s) * _BUSY
            await self._run(copies)
            took_s, rest = time.monotonic() - started_s, _REST_IF_BUSY if busy else _REST
        self._worker = None

    async def _run(self, copies: Sequence[_Copy]) -> None:
        version = self._version
        if self._ended or version.state is not State.READY:
            return
        version.lease()  # so that it is not unloaded under them
        version.copying += 1
        try:
            submitted = [self._submit(copy) for copy in copies]
            replies = (item.reply for item in submitted if isinstance(item, Item))
            replied = iter(await asyncio.gather(*replies, return_exceptions=True))
            outcomes = [next(replied) if isinstance(item, Item) else item for item in submitted]
            if not self._ended:
                await self._take_in(copies, outcomes)
        finally:
            version.copying -= 1
            version.release()

    def _submit(self, copy: _Copy) -> Item | ServingError:
        version, request = self._version, copy.request
        if self._batcher is None:
            self._batcher = _batcher(version)
        try:
            contract = version.contract_of(request.signature) if request.signature else version.contract
            rows, wanted, lane = contract.admit(request)
            return self._batcher.submit(request.inputs, wanted, rows, lane, copy.deadline, contract.signature_name)
        except ServingError as error:
            return ServingError(error.kind, error.message)  # without its frames, which hold the copies

    async def _take_in(
        self, copies: Sequence[_Copy], outcomes: Sequence[tuple[Tensors, Timing] | BaseException]
    ) -> None:
        pairs = [
            (outcome[0], copy.outputs)
            for copy, outcome in zip(copies, outcomes, strict=True)
            if not isinstance(outcome, BaseException)
        ]
        distances = iter(await asyncio.to_thread(_distances, pairs, self._settings))
        for copy, outcome in zip(copies, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                self._compared(copy.judge, outcome[1], next(distances))
            elif isinstance(outcome, ServingError) and outcome.kind in _NOT_RUN:
                self._seen.dropped += 1
            else:
                self._failed(copy.judge)

    def _compared(self, judge: Judge | None, timing: Timing, found: Distance) -> None:
        self._seen.compared(found.same, found.absolute, found.relative)
        if judge is not None:
            judge.answered(self._version.number, timing.run_s, timing.rows)
            judge.compared(self._version.number, found.same)

    def _failed(self, judge: Judge | None) -> None:
        self._seen.failed += 1
        if judge is not None:
            judge.failed(self._version.number)


def _batcher(version: Version) -> Batcher:
    assert version.session is not None  # it is READY
    settings = BatchSettings.of(version.spec, version.contracts.values(), instances=1)
    settings = replace(settings, max_queue_delay_s=0.0, slo_s=None)  # nobody waits for these
    loop = asyncio.get_running_loop()
    return Batcher(f"{version} (shadow)", version.session.run, settings, loop, background=True)


def _distances(pairs: Sequence[tuple[Tensors, Tensors]], settings: Shadow) -> list[Distance]:
    found = []
    for actual, expected in pairs:
        found.append(distance(actual, expected, atol=settings.atol, rtol=settings.rtol))
        time.sleep(0)  # the event loop may want the interpreter's lock, and would not get it before milliseconds
    return found
