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
from serving.core.types import InferRequest, InferResponse, Tensors, Timing
from serving.core.validate import Contract
from serving.repository.catalog import Catalog
from serving.repository.orders import Wanted as Wanted
from serving.repository.version import Version


class Control(Protocol):
    """Changes what is served. Every method returns when the change is done, and raises ServingError if it failed."""

    async def load(self, name: str, spec: ModelSpec | None = None, files: Mapping[str, bytes] | None = None) -> None:
        """Reads the model's directory now and waits until its versions are served.

        Args:
            spec: the settings that it was given count instead of those in `model.yaml`, until the next load.
            files: instead of the model's directory, until the next load: contents by path below it, such as
                `1/model.onnx`. Only where uploads are allowed.
        """

    async def unload(self, name: str) -> None:
        """Takes the model out of service until it is loaded again."""

    async def apply(self, models: Sequence[Wanted]) -> None:
        """Serves these models and no others, and waits until they are served."""


class Times(NamedTuple):
    """When the parts of an answered request ended, by `time.perf_counter()`."""

    arrived: float
    decoded: float
    inferred: float
    encoded: float


# Is told of every request that was answered, and over which protocol.
Observer = Callable[[str, InferRequest, InferResponse, Times], None]


class Engine:
    """Finds the version, checks the request against it, and waits for its rows. Lives on the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.catalog = Catalog()
        self.stopping = False
        self.started = False
        self.observer: Observer | None = None
        metrics.ready = lambda: self.ready

    def publish(self, catalog: Catalog) -> None:
        """Replaces the catalog; requests that are under way keep the version that they have."""
        self.catalog = catalog

    @property
    def ready(self) -> bool:
        """Started, not stopping, and every wanted model has a ready version."""
        return self.started and not self.stopping and self.catalog.ready

    async def infer(self, request: InferRequest, version: Version | None = None) -> InferResponse:
        """Answers one request.

        Args:
            version: what the request's model and version were resolved to, if the caller had to know; otherwise it is
                resolved here.

        Raises:
            ServingError: of any kind; the message is for the client.
            asyncio.CancelledError: the caller was cancelled; the request is dropped if it has not begun to run.
        """
        if version is None:
            version = self.catalog.resolve(request.model, request.version)
        contract = version.contract_of(request.signature) if request.signature else version.contract
        rows = contract.check(request)
        wanted = contract.wanted(request)
        if rows == 0:
            outputs = _no_rows(contract, wanted)
            version.statistics.answered(0, 0.0, Timing())
            return _response(request, version, contract, outputs, Timing())
        started = time.monotonic()
        deadline = request.deadline
        timeout_ms = version.spec.queue_timeout_ms
        if timeout_ms is not None:
            latest = started + timeout_ms / 1000
            deadline = latest if deadline is None else min(deadline, latest)
        item = version.batcher.submit(
            request.inputs,
            wanted,
            rows,
            contract.lane(request, wanted),
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
            raise
        finally:
            del item  # its reply would hold an error, the error this frame, and so the tensors: a cycle
            version.release()
        version.statistics.answered(rows, time.monotonic() - started, timing)
        return _response(request, version, contract, outputs, timing)

    def known(self, model: str, version: int | None) -> tuple[str, str]:
        """Metric labels for what a failed request asked for: empty where the server knows no such thing, so that
        clients cannot make up label values."""
        found = self.catalog.models.get(model)
        if found is None:
            return "", ""
        if version is None:
            return model, str(found.latest.number) if found.latest else ""
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
