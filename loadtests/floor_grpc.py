"""The gRPC floor: grpc.aio with nothing behind it, to divide the real server's cost by.

One uvloop event loop. Gives every unary call the same bytes and parses nothing: what is left is what grpc.aio
itself costs.

    python -m loadtests.floor_grpc PORT ANSWER-FILE
"""

import asyncio
import signal
import sys
from pathlib import Path

import grpc
import uvloop

# From 1,000 calls on that wait to be looked at, gRPC would drop some by chance; the figures would be the survivors'.
_KEEPS_ALL = [("grpc.server.max_pending_requests", 20_000), ("grpc.server.max_pending_requests_hard_limit", 20_000)]


class Constant(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """Answers every method, whatever its name, with `answer`."""

    def __init__(self, answer: bytes) -> None:
        async def reply(_request: bytes, _context: object) -> bytes:
            return answer

        # Without serializers messages stay bytes.
        self._handler = grpc.unary_unary_rpc_method_handler(reply)

    def service(
        self,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:  # type: ignore[type-arg]
        return self._handler


async def serve(port: int, answer: bytes) -> None:
    """Serve on loopback until SIGTERM."""
    server = grpc.aio.server(options=_KEEPS_ALL)
    server.add_generic_rpc_handlers((Constant(answer),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(grace=None)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
