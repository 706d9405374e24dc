"""All that a protocol adapter can see of the server.

`Engine` is the hot half: a frozen catalog and `infer`. `Control` is the cold half: changing what is served. Both are
narrow on purpose, so that another engine (in another process, say) could stand behind the same members.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from serving.core.errors import ErrorKind, ServingError
from serving.core.metrics import Metrics
from serving.core.spec import ModelSpec
from serving.core.traffic import Traffic
from serving.core.types import InferRequest, InferResponse, Tensors, Timing
from serving.core.validate import Contract
from serving.repository.catalog import Catalog
from serving.repository.control.events import Event
from serving.repository.control.orders import Wanted as Wanted
from serving.repository.routing.route import Routing
from serving.repository.routing.waking import Waking
from serving.repository.status import ModelStatus
from serving.repository.version import Version
from serving.shadow import Shadows

# A version on trial answers for these. Of the others, clients, the load or the server itself are the cause.
_BLAMED = frozenset((ErrorKind.MODEL, ErrorKind.INTERNAL))


class Control(Protocol):
    """Changes what is served. Every method returns when the change is done, and raises ServingError if it failed."""

    async def load(
        self,
        name: str,
        spec: ModelSpec | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        force: bool = False,
    ) -> None:
        """Reads the model's directory now and waits until its versions are served.

        Args:
            force: what is in quarantine is tried again, and a version that is slower than allowed is taken.
            spec: the settings that it was given count instead of those in `model.yaml`, until the next load.
            files: instead of the model's directory, until the next load: contents by path below it, such as
                `1/model.onnx`. Only where uploads are allowed.
        """

    async def unload(self, name: str) -> None:
        """Takes the model out of service until it is loaded again."""

    async def apply(self, models: Sequence[Wanted]) -> None:
        """Serves these models and no others, and waits until they are served."""

    async def label(self, name: str, label: str, number: int | None) -> None:
        """Gives a label to a version that is ready, loading it if need be; None takes the label away."""

    async def share(self, name: str, traffic: Traffic | None) -> None:
        """Shares the requests that name no version out among the model's versions; None: as its settings say."""

    async def promote(self, name: str, version: str = "") -> None:
        """Makes a version the stable one, which takes all of these requests.

        Args:
            version: a number or a label; by default the canary, or else the highest version that is ready.
        """

    async def rollback(self, name: str, version: str = "") -> None:
        """Ends what is on trial, or makes an earlier version the stable one.

        Args:
            version: a number or a label. By default, if there is a canary or a shadow, that ends; otherwise the version
                that was stable before is so again, or else the next lower one.
        """

    async def wake(self, name: str) -> None:
        """Loads a model that was unloaded while it was idle."""

    def status(self, name: str = "") -> list[ModelStatus]:
        """How a model stands, or all of them by name. Raises: ServingError: NOT_FOUND."""

    async def events(self, after: int = 0, model: str = "", limit: int = 100, wait_s: float = 0.0) -> list[Event]:
        """What has happened; see `History.after`."""


class Times(NamedTuple):
    """When the parts of an answered request ended, by `time.perf_counter()`."""

    arrived: float
    decoded: float
    inferred: float
    encoded: float


# Is told of every request that was answered, and over which protocol.
Observer = Callable[[str, InferRequest, InferResponse, Times], None]
# Is told of every request that could be read and was not answered: over which protocol, of which kind the error is, and
# when the request arrived, by `time.perf_counter()`.
FailureObserver = Callable[[str, InferRequest, ErrorKind, float], None]


