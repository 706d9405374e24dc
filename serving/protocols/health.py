"""gRPC's health protocol: message bytes in, message bytes out. Free of any transport; runs on the event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.engine import Engine
from serving.protocols import messages as m
from serving.protocols.grpc import Call, Method, StreamMethod, read, write
from serving.protocols.status import Family

_Status = m.health.HealthCheckResponse.ServingStatus


class Health:
    """The methods of `grpc.health.v1.Health` by name.

    Known are the server as a whole (an empty name) and each of `services`, by its full name or the last part of that,
    as TensorFlow Serving has it. All have the same status, for they serve the same models.
    """

    service = m.health.Health.full_name
    family = Family.OIP

    def __init__(self, engine: Engine, services: Iterable[str], poll_s: float = 0.2) -> None:
        """`poll_s`: how often a watched status is looked at, in seconds."""
        self._engine = engine
        self._known = {""}
        for name in services:
            self._known |= {name, name.rpartition(".")[2]}
        self._poll_s = poll_s
        self.methods: dict[str, Method] = {"Check": self.check, "List": self.list}
        self.streams: dict[str, StreamMethod] = {"Watch": self.watch}

    async def check(self, data: bytes, call: Call) -> bytes:
        """Raises: ServingError: NOT_FOUND, if the service is not known."""
        name = read(m.health.HealthCheckRequest, data).service
        if name not in self._known:
            raise ServingError(ErrorKind.NOT_FOUND, f"unknown service '{name}'")
        return write(self._answer(name))

    async def list(self, data: bytes, call: Call) -> bytes:
        return write(m.health.HealthListResponse(statuses={name: self._answer(name) for name in self._known}))

    async def watch(self, requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """The status now, and again whenever it has changed, until the call is cancelled or the server stops.

        A stopping server ends the watch, since a call that lasts would hold up the stop, and takes no new one: clients
        begin again at once where they got an answer before the end, and wait a while where they got none.

        Raises:
            ServingError: UNAVAILABLE, when the server stops; INVALID, if what came is no request.
        """
        data = await anext(requests, None)
        if data is None:
            raise invalid("the call brought no request")
        name = read(m.health.HealthCheckRequest, data).service
        told = None
        while not self._engine.stopping:
            answer = self._answer(name)
            if answer != told:
                yield write(answer)
                told = answer
            await asyncio.sleep(self._poll_s)
        last = self._answer(name)
        if told not in (None, last):
            yield write(last)
        raise ServingError(ErrorKind.UNAVAILABLE, "the server is stopping")

    def _answer(self, name: str) -> Any:
        if name not in self._known:
            status = _Status.SERVICE_UNKNOWN
        else:
            status = _Status.SERVING if self._engine.ready else _Status.NOT_SERVING
        return m.health.HealthCheckResponse(status=status)
