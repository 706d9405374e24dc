"""The guard before gRPC: says of a call's metadata whether it may pass, and what is left to ask of each request."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from serving.core.errors import ServingError
from serving.protocols.grpc import Call, Method, StreamMethod
from serving.transport.access.guard import Guard, note_change
from serving.transport.access.http import REASONS
from serving.transport.access.keys import Key
from serving.transport.access.scopes import GRPC, UNKNOWN_RPC, Need, Rpc

Metadata = Iterable[tuple[str, str | bytes]]
Check = Callable[[bytes], None]

_BEARER = "bearer "


class GrpcDoor:
    """Called with the path and the metadata of each call.

    Returns:
        What each request of the call has to pass (it raises as this does); None: there is nothing more to ask.

    Raises:
        ServingError: UNAUTHENTICATED, FORBIDDEN, TOO_MANY.
    """

    def __init__(self, guard: Guard, refused: Callable[[str], None]) -> None:
        """`refused` is called with the reason for each refusal."""
        self._guard = guard
        self._refused = refused

    def __call__(self, path: str, metadata: Metadata) -> Check | None:
        rpc = GRPC.get(path, UNKNOWN_RPC)
        try:
            key = self._guard.identify(rpc.scope, token_of(metadata))
            if rpc.changes is None:
                self._guard.check(key, Need(rpc.scope))
            if not rpc.streams:
                self._guard.count(key)
        except ServingError as error:
            self._refused(REASONS[error.kind])
            raise
        if key is not None and (rpc.changes or (rpc.message and key.models) or (rpc.streams and key.rate)):
            return self._check(path, key, rpc)
        note_change(key, rpc.scope, path)
        return None

    def _check(self, path: str, key: Key, rpc: Rpc) -> Check:
        def check(data: bytes) -> None:
            need = rpc.need(data)
            try:
                self._guard.check(key, need)
                if rpc.streams:
                    self._guard.count(key)
            except ServingError as error:
                self._refused(REASONS[error.kind])
                raise
            note_change(key, need.scope, path)

        return check


def checked(method: Method, check: Check) -> Method:
    """The same method, for requests that pass."""

    async def call(data: bytes, about: Call) -> bytes:
        check(data)
        return await method(data, about)

    return call


def checked_stream(method: StreamMethod, check: Check) -> StreamMethod:
    """The same; what does not pass ends the stream."""

    async def passing(requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for data in requests:
            check(data)
            yield data

    async def call(requests: AsyncIterator[bytes], about: Call) -> AsyncIterator[bytes]:
        answers: Any = method(passing(requests), about)
        async with aclosing(answers) as messages:
            async for message in messages:
                yield message

    return call


def refusing(error: ServingError) -> StreamMethod:
    """A method that fails without a look at its requests."""

    async def call(requests: AsyncIterator[bytes], about: Call) -> AsyncIterator[bytes]:
        raise error
        yield b""

    return call


def token_of(metadata: Metadata) -> bytes | None:
    """As over HTTP."""
    for name, value in metadata:
        if isinstance(value, str):
            if name == "authorization" and value[: len(_BEARER)].lower() == _BEARER:
                return value[len(_BEARER) :].strip().encode()
            if name == "x-api-key":
                return value.strip().encode()
    return None