class Engine:
    """Finds the version, checks the request against it, and waits for its rows. Lives on the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.catalog = Catalog(complete=False)
        self.stopping = False
        self.started = False
        self.observers: tuple[Observer, ...] = ()
        self.failures: FailureObserver | None = None
        self.waking: Waking | None = None  # None: there is nobody who could wake a model
        self._shadows = Shadows(metrics)
        metrics.ready = lambda: self.ready

    def observe(self, observer: Observer) -> None:
        """From now on this one is told too; nothing happens if it is already."""
        if observer not in self.observers:
            self.observers += (observer,)

    def unobserve(self, observer: Observer) -> None:
        """This one is told no more."""
        self.observers = tuple(each for each in self.observers if each != observer)

    def publish(self, catalog: Catalog) -> None:
        """Replaces the catalog; requests that are under way keep the version that they have."""
        self.catalog = catalog
        self._shadows.follow(catalog)

    @property
    def ready(self) -> bool:
        """Started, not stopping, and every wanted model has a ready version."""
        return self.started and not self.stopping and self.catalog.ready

    async def awake(self, model: str, deadline: float | None = None) -> None:
        """Returns when a model does not sleep, loading it if it does.

        Who has to know the version that will answer waits for this first; it is worth while if any is in
        `catalog.asleep`.

        Args:
            deadline: by when, on the monotonic clock.

        Raises:
            ServingError: it cannot be loaded, or not in time, or too many wait for it.
        """
        if model in self.catalog.asleep:
            sleep = self.catalog.models[model].asleep
            if sleep is not None and self.waking is not None:
                await self.waking.awake(model, sleep.waiting, deadline)

    async def infer(self, request: InferRequest, version: Version | None = None) -> InferResponse:
        """Answers one request.

        Args:
            version: what the request's model and version were resolved to, if the caller had to know; otherwise it is
                resolved here.

        Raises:
            ServingError: of any kind; the message is for the client.
            asyncio.CancelledError: the caller was cancelled; the request is dropped if it has not begun to run.
        """
        if version is None and self.catalog.asleep:
            await self.awake(request.model, request.deadline)
        model = self.catalog.models.get(request.model)
        routing = model.routing if model is not None else None
        if version is None:
            version = self.catalog.route(request.model, request.version, request.route_key)
        try:
            contract = version.contract_of(request.signature) if request.signature else version.contract
            rows, wanted, lane = contract.admit(request)
        except ServingError:
            if routing is not None:
                self.refused(version, request)
            raise
        if rows == 0:
            outputs = _no_rows(contract, wanted)
            version.used_at = time.monotonic()
            version.statistics.answered(0, 0.0, Timing())
            return _response(request, version, contract, outputs, Timing())
        started = version.used_at = time.monotonic()
        deadline = request.deadline
        if version.limit_s is not None:
            latest = started + version.limit_s
            deadline = latest if deadline is None else min(deadline, latest)
        item = version.batcher.submit(
            request.inputs,
            wanted,
            rows,
            lane,
            deadline,
            contract.signature_name,
            request.priority,
        )
        version.lease()
        try:
            outputs, timing = await item.reply
        except asyncio.CancelledError:
            version.batcher.cancel(item)
            raise
        except ServingError as error:
            if error.kind not in (ErrorKind.EXPIRED, ErrorKind.UNAVAILABLE):  # those never ran
                version.statistics.failed(time.monotonic() - started)
            if routing is not None and routing.judge is not None and error.kind in _BLAMED:
                routing.judge.failed(version.number)
            raise
        finally:
            del item  # its reply would hold an error, the error this frame, and so the tensors: a cycle
            version.release()
        version.statistics.answered(rows, time.monotonic() - started, timing)
        if routing is not None:
            self._follow(routing, version, request, outputs, timing)
        return _response(request, version, contract, outputs, timing)

    def _follow(
        self, routing: Routing, version: Version, request: InferRequest, outputs: Tensors, timing: Timing
    ) -> None:
        """What an answered request means for the versions on trial."""
        if routing.judge is not None:
            routing.judge.answered(version.number, timing.run_s, timing.rows)
        if version is routing.default and not self.stopping:
            self._shadows.offer(routing, request, outputs)

    def refused(self, version: Version, request: InferRequest | None = None) -> None:
        """A version does not take a request as it is written. That is the client's mistake, unless the version is on
        trial and the default one would have taken it.

        Args:
            request: None: it could not even be read by this version's signature.
        """
        model = self.catalog.models.get(version.model)
        routing = model.routing if model is not None else None
        if routing is None or routing.judge is None or routing.default is None or version is routing.default:
            return
        default = routing.default
        if request is None:
            if all(
                name in version.contracts and version.contracts[name].replaces(contract)
                for name, contract in default.contracts.items()
            ):
                return
        else:
            try:
                contract = default.contract_of(request.signature) if request.signature else default.contract
                contract.check(request)
            except ServingError:
                return
        routing.judge.failed(version.number)

    def known(self, model: str, version: int | None) -> tuple[str, str]:
        """Metric labels for what a failed request asked for: empty where the server knows no such thing, so that
        clients cannot make up label values."""
        found = self.catalog.models.get(model)
        if found is None:
            return "", ""
        if version is None:
            return model, str(found.default.number) if found.default else ""
        return model, str(version) if version in found.ready else ""


def _response(
    request: InferRequest, version: Version, contract: Contract, outputs: Tensors, timing: Timing
) -> InferResponse:
    return InferResponse(
        request.model,
        version.number,
        outputs,
        contract.signature,
        request.id,
        contract.signature_name,
        timing,
        version.class_labels,
    )


def _no_rows(contract: Contract, wanted: tuple[str, ...]) -> Tensors:
    """The answer to a batch of no rows; an open axis behind the batch axis has no elements either."""
    specs = contract.signature.outputs
    return {
        name: np.empty((0, *(max(d, 0) for d in specs[name].row_shape)), specs[name].dtype.numpy) for name in wanted
    }
