"""gRPC in a replica: Ray's calls answered by the same services as those of the plain server. On the replica's loop."""

import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from deploy.ray.proxy import METHOD, REMAINING_S
from serving.core.errors import ErrorKind, ServingError
from serving.protocols.asks import TIMING, asks_for_timing
from serving.protocols.grpc import Call, Service, retry_metadata
from serving.protocols.status import Family
from serving.transport.access.grpc import GrpcDoor, checked, checked_stream
from serving.transport.grpc import status

log = logging.getLogger(__name__)

_MAX_DETAILS = 2000  # characters of a status message: it travels in a header


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes of a message, as Ray takes them: it asks for them by this method."""

    data: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802
        return self.data


class StreamError(Exception):
    """Ends a stream of answers; its status is in the call's context."""


class Calls:
    """Every method by its path. `context` is Ray's RayServegRPCContext; statuses are left there."""

    def __init__(self, services: Sequence[Service], door: GrpcDoor | None = None) -> None:
        """`door` says who may call what; None: everybody."""
        self._door = door
        self._methods = {
            f"/{s.service}/{name}": (method, s.family) for s in services for name, method in s.methods.items()
        }
        self._streams = {
            f"/{s.service}/{name}": (method, s.family) for s in services for name, method in s.streams.items()
        }

    async def unary(self, data: bytes, context: Any) -> Message:
        path, about = _about(context)
        found = self._methods.get(path)
        if found is None:
            _unknown(path, context)
            return Message(b"")
        method, family = found
        try:
            if self._door is not None and (check := self._door(path, about.sent() or ())) is not None:
                method = checked(method, check)
            answer = await method(data, about)
        except Exception as error:
            _fail(context, family, about, error)
            return Message(b"")
        if about.trailing:
            context.set_trailing_metadata(list(about.trailing))
        return Message(answer)

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Message]:
        """Raises: StreamError: when an answer was an error; its status is in `context`."""
        path, about = _about(context)
        found = self._streams.get(path)
        if found is None:
            _unknown(path, context)
            raise StreamError
        method, family = found
        try:
            if self._door is not None and (check := self._door(path, about.sent() or ())) is not None:
                method = checked_stream(method, check)
            answers: Any = method(requests, about)
            async with aclosing(answers) as messages:
                async for message in messages:
                    yield Message(message)
        except Exception as error:
            _fail(context, family, about, error)
            raise StreamError from None


async def one(data: bytes) -> AsyncIterator[bytes]:
    """The stream of requests where the client sends one."""
    yield data


def _about(context: Any) -> tuple[str, Call]:
    """Which method is called, and what it may know of its call."""
    sent: Iterable[tuple[str, str | bytes]] = context.invocation_metadata()
    path, deadline, timing = "", None, False
    for key, value in sent:
        if key == METHOD:
            path = str(value)
        elif key == REMAINING_S:
            deadline = time.monotonic() + float(value)
        elif key == TIMING:
            timing = asks_for_timing(value)
    return path, Call(deadline, lambda: sent, timing)


def _unknown(path: str, context: Any) -> None:
    context.set_code(grpc.StatusCode.UNIMPLEMENTED)
    context.set_details(f"Method not found: {path}")


def _fail(context: Any, family: Family, about: Call, error: Exception) -> None:
    if not isinstance(error, ServingError):
        log.error("a gRPC call failed", exc_info=error)
        error = ServingError(ErrorKind.INTERNAL, "internal error; the server's log has the details")
    context.set_code(status(error, family, about, time.monotonic()))
    context.set_details(error.message[:_MAX_DETAILS])
    if retry := retry_metadata(error):
        context.set_trailing_metadata(list(retry))
