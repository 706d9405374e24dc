"""All that a protocol adapter can see of the server.

`Engine` is the hot half: a frozen catalog and `infer`. `Control` is the cold half: changing what is served. Both are
narrow on purpose, so that another engine (in another process, say) could stand behind the same members.
"""

import asyncio
import time
from typing import Protocol

from serving.core.metrics import Metrics
from serving.core.types import InferRequest, InferResponse
from serving.repository.catalog import Catalog


class Control(Protocol):
    """Changes what is served."""

    async def load(self, name: str) -> None: ...

    async def unload(self, name: str) -> None: ...


class Engine:
    """Finds the version, checks the request against it, and waits for its rows. Lives on the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.catalog = Catalog()
        self.stopping = False
        self.started = False
        metrics.ready = lambda: self.ready

    def publish(self, catalog: Catalog) -> None:
        """Replaces the catalog; requests that are under way keep the version that they have."""
        self.catalog = catalog

    @property
    def ready(self) -> bool:
        """Started, not stopping, and every wanted model has a ready version."""
        return self.started and not self.stopping and self.catalog.ready

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answers one request.

        Raises:
            ServingError: of any kind; the message is for the client.
            asyncio.CancelledError: the caller was cancelled; the request is dropped if it has not begun to run.
        """
        version = self.catalog.resolve(request.model, request.version)
        contract = version.contract
        rows = contract.check(request)
        deadline = request.deadline
        timeout_ms = version.spec.queue_timeout_ms
        if timeout_ms is not None:
            latest = time.monotonic() + timeout_ms / 1000
            deadline = latest if deadline is None else min(deadline, latest)
        wanted = contract.wanted(request)
        item = version.batcher.submit(request.inputs, wanted, rows, contract.lane(request, wanted), deadline)
        version.lease()
        try:
            outputs, timing = await item.reply
        except asyncio.CancelledError:
            version.batcher.cancel(item)
            raise
        finally:
            version.release()
        return InferResponse(request.model, version.number, outputs, contract.signature, request.id, timing)

    def known(self, model: str, version: int | None) -> tuple[str, str]:
        """Metric labels for what a failed request asked for: empty where the server knows no such thing, so that
        clients cannot make up label values."""
        found = self.catalog.models.get(model)
        if found is None:
            return "", ""
        if version is None:
            return model, str(found.latest.number) if found.latest else ""
        return model, str(version) if version in found.ready else ""
