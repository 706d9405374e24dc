"""The gRPC listener: `grpc.aio` with generic handlers, so that messages are parsed by codecs and nowhere else."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from serving.core.errors import ServingError
from serving.protocols.oip_grpc import Call, Method
from serving.protocols.status import Family, grpc_status

INT32_MAX = 2**31 - 1
_MAX_DETAILS = 1000  # characters of a status message: it travels in a header


class Service(Protocol):
    """What a codec offers: its full service name, its error family, and its methods by name."""

    service: str
    family: Family
    methods: dict[str, Method]


@dataclass(frozen=True)
class GrpcLimits:
    max_message_bytes: int = INT32_MAX
    max_concurrent_streams: int = 1000  # per connection
    max_metadata_bytes: int = 16 * 1024


class GrpcListener:
    def __init__(self, services: Sequence[Service], limits: GrpcLimits) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", INT32_MAX),
                ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
                ("grpc.max_metadata_size", limits.max_metadata_bytes),
                ("grpc.so_reuseport", 0),  # a port that is taken is an error, not half of the traffic
            ]
        )
        for service in services:
            handlers = {name: _handler(method, service.family) for name, method in service.methods.items()}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.service, handlers),))

    async def listen(self, host: str, port: int) -> int:
        """Binds and accepts; returns the port, which the system chose if `port` is 0.

        Raises:
            OSError: the port is taken, or the host is not one of this machine.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        await self._server.start()
        return bound

    async def stop(self, limit_s: float) -> None:
        """Refuses new calls and waits for those under way, at most `limit_s`; then cancels them."""
        await self._server.stop(limit_s)


def _handler(method: Method, family: Family) -> Any:
    async def call(data: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        try:
            remaining = context.time_remaining()
            return await method(data, Call(None if remaining is None else time.monotonic() + remaining))
        except ServingError as error:
            await context.abort(grpc_status(error.kind, family), error.message[:_MAX_DETAILS])
            raise  # never reached: abort raises

    return grpc.unary_unary_rpc_method_handler(call)
